"""Equal layers without a closed form as one batched map: `torch.func` on their stacked parameters."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import Parameter
from typing_extensions import override

from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.layers import Stack, Stackable

Held: TypeAlias = Mapping[str, Tensor]
Pulled: TypeAlias = tuple[Tensor | None, ...]
Batched: TypeAlias = Callable[[Held, Point], State]

_PLAIN = (
    set,
    frozenset,
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    Enum,
    torch.dtype,
    torch.device,
    torch.Size,
)


@final
class Mapped(Stackable):
    """A module that may be mapped over sites with others of its kind.

    Args:
        module: it computes the same on any parameters and buffers of these shapes.
    """

    __slots__ = ("_module",)

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def alike(self, other: Stackable) -> bool:
        """Modules of one class and make that differ in the values of parameters and buffers alone."""
        return isinstance(other, Mapped) and _alike(self._module, other._module)

    def fits(self, x: Point) -> bool:
        """Any tensor of numbers that can be differentiated."""
        return x.is_floating_point()

    def stacked(self, others: Sequence[Stackable]) -> Stack:
        """One call of the first module, vectorised over the tensors of all."""
        module = self._module
        modules = [module, *(other._module for other in others if isinstance(other, Mapped))]
        owners = [_held(each) for each in modules]
        tensors = {name: torch.stack([owner[name].detach() for owner in owners]) for name in owners[0]}

        def call(held: Held, x: Point) -> State:
            return functional_call(module, dict(held), (x,))  # type: ignore[no-any-return]

        return MappedStack(torch.vmap(call), tensors, tuple(owners))


@final
class MappedStack(Stack):
    """One map of several sites, differentiated by autograd: all sites at once, and no site through another.

    Args:
        mapped: y_s = f(x_s; θ_s) of all sites.
        tensors: parameters and buffers by name, a row for each site.
        owners: of each site, the same by name.
        retain: whether its graph may be pulled back through more than once; compiled ones give their memory away.
    """

    __slots__ = ("_graph", "_mapped", "_owners", "_point", "_retain", "_tensors")

    def __init__(self, mapped: Batched, tensors: Held, owners: tuple[Held, ...], *, retain: bool = True) -> None:
        self._mapped = mapped
        self._retain = retain
        self._tensors = tensors
        self._owners = owners
        self._point: Tensor | None = None
        self._graph: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Point, out: Tensor | None, work: Tensor | None) -> tuple[State, Point]:
        """One evaluation of all sites, whose graph is kept until the next; x is saved."""
        y = self._evaluate(x)[1].detach()
        return (y if out is None else out.copy_(y)), x

    def pull(self, credit: Costate, saved: Point, out: Tensor | None) -> AnyState:
        """One pull-back through the graph of all sites, which is made anew for a part of them."""
        leaf, graph = self._graph if self._graph is not None and self._point is saved else self._evaluate(saved)
        if not graph.requires_grad:
            return torch.zeros_like(saved) if out is None else out.zero_()
        found: Pulled = torch.autograd.grad(graph, leaf, credit, retain_graph=self._retain, allow_unused=True)
        if not self._retain:
            self._graph = None
        pulled = torch.zeros_like(saved) if found[0] is None else found[0]
        return pulled if out is None else out.copy_(pulled)

    def efforts(self, credit: Costate, saved: Point) -> tuple[tuple[Tensor, Tensor], ...]:
        """One pull-back to the parameters of all sites, told apart; none for those that the map does not use."""
        wanted = {name for owner in self._owners for name, each in owner.items() if each.requires_grad}
        leaves = {name: self._tensors[name].detach().requires_grad_() for name in sorted(wanted)}
        with torch.enable_grad():
            graph = self._mapped({**self._tensors, **leaves}, saved.detach())
        if not graph.requires_grad:
            return ()
        parts: Pulled = torch.autograd.grad(graph, list(leaves.values()), credit, allow_unused=True)
        found: list[tuple[Tensor, Tensor]] = []
        for name, part in zip(leaves, parts, strict=True):
            rows = zip(self._owners, () if part is None else part.unbind(), strict=part is not None)
            found += [(owner[name], row) for owner, row in rows if owner[name].requires_grad]
        return tuple(found)

    @property
    def has_parameters(self) -> bool:
        """Whether any of the tensors is trained."""
        return any(each.requires_grad for owner in self._owners for each in owner.values())

    def part(self, start: int, stop: int) -> Stack:
        """A view of the gathered tensors."""
        rows = {name: tensor[start:stop] for name, tensor in self._tensors.items()}
        return MappedStack(self._mapped, rows, self._owners[start:stop], retain=self._retain)

    @property
    def overwritten(self) -> bool:
        """Whether buffers have moved: what moves once a batch cannot be part of a map that is evaluated at will."""
        return any(tensor._version > 0 for tensor in self._tensors.values())

    @property
    @override
    def compiles(self) -> bool:
        return True

    def compiled(self) -> Stack:
        """The same by `torch.compile`, which writes the code for all sites at the first call."""
        return MappedStack(torch.compile(self._mapped, dynamic=True), self._tensors, self._owners, retain=False)

    def _evaluate(self, x: Point) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            self._point, self._graph = x, (leaf, self._mapped(self._tensors, leaf))
        return self._graph


def _held(module: nn.Module) -> dict[str, Tensor]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return parameters | dict(module.named_buffers(remove_duplicate=False))


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether all that a call can read is equal, tensors but in shape, dtype and device."""
    if one is other:
        return True
    mine, theirs = one.__dict__, other.__dict__
    if type(one) is not type(other) or mine.keys() != theirs.keys():
        return False
    settings = all(_same(value, theirs[name]) for name, value in mine.items() if name not in _APART)
    return settings and all(
        mine[name].keys() == theirs[name].keys()
        and all(equal(mine[name][key], theirs[name][key]) for key in mine[name])
        for name, equal in _APART.items()
    )


def _alike_or_none(one: nn.Module | None, other: nn.Module | None) -> bool:
    return one is other if one is None or other is None else _alike(one, other)


def _same_form(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    if type(one) is not type(other) or type(one) not in (Parameter, Tensor):
        return False
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _same(one: object, other: object) -> bool:
    """Whether two settings are equal; of anything but plain values only the very same object is."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return isinstance(one, _PLAIN) and one == other


_APART: Mapping[str, Callable[[Any, Any], bool]] = {
    "_parameters": _same_form,
    "_buffers": _same_form,
    "_modules": _alike_or_none,
}
"""What a module holds in dicts of its own, and how their entries are compared."""
