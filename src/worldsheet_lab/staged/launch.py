"""Starting the processes of a run in stages, and being one of them."""

import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any, final

import torch
from torch.multiprocessing.spawn import start_processes

from worldsheet.core.errors import RelaxationError, WorldsheetError
from worldsheet.pipeline.transport.distributed import Meeting, joined
from worldsheet.pipeline.transport.message import NeighbourError
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.staged.worker import Worker

NEIGHBOUR_GONE = 3
"""Exit status of a stage whose neighbour has failed."""

NOT_FINITE = 4
"""Exit status of a stage that has met what is not finite: to go on from a checkpoint would meet it again."""

PATIENCE = 15.0
"""Seconds that stages have to notice that one of them has failed."""

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@final
@dataclass(frozen=True)
class WorkerConfig:
    """What a stage's process must know before it can read its setup.

    Attributes:
        folder: the run's.
        data_dir: where the data set is.
        stages: how many processes there are.
        store: where they meet.
        timeout: seconds after which a silent neighbour counts as gone.
        threads: CPU threads of each.
        board: whether stages write for TensorBoard.
        device: where each stage's tensors are, which decides what carries its messages.
    """

    folder: Path
    data_dir: Path | None
    stages: int
    store: str | Meeting
    timeout: float
    threads: int
    board: bool = False
    device: str = "cpu"


@final
@dataclass(frozen=True)
class Ended:
    """How the process of a stage has ended.

    Attributes:
        status: as the operating system has it; negative for a signal.
        silent: whether it had to be ended, since others had failed and it did not notice.
    """

    status: int
    silent: bool = False


def start_here(where: WorkerConfig) -> list[Ended]:
    """Start a process for each stage on this machine and wait for all: how each has ended.

    They meet in a file and talk over the loopback interface.
    """
    stay_here()
    with tempfile.TemporaryDirectory() as meeting:
        meet = replace(where, store=f"file://{meeting}/store")
        context: Any = start_processes(  # type: ignore[no-untyped-call]
            be_stage, (meet,), where.stages, join=False, start_method="spawn"
        )
        return ended(context.processes)


def stay_here() -> None:
    """Let nothing listen to other machines, unless GLOO_SOCKET_IFNAME says so."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)


def be_stage(stage: int, where: WorkerConfig) -> None:
    """Be the process of a stage from beginning to end; leaves the process with a status if it cannot go on."""
    _end_with_parent()
    torch.set_num_threads(where.threads)
    try:
        with joined(stage, where.stages, where.store, where.timeout, torch.device(where.device)):
            Worker(RunFolder(where.folder), where.data_dir, stage, where.board).run()
    except NeighbourError as error:
        _leave(NEIGHBOUR_GONE, f"stage {stage}: {error}")
    except RelaxationError as error:
        _leave(NOT_FINITE, f"stage {stage}: {error}")
    except WorldsheetError as error:
        _leave(2, f"stage {stage}: {error}")
    except KeyboardInterrupt:
        _leave(130, "")
    except Exception:  # whatever it is, it is told here: who started the stage only sees a status
        _leave(1, f"stage {stage}:\n{traceback.format_exc()}")


def _end_with_parent() -> None:
    """A stage does not outlive the command that started it, however that ended and whatever signals are ignored."""
    parent = parent_process()
    if parent is None:  # torchrun's agent looks after its own
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job script may have had it ignored

    def watch() -> None:
        parent.join()
        _leave(NEIGHBOUR_GONE, "")

    threading.Thread(target=watch, daemon=True).start()


def ended(processes: Sequence[BaseProcess], patience: float = PATIENCE) -> list[Ended]:
    """Wait for all: how each has ended.

    A Ctrl-C, or a request to end, is passed on, since it may have been meant for this process alone. When one has
    failed, the others have some time to notice; who has not ended then is ended, as a stage that was stopped.

    Args:
        processes: of the stages.
        patience: seconds.
    """
    silent = set[int]()
    until: float | None = None
    with _asked_to_end():
        while alive := [process for process in processes if process.is_alive()]:
            if until is None and any(process.exitcode for process in processes):
                until = time.monotonic() + patience
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                silent = {index for index, process in enumerate(processes) if process.is_alive()}
                for process in alive:
                    process.kill()
                    process.join()
                break
            try:
                wait([process.sentinel for process in alive], left)
            except KeyboardInterrupt:
                _pass_on(alive)
                until = time.monotonic() + patience
    return [Ended(process.exitcode or 0, index in silent) for index, process in enumerate(processes)]


def _pass_on(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGINT)


@contextmanager
def _asked_to_end() -> Iterator[None]:
    """A request to end is taken for a Ctrl-C, so that stages end too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(status: int, told: str) -> None:
    """At once: a process group whose members are gone would be waited for in vain."""
    if told:
        print(told, file=sys.stderr, flush=True)
    os._exit(status)
