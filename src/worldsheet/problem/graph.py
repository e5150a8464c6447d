"""The graph of a module for one kind of input: its sites, and which of them read which."""

import operator
from collections.abc import Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from worldsheet.core.errors import InputError
from worldsheet.problem.cutting import Cut, cut
from worldsheet.problem.layer import Layer, Survey
from worldsheet.problem.section import Pack, Section, Unpack
from worldsheet.problem.shadow import tensors_of
from worldsheet.problem.topology import Topology
from worldsheet.problem.tracing import Tracer, place

_OWN = ("torch", "_operator", "builtins", "math", "worldsheet")


class Graph(NamedTuple):
    """Layers with their places.

    Attributes:
        layers: f_1..f_L in order of evaluation.
        topology: which site reads which; all inputs are site 0.
        inputs: `inputs[l - 1]` are the numbers of the input tensors that layer l reads, before its parents' states.
        outputs: the numbers of the input tensors that the cost reads, likewise.
        finish: makes the module's output from what the cost reads; None if it is the one tensor of the last site.
    """

    layers: tuple[Layer, ...]
    topology: Topology
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    finish: Section | None

    def sources(self, layer: int) -> tuple[int, ...]:
        """What a layer is given, in order: 0 for each input tensor, then its parents."""
        return (*[0] * len(self.inputs[layer - 1]), *(site for site in self.topology.parents_of(layer) if site))

    def places(self, count: int) -> tuple[tuple[int, ...], ...]:
        """By layer, where the states that it reads are kept, the cost as layer L + 1.

        States are kept by site, the first input tensor at 0 and the others of `count` after the sites.
        """
        size = self.topology.size
        slots = [0, *range(size + 1, size + count)]
        parents = [tuple(site for site in above if site) for above in self.topology.parents]
        sites = [*parents, self.topology.outputs or ((size,) if self.finish is None else ())]
        reads = [*self.inputs, self.outputs]
        return ((), *(tuple(slots[k] for k in own) + above for own, above in zip(reads, sites, strict=True)))


def graph_of(operations: fx.Graph, tracer: Tracer, *, fuse: bool) -> Graph:
    """Cut the operations of a forward into sites.

    Raises:
        InputError: a forward without an operation that has a state, or tensors that cannot be one state together.
    """
    cuts, end = cut(operations, tracer, fuse=fuse)
    if not cuts:
        raise InputError(
            f"{type(tracer.root).__name__}, whose output depends on no parameter and no floating input",
            "a module that computes something",
            "check that forward returns what it has computed",
        )
    inputs = {node: number for number, node in enumerate(n for n in operations.nodes if n.op == "placeholder")}
    sites = {each.exit: site for site, each in enumerate(cuts, start=1)}
    short = [_shared(each) for each in cuts]
    names = [_span(each) if not name or short.count(name) > 1 else name for name, each in zip(short, cuts, strict=True)]
    layers = tuple(_layer(name, each, tracer) for name, each in zip(names, cuts, strict=True))
    parents = tuple(
        tuple([0] * any(node in inputs for node in each.reads) + [sites[n] for n in each.reads if n in sites]) or (0,)
        for each in cuts
    )
    read = tuple(tuple(inputs[n] for n in each.reads if n in inputs) or (0,) * (not each.reads) for each in cuts)
    outputs = tuple(sites[node] for node in end.reads if node in sites)
    simple = operations.output_node().args[0] is cuts[-1].exit and isinstance(tracer.values[cuts[-1].exit], Tensor)
    finish = None if simple else _section(end, tracer)
    return Graph(layers, Topology(parents, outputs), read, tuple(inputs[n] for n in end.reads if n in inputs), finish)


def _layer(name: str, each: Cut, tracer: Tracer) -> Layer:
    """The user's own module where a site is one call of it on one state, else a section."""
    node = each.exit
    called = len(each.nodes) == 1 and node.op == "call_module" and node.args == each.reads and not node.kwargs
    if called and len(each.reads) == 1 and all(isinstance(tracer.values[n], Tensor) for n in (node, *each.reads)):
        module = tracer.root.get_submodule(str(node.target))
        return Layer(str(node.target), module, Survey(module))
    section = _section(each, tracer)
    return Layer(name, section, Survey(section))


def _section(each: Cut, tracer: Tracer) -> Section:
    """The operations of one site as a graph of their own; what they overwrite of other sites is copied first."""
    own = fx.Graph()
    held: dict[str, Any] = {}
    copies: dict[fx.Node, fx.Node] = {}
    for node in each.reads:
        copies[node] = own.placeholder(node.name)
    for node in each.reads:
        value = tracer.values[node]
        if not isinstance(value, Tensor):
            held[f"unpack_{node.name}"] = Unpack(_pack(node, value))
            copies[node] = own.call_module(f"unpack_{node.name}", (copies[node],))
        elif any(
            tracer.shadows.share(tracer.values[w], value) for part in each.nodes for w in tracer.writes.get(part, ())
        ):
            copies[node] = own.call_method("clone", (copies[node],))
    for node in each.nodes:
        if node.op in ("call_module", "get_attr"):
            held[str(node.target)] = _held(node, tracer)
        if node.op != "output":
            copies[node] = own.node_copy(node, copies.__getitem__)
    if each.exit.op == "output":
        own.output(fx.node.map_arg(each.exit.args[0], copies.__getitem__))
    else:
        made, value = copies[each.exit], tracer.values[each.exit]
        if not isinstance(value, Tensor):
            held["packed_"] = _pack(each.exit, value)
            made = own.call_module("packed_", (made,))
        own.output(made)
    if not each.reads:
        _take_the_input(own)
    called = [node.target for node in each.nodes if node.op == "call_function"]
    foreign = any(not str(getattr(target, "__module__", "")).startswith(_OWN) for target in called)
    draws = any(node in tracer.drawing for node in each.nodes)
    return Section(fx.GraphModule(held, own), _kind(each, tracer), draws=draws, foreign=foreign)


def _take_the_input(graph: fx.Graph) -> None:
    """A site that reads nothing stands above the input all the same."""
    with graph.inserting_before(next(iter(graph.nodes))):
        graph.placeholder("unread")


def _held(node: fx.Node, tracer: Tracer) -> Any:
    target = str(node.target)
    if node.op == "call_module":
        return tracer.root.get_submodule(target)
    return tracer.constants[target] if target in tracer.constants else operator.attrgetter(target)(tracer.root)


def _pack(node: fx.Node, value: Any) -> Pack:
    kinds = {tensor.dtype for tensor in tensors_of(value)}
    if len(kinds) > 1:
        raise InputError(
            f"{place(node)}, which returns tensors of dtypes {', '.join(sorted(map(str, kinds)))}, read separately",
            "one dtype, since they are one state",
            "put it and its readers into one submodule, and name that submodule's class in blocks=",
        )
    return Pack(value)


def _shared(each: Cut) -> str:
    """The submodule that holds all of a site's operations; empty if it is the root."""
    paths = [place(node).split(".")[:-1] for node in each.nodes if node.op != "get_attr"]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*paths, strict=False))
    return ".".join(level[0] for level in levels)


def _span(each: Cut) -> str:
    """The first and the last of a site's operations."""
    first, *others = [place(node) for node in each.nodes if node.op != "get_attr"]
    return f"{first}..{others[-1]}" if others else first


def _kind(each: Cut, tracer: Tracer) -> str:
    modules: Mapping[str, nn.Module] = dict(tracer.root.named_modules())
    inside = modules.get(_shared(each)) if each.exit.op != "output" and _shared(each) else None
    count = sum(node.op != "get_attr" for node in each.nodes)
    return type(inside).__name__ if inside is not None else f"{count} operation{'s' * (count > 1)}"
