"""One rival trained from one seed."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from math import ceil
from statistics import fmean, median
from typing import TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.errors import RelaxationError
from worldsheet.diagnostics import compare
from worldsheet_lab.contenders import Contender
from worldsheet_lab.contest.rivals import LearningRule
from worldsheet_lab.data import DataSet
from worldsheet_lab.recipes import DTYPES, Recipe
from worldsheet_lab.run_folder import Row
from worldsheet_lab.sheets import Sheet, by_layer, recorded
from worldsheet_lab.streams import drawing, order, seed_of

Keep: TypeAlias = Callable[[Sheet], object]
"""Takes the recorded relaxation of a trained network."""


def trained(
    recipe: Recipe, data: DataSet, rival: LearningRule, on_step: Callable[[], object], keep: Keep | None = None
) -> Row:
    """Train a rival as the recipe says and return what it has shown, as JSON.

    Start weights, batches and dropped units are functions of the recipe's seed, so rivals of one seed differ in nothing
    else. Steps follow the parameters; other automatic constants are measured, and gradients compared with
    autograd's, every `compare_every` steps. A relaxation that diverges ends the training, which is told in `status`.

    Args:
        recipe: what to train; its rate and schedule are not used.
        data: cut to its subset already.
        rival: how gradients are made.
        on_step: called after each step.
        keep: given a relaxation of test images by the trained network, unless there is none or it has diverged.
    """
    model = recipe.model(data)
    contender = Contender(rival.description, model, recipe.optimiser(model.parameters()), rival.in_training())
    test = _moved(recipe, data.test_images, data.test_labels)
    looks = _Looks()
    accuracy, losses, seconds = [], [], []
    status = "finished"
    for epoch in range(recipe.epochs):
        try:
            for number, (images, labels) in enumerate(_batches(recipe, data, epoch)):
                step = epoch * ceil(len(data.train_labels) / recipe.batch_size) + number
                with drawing(seed_of(recipe.seed, "step", step), torch.device(recipe.device)):
                    if recipe.compare_every and step % recipe.compare_every == 0:
                        measured = rival.calibrated(contender.chain, images, labels)
                        if not rival.follows:
                            contender.gradient = measured.gradient
                        looks.add(contender, measured, images, labels)
                    contender.step(images, labels)
                on_step()
        except RelaxationError as error:
            status = f"diverged: {error.problem}"
            break
        score = contender.evaluate(*test)
        accuracy.append(score.accuracy)
        losses.append(score.loss)
        seconds.append(contender.tally.seconds_per_step)
    if keep is not None and rival.dynamics is not None and status == "finished":
        model.eval()
        keep(recorded(rival, contender.chain, *(part[: recipe.batch_size] for part in test)))
    return {
        "status": status,
        "rule": rival.description,
        "accuracy": accuracy or [contender.evaluate(*test).accuracy],
        "loss": losses,
        "seconds_per_step": median(seconds) if seconds else None,
        **looks.row(len(contender.chain)),
    }


@final
class _Looks:
    """Comparisons with autograd, summed up."""

    def __init__(self) -> None:
        self.cosines: dict[str, list[float]] = defaultdict(list)
        self.counts: list[tuple[int, int, int]] = []

    def add(self, contender: Contender, rival: LearningRule, images: Tensor, labels: Tensor) -> None:
        """Relax once more, on a chain in eval mode so that no statistics move, and compare."""
        contender.model.eval()
        solution = rival.solution(contender.chain, images, labels)
        if solution is not None:
            for layer, cosine in by_layer(compare(contender.chain, images, labels, solution)).items():
                self.cosines[layer].append(cosine)
            self.counts.append((solution.ticks, solution.evaluations, solution.pulls))

    def row(self, sites: int) -> Row:
        """Cosines by layer, the smallest of any, and the work of one gradient; None where nothing was relaxed."""
        if not self.counts:
            return {"cosine": {}, "smallest_cosine": None, "ticks": None, "evaluations": 1.0, "pulls": 1.0}
        ticks, evaluations, pulls = (fmean(column) for column in zip(*self.counts, strict=True))
        return {
            "cosine": {layer: fmean(values) for layer, values in self.cosines.items()},
            "smallest_cosine": min(min(values) for values in self.cosines.values()),
            "ticks": ticks,
            "evaluations": evaluations / sites,
            "pulls": pulls / sites,
        }


def _batches(recipe: Recipe, data: DataSet, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch's batches in the order that its seed decides."""
    images, labels = _moved(recipe, data.train_images, data.train_labels)
    for batch in torch.split(order(recipe.seed, epoch, len(labels)).to(recipe.device), recipe.batch_size):
        yield images[batch], labels[batch]


def _moved(recipe: Recipe, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images.to(recipe.device, DTYPES[recipe.dtype]), labels.to(recipe.device)
