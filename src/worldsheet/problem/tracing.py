"""Following a module's forward once, on tensors without data, to learn which operation reads which."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property
from torch.utils import _pytree as pytree

from worldsheet.core.errors import LayerError
from worldsheet.problem.layer import is_watched
from worldsheet.problem.shadow import UNKNOWABLE, Shadows, is_plain, tensors_of
from worldsheet.problem.standin import Follower, NotTraceableError, Traced

IsBlock: TypeAlias = Callable[[nn.Module], bool]
"""Which submodules are to stay whole, each one site."""


@final
class Tracer(Follower):
    """Follows a module's forward into a graph.

    Shapes, dtypes, devices and Python values are those of this call and baked in. Modules of torch's own are not
    opened, nor are blocks, modules with hooks, compiled ones, and those whose forward cannot be followed or changes
    the module itself.

    Args:
        is_block: which submodules the user wants whole.
        arguments: the call's (args, kwargs), a pytree with tensors.

    Attributes:
        opened: modules whose forward was followed.
        values: by node, what it is, as tensors without data.
        constants: tensors that the forward uses and that are no parameter or buffer, by target.
        writes: by node, the nodes whose memory it overwrites.
        drawing: nodes that draw random numbers.
        shadows: where operations are tried out.
    """

    def __init__(self, is_block: IsBlock, arguments: Any) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]  # math works on numbers, which are known
        self.is_block = is_block
        self.arguments = arguments
        self.opened: list[nn.Module] = []
        self.values: dict[fx.Node, Any] = {}
        self.constants: dict[str, Tensor] = {}
        self.writes: dict[fx.Node, list[fx.Node]] = {}
        self.drawing: set[fx.Node] = set()
        self.shadows = Shadows()
        self._closed: set[nn.Module] = set()
        self._latest: dict[fx.Node, fx.Node] = {}
        self._stale: dict[fx.Node, fx.Node] = {}
        self._held: dict[int, fx.Node] = {}

    def follow(self, root: nn.Module) -> fx.Graph:
        """The graph of `root`'s forward on the arguments.

        Raises:
            NotTraceableError: control flow or an operation that no graph can hold.
            LayerError: an operation that fails on what it receives.
        """
        kept = _contents(root)
        try:
            with torch.no_grad(), _uncached(), _Functions(self):
                graph = self.trace(root)
        except (LayerError, NotTraceableError):
            raise
        except Exception as error:  # whatever the user's forward raises when it is given no real tensor
            raise NotTraceableError(f"{type(error).__name__}: {error}") from error
        if _changed(root, kept):
            raise NotTraceableError(f"{type(root).__name__} keeps something in itself in its forward")
        self.opened.append(root)
        return graph

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        """Placeholders for the tensors of the arguments; everything else is what it is."""
        leaves, spec = pytree.tree_flatten(self.arguments)
        given = [self._placeholder(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = pytree.tree_unflatten(given, spec)
        return (lambda root: root_fn(root, *args, **kwargs)), [self.root]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """What is not opened."""
        if self.is_block(m) or is_watched(m) or m in self._closed or getattr(m, "_compiled_call_impl", None):
            return True
        return type(m).__module__.startswith("torch.") and not isinstance(m, nn.Sequential)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Follow a submodule, or note its call; what cannot be followed is taken whole."""
        if self.shadows.busy:
            return m.forward(*args, **kwargs)
        if self.is_leaf_module(m, ""):
            return super().call_module(m, forward, args, kwargs)
        nodes, stack, aliases = len(self.graph.nodes), list(self.module_stack.items()), (self._latest, self._stale)
        self._latest, self._stale = dict(self._latest), dict(self._stale)
        kept, opened = _contents(m), len(self.opened)
        try:
            found = super().call_module(m, forward, args, kwargs)
            if not _changed(m, kept):
                self.opened.append(m)
                return found
        except LayerError:
            raise
        except Exception:  # whatever stops the tracer, the module itself may still run
            _changed(m, kept)
        self._undo(nodes)
        self._latest, self._stale = aliases
        del self.opened[opened:]
        self.module_stack.clear()
        self.module_stack.update(stack)
        self._closed.add(m)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Parameters and buffers become nodes."""
        if self.shadows.busy or not isinstance(attr_val, Tensor):
            return attr_val
        node = self._constant(attr_val)
        return Traced(node, self, self.values[node])

    def create_arg(self, a: Any) -> Any:
        """A node for whatever tensor an operation is given."""
        if isinstance(a, fx.Proxy):
            node = a.node
            while node in self._latest:
                node = self._latest[node]
            if node in self._stale:
                raise NotTraceableError(f"{node.name} is read after {self._stale[node].name} overwrote its memory")
            return node
        return self._constant(a) if isinstance(a, Tensor) else super().create_arg(a)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: Any,
        kwargs: Any,
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        """Note an operation; what it returns without tensors is that very value."""
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name)
        value, overwritten = self._tried(node)
        if not tensors_of(value):
            if overwritten or not is_plain(value):
                raise NotTraceableError(f"{place(node)} returns {type(value).__name__}")
            self.graph.erase_node(node)
            return value
        self.values[node] = value
        if self.shadows.drew:
            self.drawing.add(node)
        for source in overwritten:
            if source.op == "get_attr" or not self.shadows.share(value, self.values[source]):
                raise NotTraceableError(f"{place(node)} overwrites {source.name}")
            self.writes.setdefault(node, []).append(source)
            self.overwrite(source, node)
        return Traced(node, self, value)

    def overwrite(self, old: fx.Node, new: fx.Node) -> None:
        """From here on whoever reads `old` reads `new`; other views of its memory must not be read any more."""
        for node, value in self.values.items():
            if (
                node is not new
                and node is not old
                and node not in self._latest
                and self.shadows.share(value, self.values[old])
            ):
                self._stale[node] = new
        self._latest[old] = new

    def _placeholder(self, leaf: Tensor) -> Traced:
        node = self.create_node("placeholder", f"input_{len(self.values)}", (), {})
        self.values[node] = self.shadows.of(leaf)
        return Traced(node, self, self.values[node])

    def _constant(self, tensor: Tensor) -> fx.Node:
        """The node of a parameter, a buffer or any other tensor that is not made in the forward."""
        node = self._held.get(id(tensor))
        if node is not None and node in self.values:
            return node
        named = [*self.root.named_parameters(), *self.root.named_buffers(), *self.constants.items()]
        target = next((name for name, other in named if other is tensor), None)
        if target is None:
            target = f"constant_{len(self.constants)}"
            self.constants[target] = tensor
        node = self._held[id(tensor)] = self.create_node("get_attr", target, (), {})
        self.values[node] = self.shadows.of(tensor)
        return node

    def _tried(self, node: fx.Node) -> tuple[Any, list[fx.Node]]:
        """The node's value, and which of its arguments it overwrites."""
        self.shadows.drew = False
        before = [(source, t, t._version) for source in node.all_input_nodes for t in tensors_of(self.values[source])]
        args, kwargs = map_arg((node.args, node.kwargs), self.values.__getitem__)
        try:
            with self.shadows.trial():
                value = self._value(node, args, kwargs)
        except UNKNOWABLE as error:
            raise NotTraceableError(f"{place(node)} depends on values: {error}") from error
        except Exception as error:
            given = ", ".join(str(tuple(tensor.shape)) for _, tensor, _ in before)
            raise LayerError(
                f"{place(node)} failed on {given or 'its arguments'}: {error}",
                "operations whose shapes and dtypes fit each other",
                "call the module itself on this input: it must work first",
            ) from error
        return value, list(dict.fromkeys(source for source, tensor, version in before if tensor._version != version))

    def _value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        target = node.target
        if node.op == "call_module":
            return self.shadows.call_module(self.root.get_submodule(str(target)), args, kwargs)
        function = getattr(args[0], target) if isinstance(target, str) else target
        return self.shadows.call(function, args[isinstance(target, str) :], kwargs)

    def _undo(self, size: int) -> None:
        for node in reversed(list(self.graph.nodes)[size:]):
            self.values.pop(node, None)
            self.writes.pop(node, None)
            self.drawing.discard(node)
            self.graph.erase_node(node)


@final
class _Functions(TorchFunctionMode):
    """Notes torch's functions on no traced tensor too: a mask, a start state, random numbers are made at every call."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        super().__init__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = pytree.tree_leaves((args, kwargs))
        own = getattr(func, "__name__", "")
        if (
            self._tracer.shadows.busy
            or own in ("__get__", "__set__")
            or any(isinstance(leaf, fx.Proxy) for leaf in leaves)
        ):
            return func(*args, **kwargs)
        if is_tensor_method_or_property(func):
            return self._tracer.create_proxy("call_method", own, args, kwargs)
        return self._tracer.create_proxy("call_function", func, args, kwargs)


@contextmanager
def _uncached() -> Iterator[None]:
    """Autocast must not remember a weight without data as the cast of the real one."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def place(node: fx.Node) -> str:
    """A node's name with the submodule it is in."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    inside = list(stack.values())[-1][0] if stack else ""
    return f"{inside}.{node.name}" if inside else node.name


def _contents(module: nn.Module) -> list[dict[str, Any]]:
    return [dict(vars(module)), dict(module._buffers), dict(module._parameters)]


def _changed(module: nn.Module, kept: list[dict[str, Any]]) -> bool:
    """Whether anything in a module is another object than before; puts back what was there."""
    changed = False
    held: list[dict[str, Any]] = [vars(module), module._buffers, module._parameters]
    for now, before in zip(held, kept, strict=True):
        if now.keys() != before.keys() or any(now[name] is not before[name] for name in before):
            changed = True
            now.clear()
            now.update(before)
    return changed
