"""A recipe: everything that decides what a training run computes, and the defaults of each data set."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from math import isfinite
from typing import Any, final

import torch
from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from worldsheet.core.errors import InputError
from worldsheet.dynamics import Dyadic
from worldsheet.schedules import Schedule, Sweep, Synchronous, Wavefront
from worldsheet_lab.choices import choose
from worldsheet_lab.data import NAMES, DataSet
from worldsheet_lab.names import DIGITS
from worldsheet_lab.networks import ACTIVATIONS, ARCHITECTURES, Blueprint
from worldsheet_lab.streams import drawing, seed_of
from worldsheet_lab.typed_json import from_json, to_json

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "momentum": partial(SGD, momentum=0.9),
    "adam": Adam,
    "adamw": AdamW,
}
SCHEDULES: Mapping[str, Callable[[Dyadic], Schedule]] = {
    "wavefront": lambda dynamics: Wavefront(),
    "synchronous": lambda dynamics: Synchronous(),
    "sweep": lambda dynamics: Sweep() if dynamics.settles_at_once else Sweep(count=None),
}
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


@final
@dataclass(frozen=True)
class Recipe:
    """What a training run computes; `recipe_for` gives the defaults of a data set.

    Attributes:
        data: name of the data set.
        train_size: how many training images are used; None for all.
        test_size: how many test images are used; None for all.
        architecture: mlp or cnn.
        activation: tanh or relu.
        depth: number of sites.
        width: units of a hidden layer, or channels of the first convolutions.
        dropout: probability at which hidden units are dropped in training.
        batch_size: images per step; the last batch of an epoch may be smaller.
        epochs: how often each training image is seen.
        optimizer: sgd, momentum, adam or adamw.
        lr: learning rate.
        rate: η of `Dyadic`.
        schedule: wavefront, synchronous or sweep.
        seed: decides start weights, order of images and dropped units.
        device: cpu, cuda, cuda:1, ...
        dtype: float32 or float64.
        compare_every: steps between comparisons with autograd's gradients; 0 for none.
        threads: CPU threads; 0 leaves the number to torch. A resumed run is equal to the last bit only with the same
            number.

    Raises:
        InputError: a name that nothing has, or a number out of range.
    """

    data: str
    train_size: int | None
    test_size: int | None
    architecture: str
    activation: str
    depth: int
    width: int
    dropout: float
    batch_size: int
    epochs: int
    optimizer: str
    lr: float
    rate: float
    schedule: str
    seed: int
    device: str
    dtype: str
    compare_every: int
    threads: int

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, before anything is loaded or written."""
        self._check_names()
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(
                    f"{name} must be at least {least}, got {value}",
                    "a whole number that large",
                    f"raise it: {_option(name)} {least}",
                )
        if not (isfinite(self.lr) and self.lr > 0):
            raise InputError(f"lr must be a positive number, got {self.lr}", "a learning rate", "try --lr 0.001")
        if not 0 <= self.dropout < 1:
            raise InputError(
                f"dropout must be at least 0 and below 1, got {self.dropout}",
                "the share of activations that is dropped",
                "use --dropout 0 for none",
            )
        if self.dynamics.rate != 1 and self.schedule == "wavefront":
            raise InputError(
                f"schedule 'wavefront' needs rate 1, got {self.rate}",
                "wavefront with rate 1; synchronous or sweep with any rate",
                "use --schedule synchronous, or --rate 1",
            )

    def _check_names(self) -> None:
        choose("data set", self.data, dict.fromkeys(NAMES))
        choose("architecture", self.architecture, ARCHITECTURES)
        choose("activation", self.activation, ACTIVATIONS)
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("schedule", self.schedule, SCHEDULES)
        choose("dtype", self.dtype, DTYPES)
        refuse_device(self.device)

    @property
    def dynamics(self) -> Dyadic:
        """How a site moves."""
        return Dyadic(self.rate)

    @property
    def about(self) -> str:
        """In a line."""
        size = f"{self.architecture} of {self.depth} sites, width {self.width}"
        return f"{self.data}: {size}, {self.activation}, {self.optimizer} {self.lr:g}, seed {self.seed}"

    def when(self) -> Schedule:
        """When each site moves."""
        return SCHEDULES[self.schedule](self.dynamics)

    def model(self, data: DataSet) -> nn.Sequential:
        """The network with the start weights that the seed decides, on the device."""
        plan = Blueprint(data.input_shape, len(data.classes), self.depth, self.width, self.activation, self.dropout)
        with drawing(seed_of(self.seed, "weights"), torch.device("cpu")):
            network = ARCHITECTURES[self.architecture](plan)
        return network.to(self.device, DTYPES[self.dtype])

    def optimiser(self, parameters: Iterable[Parameter]) -> Optimizer:
        """The optimizer of one contender."""
        return OPTIMIZERS[self.optimizer](parameters, lr=self.lr)

    def to_json(self) -> str:
        """One JSON object with a member per field."""
        return to_json(self)

    @staticmethod
    def from_json(text: str) -> "Recipe":
        """The recipe that `to_json` wrote.

        Raises:
            InputError: no JSON object, a member too many or missing, or a value of the wrong type or range.
        """
        try:
            return from_json(Recipe, text)
        except ValueError as error:
            raise InputError(
                f"the recipe cannot be read: {error}",
                "what Recipe.to_json writes",
                "restore config.json, or start a new run",
            ) from error


FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Recipe))

_LEAST = {
    **{"train_size": 1, "test_size": 1, "depth": 2, "width": 1, "batch_size": 1, "epochs": 1},
    **{"seed": 0, "compare_every": 0, "threads": 0},
}


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def refuse_device(name: str) -> None:
    """Refuse a device that this torch cannot use.

    Raises:
        InputError: such a device.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"device {name!r} cannot be used: {reason}",
            "a device that this torch can use: cpu, cuda, cuda:1, mps, ...",
            "use --device cpu, or install a torch built for the device",
        ) from error


_DIGITS = Recipe(**DIGITS)
_LARGER = replace(_DIGITS, activation="relu", width=256, batch_size=128, epochs=5, threads=0)

_DEFAULTS: Mapping[str, Recipe] = {
    "digits": _DIGITS,
    "mnist": replace(_LARGER, data="mnist"),
    "fashion-mnist": replace(_LARGER, data="fashion-mnist"),
    "cifar10": replace(_LARGER, data="cifar10", architecture="cnn", depth=9, width=32, dropout=0.0, epochs=20),
}


def recipe_for(data: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The defaults of a data set with some fields changed.

    A rate other than 1 changes the default schedule to synchronous, since a wavefront passes each site only once.

    Raises:
        InputError: an unknown data set, or changes that cannot be right.
    """
    choose("data set", data, dict.fromkeys(NAMES))
    given = dict(changes or {})
    if given.get("rate", 1) != 1:
        given.setdefault("schedule", "synchronous")
    return replace(_DEFAULTS[data], **given)
