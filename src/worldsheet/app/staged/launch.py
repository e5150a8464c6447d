"""Starting the processes of a run in stages, or being one that `torchrun` has started."""

import os
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, final

import torch
from torch.multiprocessing.spawn import start_processes

from worldsheet.app.run_folder import RunFolder
from worldsheet.app.staged.worker import Worker
from worldsheet.core.errors import WorldsheetError
from worldsheet.pipeline.distributed import NeighbourError, joined

NEIGHBOUR_GONE = 3
"""Exit status of a stage whose neighbour has failed."""

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@final
@dataclass(frozen=True)
class Where:
    """What a stage's process must know before it can read its setup.

    Attributes:
        folder: the run's.
        data_dir: where the data set is.
        stages: how many processes there are.
        store: where they meet.
        timeout: seconds after which a silent neighbour counts as gone.
        threads: CPU threads of each.
    """

    folder: Path
    data_dir: Path | None
    stages: int
    store: str
    timeout: float
    threads: int


def start_here(folder: Path, data_dir: Path | None, stages: int, timeout: float, threads: int) -> list[int]:
    """Start a process for each stage on this machine and wait for all: their exit statuses.

    They meet in a file and talk over the loopback interface; nothing listens to other machines unless
    GLOO_SOCKET_IFNAME says so.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _LOOPBACK)
    with tempfile.TemporaryDirectory() as meeting:
        where = Where(folder, data_dir, stages, f"file://{meeting}/store", timeout, threads)
        context: Any = start_processes(  # type: ignore[no-untyped-call]
            be_stage, (where,), stages, join=False, start_method="spawn"
        )
        return [_ended(process) for process in context.processes]


def be_stage(stage: int, where: Where) -> None:
    """Be the process of a stage from beginning to end; leaves the process with a status if it cannot go on."""
    torch.set_num_threads(where.threads)
    try:
        with joined(stage, where.stages, where.store, where.timeout):
            Worker(RunFolder(where.folder), where.data_dir, stage).run()
    except NeighbourError as error:
        _leave(NEIGHBOUR_GONE, f"stage {stage}: {error}")
    except WorldsheetError as error:
        _leave(2, f"stage {stage}: {error}")
    except KeyboardInterrupt:
        _leave(130, "")


def _ended(process: BaseProcess) -> int:
    while process.exitcode is None:
        try:
            process.join()
        except KeyboardInterrupt:  # the stages have had it too, and end
            continue
    return process.exitcode


def _leave(status: int, told: str) -> None:
    """At once: a process group whose members are gone would be waited for in vain."""
    if told:
        print(told, file=sys.stderr, flush=True)
    os._exit(status)
