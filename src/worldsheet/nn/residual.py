"""Residual layers with their derivatives written out, ready to be stacked, and the residual MLP made of them."""

from collections.abc import Sequence
from enum import Enum
from math import sqrt
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.activations import RELU, TANH, Curve
from worldsheet.layers.products import Apply, add_linear, at_once, by_owner, effort_of, linear, pull_linear, trained
from worldsheet.layers.steps import Formula, OffersStep, OperandSlots, Stack, Stackable, Step


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
        return _Scaled((self,))


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
        return _Residual((self,))


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


class _Weighted(Formula):
    """A map made of k φ(x) Wᵀ on rows, of one layer, whose module is read at each call, or of several, gathered.

    One layer saves x, which is there anyway, and makes φ(x) anew; several save φ(x) in memory that is there for it.

    Args:
        modules: of each site.
        gathered: a stack's W of shape (site, out, in), and k.
    """

    __slots__ = ("_gathered", "_modules")

    def __init__(
        self, modules: Sequence[ScaledLinear | ResidualLinear], gathered: tuple[Tensor, float] | None = None
    ) -> None:
        self._modules = modules
        self._gathered = gathered

    @override
    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        weights = trained(self._modules, "weight")
        if not weights:
            return ()
        active = saved if self._gathered is not None else self._activated(at_once, saved, None)
        return by_owner(weights, effort_of(credit, active).mul_(self._modules[0].scale))

    @property
    @override
    def has_parameters(self) -> bool:
        return True

    def fits(self, x: Point) -> bool:
        """Rows of the weight's dtype."""
        return x.dim() == 2 and x.dtype == self._modules[0].weight.dtype

    @property
    def _operands(self) -> tuple[Tensor, float]:
        """W and k."""
        if self._gathered is not None:
            return self._gathered
        return cast(Tensor, self._modules[0]._parameters["weight"]), self._modules[0].scale

    def _activated(self, apply: Apply, x: Point, work: Tensor | None) -> State:
        """φ(x)."""
        curve = self._modules[0].activation.curve
        return x if curve is None else apply(curve.value, x, out=work)

    def _masked(self, apply: Apply, through: Costate, saved: Point) -> Costate:
        """φ'(x)·c in the place of c."""
        curve = self._modules[0].activation.curve
        if curve is None:
            return through
        known = self._gathered is not None or curve.by_either
        return apply(curve.pulled, through, saved if known else apply(curve.value, saved, out=None), out=through)

    def _cut(
        self, start: int, stop: int
    ) -> tuple[Sequence[ScaledLinear | ResidualLinear], tuple[Tensor, float] | None]:
        """What some of the sites are made of, with a view of the gathered weights."""
        gathered = None if self._gathered is None else (self._gathered[0][start:stop], self._gathered[1])
        return self._modules[start:stop], gathered


@final
class _Scaled(_Weighted):
    """A scaled layer. Such layers stand alone, first and last; a stack of one has weights times k, and k = 1."""

    __slots__ = ()

    def ahead(self, apply: Apply, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """One product."""
        (weight, scale), active = self._operands, self._activated(apply, x, work)
        y = _times(apply, linear(apply, active, weight, None, out), scale)
        return y, x if self._gathered is None else active

    def back(self, apply: Apply, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        """One product and one mask."""
        weight, scale = self._operands
        return self._masked(apply, _times(apply, pull_linear(apply, credit, weight, out), scale), saved)

    def alone(self) -> Stack:
        """Its weights times k, which are few."""
        weight, scale = self._operands
        return _Scaled(self._modules, ((weight.detach() * scale)[None], 1.0))

    @override
    def part(self, start: int, stop: int) -> Formula:
        return _Scaled(*self._cut(start, stop))


@final
class _Residual(_Weighted):
    """A residual layer."""

    __slots__ = ()

    def ahead(self, apply: Apply, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """One product and one sum."""
        (weight, scale), active = self._operands, self._activated(apply, x, work)
        y = add_linear(apply, x, active, weight, scale, out)
        return y, x if self._gathered is None else active

    def back(self, apply: Apply, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        """One product, one mask, one sum."""
        weight, scale = self._operands
        through = self._masked(apply, pull_linear(apply, credit, weight, out), saved)
        return apply(torch.add, credit, through, alpha=scale, out=through)

    @override
    def differ(self, apply: Apply, at: OperandSlots, state: State) -> Point:
        (weight, scale), active = self._operands, self._activated(apply, at.x, at.work)
        difference = apply(torch.sub, at.x, state, out=at.credit)  # to which the product is added where it lies
        add_linear(apply, difference, active, weight, scale, at.credit)
        return at.x if self._gathered is None else active

    def alike(self, other: Stackable) -> bool:
        """Equal width, scale and activation."""
        return isinstance(other, _Residual) and self._kind == other._kind

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """The weights are copied once."""
        alike = [self, *(other for other in others if isinstance(other, _Residual))]
        modules = [module for each in alike for module in each._modules]
        return _Residual(modules, (torch.stack([module.weight.detach() for module in modules]), modules[0].scale))

    def alone(self) -> Stack:
        """The weights where they are."""
        weight, scale = self._operands
        return _Residual(self._modules, (weight.detach()[None], scale))

    @override
    def part(self, start: int, stop: int) -> Formula:
        return _Residual(*self._cut(start, stop))

    @property
    def _kind(self) -> tuple[int, float, Nonlinearity]:
        module = self._modules[0]
        return module.weight.shape[0], module.scale, module.activation


def _times(apply: Apply, product: Tensor, scale: float) -> Tensor:
    return product if scale == 1 else apply(torch.mul, product, scale, out=product)
