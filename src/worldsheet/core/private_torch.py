"""What torch offers under private names only, each with the reason why it is needed.

tests/parity/test_private_calls.py says of each that it still does what it is needed for.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch.fx import GraphModule
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

run_backward: Callable[..., tuple[Tensor | None, ...]] = torch.autograd.Variable._execution_engine.run_backward
"""torch.autograd.grad and backward, less the checks of what the engine has made itself, which a narrow site feels."""

without_function_modes: Callable[[], AbstractContextManager[None]] = torch._C.DisableTorchFunction
"""Torch's functions called inside are not shown to modes: the library's own are nobody's business."""

saved_tensor_hooks: Callable[[bool], Any] = torch._C._autograd._top_saved_tensors_default_hooks
"""What surrounds the operations of this moment and changes what graphs keep: an activation checkpoint, for example."""

core_decompositions = core_aten_decompositions
"""How torch's operations are made of fewer, for code that knows only those."""

tree_leaves, tree_map = pytree.tree_leaves, pytree.tree_map
tree_flatten, tree_unflatten = pytree.tree_flatten, pytree.tree_unflatten
"""Nested containers as users' modules take and return them, as torch itself takes them apart."""


class DispatchMode(TorchDispatchMode, ABC):  # type: ignore[no-untyped-call]  # as torch leaves it
    """Shows the operations that a function does, those of its derivatives included, as they are done."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to keep torch.compile away, torch would import all of it, which takes seconds."""
        return False

    @abstractmethod
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What becomes of one operation."""


def is_transformed() -> bool:
    """Whether a transform of torch.func is at work, inside of which tensors are not what they seem."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def storage_users(storage: torch.UntypedStorage) -> int:
    """How many tensors hold a piece of memory, the caller's own name for it included."""
    count: int = torch._C._storage_Use_Count(storage._cdata)
    return count


def step_aside(mode: object) -> bool:
    """Take a function mode off the top of the stack, if it is there."""
    depth = torch._C._len_torch_function_stack()
    if depth == 0 or torch._C._get_function_stack_at(depth - 1) is not mode:
        return False
    torch._C._pop_torch_function_stack()
    return True


def step_back(mode: object) -> None:
    """Put it back."""
    torch._C._push_on_torch_function_stack(mode)


def unnoticed_writes(tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Writing into tensors that a graph still holds, which has been told in another way."""
    found: AbstractContextManager[None] = torch.autograd._unsafe_preserve_version_counter(tuple(tensors))  # type: ignore[attr-defined]
    return found


def set_versions(tensors: Sequence[Tensor], versions: Sequence[int]) -> None:
    """As if tensors that a graph still holds had not been written into since, which it has been told in another way."""
    torch._C._autograd._unsafe_set_version_counter(tuple(tensors), tuple(versions))


def compiled_graph(graph: GraphModule, examples: Sequence[Tensor]) -> Callable[..., Any]:
    """The code generator behind torch.compile, on a graph that is known already."""
    made: Callable[..., Any] = torch._inductor.compile(graph, list(examples))
    return made
