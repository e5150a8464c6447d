"""Edges in a list, for large graphs."""

import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.graphs.connectivity import Connectivity
from worldsheet.streaming.shapes import Edges, Index, Neurons

_LONG_RUN = 10_000  # edges from which a copy is faster than picking each


@final
class Sparse(Connectivity):
    """Any directed graph as a list of its E edges, kept in order of target and then source.

    Cost per step and stream: three passes over the edges. Drives are products of a compressed sparse matrix; so are
    pulls and efforts of several streams that share their weights.

    Args:
        neurons: n.
        sources: j of every edge j → i, whole numbers in any order.
        targets: i of every edge.
        self_loops: whether edges i → i are allowed.

    Raises:
        InputError: no edge, lists of unequal length, a neuron that is not there, an edge given twice, or a self-loop
            where none is allowed.
    """

    def __init__(self, neurons: int, sources: Tensor, targets: Tensor, *, self_loops: bool = False) -> None:
        _check(neurons, sources, targets, self_loops)
        order = torch.argsort(targets.long() * neurons + sources.long())
        self._neurons = neurons
        self._sources, self._targets = sources.long()[order], targets.long()[order]
        repeated = (self._sources.diff() == 0) & (self._targets.diff() == 0)
        if repeated.any():
            edge = int(repeated.nonzero()[0])
            raise InputError(
                f"edge {int(self._sources[edge])} → {int(self._targets[edge])} is given twice",
                "every edge once",
                "leave the second out: two edges in parallel are one whose weight is their sum",
            )
        turn = torch.argsort(self._sources * neurons + self._targets)
        self._turn = turn.int()
        self._forward = _compressed(self._targets, neurons), self._sources.int()
        self._backward = _compressed(self._sources, neurons), self._targets[turn].int()
        self._runs = list(_runs(self.in_degrees()))
        _spend_the_warning()

    @property
    def neurons(self) -> int:
        """The number n."""
        return self._neurons

    @property
    def sources(self) -> Index:
        """In order of the targets."""
        return self._sources

    @property
    def targets(self) -> Index:
        """Ascending."""
        return self._targets

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """(E,)."""
        return (len(self._sources),)

    def on_edges(self, values: Tensor) -> Edges:
        """The numbers themselves."""
        return values

    def drive(self, weights: Edges, state: Neurons) -> Neurons:
        """The sum over incoming edges."""
        if weights.dim() > 1:
            return self._summed(self._targets, self._at_sources(state).mul_(weights))
        if len(state) == 1:
            product: Tensor = self._matrix(weights) @ state[0]
            return product[None]
        return _turned(self._matrix(weights) @ _turned(state))

    def pull(self, weights: Edges, sensitivity: Neurons) -> Neurons:
        """The sum over outgoing edges."""
        if weights.dim() > 1 or len(sensitivity) == 1:
            return self._summed(self._sources, self._at_targets(sensitivity).mul_(weights))
        return _turned(self._matrix(weights.index_select(0, self._turn), turned=True) @ _turned(sensitivity))

    def add_effort(self, edges: Edges, sensitivity: Neurons, state: Neurons, *, keep: float, gain: float) -> None:
        """Keep · edges + gain times the product of both ends."""
        if edges.dim() > 1:
            edges.mul_(keep).addcmul_(self._at_targets(sensitivity), self._at_sources(state), value=gain)
        elif len(state) == 1:
            ends = self._at_targets(sensitivity), self._at_sources(state)
            edges[None].mul_(keep).addcmul_(*ends, value=gain)
        else:
            matrix = self._matrix(edges)
            torch.sparse.sampled_addmm(
                matrix, _turned(sensitivity), _turned(state).T, beta=keep, alpha=gain, out=matrix
            )

    def to(self, device: torch.device) -> "Sparse":
        """The same graph on another device."""
        if self._sources.device == device:
            return self
        return Sparse(self._neurons, self._sources.to(device), self._targets.to(device), self_loops=True)

    def with_source(self) -> "Sparse":
        """One more edge into each neuron."""
        everyone = torch.arange(self._neurons, device=self._sources.device)
        sources = torch.cat([self._sources, torch.full_like(everyone, self._neurons)])
        return Sparse(self._neurons + 1, sources, torch.cat([self._targets, everyone]), self_loops=True)

    def _matrix(self, weights: Edges, *, turned: bool = False) -> Tensor:
        """W, or Wᵀ from weights in the order of source and then target."""
        size = (self._neurons, self._neurons)
        rows, columns = self._backward if turned else self._forward
        return torch.sparse_csr_tensor(rows, columns, weights, size, check_invariants=False)

    def _at_sources(self, values: Neurons) -> Tensor:
        """The values of every edge's source, (streams, E)."""
        return _at(values, self._forward[1])

    def _at_targets(self, values: Neurons) -> Tensor:
        """The values of every edge's target, (streams, E): copied run by run where runs are long, else picked."""
        if len(self._runs) * _LONG_RUN > self.edges:
            return _at(values, self._targets)
        found, first = values.new_empty(len(values), self.edges), 0
        for neurons, degree in self._runs:
            block = values[:, neurons, None].expand(-1, -1, degree)
            found[:, first : first + block[0].numel()].view_as(block).copy_(block)
            first += block[0].numel()
        return found

    def _summed(self, ends: Index, values: Tensor) -> Neurons:
        """Σ over the edges that share an end."""
        if len(values) == 1:  # the kernels in one dimension are several times faster
            return values.new_zeros(self._neurons).scatter_add_(0, ends, values[0])[None]
        return values.new_zeros(len(values), self._neurons).scatter_add_(1, ends.expand_as(values), values)


def _turned(values: Tensor) -> Tensor:
    """Rows as columns, in memory of its own: products with sparse matrices are several times faster so."""
    return values.T.contiguous()


def _runs(degrees: Index) -> Iterator[tuple[slice, int]]:
    """Neighbouring neurons with equally many parents, and how many."""
    bounds = [0, *(degrees.diff().nonzero().flatten() + 1).tolist(), len(degrees)]
    return ((slice(*ends), int(degrees[ends[0]])) for ends in pairwise(bounds) if degrees[ends[0]])


def _at(values: Neurons, ends: Index) -> Tensor:
    """The values of every edge's end, (streams, E)."""
    return values[0].index_select(0, ends)[None] if len(values) == 1 else values.index_select(1, ends)


def _compressed(ascending: Tensor, neurons: int) -> Tensor:
    """Where each neuron's edges begin, and where the last one's end."""
    counts = torch.bincount(ascending, minlength=neurons)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()


def _check(neurons: int, sources: Tensor, targets: Tensor, self_loops: bool) -> None:
    whole = not (sources.is_floating_point() or targets.is_floating_point())
    if sources.dim() != 1 or sources.shape != targets.shape or not len(sources) or not whole:
        raise InputError(
            f"sources and targets must be whole numbers in lists of equal length, got {tuple(sources.shape)} "
            f"{sources.dtype} and {tuple(targets.shape)} {targets.dtype}",
            "two one-dimensional tensors of integers, with at least one edge",
            "let edge k lead from sources[k] to targets[k]",
        )
    low, high = int(min(sources.min(), targets.min())), int(max(sources.max(), targets.max()))
    if low < 0 or high >= neurons:
        raise InputError(
            f"there is no neuron {low if low < 0 else high}, where an edge begins or ends",
            f"neurons 0 to {neurons - 1}",
            "number the neurons from 0, or raise `neurons`",
        )
    loops = sources[sources == targets]
    if len(loops) and not self_loops:
        raise InputError(
            f"neuron {int(loops[0])} has an edge to itself", "no self-loops", "leave it out, or pass self_loops=True"
        )


def _spend_the_warning() -> None:
    """Torch says once per process that its compressed matrices are in beta; products are all that is used of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        corner = torch.zeros(2, dtype=torch.int32)
        torch.sparse_csr_tensor(corner, corner[:0], corner[:0].float(), (1, 1), check_invariants=False)
