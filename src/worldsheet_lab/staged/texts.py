"""A text to be continued, by stages."""

from collections.abc import Sequence
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.pipeline.partition import measured_costs
from worldsheet.problem import Chain
from worldsheet_lab.recipes import DTYPES
from worldsheet_lab.run_folder import Row
from worldsheet_lab.staged.job import Job, Packets, Rule, Segment
from worldsheet_lab.streams import seed_of
from worldsheet_lab.text.corpus import Batch, Corpus, judged_of, read_text
from worldsheet_lab.text.gpt import Shape, bare, matrices_of, started, token_loss
from worldsheet_lab.text.recipe import TextRecipe

_TEST_BATCH = 32


@final
class Texts(Job):
    """A GPT on the characters of a file.

    Args:
        recipe: what is trained.

    Raises:
        InputError: a text that is not the one of the recipe any more.
    """

    def __init__(self, recipe: TextRecipe) -> None:
        self._recipe = recipe
        self._drawn: tuple[int, Batch] | None = None

    @cached_property
    def corpus(self) -> Corpus:
        """The text, read once it is asked for, which stages in the middle never do."""
        return self._read()

    def _read(self) -> Corpus:
        recipe = self._recipe
        found = read_text(Path(recipe.text), recipe.context)
        if found.digest != recipe.digest:
            raise InputError(
                f"{recipe.text} has been changed since the run began",
                "the text that the run was begun with",
                "put it back, or begin a new run",
            )
        return found

    @override
    def check(self) -> None:
        self._read()

    @override
    def chain(self, own: range | None = None) -> Chain:
        shape = self._recipe.shape
        return Chain(nn.Sequential(*(self._layer(shape, index, own) for index in range(shape.layers))), token_loss)

    def _layer(self, shape: Shape, index: int, own: range | None) -> nn.Module:
        if own is not None and index not in own:
            with torch.device("meta"):
                return bare(shape, index)
        recipe = self._recipe
        return started(shape, index, recipe.seed).to(recipe.device, DTYPES[recipe.dtype])

    @override
    def rule(self, chain: Chain) -> Rule:
        inside = [matrix for layer in chain.layers for matrix in matrices_of(layer.module)]
        return Rule(self._recipe.optimiser(inside), self._recipe.scheduler)

    @override
    def costs(self, many: int) -> tuple[float, ...]:
        """Each kind of layer is timed once: blocks are alike, and the whole network need not fit."""
        shape = self._recipe.shape
        kinds = [self._layer(shape, index, None) for index in (0, 1, 2, shape.layers - 1)]
        few = slice(ceil(self._recipe.batch_size / many))
        x, target = (part[few].to(self._recipe.device) for part in self._batch(0))
        stem, *block, head = measured_costs(Chain(nn.Sequential(*kinds), token_loss), x, target)
        return (stem, *block * shape.blocks, head)

    @override
    def segments(self, every: int) -> list[Segment]:
        updates = self._recipe.updates
        parts = [range(begin, min(begin + every, updates)) for begin in range(0, updates, every)]
        return [Segment(number, {"update": part.stop}, part, True) for number, part in enumerate(parts, start=1)]

    @override
    def sizes(self, segment: Segment, many: int) -> list[int]:
        each = [len(piece) for piece in torch.arange(self._recipe.batch_size).tensor_split(many)]
        return each * len(segment.batches)

    @override
    def packets(self, segment: Segment, many: int) -> Packets:
        def gather(number: int) -> Batch:
            update, piece = divmod(number, many)
            device = self._recipe.device
            x, target = (part.tensor_split(many)[piece] for part in self._batch(segment.batches[update]))
            return x.to(device), target.to(device)

        return Packets(len(segment.batches) * many, gather)

    def _batch(self, update: int) -> Batch:
        """The sequences of an update, which its packets ask for one after the other."""
        if self._drawn is None or self._drawn[0] != update:
            generator = torch.Generator().manual_seed(seed_of(self._recipe.seed, "sequences", update))
            batch = self.corpus.drawn(self._recipe.batch_size, self._recipe.context, generator)
            self._drawn = update, batch
        return self._drawn[1]

    @override
    def judged(self) -> Packets:
        """A stage in the middle knows how many there are from the recipe."""
        device, count = self._recipe.device, judged_of(self._recipe.length, self._recipe.context)

        def gather(number: int) -> Batch:
            x, target = self.corpus.judged(count, self._recipe.context)
            part = slice(number * _TEST_BATCH, (number + 1) * _TEST_BATCH)
            return x[part].to(device), target[part].to(device)

        return Packets(ceil(count / _TEST_BATCH), gather)

    @override
    def score(self, output: Tensor, target: Tensor) -> float:
        return float(token_loss(output, target)) * len(target)

    @override
    def verdict(self, segment: Segment, scores: Sequence[float]) -> Row:
        count = judged_of(self._recipe.length, self._recipe.context)
        return {"kind": "validation", "validation_loss": sum(scores) / count}

    @override
    def speed(self, samples_per_s: float) -> Row:
        return {"tokens_per_s": samples_per_s * self._recipe.context}
