"""Cutting a graph of operations into sites: what has a state, what is worked out where it is read."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

from torch import Tensor, fx, nn

from worldsheet.core.errors import InputError
from worldsheet.problem.shadow import tensors_of
from worldsheet.problem.tracing import Tracer, place

_SPAN = 4


class Cut(NamedTuple):
    """One site of a graph.

    Attributes:
        nodes: what it evaluates, in order, with all that is only worked out on the way.
        reads: nodes elsewhere whose states it reads.
        exit: the node whose value is its state.
    """

    nodes: tuple[fx.Node, ...]
    reads: tuple[fx.Node, ...]
    exit: fx.Node


@final
class Reading:
    """Which nodes have states, and which states each of them reads.

    Folded are nodes without a costate or without a state below them: integers and masks, parameters and what is made of
    them alone, tuples that a function returns. Whoever reads one works it out from the states below it.

    Args:
        graph: the operations.
        tracer: what is known of them.

    Attributes:
        states: nodes with a state, in order.
        output: the last node.
        readers: by node with a state or an input, who reads it: nodes with states, or the output.
    """

    def __init__(self, graph: fx.Graph, tracer: Tracer) -> None:
        self.tracer = tracer
        self.output = graph.output_node()
        self._order = {node: index for index, node in enumerate(graph.nodes)}
        self._parameters = {name for name, _ in tracer.root.named_parameters()}
        self._moving: set[fx.Node] = set()
        self._trained: set[fx.Node] = set()
        self._fed: set[fx.Node] = set()
        self.states: dict[fx.Node, None] = {}
        for node in self._live():
            self._classify(node)
        self.readers: dict[fx.Node, list[fx.Node]] = {}
        for node in (*self.states, self.output):
            for source in self.reads((node,)):
                self.readers.setdefault(source, []).append(node)

    def closure(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        """These nodes and the folded ones that they read, in order."""
        inside = set(nodes)
        stack = list(inside)
        while stack:
            for source in stack.pop().all_input_nodes:
                if source not in inside and source.op != "placeholder" and source not in self.states:
                    inside.add(source)
                    stack.append(source)
        return self.ordered(inside)

    def reads(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        """The states and inputs elsewhere that these nodes read, through folded ones too."""
        inside = set(nodes)
        return self.ordered(
            {source for node in self.closure(inside) for source in node.all_input_nodes if self._is_held(source)}
            - inside
        )

    def ordered(self, nodes: Iterable[fx.Node]) -> tuple[fx.Node, ...]:
        """In order of evaluation."""
        return tuple(sorted(nodes, key=self._order.__getitem__))

    def weight(self, node: fx.Node) -> int:
        """1 if a weight of two or more dimensions is at work in a node, else 0."""
        for part in self.closure((node,)):
            if part.op == "call_module" and any(p.dim() > 1 for p in self.module(part).parameters()):
                return 1
            if part.op == "get_attr" and part.target in self._parameters and self.tracer.values[part].dim() > 1:
                return 1
        return 0

    def module(self, node: fx.Node) -> nn.Module:
        """The submodule that a node calls."""
        return self.tracer.root.get_submodule(str(node.target))

    def _is_held(self, node: fx.Node) -> bool:
        return node in self.states or node.op == "placeholder"

    def _live(self) -> tuple[fx.Node, ...]:
        found = set(self.output.all_input_nodes)
        stack = list(found)
        while stack:
            new = set(stack.pop().all_input_nodes) - found
            found |= new
            stack += new
        return self.ordered(found)

    def _classify(self, node: fx.Node) -> None:
        sources, value = node.all_input_nodes, self.tracer.values[node]
        calls = node.op == "call_module"
        own = node.op == "get_attr" and node.target in self._parameters
        if own or calls or any(source in self._trained for source in sources):
            self._trained.add(node)
        if node.op == "placeholder" or any(source in self._fed for source in sources):
            self._fed.add(node)
        below = any(source in self._moving for source in sources)
        moves = below or calls or node in self.tracer.drawing or (node in self._trained and node in self._fed)
        if node.op == "get_attr" or not _differentiable(value) or not (moves or node.op == "placeholder"):
            self._refuse_two_draws(node)
            return
        self._moving.add(node)
        if (
            node.op != "placeholder"
            and not self._picks(node)
            and (isinstance(value, Tensor) or (calls and len(node.users) > 1))
        ):
            self.states[node] = None

    def _picks(self, node: Any) -> bool:
        """Whether a node takes something out of a state that is a tuple."""
        if node.target is not operator.getitem:
            return False
        source = node.args[0]
        held = isinstance(source, fx.Node) and not isinstance(self.tracer.values[source], Tensor)
        return held and (source in self.states or self._picks(source))

    def _refuse_two_draws(self, node: fx.Node) -> None:
        if node in self.tracer.drawing and len(node.users) > 1:
            raise InputError(
                f"{place(node)}, which draws random integers that several operations read",
                "random integers read in one place",
                "put it and its readers into one submodule, and name that submodule's class in blocks=",
            )


@dataclass(eq=False)
class _Group:
    """Nodes that will be one site."""

    members: set[fx.Node]
    exit: fx.Node
    weight: int
    alone: bool
    merged: bool = field(default=False)


def cut(graph: fx.Graph, tracer: Tracer, *, fuse: bool) -> tuple[list[Cut], Cut]:
    """The sites in order of evaluation, and what the cost does with their states before the loss.

    With `fuse`, operations on a single path are joined until a site holds a weight layer, and a fork with its join is
    one site if no path through it holds more than four; else every operation is one. Blocks stay alone.
    """
    reading = Reading(graph, tracer)
    groups = {node: _alone(reading, node) for node in reading.states}
    if fuse:
        _join_forks(reading, groups)
        _join_runs(reading, groups)
    cuts = []
    for node in reading.states:
        group = groups[node]
        if group.exit is node:
            cuts.append(Cut(reading.closure(group.members), reading.reads(group.members), node))
    end = (reading.output,)
    return cuts, Cut(reading.closure(end), reading.reads(end), reading.output)


def _alone(reading: Reading, node: fx.Node) -> _Group:
    block = node.op == "call_module" and reading.tracer.is_block(reading.module(node))
    return _Group({node}, node, reading.weight(node), block)


def _join_forks(reading: Reading, groups: dict[fx.Node, _Group]) -> None:
    """Make one of a fork and everything up to where its branches have met, inner ones first."""
    joins = _joins(reading)
    regions = []
    for fork, readers in reading.readers.items():
        if len(readers) > 1 and joins[fork] is not reading.output:
            regions.append(_between(reading, readers, joins[fork]))
    for region in sorted(regions, key=len):
        members = set().union(*(groups[node].members for node in region))
        weight = _heaviest_path(reading, reading.ordered(members), groups)
        if weight <= _SPAN and not any(groups[node].alone for node in members):
            merged = _Group(members, reading.ordered(members)[-1], weight, False)
            groups.update(dict.fromkeys(members, merged))


def _join_runs(reading: Reading, groups: dict[fx.Node, _Group]) -> None:
    """Join a site to the only one that reads it, as long as one of them holds no weights."""
    for node in reading.states:
        group, readers = groups[node], reading.readers[node]
        if group.exit is not node or reading.output in readers or group.alone:
            continue
        above = {id(groups[reader]): groups[reader] for reader in readers}
        other = next(iter(above.values()))
        if len(above) > 1 or other.alone or min(group.weight, other.weight) > 0:
            continue
        merged = _Group(group.members | other.members, other.exit, group.weight + other.weight, False)
        groups.update(dict.fromkeys(merged.members, merged))


def _joins(reading: Reading) -> dict[fx.Node, fx.Node]:
    """Where all paths from a node have met again: its immediate post-dominator."""
    depth = {reading.output: 0}
    found: dict[fx.Node, fx.Node] = {}
    for node in reversed(reading.ordered(reading.readers)):
        one, *others = reading.readers[node]
        for other in others:
            while one is not other:
                if depth[one] >= depth[other]:
                    one = found[one]
                else:
                    other = found[other]  # noqa: PLW2901  both walk down until they meet
        found[node], depth[node] = one, depth[one] + 1
    return found


def _between(reading: Reading, starts: Sequence[fx.Node], end: fx.Node) -> set[fx.Node]:
    """All nodes on the way from `starts` to `end`, which every way leads to; ends included."""
    found, stack = {end}, list(starts)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += reading.readers[node]
    return found


def _heaviest_path(reading: Reading, nodes: Sequence[fx.Node], groups: dict[fx.Node, _Group]) -> int:
    heaviest: dict[fx.Node, int] = {}
    for node in nodes:
        below = max((heaviest.get(source, 0) for source in reading.reads((node,))), default=0)
        heaviest[node] = below + reading.weight(node)
    return max(heaviest.values())


def _differentiable(value: Any) -> bool:
    return any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors_of(value))
