"""The same network trained twice, by relaxation and by backprop, on the same batches."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import ceil, isfinite
from typing import final

import torch
from torch import Tensor

from worldsheet.diagnostics import compare
from worldsheet.diagnostics.autograd import autograd_backward
from worldsheet.diagnostics.compare import Fidelity
from worldsheet.problem import Chain
from worldsheet.schedules import Synchronous
from worldsheet.solve import backward, relax
from worldsheet_lab.contenders import Contender
from worldsheet_lab.contest.rivals import LearningRule
from worldsheet_lab.data import DataSet
from worldsheet_lab.recipes import DTYPES, Recipe
from worldsheet_lab.run_folder import Row, RunFolder, damaged_checkpoint
from worldsheet_lab.sheets import Sheet, recorded
from worldsheet_lab.streams import drawing, order, seed_of


@dataclass(frozen=True)
class Position:
    """The step that comes next: both counts begin at 0."""

    epoch: int = 0
    step: int = 0


class Watcher(ABC):
    """Looks on between steps. A KeyboardInterrupt it raises there stops the run at a place where it can be resumed."""

    @abstractmethod
    def on_step(self, training: "Training") -> None:
        """After each step of both contenders."""

    @abstractmethod
    def on_epoch(self, training: "Training") -> None:
        """After each epoch, when it has been evaluated and saved."""


@final
class Training:
    """Two contenders at one position of a run.

    The order of the images and the dropped units are functions of seed and position, so the position, the weights and
    the optimizers are all that a resumed run needs to reach the same bits.

    Args:
        recipe: what to compute.
        data: the data set, cut to its subset already.
        folder: where metrics and checkpoints go.

    Attributes:
        position: the next step.
        steps: number of steps in an epoch.
        ticks: ticks of a relaxation; None until one that stops by its residual has been looked at.
        relaxed: the contender trained by relaxation.
        autograd: the contender trained by backprop.
    """

    def __init__(self, recipe: Recipe, data: DataSet, folder: RunFolder) -> None:
        self.recipe = recipe
        self.position = Position()
        self.steps = ceil(len(data.train_labels) / recipe.batch_size)
        self._folder = folder
        self._device = torch.device(recipe.device)
        self._train = self._moved(data.train_images, data.train_labels)
        self._test = self._moved(data.test_images, data.test_labels)
        self._whole = True
        model = recipe.model(data)
        twin = copy.deepcopy(model)
        gradient = partial(backward, dynamics=recipe.dynamics, schedule=recipe.when())
        self.relaxed = Contender("relaxation", model, recipe.optimiser(model.parameters()), gradient)
        self.autograd = Contender("autograd", twin, recipe.optimiser(twin.parameters()), autograd_backward)
        exact = recipe.when().settles_after(self.relaxed.chain.topology)
        self.ticks = exact if recipe.dynamics.settles_at_once else None

    @property
    def contenders(self) -> tuple[Contender, Contender]:
        """Relaxation first."""
        return self.relaxed, self.autograd

    @property
    def done(self) -> int:
        """Steps done since the beginning."""
        return self.position.epoch * self.steps + self.position.step

    def run(self, watchers: Sequence[Watcher] = ()) -> None:
        """Train from the present position to the end.

        Raises:
            KeyboardInterrupt: as it came; if it came between two steps, a checkpoint has been written there.
        """
        if self.position == Position():
            self.save()
        try:
            while self.position.epoch < self.recipe.epochs:
                self._run_epoch(watchers)
        except KeyboardInterrupt:
            if self._whole:
                self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint of this position."""
        self._folder.save_checkpoint(
            {
                "epoch": self.position.epoch,
                "step": self.position.step,
                "ticks": self.ticks,
                "contenders": {contender.name: contender.state_dict() for contender in self.contenders},
            }
        )

    def restore(self) -> None:
        """Go to the position of the folder's checkpoint.

        Raises:
            RunFolderError: a checkpoint that is missing, torn, or of another recipe.
        """
        state = self._folder.load_checkpoint()
        try:
            for contender in self.contenders:
                contender.load_state_dict(state["contenders"][contender.name])
            self.position = Position(int(state["epoch"]), int(state["step"]))
            self.ticks = state["ticks"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise damaged_checkpoint(self._folder, error) from error

    def sheet(self) -> Sheet:
        """The relaxed network's worldsheet, every site at every tick, on test images."""
        count = self.recipe.batch_size
        model = copy.deepcopy(self.relaxed.model).eval()
        rival = LearningRule(self.recipe.dynamics, schedule=Synchronous())
        return recorded(rival, Chain(model, self.relaxed.chain.loss), self._test[0][:count], self._test[1][:count])

    def _run_epoch(self, watchers: Sequence[Watcher]) -> None:
        indices = order(self.recipe.seed, self.position.epoch, len(self._train[1]))
        batches = torch.split(indices, self.recipe.batch_size)
        for number in range(self.position.step, self.steps):
            self._whole = False
            self._step(batches[number].to(self._device))
            self.position = Position(self.position.epoch, number + 1)
            self._whole = True
            for watcher in watchers:
                watcher.on_step(self)
        self._whole = False
        self._close_epoch()
        self._whole = True
        for watcher in watchers:
            watcher.on_epoch(self)

    def _step(self, batch: Tensor) -> None:
        images, labels = self._train[0][batch], self._train[1][batch]
        every = self.recipe.compare_every
        if every and self.done % every == 0:
            self._compare(images, labels)
        # Who goes first changes from step to step: the second finds the batch in the cache.
        for contender in self.contenders if self.done % 2 else reversed(self.contenders):
            with self._drawing():
                contender.step(images, labels)

    def _compare(self, images: Tensor, labels: Tensor) -> None:
        """Relax a copy, so that looking moves neither batch-norm statistics nor gradients."""
        model = copy.deepcopy(self.relaxed.model).train()
        chain = Chain(model, self.relaxed.chain.loss)
        with self._drawing():
            solution = relax(chain, images, labels, self.recipe.dynamics, schedule=self.recipe.when())
        comparison = compare(chain, images, labels, solution)
        self.ticks = solution.ticks
        self._folder.append(
            {
                "kind": "gradients",
                "epoch": self.position.epoch + 1,
                "step": self.done,
                "ticks": solution.ticks,
                "outcome": solution.outcome.status.value,
                "parameters": [_fidelity(row) for row in comparison.rows],
            }
        )

    def _close_epoch(self) -> None:
        for contender in self.contenders:
            score = contender.evaluate(*self._test)
            self._folder.append(self._row(contender, score.accuracy, score.loss))
            contender.tally = type(contender.tally)()
        self.position = Position(self.position.epoch + 1)
        self.save()

    def _row(self, contender: Contender, accuracy: float, loss: float) -> Row:
        return {
            "kind": "epoch",
            "epoch": self.position.epoch + 1,
            "step": self.done,
            "contender": contender.name,
            "train_loss": _finite(contender.tally.mean_loss),
            "test_accuracy": accuracy,
            "test_loss": _finite(loss),
            "seconds_per_step": contender.tally.seconds_per_step,
            "ticks": self.ticks if contender is self.relaxed else None,
        }

    def _drawing(self) -> AbstractContextManager[None]:
        return drawing(seed_of(self.recipe.seed, "step", self.done), self._device)

    def _moved(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images.to(self._device, DTYPES[self.recipe.dtype]), labels.to(self._device)


def _fidelity(row: Fidelity) -> Row:
    return {
        "name": row.name,
        "cosine": row.cosine,
        "relative_error": _finite(row.relative_error),
        "snr": _finite(row.snr),
    }


def _finite(value: float) -> float | None:
    """JSON knows no infinity: an infinite ratio of signal to noise, of equal gradients, is null."""
    return value if isfinite(value) else None
