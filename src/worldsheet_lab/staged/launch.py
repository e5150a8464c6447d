"""Starting the processes of a run in stages, and being one of them."""

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, final

import torch
from torch.multiprocessing.spawn import start_processes

from worldsheet.core.errors import WorldsheetError
from worldsheet.pipeline.transport.distributed import Meeting, joined
from worldsheet.pipeline.transport.message import NeighbourError
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.staged.worker import Worker

NEIGHBOUR_GONE = 3
"""Exit status of a stage whose neighbour has failed."""

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


def start_here(where: WorkerConfig) -> list[int]:
    """Start a process for each stage on this machine and wait for all: their exit statuses.

    They meet in a file and talk over the loopback interface.
    """
    stay_here()
    with tempfile.TemporaryDirectory() as meeting:
        meet = replace(where, store=f"file://{meeting}/store")
        context: Any = start_processes(  # type: ignore[no-untyped-call]
            be_stage, (meet,), where.stages, join=False, start_method="spawn"
        )
        return _ended(context.processes)


def stay_here() -> None:
    """Let nothing listen to other machines, unless GLOO_SOCKET_IFNAME says so."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)


def be_stage(stage: int, where: WorkerConfig) -> None:
    """Be the process of a stage from beginning to end; leaves the process with a status if it cannot go on."""
    torch.set_num_threads(where.threads)
    try:
        with joined(stage, where.stages, where.store, where.timeout, torch.device(where.device)):
            Worker(RunFolder(where.folder), where.data_dir, stage, where.board).run()
    except NeighbourError as error:
        _leave(NEIGHBOUR_GONE, f"stage {stage}: {error}")
    except WorldsheetError as error:
        _leave(2, f"stage {stage}: {error}")
    except KeyboardInterrupt:
        _leave(130, "")


def _ended(processes: Sequence[BaseProcess]) -> list[int]:
    """Wait for all; a Ctrl-C is passed on, since it may have been meant for this process alone."""
    for process in processes:
        while process.exitcode is None:
            try:
                process.join()
            except KeyboardInterrupt:
                for other in processes:
                    if other.exitcode is None and other.pid is not None:
                        os.kill(other.pid, signal.SIGINT)
    return [process.exitcode or 0 for process in processes]


def _leave(status: int, told: str) -> None:
    """At once: a process group whose members are gone would be waited for in vain."""
    if told:
        print(told, file=sys.stderr, flush=True)
    os._exit(status)
