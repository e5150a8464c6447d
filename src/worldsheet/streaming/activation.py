"""Activations: the answer of a neuron to its drive, with the slope that its costate needs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldsheet.streaming.shapes import Neurons


class Activation(ABC):
    """σ, applied to each neuron's drive by itself."""

    @abstractmethod
    def value(self, drive: Neurons) -> Neurons:
        """σ(a)."""

    @abstractmethod
    def slope(self, speed: Tensor, drive: Neurons, value: Neurons) -> Neurons:
        """The slope c σ′(a), from the speeds c, the drive a and σ(a)."""


@final
@dataclass(frozen=True)
class Tanh(Activation):
    """The hyperbolic tangent."""

    def value(self, drive: Neurons) -> Neurons:
        """The hyperbolic tangent of a."""
        return drive.tanh()

    def slope(self, speed: Tensor, drive: Neurons, value: Neurons) -> Neurons:
        """At speed c: c (1 − σ²)."""
        slope: Tensor = torch.ops.aten.tanh_backward.default(speed, value)
        return slope


@final
@dataclass(frozen=True)
class Logistic(Activation):
    """1/(1 + e^{−a})."""

    def value(self, drive: Neurons) -> Neurons:
        """1/(1 + e^{−a})."""
        return drive.sigmoid()

    def slope(self, speed: Tensor, drive: Neurons, value: Neurons) -> Neurons:
        """At speed c: c σ (1 − σ)."""
        slope: Tensor = torch.ops.aten.sigmoid_backward.default(speed, value)
        return slope


@final
@dataclass(frozen=True)
class Rectifier(Activation):
    """max(a, 0), with slope 0 at 0."""

    def value(self, drive: Neurons) -> Neurons:
        """max(a, 0)."""
        return drive.relu()

    def slope(self, speed: Tensor, drive: Neurons, value: Neurons) -> Neurons:
        """At speed c: c above 0, else 0."""
        return speed * (drive > 0)


@final
@dataclass(frozen=True)
class Identity(Activation):
    """The drive itself: a linear network."""

    def value(self, drive: Neurons) -> Neurons:
        """The drive."""
        return drive

    def slope(self, speed: Tensor, drive: Neurons, value: Neurons) -> Neurons:
        """At speed c: c."""
        return speed.expand_as(drive)
