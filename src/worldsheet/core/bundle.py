"""Several tensors as one state: what a layer gives to the next where that is not one differentiable tensor."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

Form: TypeAlias = list[Any]
"""How tensors lie in tuples, lists and dicts, in what JSON can say: a kind, and the forms of what is inside."""

_TENSOR, _PLAIN, _TUPLE, _LIST, _DICT = "tensor", "plain", "tuple", "list", "dict"


@final
@dataclass(frozen=True)
class Bundle:
    """Tensors, and how they lie in tuples, lists and dicts.

    Attributes:
        leaves: the tensors, in order.
        wanted: whether somebody below asks for the credit of each; never of integers.
        form: how they lie.
    """

    leaves: tuple[Tensor, ...]
    wanted: tuple[bool, ...]
    form: Form

    @property
    def value(self) -> Any:
        """As a layer is given them, and has returned them."""
        return self.with_leaves(self.leaves)

    @property
    def is_wanted(self) -> bool:
        """Whether the credit of any of them is asked for."""
        return any(self.wanted)

    def with_leaves(self, leaves: Sequence[Tensor]) -> Any:
        """Other tensors that lie in the same way."""
        return _put(self.form, iter(leaves))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Bundle":
        """Each floating tensor changed."""
        return replace(self, leaves=tuple(change(leaf) if _is_inexact(leaf) else leaf for leaf in self.leaves))


Parcel: TypeAlias = Tensor | Bundle
"""What travels from stage to stage."""


def bundled(value: Any) -> Bundle:
    """A value taken apart.

    Raises:
        TypeError: something that is neither tensor, tuple, list, dict, nor plain.
    """
    leaves: list[Tensor] = []
    form = _taken(value, leaves)
    return Bundle(tuple(leaves), tuple(leaf.requires_grad for leaf in leaves), form)


def parcel(value: Any) -> Parcel:
    """One differentiable tensor as it is, anything else as a bundle.

    Raises:
        TypeError: as `bundled`.
    """
    return value if isinstance(value, Tensor) and _is_inexact(value) else bundled(value)


def single(given: Parcel) -> Tensor:
    """The one tensor that is known to have been sent."""
    assert isinstance(given, Tensor)
    return given


def unwrapped(given: Any) -> Any:
    """What a layer is given."""
    return given.value if isinstance(given, Bundle) else given


def with_note(given: Parcel, note: Tensor) -> Bundle:
    """With numbers beside it that travel as they are, whatever states are rounded to."""
    inner = given if isinstance(given, Bundle) else Bundle((given,), (True,), [_TENSOR])
    written = note.reshape(-1).view(torch.uint8)
    dtype = str(note.dtype).removeprefix("torch.")
    return Bundle((*inner.leaves, written), (*inner.wanted, False), [_TUPLE, inner.form, [_TENSOR], [_PLAIN, dtype]])


def without_note(given: Parcel) -> tuple[Parcel, Tensor]:
    """The two apart again."""
    assert isinstance(given, Bundle)
    *leaves, written = given.leaves
    _, form, _, (_, dtype) = given.form
    inner = Bundle(tuple(leaves), given.wanted[:-1], form)
    single = form == [_TENSOR] and _is_inexact(leaves[0])
    return leaves[0] if single else inner, written.view(getattr(torch, dtype))


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _taken(value: Any, leaves: list[Tensor]) -> Form:
    if isinstance(value, Tensor):
        leaves.append(value)
        return [_TENSOR]
    if value is None or type(value) in (bool, int, float, str):
        return [_PLAIN, value]
    if type(value) in (tuple, list):
        return [_TUPLE if type(value) is tuple else _LIST, *(_taken(each, leaves) for each in value)]
    if type(value) is dict and all(type(key) is str for key in value):
        return [_DICT, list(value), *(_taken(each, leaves) for each in value.values())]
    raise TypeError(f"an object of type {type(value).__name__}")


def _put(form: Form, leaves: Iterator[Tensor]) -> Any:
    kind, *inside = form
    if kind == _TENSOR:
        return next(leaves)
    if kind == _PLAIN:
        return inside[0]
    if kind == _DICT:
        return {key: _put(each, leaves) for key, each in zip(inside[0], inside[1:], strict=True)}
    found = [_put(each, leaves) for each in inside]
    return tuple(found) if kind == _TUPLE else found
