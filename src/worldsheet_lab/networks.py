"""Networks for images, cut into sites: every child of the Sequential is one."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

from torch import nn


class Activation(NamedTuple):
    """A nonlinearity and the factor by which weights must be larger for its sake."""

    module: type[nn.Module]
    gain: float


ACTIVATIONS: Mapping[str, Activation] = {"tanh": Activation(nn.Tanh, 5 / 3), "relu": Activation(nn.ReLU, sqrt(2))}


@dataclass(frozen=True)
class Blueprint:
    """The size of a network.

    Attributes:
        shape: (C, H, W) of one image.
        classes: number of outputs.
        depth: number of sites, the output included.
        width: units of a hidden layer, or channels of the first convolutions.
        activation: a name among `ACTIVATIONS`.
        dropout: probability at which hidden units are dropped in training.
    """

    shape: tuple[int, ...]
    classes: int
    depth: int
    width: int
    activation: str
    dropout: float


def mlp(plan: Blueprint) -> nn.Sequential:
    """Linear layers of equal width, each with its activation; the first flattens the image."""
    channels, height, breadth = plan.shape
    size = channels * height * breadth
    sites: list[nn.Module] = []
    for _ in range(plan.depth - 1):
        sites.append(_site(plan, linear=nn.Linear(size, plan.width)))
        size = plan.width
    sites.append(nn.Sequential(OrderedDict(linear=nn.Linear(size, plan.classes))))
    sites[0] = nn.Sequential(OrderedDict([("flatten", nn.Flatten()), *sites[0].named_children()]))
    return _started(nn.Sequential(*sites), plan.activation)


def cnn(plan: Blueprint) -> nn.Sequential:
    """A small VGG: 3 x 3 convolutions with batch norm, two for each size of image, then one linear layer.

    A pair ends by halving the image and doubling the channels, up to four times the first, while at least 2 x 2 pixels
    remain.
    """
    channels, height, breadth = plan.shape
    sites: list[nn.Module] = []
    width = plan.width
    for number in range(1, plan.depth):
        conv = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        parts: dict[str, nn.Module] = {"conv": conv, "norm": nn.BatchNorm2d(width)}
        channels = width
        halve = number % 2 == 0 and min(height, breadth) >= 4
        sites.append(_site(plan, **parts, **({"pool": nn.MaxPool2d(2)} if halve else {})))
        if halve:
            height, breadth = height // 2, breadth // 2
            width = min(2 * width, 4 * plan.width)
    head = nn.Linear(channels * height * breadth, plan.classes)
    sites.append(nn.Sequential(OrderedDict([("flatten", nn.Flatten()), ("linear", head)])))
    return _started(nn.Sequential(*sites), plan.activation)


ARCHITECTURES: Mapping[str, Callable[[Blueprint], nn.Sequential]] = {"mlp": mlp, "cnn": cnn}


def _site(plan: Blueprint, **parts: nn.Module) -> nn.Sequential:
    """The parts of one site in order, with the activation and dropout last, or before pooling."""
    pool = parts.pop("pool", None)
    named = OrderedDict(parts, activation=ACTIVATIONS[plan.activation].module())
    if pool is not None:
        named["pool"] = pool
    if plan.dropout:
        named["dropout"] = nn.Dropout(plan.dropout)
    return nn.Sequential(named)


def _started(network: nn.Sequential, activation: str) -> nn.Sequential:
    """Weights that keep the size of states and costates through many layers, which torch's own start does not."""
    gain = ACTIVATIONS[activation].gain
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_normal_(module.weight, gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
