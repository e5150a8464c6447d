"""Graphs by name: layers, a small world, random edges, a matrix, or a graph of networkx."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.graphs.sparse import Sparse


def layered(widths: Sequence[int]) -> Sparse:
    """Layers one after the other, each neuron listening to the whole layer before its own.

    Neurons are numbered layer by layer, so that the inputs are `range(widths[0])` and the outputs the last
    `widths[-1]`.

    Raises:
        InputError: fewer than two layers, or an empty one.
    """
    if len(widths) < 2 or min(widths) < 1:
        raise InputError(
            f"layered: widths must be two or more positive numbers, got {list(widths)}",
            "the number of neurons of each layer",
            "try [2, 16, 1]",
        )
    ends = torch.tensor([0, *widths]).cumsum(0).tolist()
    pairs = [
        torch.cartesian_prod(torch.arange(ends[k], ends[k + 1]), torch.arange(ends[k + 1], ends[k + 2]))
        for k in range(len(widths) - 1)
    ]
    sources, targets = torch.cat(pairs).T
    return Sparse(ends[-1], sources, targets)


def small_world(neurons: int, degree: int, rewiring: float, generator: torch.Generator) -> Sparse:
    """A ring on which each neuron listens to its `degree` nearest neighbours, some replaced by random ones.

    Half of the neighbours lie on each side; an odd one comes from below.

    Args:
        neurons: n.
        degree: parents of each neuron, at most (n − 1)/2.
        rewiring: the probability that an edge comes from a random neuron instead.
        generator: draws them.

    Raises:
        InputError: a degree or probability out of range.

    Reference:
        Watts & Strogatz, Nature 393 (1998), here with directed edges.
    """
    _check_degree("small_world", degree, (neurons - 1) // 2)
    if not 0 <= rewiring <= 1:
        raise InputError(
            f"small_world: rewiring must be between 0 and 1, got {rewiring}", "a probability", "try rewiring=0.1"
        )
    above, below = degree // 2, degree - degree // 2
    near = torch.cat([torch.arange(1, above + 1), torch.arange(neurons - below, neurons)])
    far = above + 1 + _drawn(neurons, degree, neurons - 1 - degree, generator)
    rewired = torch.rand(neurons, degree, generator=generator) < rewiring
    return _listening(torch.where(rewired, far, near))


def random(neurons: int, degree: int, generator: torch.Generator) -> Sparse:
    """Each neuron listens to `degree` others, drawn without repetition.

    Raises:
        InputError: a degree out of range.
    """
    _check_degree("random", degree, neurons - 1)
    return _listening(1 + _drawn(neurons, degree, neurons - 1, generator))


def from_networkx(graph: Any, *, self_loops: bool = False) -> Sparse:
    """The edges of a networkx graph; neurons are numbered in the order of `graph.nodes`, undirected edges go both ways.

    Args:
        graph: anything with `nodes`, `edges` and `is_directed()`.
        self_loops: whether edges i → i are allowed.

    Raises:
        InputError: no such graph, or one that `Sparse` refuses.
    """
    if not all(hasattr(graph, name) for name in ("nodes", "edges", "is_directed")):
        raise InputError(
            f"graph must be a networkx graph, got an object of type {type(graph).__name__}",
            "an object with nodes and edges, such as networkx.DiGraph",
            "try networkx.gnp_random_graph(50, 0.1)",
        )
    number = {node: position for position, node in enumerate(graph.nodes)}
    pairs = {(number[edge[0]], number[edge[1]]) for edge in graph.edges}
    if not graph.is_directed():
        pairs |= {(target, source) for source, target in pairs}
    ends = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2)
    return Sparse(len(number), ends[:, 0], ends[:, 1], self_loops=self_loops)


def from_matrix(matrix: Tensor, *, self_loops: bool = False) -> Sparse:
    """The entries [i, j] of a square matrix as edges j → i, as W in the drive W x.

    Args:
        matrix: dense, where what is not 0 is an edge, or sparse (COO, CSR, CSC), where every stored entry is one. Which
            numbers it holds does not matter: weights are set through `HamiltonianNetwork.point`.
        self_loops: whether entries on the diagonal are allowed.

    Raises:
        InputError: not square, a COO matrix with an entry stored twice, or edges that `Sparse` refuses.
    """
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(
            f"the adjacency matrix must be square, got shape {tuple(matrix.shape)}",
            "shape (n, n) for n neurons",
            "put the edge j → i into row i, column j",
        )
    if matrix.layout is torch.strided:
        targets, sources = matrix.nonzero().T
    else:
        targets, sources = matrix.detach().to_sparse(layout=torch.sparse_coo)._indices()
    return Sparse(len(matrix), sources, targets, self_loops=self_loops)


def _listening(offsets: Tensor) -> Sparse:
    """Neuron i listens to i + offset on the ring, for the offsets of row i."""
    neurons, degree = offsets.shape
    targets = torch.arange(neurons).repeat_interleave(degree)
    return Sparse(neurons, (targets + offsets.flatten()).remainder(neurons), targets)


def _drawn(rows: int, count: int, below: int, generator: torch.Generator) -> Tensor:
    """In every row `count` different whole numbers from 0 up."""
    return torch.stack([torch.randperm(below, generator=generator)[:count] for _ in range(rows)])


def _check_degree(name: str, degree: int, most: int) -> None:
    if not 0 < degree <= most:
        raise InputError(
            f"{name}: degree must be between 1 and {most} for so many neurons, got {degree}",
            f"a whole number from 1 to {most}",
            "change the degree, or add neurons",
        )
