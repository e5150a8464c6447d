"""Reading torch's graph of a run: what each site's own part of it rests on."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from worldsheet.cut.state import STATE_NODE

Node: TypeAlias = Any
"""A node of torch's graph."""

_view: Any = torch.empty(0, requires_grad=True).view_as(torch.empty(0)).grad_fn
_LEAF: type = type(_view.next_functions[0][0])


class Shares(NamedTuple):
    """Which parts of a run's graph several sites use.

    Attributes:
        kept: by site, the loss last, whether a part of its graph is used by another site too.
        leaves: leaf tensors that several sites use, by identity.
        nodes: nodes that several sites use.
    """

    kept: list[bool]
    leaves: dict[int, Tensor]
    nodes: set[Node]


def below(roots: Iterable[Node]) -> set[Node]:
    """All nodes that are reached from some, down to leaves and states."""
    found: set[Node] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            if type(node) is not STATE_NODE:
                stack += [each for each, _ in node.next_functions if each is not None]
    return found


def shares(parts: Sequence[Sequence[Node]]) -> Shares:
    """Follow the graphs of the sites, each node once.

    Args:
        parts: by site, the nodes that its tensors come from.
    """
    owner: dict[Node, int] = {}
    kept = [False] * len(parts)
    leaves: dict[int, Tensor] = {}
    several: set[Node] = set()
    for part, roots in enumerate(parts):
        stack = list(roots)
        while stack:
            node = stack.pop()
            kind = type(node)
            if kind is STATE_NODE:
                continue
            known = owner.get(node)
            if known is None:
                owner[node] = part
                stack += [each for each, _ in node.next_functions if each is not None]
            elif known != part:
                if kind is _LEAF:
                    leaves[id(node.variable)] = node.variable
                else:
                    several.add(node)
                    kept[known] = kept[part] = True
    if several:
        several = {node for node in below(several) if type(node) is not STATE_NODE}
        leaves.update({id(leaf): leaf for leaf in leaves_of(several)})
    return Shares(kept, leaves, several)


def leaves_of(nodes: Iterable[Node]) -> list[Tensor]:
    """The leaf tensors among nodes."""
    found: list[Any] = [node for node in nodes if type(node) is _LEAF]
    return [node.variable for node in found]


def leaves_below(tensor: Tensor) -> list[Tensor]:
    """The leaf tensors that a tensor was made from."""
    return [] if tensor.grad_fn is None else leaves_of(below([tensor.grad_fn]))


def states_among(nodes: Iterable[Node]) -> list[Node]:
    """The nodes of states among nodes."""
    return [node for node in nodes if type(node) is STATE_NODE]


def sole_readers(parts: Sequence[Sequence[Node]]) -> dict[int, int | None]:
    """By number of a site's first tensor, the one site that reads any of its states; None where there are several.

    Args:
        parts: by site, the loss last, the nodes that its tensors come from.
    """
    found: dict[int, int | None] = {}
    for part, roots in enumerate(parts):
        for node in states_among(below(roots)):
            first = node.site.first
            found[first] = part if found.get(first, part) == part else None
    return found


class Reach(NamedTuple):
    """What rests on what in a run.

    Attributes:
        parents: by tensor of a site, the tensors of other sites that its prediction was made from.
        ends: the tensors that the cost was made from.
        leaves: parameters and inputs that anything was made from.
    """

    parents: tuple[tuple[int, ...], ...]
    ends: tuple[int, ...]
    leaves: list[Tensor]


def reach(predictions: Sequence[GradientEdge], cost: GradientEdge) -> Reach:
    """Follow the graph of each tensor of each site down to states and leaves.

    Args:
        predictions: by tensor, where its graph ends.
        cost: where the graph of the cost ends.
    """
    leaves: dict[int, Tensor] = {}
    found = []
    for edge in (*predictions, cost):
        read, seen = set[int](), set[Node]()
        stack: list[tuple[Node, int]] = [(edge.node, edge.output_nr)]
        while stack:
            node, output = stack.pop()
            kind = type(node)
            if kind is STATE_NODE:
                read.add(node.site.first + output)
            elif node not in seen:
                seen.add(node)
                stack += [each for each in node.next_functions if each[0] is not None]
                if kind is _LEAF:
                    leaves[id(node.variable)] = node.variable
        found.append(tuple(sorted(read)))
    return Reach(tuple(found[:-1]), found[-1], list(leaves.values()))
