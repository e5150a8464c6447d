"""Which modules have a closed form: linear maps, activations, what only changes shapes, and convolutions."""

from collections.abc import Sequence
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from typing_extensions import override

from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers.activations import RELU, SIGMOID, TANH, Curve
from worldsheet.layers.convolution import Convolution
from worldsheet.layers.products import Apply, by_owner, effort_of, linear, pull_linear, rows_of, trained
from worldsheet.layers.steps import Factors, Formula, OffersStep, Stack, Stackable, Step


def steps_of(module: object) -> tuple[Step, ...] | None:
    """The steps of a linear layer, convolution, known activation or plain Sequential of them; None for anything else.

    Exact classes only: a subclass may compute something else.
    """
    kind = type(module)
    if isinstance(module, nn.Linear) and kind is nn.Linear:
        return (Affine((module,)),)
    if isinstance(module, nn.Sequential) and kind is nn.Sequential and len(module):
        parts = [steps_of(child) for child in module]
        return None if None in parts else tuple(step for part in parts if part for step in part)
    if isinstance(module, OffersStep):
        return (module.step(),)
    if isinstance(module, nn.Flatten) and kind is nn.Flatten:
        return (Flattened(module),)
    if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
        return (Convolution(module),)
    made = _ACTIVATIONS.get(kind)
    return None if made is None else (made,)


@final
class Affine(Formula):
    """The map y = x Wᵀ + b: Jᵀc = c W; the effort of W is cᵀx, that of b the sum of c over the batch.

    One layer reads its module's parameters as they are at each call; a stack has gathered them.

    Args:
        modules: of each site.
        gathered: a stack's W of shape (site, out, in) and b of shape (site, 1, out).
    """

    __slots__ = ("_gathered", "_modules")

    def __init__(self, modules: Sequence[nn.Linear], gathered: tuple[Tensor, Tensor | None] | None = None) -> None:
        self._modules = modules
        self._gathered = gathered

    def ahead(self, apply: Apply, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """One product; x is saved."""
        weight, bias = self._operands
        return linear(apply, x, weight, bias, out), x

    def back(self, apply: Apply, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        """One product."""
        return pull_linear(apply, credit, self._operands[0], out)

    @override
    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        weight = self._operands[0]
        rows = rows_of(credit, weight)
        found: tuple[tuple[Tensor, Tensor], ...] = ()
        if owners := trained(self._modules, "weight"):
            found = by_owner(owners, effort_of(rows, rows_of(saved, weight)))
        if owners := trained(self._modules, "bias"):
            found += by_owner(owners, rows.sum(-2))
        return found

    def factors(self, credit: Costate, saved: Point) -> Factors:
        """One layer's inputs and credits as they are."""
        weight = self._modules[0].weight
        return Factors(weight, rows_of(saved, weight), rows_of(credit, weight), credit.shape[0])

    @property
    @override
    def has_parameters(self) -> bool:
        return True

    def alike(self, other: Stackable) -> bool:
        """Equal shapes, both with a bias or both without."""
        if not isinstance(other, Affine):
            return False
        mine, theirs = self._modules[0], other._modules[0]
        return mine.weight.shape == theirs.weight.shape and (mine.bias is None) == (theirs.bias is None)

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """The parameters are copied once."""
        modules = [
            *self._modules,
            *(module for other in others if isinstance(other, Affine) for module in other._modules),
        ]
        weight = torch.stack([module.weight.detach() for module in modules])
        biases = [bias.detach() for module in modules if (bias := module._parameters["bias"]) is not None]
        return Affine(modules, (weight, torch.stack(biases).unsqueeze(1) if biases else None))

    def alone(self) -> Stack:
        """The parameters where they are."""
        weight, bias = self._operands
        return Affine(self._modules, (weight.detach()[None], None if bias is None else bias.detach()[None, None]))

    def part(self, start: int, stop: int) -> Formula:
        """A view of the gathered parameters."""
        if self._gathered is None:
            return self
        (weight, bias), cut = self._gathered, slice(start, stop)
        return Affine(self._modules[cut], (weight[cut], None if bias is None else bias[cut]))

    def fits(self, x: Point) -> bool:
        """Plain parameters of the input's dtype: quantised and distributed ones have code of their own."""
        weight = self._modules[0].weight
        return x.is_floating_point() and type(weight) is Parameter and x.dtype == weight.dtype

    @property
    def _operands(self) -> tuple[Tensor, Tensor | None]:
        if self._gathered is not None:
            return self._gathered
        held = self._modules[0]._parameters  # where they are found ten times as fast as by their names
        return cast(Tensor, held["weight"]), held["bias"]


@final
class Pointwise(Formula):
    """An activation y = φ(x), the same at every site, whose derivative is a function of y: Jᵀc = φ'(y)·c.

    Args:
        curve: φ and its derivative.
    """

    __slots__ = ("_curve",)

    def __init__(self, curve: Curve) -> None:
        self._curve = curve

    def ahead(self, apply: Apply, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """The activation; y is saved."""
        y = apply(self._curve.value, x, out=out)
        return y, y

    def back(self, apply: Apply, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        """One kernel."""
        return apply(self._curve.pulled, credit, saved, out=out)

    def alike(self, other: Stackable) -> bool:
        """The same activation."""
        return other is self

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """Itself: it works on any shape."""
        return self

    @override
    def alone(self) -> Stack:
        return self


@final
class Flattened(Step):
    """Dimensions joined: Jᵀc is c in the old shape. Twice in a row it is not the same map, so that it has no like.

    Args:
        module: which dimensions.
    """

    __slots__ = ("_module",)

    def __init__(self, module: nn.Flatten) -> None:
        self._module = module

    def forward(self, x: Point) -> tuple[State, Point]:
        """A view; x is kept for its shape."""
        return x.flatten(self._module.start_dim, self._module.end_dim), x

    def pull(self, credit: Costate, saved: Point) -> AnyState:
        """A view."""
        return credit.reshape(saved.shape)


_ACTIVATIONS: dict[type, Step] = {
    nn.Tanh: Pointwise(TANH),
    nn.Sigmoid: Pointwise(SIGMOID),
    nn.ReLU: Pointwise(RELU),
}
