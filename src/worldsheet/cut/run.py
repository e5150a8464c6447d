"""One run of the user's own forward, cut where its sites return."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias, final
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from worldsheet.core.errors import LayerError
from worldsheet.core.private_torch import (
    is_transformed,
    saved_tensor_hooks,
    storage_users,
    tree_flatten,
    tree_leaves,
    tree_unflatten,
    without_function_modes,
)
from worldsheet.cut.sites import has_hooks, is_torchs_own
from worldsheet.cut.state import STATE_NODE, Gate, Site, crosses_sites, site_of, states_of
from worldsheet.cut.tap import Call
from worldsheet.cut.walk import below, sole_readers, states_among
from worldsheet.cut.watch import Watch, Watcher
from worldsheet.cut.world import World


class Feed(ABC):
    """What readers are given at a cut."""

    @abstractmethod
    def give(self, site: Site, predictions: Sequence[Tensor]) -> Sequence[Tensor]:
        """The values of the states of a call, from what the call returned.

        Args:
            site: the call, not yet among those of the run.
            predictions: its tensors, in memory that the call shares.
        """


Seen: TypeAlias = Callable[[Tensor, Tensor], None]
"""Is shown the input of a module and the credit of its output."""


@final
class Itself(Feed):
    """Every state is its prediction: a forward pass."""

    def give(self, site: Site, predictions: Sequence[Tensor]) -> Sequence[Tensor]:
        """The predictions without their graphs."""
        return [prediction.detach() for prediction in predictions]


class Failed(NamedTuple):
    """A call that raised: the name of the module, the module, and what it was called with."""

    name: str
    module: nn.Module
    given: Any


@final
class Run(Watcher):
    """The sites of one forward in the order of their calls.

    Args:
        names: the submodules that are sites.
        feed: what readers are given.
        joins: whether sums and concatenations outside of all sites are sites.
        watched: modules whose input and credit somebody wants to see.
        root: the whole module, if the insides of sites are not to be kept.

    Attributes:
        watch: looks at torch's functions for this run.
        sites: so far.
        predictions: by site, where the graphs of its tensors end.
        nodes: by site, its states in torch's graph.
        gate: whether credits may arrive.
        surrounded_anywhere: whether an activation checkpoint or its like stands in the forward.
        uncut: whether one stands outside of all sites.
        hooked_nodes: where tensors that are no states have hooks of the user's.
        failed: the innermost site that raised.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        feed: Feed,
        *,
        joins: bool,
        watched: Mapping[nn.Module, Seen],
        root: nn.Module | None,
    ) -> None:
        self.sites: list[Site] = []
        self.predictions: list[tuple[GradientEdge, ...]] = []
        self.nodes: list[Any] = []
        self.gate = Gate()
        self.hooked_nodes: list[Any] = []
        self.failed: Failed | None = None
        self.uncut = False
        self.surrounded_anywhere = False
        self._names = names
        self._feed = feed
        self._joins = joins
        self._watched = watched
        self._recompute = root is not None
        self._buffers = [] if root is None else list(root.buffers())
        self.watch = Watch(self)
        self._torchs = {module for module in names if is_torchs_own(module)}
        self._calls: dict[str, int] = {}
        self._size = 0
        self._inside = 0
        self._handed: dict[int, ref[Tensor]] = {}
        self._shared: dict[int, Any] = {}
        self._surroundings = _surroundings()

    @property
    def edges(self) -> list[GradientEdge]:
        """Where the graphs of all tensors end, in order."""
        return [edge for edges in self.predictions for edge in edges]

    @property
    def arrivals(self) -> list[GradientEdge]:
        """Where the credits of all states arrive, as the engine names it."""
        pairs = zip(self.sites, self.nodes, strict=True)
        return [GradientEdge(node, index) for site, node in pairs for index in range(len(site.credits))]

    def joined_layers(self, cost: GradientEdge) -> set[str]:
        """Names of submodules that every call of went into one join, whose site it then can be a part of."""
        readers = sole_readers([*([edge.node for edge in edges] for edges in self.predictions), [cost.node]])
        stay, go = set[str](), set[str]()
        for site in self.sites:
            reader = readers.get(site.first)
            into_join = reader is not None and reader < len(self.sites) and self.sites[reader].kind == JOIN
            (go if into_join and site.kind != JOIN else stay).add(site.submodule)
        return go - stay

    def called(self, module: nn.Module, own: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let a site's call happen and cut what it returns."""
        if module in self._torchs and not has_hooks(module) and self.watch.pause():
            try:
                return self._called(module, own, args, kwargs)
            finally:
                self.watch.resume()
        return self._called(module, own, args, kwargs)

    @property
    def _cuts(self) -> bool:
        """Whether derivatives flow here, and nothing surrounds the operations that was not there at the start."""
        return torch.is_grad_enabled() and _surroundings() == self._surroundings

    def _called(self, module: nn.Module, own: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = self._names.get(module)
        self._inside += 1
        if self._recompute and self._inside == 1 and name is not None and self._cuts:
            own = _Again(module, own, self._buffers).checkpointed
        try:
            returned = own(*args, **kwargs)
        except Exception:
            if self.failed is None and name is not None:
                self.failed = Failed(name, module, (args, kwargs))
            raise
        finally:
            self._inside -= 1
        with without_function_modes():
            if module in self._watched:
                self._show(self._watched[module], args, returned)
            return returned if name is None else self.cut(name, type(module).__name__, returned)

    def cut(self, name: str, kind: str, returned: Any) -> Any:
        """The same with states in the place of its tensors; itself where no derivatives flow through it."""
        if not self._cuts:
            return returned
        if type(returned) is Tensor:
            return self._cut(name, kind, (returned,))[0] if _has_past(returned) else returned
        plain = type(returned) is tuple and all(type(leaf) is Tensor for leaf in returned)
        leaves, spec = (returned, None) if plain else tree_flatten(returned)
        past = {id(leaf): leaf for leaf in leaves if type(leaf) is Tensor and _has_past(leaf)}
        if not past:
            return returned
        states = dict(zip(past, self._cut(name, kind, tuple(past.values())), strict=True))
        cut = [states.get(id(leaf), leaf) for leaf in leaves]
        return tuple(cut) if spec is None else tree_unflatten(cut, spec)

    def joined(self, name: str, made: Tensor) -> Tensor:
        """See `Watcher.joined`: cut outside of all sites; a number is none."""
        if self._inside or not self._joins or made.dim() == 0:
            return made
        cut: Tensor = self.cut(name, JOIN, made)
        return cut

    def written(self, target: Tensor) -> None:
        """See `Watcher.written`.

        Raises:
            LayerError: memory that a site has returned and that its own code still holds.
        """
        with without_function_modes():
            base = target._base if target._is_view() else target
            if base is None:
                return
            site = site_of(base)
            handed = self._handed.get(id(base)) if site is None else site.handed[base.output_nr]
            shared = self._shared and target.untyped_storage()._cdata in self._shared
            if not shared and (handed is None or handed() is None or (site is None and handed() is not base)):
                return
        raise LayerError(
            "an in-place operation writes into memory that a site has returned, while the site's own code, or a hook, "
            "holds it too",
            "in-place operations on tensors that nothing else holds",
            "return a copy (.clone()), write out of place, or name the module around both in blocks=",
        )

    @override
    def surrounded(self) -> None:
        self.surrounded_anywhere = True
        self.uncut = self.uncut or not self._inside

    @override
    def hooked(self, tensor: Tensor) -> None:
        if tensor.grad_fn is not None:
            self.hooked_nodes.append(tensor.grad_fn)

    def differentiated(self, roots: list[Tensor], points: list[Tensor]) -> None:
        """See `Watcher.differentiated`.

        Raises:
            LayerError: a state stands below the roots, unless it is just by such states that derivatives are taken.
        """
        with without_function_modes():
            read = set(states_among(below([root.grad_fn for root in roots if root.grad_fn is not None])))
            by_states = bool(points) and all(site_of(point) is not None for point in points)
            if read and not (by_states and read <= {point.grad_fn for point in points}):
                raise crosses_sites()

    def finish(self) -> None:
        """Forget what is of use during the forward only."""
        self._shared.clear()
        self._handed.clear()

    def _show(self, seen: Seen, args: tuple[Any, ...], made: Any) -> None:
        """Tell of a call's input now and of its credit when it comes along with efforts."""
        if not isinstance(made, Tensor) or made.grad_fn is None or not args:
            return
        point, gate = args[0].detach(), self.gate

        def arrived(credit: Tensor) -> None:
            if gate.shows:
                seen(point, credit)

        made.register_hook(arrived)  # type: ignore[no-untyped-call]

    def _cut(self, name: str, kind: str, predictions: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        count = self._calls[name] = self._calls.get(name, 0) + 1
        site = Site(name, count, kind, self._size, predictions, self.gate)
        ends: list[GradientEdge] = []
        shared: list[int] = []
        for prediction, handed in zip(predictions, site.handed):  # noqa: B905  one for each
            self._handed[id(prediction)] = handed
            storage = prediction.untyped_storage()
            if _is_shared(prediction, storage):
                self._shared[storage._cdata] = storage
                shared.append(len(ends))
            node: Any = prediction.grad_fn
            ends.append(GradientEdge(node, prediction.output_nr))
        states = states_of(self._feed.give(site, predictions), site)
        for index in shared:
            storage = states[index].untyped_storage()
            self._shared[storage._cdata] = storage
        self.sites.append(site)
        self.predictions.append(tuple(ends))
        self.nodes.append(states[0].grad_fn)
        self._size += len(predictions)
        return states


@final
class _Again:
    """A module's call, which the second time finds the module as the first did, and leaves it as it finds it."""

    def __init__(self, module: nn.Module, own: Call, buffers: Sequence[Tensor]) -> None:
        self._world = World(list(module.modules()), set())
        inside = {id(buffer) for buffer in module.buffers()}
        self._outside = [buffer for buffer in buffers if id(buffer) not in inside]
        self._own = own
        self._called = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._world.again() if self._called else nullcontext():
            self._called = True
            return self._own(*args, **kwargs)

    def checkpointed(self, *args: Any, **kwargs: Any) -> Any:
        """The first call, of which nothing is kept but what it was given.

        Raises:
            LayerError: it writes into that.
        """
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        versions = [each._version for each in given]
        elsewhere = [buffer._version for buffer in self._outside]
        returned = checkpoint(self, *args, use_reentrant=False, **kwargs)
        if elsewhere != [buffer._version for buffer in self._outside]:
            raise LayerError(
                "recompute=True runs each site twice, but a site calls a submodule of another, whose statistics would "
                "move twice",
                "sites that call their own submodules",
                "choose larger sites with blocks=, or leave recompute out",
            )
        if versions != [each._version for each in given]:
            raise LayerError(
                "recompute=True runs each site twice, but a site writes into its input, which then cannot be given to "
                "it again",
                "sites that leave their input as it is",
                "use inplace=False there, choose larger sites with blocks=, or leave recompute out",
            )
        return returned


JOIN = "join"
"""The kind of a site that is a sum or a concatenation."""

_OWNERS = 2
"""Who holds the memory of a fresh prediction: the prediction, and the storage that is asked."""


def _is_shared(prediction: Tensor, storage: torch.UntypedStorage) -> bool:
    """Whether anybody besides a prediction holds its memory; a view's base counts if Python knows of it."""
    count = storage_users(storage)
    if not prediction._is_view():
        return count > _OWNERS
    return count > _OWNERS + 1 or _names_of_base(prediction) > _NAMES


def _names_of_base(view: Tensor) -> int:
    """How many references Python counts to the tensor that a view is of."""
    base = view._base
    return sys.getrefcount(base)


def _has_past(tensor: Tensor) -> bool:
    node = tensor.grad_fn
    return node is not None and type(node) is not STATE_NODE and tensor.layout is torch.strided


def _surroundings() -> Any:
    """What must be as at the start of a run where it is cut: transforms of torch.func, hooks on what graphs save."""
    if is_transformed():
        return object()
    return saved_tensor_hooks(True)


_NAMES = _names_of_base(torch.zeros(1).view(1, 1))
"""References to a base that nobody else knows of."""
