"""Progress on stderr: a live picture on a terminal, a line per epoch elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from worldsheet_lab.contenders import Contender
from worldsheet_lab.training import Training, Watcher


@contextmanager
def progress_of(training: Training, console: Console) -> Iterator[Watcher]:
    """A watcher that shows how a training is getting on."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    bars = _Bars(training)
    with Live(get_renderable=bars.picture, console=console, refresh_per_second=4, transient=True):
        yield bars


@final
class _Lines(Watcher):
    """One plain line per epoch, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def on_step(self, training: Training) -> None:
        pass

    def on_epoch(self, training: Training) -> None:
        parts = [f"epoch {training.position.epoch}/{training.recipe.epochs}"]
        for contender in training.contenders:
            if contender.score is not None:
                accuracy, loss = contender.score.accuracy, contender.score.loss
                parts.append(f"{contender.name} {accuracy:.2%} right, test loss {loss:.4f}")
        self._console.print("   ".join(parts), highlight=False, markup=False, soft_wrap=True)


@final
class _Bars(Watcher):
    """A bar for the run, one for the epoch, and where both contenders stand.

    The picture is drawn in a thread of its own, in the middle of a step, so it shows what was noted after the last one.
    """

    def __init__(self, training: Training) -> None:
        self._noted = [(contender.name, *_standing(contender)) for contender in training.contenders]
        self._bars = Progress(
            TextColumn("{task.description:<6}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, left"),
            TimeRemainingColumn(),
            auto_refresh=False,
        )
        self._run = self._bars.add_task("run", total=training.recipe.epochs * training.steps, completed=training.done)
        self._epoch = self._bars.add_task("epoch", total=training.steps, completed=training.position.step)

    def on_step(self, training: Training) -> None:
        self._bars.update(self._run, completed=training.done)
        self._bars.update(self._epoch, completed=training.position.step)
        self._noted = [(contender.name, *_standing(contender)) for contender in training.contenders]

    def on_epoch(self, training: Training) -> None:
        if training.position.epoch < training.recipe.epochs:
            self._bars.reset(self._epoch, description="epoch")

    def picture(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("")
        for heading in ("training loss", "test loss", "test accuracy", "ms per step"):
            table.add_column(heading, justify="right")
        for row in self._noted:
            table.add_row(*row)
        return Group(self._bars, table)


def _standing(contender: Contender) -> tuple[str, str, str, str]:
    tally, score = contender.tally, contender.score
    return (
        f"{tally.mean_loss:.4f}" if tally.images else "",
        f"{score.loss:.4f}" if score else "",
        f"{score.accuracy:.2%}" if score else "",
        f"{1e3 * tally.seconds_per_step:.2f}" if tally.seconds else "",
    )
