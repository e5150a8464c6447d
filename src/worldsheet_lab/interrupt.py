"""Ctrl-C between two steps instead of in the middle of one."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, final

from worldsheet_lab.training import Training, Watcher


@final
class Interrupt(Watcher):
    """While it is open, the first Ctrl-C waits for the end of a step, and the second ends the program at once.

    A watcher of a `Training`; in a thread other than the main one Ctrl-C stays as it is.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def on_step(self, training: Training) -> None:
        """Stop here if asked to."""
        self._check()

    def on_epoch(self, training: Training) -> None:
        """Stop here if asked to."""
        self._check()

    def _check(self) -> None:
        if self.requested:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
