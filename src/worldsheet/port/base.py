"""A parameter as a port: effort in, flow out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any, TypeAlias

import torch
from torch import Tensor

from worldsheet.core.errors import InputError

Parameters: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]]
"""What every `torch.optim` optimizer takes."""


class Port(torch.optim.Optimizer, ABC):
    """Parameters that answer their effort e = ∂𝓛/∂θ (4) with a flow θ̇ through a resistance R, and report the echo.

    With port waves (e ± R θ̇)/√(2R) the power sent back is |e + R θ̇|²/(2R), zero if and only if θ̇ = −e/R (12). One
    step is the unit of time. A port is a `torch.optim.Optimizer`: schedulers, groups and state_dict work as ever.
    """

    @abstractmethod
    def flow(self, parameter: Tensor, effort: Tensor, group: dict[str, Any]) -> tuple[Tensor, float]:
        """θ̇ as a tensor and the factor to add it with; reads and moves this parameter's own state only."""

    @abstractmethod
    def resistance(self, group: dict[str, Any]) -> float:
        """R of a parameter group."""

    @property
    def reflected_power(self) -> float:
        """Σ|e + R θ̇|²/(2R) over all parameters at the last step; 0 before the first."""
        return float(sum(self._reflected))

    @property
    def incident_power(self) -> float:
        """Σ|e − R θ̇|²/(2R) over all parameters at the last step; 0 before the first."""
        return float(sum(self._incident))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._reflected: list[Tensor] = []
        self._incident: list[Tensor] = []
        for group in self.param_groups:
            resistance = self.resistance(group)
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                flow, factor = self.flow(parameter, parameter.grad, group)
                for powers, sign in ((self._reflected, 1.0), (self._incident, -1.0)):
                    wave = torch.add(parameter.grad, flow, alpha=sign * factor * resistance)
                    powers.append(wave.square().sum() / (2 * resistance))
                parameter.add_(flow, alpha=factor)
        return loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reflected, self._incident = [], []


def defaults_of(name: str, lr: float, **others: float) -> dict[str, float]:
    """The defaults of a port's parameter groups, checked.

    Raises:
        InputError: a learning rate that is no conductance.
    """
    if not (isfinite(lr) and lr > 0):
        raise InputError(f"{name}(lr={lr})", "a positive finite number, which is 1/R at rest", "try lr=0.1")
    return {"lr": lr, **others}
