"""Residual layers with their derivatives written out, ready to be stacked, and the residual MLP made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from math import sqrt
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.activations import RELU, TANH, Curve
from worldsheet.layers.stacked_steps import BoundOperations, ClosedStack, OperandSlots, Operation, Stack, Stackable
from worldsheet.layers.steps import OffersStep, Step


@final
@dataclass(frozen=True)
class ResidualStack(ClosedStack):
    """Residual layers z + k φ(z) Wᵀ of equal width and scale on states (site, batch, width).

    Attributes:
        weights: of each site.
        weight: the weights in one tensor.
        scale: k.
        curve: φ, with its derivative as a function of z or φ(z) alike; None for the identity.
    """

    weights: tuple[Tensor, ...]
    weight: Tensor
    scale: float
    curve: Curve | None

    def like(self, x: Point) -> AnyState:
        """Of the shape of x."""
        return x.new_empty(x.shape)

    def ahead(self, x: Point, y: State, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
        """One batched product and one sum; φ(z) is saved."""
        activate, active = activated(self.curve, x, work)
        return (*activate, partial(torch.baddbmm, x, active, self._turned, alpha=self.scale, out=y)), active

    def back(self, credit: Costate, saved: Point, out: AnyState) -> tuple[Operation, ...]:
        """One batched product, one mask, one sum."""
        mask = () if self.curve is None else (partial(self.curve.pulled, out, saved, out),)
        sum_up = partial(torch.add, credit, out, alpha=self.scale, out=out)
        return (partial(torch.bmm, credit, self.weight, out=out), *mask, sum_up)

    def bound_residual(self, at: OperandSlots, state: State) -> BoundOperations:
        """One difference, to which the batched product is added where it lies."""
        activate, active = activated(self.curve, at.x, at.work)
        differ = partial(torch.sub, at.x, state, out=at.credit)
        add = partial(at.credit.baddbmm_, active, self._turned, alpha=self.scale)
        return BoundOperations((*activate, differ, add), self._sent(at, active))

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One batched product, told apart by site."""
        products = torch.bmm(credit.transpose(1, 2), saved).mul_(self.scale).unbind()
        return tuple(pair for pair in zip(self.weights, products, strict=True) if pair[0].requires_grad)

    @property
    @override
    def has_parameters(self) -> bool:
        return True

    def part(self, start: int, stop: int) -> ClosedStack:
        """A view of the gathered weights."""
        cut = slice(start, stop)
        return ResidualStack(self.weights[cut], self.weight[cut], self.scale, self.curve)

    @property
    def _turned(self) -> Tensor:
        return self.weight.transpose(1, 2)


@final
@dataclass(frozen=True)
class ActivatedStack(ClosedStack):
    """Pre-activated layers φ(z) Wᵀ on states (site, batch, width), to be moved only.

    Attributes:
        weight: the weights in one tensor.
        curve: φ, with its derivative as a function of z or φ(z) alike; None for the identity.
    """

    weight: Tensor
    curve: Curve | None

    def like(self, x: Point) -> AnyState:
        """As wide as the weights are high."""
        return x.new_empty((*x.shape[:-1], self.weight.shape[1]))

    def ahead(self, x: Point, y: State, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
        """One batched product; φ(z) is saved."""
        activate, active = activated(self.curve, x, work)
        return (*activate, partial(torch.bmm, active, self.weight.transpose(1, 2), out=y)), active

    def back(self, credit: Costate, saved: Point, out: AnyState) -> tuple[Operation, ...]:
        """One batched product and one mask."""
        product = partial(torch.bmm, credit, self.weight, out=out)
        return (product,) if self.curve is None else (product, partial(self.curve.pulled, out, saved, out))

    def part(self, start: int, stop: int) -> ClosedStack:
        """A view of the gathered weights."""
        return ActivatedStack(self.weight[start:stop], self.curve)


def activated(curve: Curve | None, x: Point, work: Tensor) -> tuple[tuple[Operation, ...], Point]:
    """What writes φ(x) to `work`, and where φ(x) is then."""
    return ((), x) if curve is None else ((partial(curve.value, x, work),), work)


@final
class Nonlinearity(Enum):
    """The φ that a layer applies to its input before its weights."""

    LINEAR = "z"
    TANH = "tanh z"
    RELU = "max(0, z)"

    def __call__(self, z: Point) -> State:
        """φ(z)."""
        if self is Nonlinearity.RELU:
            return torch.relu(z)
        return torch.tanh(z) if self is Nonlinearity.TANH else z

    @property
    def curve(self) -> Curve | None:
        """φ with its derivative as a function of φ(z), None for the identity."""
        if self is Nonlinearity.RELU:
            return RELU
        return TANH if self is Nonlinearity.TANH else None

    def pulled(self, credit: Costate, z: Point) -> Costate:
        """φ'(z)·credit."""
        if self is Nonlinearity.RELU:
            return cast(Tensor, torch.ops.aten.threshold_backward(credit, z, 0))
        return (
            cast(Tensor, torch.ops.aten.tanh_backward(credit, torch.tanh(z))) if self is Nonlinearity.TANH else credit
        )


@final
class ScaledLinear(nn.Module, OffersStep):
    """A pre-activated layer without bias, k φ(x) Wᵀ, with weights of unit variance: their scale is k.

    Args:
        inputs: size of x.
        outputs: size of the result.
        scale: k.
        activation: φ.
    """

    def __init__(self, inputs: int, outputs: int, scale: float, activation: Nonlinearity = Nonlinearity.LINEAR) -> None:
        super().__init__()
        self.scale = scale
        self.activation = activation
        self.weight = Parameter(torch.randn(outputs, inputs))

    def forward(self, x: Point) -> State:
        """One product."""
        return self.activation(x) @ self.weight.t() * self.scale

    def step(self) -> Step:
        """Jᵀc = k φ'(x)·(c W); the effort of W is k cᵀφ(x)."""
        return _Scaled(self)


@final
class ResidualLinear(nn.Module, OffersStep):
    """A pre-activated residual layer without bias, z + k φ(z) Wᵀ.

    Args:
        width: size of z.
        scale: k.
        activation: φ.
    """

    def __init__(self, width: int, scale: float, activation: Nonlinearity = Nonlinearity.RELU) -> None:
        super().__init__()
        self.scale = scale
        self.activation = activation
        self.weight = Parameter(torch.randn(width, width))

    def forward(self, z: State) -> State:
        """One product and one sum."""
        return torch.add(z, self.activation(z) @ self.weight.t(), alpha=self.scale)

    def step(self) -> Step:
        """Jᵀc = c + k φ'(z)·(c W); the effort of W is k cᵀφ(z)."""
        return _Residual(self)


def residual_mlp(
    depth: int,
    width: int,
    activation: Nonlinearity = Nonlinearity.RELU,
    *,
    inputs: int = 784,
    classes: int = 10,
) -> nn.Sequential:
    """The residual network of depth L and width N on which predictive coding is studied, in mean-field scaling.

        x_1 = W x_0 / √inputs,    x_l = x_{l-1} + W φ(x_{l-1}) / √(N L),    x_L = W φ(x_{L-1}) / N

    No biases, weights from N(0, 1) by torch's global generator; each layer is a site and reads rows of numbers. Its
    learning rate for Adam is 1e-3·√(N/L).

    Args:
        depth: L, the number of layers.
        width: N.
        activation: φ.
        inputs: size of x_0.
        classes: size of x_L.

    Raises:
        InputError: a depth below 2, or a size below 1.

    Reference:
        Seely & Gould, Augmented Lagrangian Predictive Coding, arXiv 2605.31022.
    """
    if depth < 2 or min(width, inputs, classes) < 1:
        raise InputError(
            "residual_mlp: depth must be at least 2 and width, inputs and classes at least 1, "
            f"got depth={depth}, width={width}, inputs={inputs}, classes={classes}",
            "whole numbers that large",
            "use residual_mlp(depth=32, width=32)",
        )
    blocks = [ResidualLinear(width, 1 / sqrt(width * depth), activation) for _ in range(depth - 2)]
    return nn.Sequential(
        ScaledLinear(inputs, width, 1 / sqrt(inputs)), *blocks, ScaledLinear(width, classes, 1 / width, activation)
    )


class _Weighted(Step):
    """One layer k φ(x) Wᵀ, or what is made of it, on rows; x is saved."""

    __slots__ = ("_module",)

    def __init__(self, module: ScaledLinear | ResidualLinear) -> None:
        self._module = module

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One product."""
        weight = self._module.weight
        if not weight.requires_grad:
            return ()
        return ((weight, torch.mm(credit.t(), self._module.activation(saved)).mul_(self._module.scale)),)

    @property
    @override
    def has_parameters(self) -> bool:
        return True

    def fits(self, x: Point) -> bool:
        """Rows of the weight's dtype."""
        return x.dim() == 2 and x.dtype == self._module.weight.dtype


@final
class _Scaled(_Weighted):
    """A scaled layer."""

    __slots__ = ()

    def forward(self, x: Point) -> tuple[State, Point]:
        """One product."""
        return torch.mm(self._module.activation(x), self._module.weight.t()).mul_(self._module.scale), x

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """One product and one mask."""
        through = torch.mm(credit, self._module.weight).mul_(self._module.scale)
        return self._module.activation.pulled(through, saved)

    def alike(self, other: Stackable) -> bool:
        """Such layers stand alone, first and last."""
        return False

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """Never alike."""
        raise NotImplementedError

    def alone(self) -> Stack:
        """Its weights times k, which are few."""
        weight = self._module.weight.detach() * self._module.scale
        return ActivatedStack(weight.unsqueeze(0), self._module.activation.curve)


@final
class _Residual(_Weighted):
    """A residual layer."""

    __slots__ = ()

    def forward(self, x: Point) -> tuple[State, Point]:
        """One product and one sum."""
        module = self._module
        return torch.addmm(x, module.activation(x), module.weight.t(), alpha=module.scale), x

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """One product, one mask, one sum."""
        through = self._module.activation.pulled(torch.mm(credit, self._module.weight), saved)
        return torch.add(credit, through, alpha=self._module.scale)

    def alike(self, other: Stackable) -> bool:
        """Equal width, scale and activation."""
        return isinstance(other, _Residual) and self._kind == other._kind

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """One batched product."""
        modules = [self._module, *(other._module for other in others if isinstance(other, _Residual))]
        weights = tuple(module.weight for module in modules)
        gathered = torch.stack([weight.detach() for weight in weights])
        return ResidualStack(weights, gathered, self._module.scale, self._module.activation.curve)

    def alone(self) -> Stack:
        """One product into memory that is there."""
        return self.stacked(())

    @property
    def _kind(self) -> tuple[int, float, Nonlinearity]:
        return self._module.weight.shape[0], self._module.scale, self._module.activation
