"""A recipe for a language model: everything that decides what its training computes, but for its stages."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from math import cos, isfinite, pi
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.optim import AdamW, Muon, Optimizer

from worldsheet.core.errors import InputError
from worldsheet.ports import Joined
from worldsheet_lab.choices import choose
from worldsheet_lab.recipes import DTYPES, refuse_device
from worldsheet_lab.text.gpt import Shape
from worldsheet_lab.typed_json import to_json

Make = Callable[[Iterable[Parameter]], Optimizer]


def _muon(recipe: "TextRecipe", matrices: frozenset[int]) -> Make:
    """Muon for the matrices of blocks, at AdamW's root mean square; AdamW for the rest."""
    of_matrices = partial(Muon, lr=recipe.lr, weight_decay=_DECAY, adjust_lr_fn="match_rms_adamw")

    def make(parameters: Iterable[Parameter]) -> Optimizer:
        given = list(parameters)
        inside, outside = ([p for p in given if (id(p) in matrices) is inner] for inner in (True, False))
        return Joined((of_matrices, inside), (partial(AdamW, lr=recipe.lr, weight_decay=_DECAY), outside))

    return make


def _adamw(recipe: "TextRecipe", matrices: frozenset[int]) -> Make:
    return partial(AdamW, lr=recipe.lr, weight_decay=_DECAY)


_DECAY = 0.01

OPTIMIZERS: Mapping[str, Callable[["TextRecipe", frozenset[int]], Make]] = {"muon": _muon, "adamw": _adamw}
"""By name, what makes the optimizer of a stage from its parameters; told which are matrices of blocks."""


@final
@dataclass(frozen=True)
class TextRecipe:
    """What the training of a language model computes.

    Attributes:
        text: the file.
        digest: of what it holds; a run goes on with the same text only.
        symbols: size of its alphabet.
        length: its characters.
        width: of the residual stream.
        blocks: attention and perceptron are a block.
        heads: of attention.
        context: characters of a sequence.
        batch_size: sequences of an update.
        updates: how many.
        warm_up: updates over which the rate grows to `lr`; then it falls by a cosine to a tenth.
        optimizer: muon, with AdamW for what is no matrix of a block, or adamw.
        lr: the largest rate.
        prompt: what the samples at the end begin with.
        sample: characters that are written at the end.
        seed: decides start weights, sequences and samples.
        device: cpu, cuda, cuda:1, ...
        dtype: float32 or float64.
        threads: CPU threads of each stage.

    Raises:
        InputError: a name that nothing has, or a number out of range.
    """

    text: str
    digest: str
    symbols: int
    length: int
    width: int = 128
    blocks: int = 4
    heads: int = 4
    context: int = 64
    batch_size: int = 16
    updates: int = 1000
    warm_up: int = 100
    optimizer: str = "muon"
    lr: float = 0.005
    prompt: str = "\n"
    sample: int = 400
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        choose("optimizer for texts", self.optimizer, OPTIMIZERS)
        choose("dtype", self.dtype, DTYPES)
        refuse_device(self.device)
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) < least:
                raise InputError(
                    f"{name} must be at least {least}, got {value}",
                    "a whole number that large",
                    f"raise it: --{name.replace('_', '-')} {least}",
                )
        if self.width % self.heads:
            raise InputError(
                f"--width {self.width} cannot be divided among --heads {self.heads}",
                "a width that is a multiple of the heads",
                f"try --width {-(-self.width // self.heads) * self.heads}",
            )
        if self.warm_up >= self.updates:
            raise InputError(
                f"--warm-up must be below --updates {self.updates}, got {self.warm_up}",
                "fewer updates of warm-up than there are",
                f"try --warm-up {self.updates // 10}",
            )
        if not (isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr must be a positive number, got {self.lr}", "a learning rate", "try --lr 0.005")

    @property
    def data(self) -> str:
        """What the run is called."""
        return Path(self.text).stem

    @property
    def shape(self) -> Shape:
        """How large the transformer is."""
        return Shape(self.symbols, self.context, self.width, self.blocks, self.heads)

    @property
    def depth(self) -> int:
        """Layers that stages can be cut between: embedding, half-blocks, head."""
        return self.shape.layers

    @property
    def about(self) -> str:
        """In a line."""
        size = f"GPT of {self.blocks} blocks, width {self.width}, context {self.context}"
        return f"{self.data}: {size}, {self.optimizer} {self.lr:g}, seed {self.seed}"

    def rate(self, update: int) -> float:
        """A share of the largest rate."""
        if update < self.warm_up:
            return (update + 1) / self.warm_up
        return 0.1 + 0.45 * (1 + cos(pi * (update - self.warm_up) / max(1, self.updates - self.warm_up)))

    def optimiser(self, matrices: Iterable[Tensor]) -> Make:
        """What makes the optimizer of a stage, given the matrices of blocks."""
        return OPTIMIZERS[self.optimizer](self, frozenset(map(id, matrices)))

    def scheduler(self, optimizer: Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Moves its rates."""
        return torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)

    def to_json(self) -> str:
        """One JSON object with a member per field."""
        return to_json(self)


_LEAST = {
    **{"width": 1, "blocks": 1, "heads": 1, "context": 1, "batch_size": 1, "updates": 1, "warm_up": 0},
    **{"sample": 0, "seed": 0, "threads": 1},
}
