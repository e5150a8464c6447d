"""Costs whose gradient by the output is written out, so that a tick at the output needs no graph."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from worldsheet.core.types import Costate, State
from worldsheet.layers.products import Operation


class Cost(ABC):
    """A scalar C(output, target) with ∇C by the output."""

    @abstractmethod
    def value(self, output: State, target: Any) -> Tensor:
        """C."""

    @abstractmethod
    def slope(self, output: State, target: Any) -> Costate:
        """∇C."""

    def bound_slope(self, output: State, target: Any, unit: float, out: Costate) -> tuple[Operation, ...]:
        """What writes ∇C/unit at the output as it then is to `out`; the target stays as it is."""

        def write() -> None:
            torch.div(self.slope(output, target), unit, out=out)

        return (write,)

    @abstractmethod
    def fits(self, output: State, target: Any) -> bool:
        """Whether the closed form holds for these; the loss itself takes over where it does not."""


class OffersCost(ABC):
    """A loss module that states its own closed form; mixed into an `nn.Module` without parameters."""

    @abstractmethod
    def cost(self) -> Cost:
        """The module's map with its derivative."""


@final
class HalfSquares(nn.Module, OffersCost):
    """½ ‖output − target‖², averaged over the first dimension."""

    def forward(self, output: State, target: State) -> Tensor:
        """C."""
        return (output - target).square().sum() / (2 * output.shape[0])

    def cost(self) -> Cost:
        """∇C = (output − target)/B."""
        return _HALF_SQUARES


@final
class _HalfSquares(Cost):
    def value(self, output: State, target: Any) -> Tensor:
        return cast(Tensor, (output - target).square().sum() / (2 * output.shape[0]))

    def slope(self, output: State, target: Any) -> Costate:
        return cast(Tensor, (output - target).div_(output.shape[0]))

    @override
    def bound_slope(self, output: State, target: Any, unit: float, out: Costate) -> tuple[Operation, ...]:
        return partial(torch.sub, output, target, out=out), partial(out.mul_, 1 / (unit * output.shape[0]))

    def fits(self, output: State, target: Any) -> bool:
        return _match(output, target)


@final
class _Squares(Cost):
    """Torch's mean or sum of squares, by torch's own kernels: the same bits as autograd's."""

    def __init__(self, reduction: str) -> None:
        self._reduction = reduction
        self._code = _REDUCTIONS[reduction]

    def value(self, output: State, target: Any) -> Tensor:
        return F.mse_loss(output, target, reduction=self._reduction)

    def slope(self, output: State, target: Any) -> Costate:
        unit = output.new_ones(())
        return cast(Tensor, torch.ops.aten.mse_loss_backward(unit, output, target, self._code))

    @override
    def bound_slope(self, output: State, target: Any, unit: float, out: Costate) -> tuple[Operation, ...]:
        kernel, one = torch.ops.aten.mse_loss_backward.grad_input, output.new_ones(())
        return partial(kernel, one, output, target, self._code, grad_input=out), *_in_units(unit, out)

    def fits(self, output: State, target: Any) -> bool:
        return _match(output, target)


@final
class _CrossEntropy(Cost):
    """Torch's cross-entropy with class indices, unweighted and unsmoothed, by torch's own kernels."""

    def __init__(self, reduction: str, ignored: int) -> None:
        self._reduction = reduction
        self._code = _REDUCTIONS[reduction]
        self._ignored = ignored

    def value(self, output: State, target: Any) -> Tensor:
        return F.cross_entropy(output, target, ignore_index=self._ignored, reduction=self._reduction)

    def slope(self, output: State, target: Any) -> Costate:
        logs = torch.log_softmax(output, 1)
        return cast(Tensor, _pulled_through_logs(self._by_logs(logs, target), logs, 1, logs.dtype))

    @override
    def bound_slope(self, output: State, target: Any, unit: float, out: Costate) -> tuple[Operation, ...]:
        logs = torch.empty_like(output)
        predict = partial(torch.log_softmax, output, 1, out=logs)
        pull = partial(_pulled_through_logs.out, self._by_logs(logs, target), logs, 1, logs.dtype, out=out)
        return predict, pull, *_in_units(unit, out)

    def _by_logs(self, logs: State, target: Tensor) -> Costate:
        """The gradient by the logarithms of the probabilities, which depends on the target alone."""
        aten = torch.ops.aten
        cost, weight = aten.nll_loss_forward(logs, target, None, self._code, self._ignored)
        unit = torch.ones_like(cost)
        return cast(Tensor, aten.nll_loss_backward(unit, logs, target, None, self._code, self._ignored, weight))

    def fits(self, output: State, target: Any) -> bool:
        rows = isinstance(target, Tensor) and target.dtype == torch.int64 and target.shape == output.shape[:1]
        return rows and output.dim() == 2 and output.is_floating_point() and target.device == output.device


_pulled_through_logs: Any = torch.ops.aten._log_softmax_backward_data
_REDUCTIONS: Mapping[str, int] = {"mean": 1, "sum": 2}
_HALF_SQUARES = _HalfSquares()


def cost_of(loss: object) -> Cost | None:
    """The closed form of a known loss; None for anything else. Exact classes only."""
    kind = type(loss)
    if loss is F.mse_loss:
        return _Squares("mean")
    if loss is F.cross_entropy:
        return _CrossEntropy("mean", -100)
    if isinstance(loss, nn.MSELoss) and kind is nn.MSELoss and loss.reduction in _REDUCTIONS:
        return _Squares(loss.reduction)
    if isinstance(loss, nn.CrossEntropyLoss) and kind is nn.CrossEntropyLoss and loss.reduction in _REDUCTIONS:
        plain = loss.weight is None and loss.label_smoothing == 0
        return _CrossEntropy(loss.reduction, loss.ignore_index) if plain else None
    return loss.cost() if isinstance(loss, OffersCost) else None


def _in_units(unit: float, out: Costate) -> tuple[Operation, ...]:
    """What divides `out` by its unit, where that is not one."""
    return () if unit == 1 else (partial(out.div_, unit),)


def _match(output: State, target: Any) -> bool:
    """Two tensors of one shape, dtype and device, and a target that is no trained quantity itself."""
    if not isinstance(target, Tensor) or target.requires_grad or not output.is_floating_point():
        return False
    return target.shape == output.shape and target.dtype == output.dtype and target.device == output.device
