"""What a run shows of itself, for TensorBoard; the only file that knows it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import final

from torch.utils.tensorboard.writer import SummaryWriter

from worldsheet_lab.training import Training, Watcher

FOLDER = "tensorboard"

_SECONDS = 5  # until points are on the disk, where a running TensorBoard finds them


@final
class Board:
    """Scalars under one name, in the folder `tensorboard` of a run.

    Args:
        run: the run's folder.
        name: whose they are; curves of equal tags and different names share a chart.
        step: from which step on this process writes; what an interrupted one wrote later is hidden.
    """

    def __init__(self, run: Path, name: str, step: int = 0) -> None:
        self._writer = SummaryWriter(str(run / FOLDER / name), purge_step=step, flush_secs=_SECONDS)

    def __enter__(self) -> "Board":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def scalars(self, values: Mapping[str, float | None], step: int) -> None:
        """One point on each curve; None is left out."""
        for tag, value in values.items():
            if value is not None:
                self._writer.add_scalar(tag, value, step)


@final
class Boards(Watcher):
    """Losses of both contenders after each step, scores after each epoch.

    A watcher of a `Training`; use it in a `with` statement.

    Args:
        run: the run's folder.
        training: what is watched, at the step from which it goes on.
    """

    def __init__(self, run: Path, training: Training) -> None:
        self._boards = {c.name: Board(run, c.name, training.done) for c in training.contenders}

    def on_step(self, training: Training) -> None:
        """The mean loss of the epoch so far and the time that a step takes."""
        for contender in training.contenders:
            tally = contender.tally
            values = {"train/loss": tally.mean_loss, "train/seconds per step": tally.seconds[-1]}
            self._boards[contender.name].scalars(values, training.done)

    def on_epoch(self, training: Training) -> None:
        """Loss and accuracy on the test images."""
        for contender in training.contenders:
            if contender.score is not None:
                values = {"test/loss": contender.score.loss, "test/accuracy": contender.score.accuracy}
                self._boards[contender.name].scalars(values, training.done)

    def close(self) -> None:
        """Write what has not been written."""
        for board in self._boards.values():
            board.__exit__(None, None, None)


@contextmanager
def boards_of(wanted: bool, run: Path, training: Training) -> Iterator[tuple[Watcher, ...]]:
    """The boards of a training if they are wanted, none otherwise."""
    if not wanted:
        yield ()
        return
    boards = Boards(run, training)
    try:
        yield (boards,)
    finally:
        boards.close()
