"""Graphs of one module, traced when first needed and again when anything they were traced with has changed."""

from collections import OrderedDict
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from worldsheet.core.errors import InputError
from worldsheet.problem.graph import Graph, graph_of
from worldsheet.problem.layer import is_watched
from worldsheet.problem.standin import NotTraceableError
from worldsheet.problem.tracing import IsBlock, Tracer

KEPT = 64
"""How many graphs of one module are remembered."""

_SCALARS = (int, float, bool, str, type(None))


class _Known(NamedTuple):
    """A graph, the numbers in the opened modules that it was traced with, and what is kept alive for its identity."""

    graph: Graph
    scalars: tuple[tuple[nn.Module, dict[str, Any]], ...]
    alive: tuple[object, ...]


@final
class Tracing:
    """A module whose forward is followed, for each kind of input anew.

    A graph holds shapes, dtypes, devices and Python numbers as they were. It is used again for inputs of equal shapes
    as long as no module was exchanged or changed its mode, and no number in a module that was opened has changed.

    Args:
        module: the user's own.
        is_block: which submodules stay whole.
        fuse: whether operations are joined to sites of about one weight layer.

    Raises:
        InputError: a module that cannot be opened from the start.
    """

    def __init__(self, module: nn.Module, is_block: IsBlock, fuse: bool) -> None:
        compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        if compiled or is_watched(module):
            raise InputError(
                f"{type(module).__name__}, {'which is compiled' if compiled else 'with hooks'} as a whole",
                "a module that can be opened; its submodules may be compiled and have hooks",
                "compile the blocks, or put the hooks on them; or wrap it: ws.Chain([module], loss) is one site",
            )
        self._module = module
        self._is_block = is_block
        self._fuse = fuse
        self._known: OrderedDict[Any, _Known] = OrderedDict()

    def graph(self, x: Any) -> Graph:
        """The graph for inputs like `x`.

        Raises:
            InputError: a forward that cannot be followed, told with where.
            LayerError: an operation that fails on what it receives.
        """
        key, alive = self._signature(x)
        known = self._known.get(key)
        if known is None or any(_scalars(module) != before for module, before in known.scalars):
            known = self._known[key] = self._traced(x, alive)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        return known.graph

    def _signature(self, x: Any) -> tuple[Any, tuple[object, ...]]:
        leaves, spec = pytree.tree_flatten(x)
        kinds = tuple((t.shape, t.dtype, t.device) if isinstance(t, Tensor) else t for t in leaves)
        modules = list(self._module.modules())
        parameters = [p for module in modules for p in module._parameters.values() if p is not None]
        buffers = [b for module in modules for b in module._buffers.values() if b is not None]
        own = tuple((id(t), t.dtype, t.device) for t in (*parameters, *buffers))
        modes = tuple((id(module), module.training, is_watched(module)) for module in modules)
        casts = tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda"))
        return (spec, kinds, own, modes, casts), (*modules, *parameters, *buffers)

    def _traced(self, x: Any, alive: tuple[object, ...]) -> _Known:
        tracer = Tracer(self._is_block, call_of(x))
        name = type(self._module).__name__
        try:
            graph = graph_of(tracer.follow(self._module), tracer, fuse=self._fuse)
        except NotTraceableError as error:
            raise InputError(
                f"{name}, whose forward cannot be followed: {error}",
                "a forward whose way depends on shapes, modes and Python numbers, not on the values of tensors",
                "move that part into a submodule of its own, which then is one site; "
                "or list the blocks in order: ws.Chain([stem, block1, block2, head], loss)",
            ) from error
        return _Known(graph, tuple((module, _scalars(module)) for module in tracer.opened), alive)


def call_of(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a module is called with an input: a tuple or list holds its arguments, a dict its arguments by name."""
    if isinstance(x, dict):
        return (), x
    return (tuple(x), {}) if isinstance(x, (tuple, list)) else ((x,), {})


def _scalars(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if type(value) in _SCALARS}
