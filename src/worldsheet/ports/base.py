"""A parameter as a port: effort in, flow out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.errors import InputError

Parameters: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]]
"""What every `torch.optim` optimizer takes."""


class Powers(NamedTuple):
    """What one group of parameters received and sent back at one step, as scalar tensors."""

    incident: Tensor
    reflected: Tensor


class Port(torch.optim.Optimizer, ABC):
    """Parameters that answer their effort e = ∂𝓛/∂θ (4) with a flow θ̇ through a resistance R, and report the echo.

    With port waves (e ± R θ̇)/√(2R) the power sent back is |e + R θ̇|²/(2R), zero if and only if θ̇ = −e/R (12). One
    step is the unit of time. A port is a `torch.optim.Optimizer`: schedulers, groups and state_dict work as ever.
    """

    _powers: list[Powers]

    @abstractmethod
    def answer(self, group: dict[str, Any]) -> Powers | None:
        """Move the parameters of a group that have a gradient, and say what was reflected; None if there are none."""

    @property
    def reflected_power(self) -> float:
        """Σ|e + R θ̇|²/(2R) over all parameters at the last step; 0 before the first."""
        return sum(float(powers.reflected) for powers in self._powers)

    @property
    def incident_power(self) -> float:
        """Σ|e − R θ̇|²/(2R) over all parameters at the last step; 0 before the first."""
        return sum(float(powers.incident) for powers in self._powers)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._powers = [powers for group in self.param_groups if (powers := self.answer(group)) is not None]
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._powers = []


class ScalarPort(Port, ABC):
    """A port whose resistance is one number for all parameters of a group."""

    def __init__(self, params: Parameters, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._powers = []

    @abstractmethod
    def flow(self, parameter: Tensor, effort: Tensor, group: dict[str, Any]) -> tuple[Tensor, float]:
        """θ̇ as a tensor and the factor to add it with; reads and moves this parameter's own state only."""

    @abstractmethod
    def resistance(self, group: dict[str, Any]) -> float:
        """R of a parameter group."""

    @override
    def answer(self, group: dict[str, Any]) -> Powers | None:
        resistance = self.resistance(group)
        powers = []
        for parameter in group["params"]:
            if (effort := parameter.grad) is None:
                continue
            flow, factor = self.flow(parameter, effort, group)
            outward = torch.add(effort, flow, alpha=factor * resistance)
            inward = torch.add(effort, flow, alpha=-factor * resistance)
            powers.append(torch.stack([inward.norm(), outward.norm()]))
            parameter.add_(flow, alpha=factor)
        if not powers:
            return None
        total = torch.stack([power.to(powers[0]) for power in powers]).square().sum(0) / (2 * resistance)
        return Powers(*total.unbind())


def defaults_of(name: str, lr: float, **others: float) -> dict[str, float]:
    """The defaults of a port's parameter groups, checked.

    Raises:
        InputError: a learning rate that is no conductance.
    """
    if not (isfinite(lr) and lr > 0):
        raise InputError(
            f"{name}: lr must be a positive finite number, got {lr}",
            "the learning rate, which is 1/R at rest",
            "try lr=0.1",
        )
    return {"lr": lr, **others}
