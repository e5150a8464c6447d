"""Who is connected to whom: a directed graph, and the three sums over its edges that learning needs."""

from abc import ABC, abstractmethod
from typing import TypeVar, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.shapes import Edges, Index, Neurons

Self = TypeVar("Self", bound="Connectivity")


class Connectivity(ABC):
    """A directed graph of neurons. An edge j → i carries x_j to neuron i with the weight w_ij.

    Every quantity of one neuron reaches another through one of three sums, each over the neuron's own edges:

        drive     a_i = Σ_j w_ij x_j          from the parents j of i
        pull      Σ_k w_ki δ_k                from the children k of i
        effort    δ_i x_j                     on the edge j → i, from its two ends

    Nothing else connects neurons, which is what makes the equations (6) local.
    """

    @property
    @abstractmethod
    def neurons(self) -> int:
        """How many neurons."""

    @property
    @abstractmethod
    def sources(self) -> Index:
        """The parent j of every edge j → i."""

    @property
    @abstractmethod
    def targets(self) -> Index:
        """The child i of every edge j → i."""

    @property
    @abstractmethod
    def edge_shape(self) -> tuple[int, ...]:
        """Shape of a tensor with one number per edge."""

    @abstractmethod
    def on_edges(self, values: Tensor) -> Edges:
        """A tensor of `edge_shape` from one number per edge, in the order of `sources` and `targets`."""

    @abstractmethod
    def drive(self, weights: Edges, state: Neurons) -> Neurons:
        """a_i = Σ_j w_ij x_j."""

    @abstractmethod
    def pull(self, weights: Edges, sensitivity: Neurons) -> Neurons:
        """Σ_k w_ki δ_k."""

    @abstractmethod
    def add_effort(self, edges: Edges, sensitivity: Neurons, state: Neurons, *, keep: float, gain: float) -> None:
        """Edges ← keep · edges + gain · δ_i x_j in their own memory, summed over the streams if they share weights."""

    @abstractmethod
    def to(self: Self, device: torch.device) -> Self:
        """The same graph on another device."""

    @abstractmethod
    def with_source(self: Self) -> Self:
        """The graph with one more neuron, the last, that every other one listens to."""

    def effort(self, sensitivity: Neurons, state: Neurons, *, shared: bool) -> Edges:
        """δ_i x_j on every edge, summed over the streams if they share their weights."""
        found = state.new_zeros(self.edge_shape if shared else (len(state), *self.edge_shape))
        self.add_effort(found, sensitivity, state, keep=0.0, gain=1.0)
        return found

    def at_targets(self, values: Neurons) -> Tensor:
        """The values of every edge's target, in a shape that multiplies one number per stream and edge."""
        return values.index_select(-1, self.targets)

    def self_weights(self, weights: Edges) -> Tensor:
        """The weight of every neuron's edge to itself, 0 where there is none, the streams in front as in `weights`."""
        loops = self.sources == self.targets
        found = weights.new_zeros(*weights.shape[:-1], self.neurons)
        return found.index_copy_(-1, self.targets[loops], weights[..., loops])

    @property
    def edges(self) -> int:
        """How many edges."""
        return len(self.sources)

    def parents(self, neuron: int) -> list[int]:
        """The neurons that `neuron` listens to, in ascending order."""
        return sorted(self.sources[self.targets == neuron].tolist())

    def children(self, neuron: int) -> list[int]:
        """The neurons that listen to `neuron`, in ascending order."""
        return sorted(self.targets[self.sources == neuron].tolist())

    def in_degrees(self) -> Index:
        """How many parents each neuron has."""
        return torch.bincount(self.targets, minlength=self.neurons)

    def reached_from(self, starts: Tensor) -> Tensor:
        """Which neurons a signal from `starts` arrives at, the starts included: one truth value per neuron."""
        reached = torch.zeros(self.neurons, dtype=torch.bool, device=starts.device)
        reached[starts] = True
        while True:
            grown = reached.clone()
            grown[self.targets[reached[self.sources]]] = True
            if torch.equal(grown, reached):
                return reached
            reached = grown


@final
class Dense(Connectivity):
    """Every neuron connected to every other: one n × n matrix.

    Cost per step: two products with the matrix and one outer product.

    Args:
        neurons: n.
        self_loops: whether a neuron is its own parent too.

    Raises:
        InputError: fewer than one neuron.
    """

    def __init__(self, neurons: int, *, self_loops: bool = False) -> None:
        if neurons < 1:
            raise InputError(f"Dense: neurons must be at least 1, got {neurons}", "a number of neurons", "try Dense(5)")
        self._present = torch.ones(neurons, neurons, dtype=torch.bool)
        if not self_loops:
            self._present.fill_diagonal_(False)
        self._complete = self_loops

    @property
    def neurons(self) -> int:
        """The number n."""
        return len(self._present)

    @property
    def sources(self) -> Index:
        """Row by row."""
        return self._present.nonzero()[:, 1]

    @property
    def targets(self) -> Index:
        """Row by row."""
        return self._present.nonzero()[:, 0]

    @property
    def edge_shape(self) -> tuple[int, ...]:
        """(n, n); what is no edge holds 0."""
        return tuple(self._present.shape)

    def on_edges(self, values: Tensor) -> Edges:
        """The matrix w_ij."""
        return values.new_zeros(self.edge_shape).masked_scatter(self._present, values)

    def drive(self, weights: Edges, state: Neurons) -> Neurons:
        """The product W x."""
        return state @ weights.T if weights.dim() == 2 else (weights @ state[..., None])[..., 0]

    def pull(self, weights: Edges, sensitivity: Neurons) -> Neurons:
        """The product Wᵀ δ."""
        return sensitivity @ weights if weights.dim() == 2 else (sensitivity[:, None] @ weights)[:, 0]

    def add_effort(self, edges: Edges, sensitivity: Neurons, state: Neurons, *, keep: float, gain: float) -> None:
        """Keep · edges + gain · δ xᵀ where there is an edge: one product that adds to what is there."""
        if edges.dim() > 2:
            edges.baddbmm_(sensitivity[:, :, None], state[:, None], beta=keep, alpha=gain)
        elif state.shape[0] == 1:
            edges.addr_(sensitivity.view(-1), state.view(-1), beta=keep, alpha=gain)
        else:
            edges.addmm_(sensitivity.T, state, beta=keep, alpha=gain)
        if not self._complete:
            edges.diagonal(dim1=-2, dim2=-1).zero_()

    def at_targets(self, values: Neurons) -> Tensor:
        """One column per stream."""
        return values[..., None]

    def self_weights(self, weights: Edges) -> Tensor:
        """The diagonal."""
        return weights.diagonal(dim1=-2, dim2=-1)

    def to(self, device: torch.device) -> "Dense":
        """The same graph on another device."""
        if self._present.device == device:
            return self
        moved = Dense(self.neurons, self_loops=self._complete)
        moved._present = self._present.to(device)
        return moved

    def with_source(self) -> "Dense":
        """One row and column more."""
        return Dense(self.neurons + 1, self_loops=self._complete).to(self._present.device)
