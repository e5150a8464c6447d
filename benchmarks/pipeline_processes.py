"""Processes of one measurement, on this machine."""

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing.spawn import start_processes

from worldsheet_lab.staged.launch import stay_here

_LOADED = ["torch", "torch.distributed.pipelining.schedules"]


def in_processes(work: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Call `work(rank, *arguments)` in so many processes, forked from one that has loaded torch, and wait for all.

    Raises:
        ProcessRaisedException: what one of them raised; the others are ended.
    """
    stay_here()
    multiprocessing.set_forkserver_preload(_LOADED)
    start_processes(work, arguments, count, start_method="forkserver")  # type: ignore[no-untyped-call]
