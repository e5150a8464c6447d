"""Trying out an operation on tensors without data: shapes, dtypes and devices are worked out, nothing is computed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

UNKNOWABLE = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
    NotImplementedError,
)
"""What torch raises where shapes depend on values."""

_PLAIN = (
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


@final
class Shadows:
    """Tensors without data, of one trace.

    Attributes:
        mode: torch's own, under which operations yield such tensors.
        drew: whether the operation tried out last draws random numbers.
        busy: whether an operation is being tried out right now.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.drew = False
        self.busy = False

    @contextmanager
    def trial(self) -> Iterator[None]:
        """A time in which what torch is asked for is not the module's own doing."""
        before, self.busy = self.busy, True
        try:
            yield
        finally:
            self.busy = before

    def of(self, tensor: Tensor) -> Tensor:
        """A tensor's shape, dtype, strides and device without its data."""
        with self.trial():
            found: Tensor = self.mode.from_tensor(tensor.detach())
        return found

    def share(self, value: Any, other: Any) -> bool:
        """Whether any of their tensors have memory in common."""
        with self.trial():
            mine = {tensor.untyped_storage()._cdata for tensor in tensors_of(value)}
            return any(tensor.untyped_storage()._cdata in mine for tensor in tensors_of(other))

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """What a function returns.

        Raises:
            Exception: whatever the function raises; one of `UNKNOWABLE` where its values would be needed.
        """
        watch = _Drawing()  # type: ignore[no-untyped-call]
        try:
            with self.mode, watch:
                return function(*args, **kwargs)
        finally:
            self.drew = watch.drew

    def call_module(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What a module returns; on random data in its place where its shapes depend on values.

        Neither its buffers nor the generators are moved, and its hooks are not called.
        """
        module = getattr(module, "_orig_mod", module)  # a compiled module is tried out as it was written
        buffers = {name: self.of(buffer) for name, buffer in module.named_buffers()}
        try:
            return self.call(torch.func.functional_call, (module, buffers, args, kwargs), {})
        except UNKNOWABLE:
            pass
        real = pytree.tree_map_only(Tensor, _made_up, (args, kwargs))
        moved = {name: buffer.clone() for name, buffer in module.named_buffers()}
        devices = {t.device for t in pytree.tree_leaves(real) if isinstance(t, Tensor) and t.device.type == "cuda"}
        with torch.random.fork_rng(list(devices)):
            found = torch.func.functional_call(module, moved, *real)
        self.drew = True
        return pytree.tree_map_only(Tensor, self.of, found)


@final
class _Drawing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices operations that draw random numbers."""

    drew = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.drew = self.drew or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in a value."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def is_plain(value: Any) -> bool:
    """Whether a value is Python's own or a type of torch's, alone or in tuples and lists, and so can be baked in."""
    if isinstance(value, (tuple, list)):
        return all(is_plain(part) for part in value)
    return isinstance(value, _PLAIN)


def written(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """`tensor[index] = value` on a copy."""
    copy = tensor.clone()
    copy[index] = value
    return copy


def _made_up(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.randn(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
