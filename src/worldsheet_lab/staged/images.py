"""Images to be told apart, by stages."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from typing_extensions import override

from worldsheet.pipeline.partition import measured_costs
from worldsheet.problem import Chain
from worldsheet_lab.data import load
from worldsheet_lab.recipes import DTYPES, OPTIMIZERS, Recipe
from worldsheet_lab.run_folder import Row
from worldsheet_lab.staged.job import Job, Packets, Rule, Segment
from worldsheet_lab.streams import order

_TEST_BATCH = 512


@final
class Images(Job):
    """A recipe's network on its data set.

    Args:
        recipe: what is trained.
        data_dir: where the data set is.
    """

    def __init__(self, recipe: Recipe, data_dir: Path | None) -> None:
        self._recipe = recipe
        self._data = load(recipe.data, data_dir).subset(recipe.train_size, recipe.test_size)
        self._images = self._data.train_images.to(recipe.device, DTYPES[recipe.dtype])
        self._labels = self._data.train_labels.to(recipe.device)

    @override
    def chain(self, own: range | None = None) -> Chain:
        net = self._recipe.model(self._data)
        for index, layer in enumerate(net):
            if own is not None and index not in own:
                layer.to("meta")
        return Chain(net, nn.CrossEntropyLoss())

    @override
    def rule(self, chain: Chain) -> Rule:
        return Rule(partial(OPTIMIZERS[self._recipe.optimizer], lr=self._recipe.lr))

    @override
    def costs(self, many: int) -> tuple[float, ...]:
        few = slice(max(self._recipe.batch_size // many, 1))
        return measured_costs(self.chain(), self._images[few], self._labels[few])

    @override
    def segments(self, every: int) -> list[Segment]:
        return list(self._cut(every))

    def _cut(self, every: int) -> Iterator[Segment]:
        """A last batch that is not full is left out."""
        recipe, number = self._recipe, 0
        for epoch in range(recipe.epochs):
            batches = list(torch.split(order(recipe.seed, epoch, len(self._labels)), recipe.batch_size))
            full = [batch for batch in batches if len(batch) == recipe.batch_size] or batches
            for begin in range(0, len(full), every):
                number += 1
                some = full[begin : begin + every]
                yield Segment(number, {"epoch": epoch + 1}, some, begin + every >= len(full))

    @override
    def sizes(self, segment: Segment, many: int) -> list[int]:
        return [len(index) for index in _indices(segment, many)]

    @override
    def packets(self, segment: Segment, many: int) -> Packets:
        indices = _indices(segment, many)
        return Packets(len(indices), lambda number: (self._images[indices[number]], self._labels[indices[number]]))

    @override
    def judged(self) -> Packets:
        recipe, both = self._recipe, (self._data.test_images, self._data.test_labels)
        images, labels = (torch.split(part, _TEST_BATCH) for part in both)
        return Packets(len(images), lambda n: (images[n].to(recipe.device, DTYPES[recipe.dtype]), labels[n]))

    @override
    def score(self, output: Tensor, target: Tensor) -> float:
        return float((output.argmax(1).cpu() == target).sum())

    @override
    def verdict(self, segment: Segment, scores: Sequence[float]) -> Row:
        return {"kind": "epoch", "test_accuracy": sum(scores) / len(self._data.test_labels)}


def _indices(segment: Segment, many: int) -> list[Tensor]:
    return [index for batch in segment.batches for index in batch.tensor_split(many)]
