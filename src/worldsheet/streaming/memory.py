"""What edges remember of their senders, so that an error of this instant meets what was heard before.

Neurons meet in this file as in the equations: only in sums over edges of a `Connectivity`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, final

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.streaming.graphs.connectivity import Connectivity
from worldsheet.streaming.shapes import Edges, Eligibility, Neurons

_MOST_CLASSES = 16


class Force(NamedTuple):
    """What pulls at the neurons in a step from x to x′, by when it acts.

    Attributes:
        before: from the children and the regulariser, on x.
        after: ∂V/∂x′, of the outputs; None without a target.
    """

    before: Neurons
    after: Neurons | None


class Response(NamedTuple):
    """How the neurons answer their drives in a step.

    Attributes:
        state: x, which the edges carry.
        slope: σ′(a), 0 for neurons that are held.
        reach: 1 − e^{−c dt}.
        weights: w.
    """

    state: Neurons
    slope: Neurons
    reach: Tensor
    weights: Edges


class Accumulator(NamedTuple):
    """Where efforts are added: edges ← keep · edges + gain · effort.

    Attributes:
        edges: in their own memory.
        keep: of what is there.
        gain: of the effort.
        credit_gain: of each system's effort, (systems, 1); None for 1.
    """

    edges: Edges
    keep: float
    gain: float
    credit_gain: Tensor | None

    def scaled(self, force: Neurons) -> Neurons:
        """A force, times its system's gain."""
        return force if self.credit_gain is None else force * self.credit_gain

    @property
    def more(self) -> "Accumulator":
        """The same, to add to what has been added."""
        return self._replace(keep=1.0)


class BoundTraces(ABC):
    """Eligibility traces on one graph: what a `Memory` is once it knows who is connected to whom, and how fast."""

    @abstractmethod
    def empty(self, streams: int) -> Eligibility:
        """Traces of a network that has heard nothing."""

    @abstractmethod
    def own_pull(self, weights: Edges, sensitivity: Neurons) -> Neurons | None:
        """The part of the pull that is in the traces already; None if there is none."""

    @abstractmethod
    def step(self, traces: Eligibility, force: Force, response: Response, into: Accumulator | None) -> None:
        """Add F_i ε_ij of a step, before and after the traces move, in their own memory; None only moves the traces."""


class Memory(ABC):
    """Which eligibility traces the edges of a network keep."""

    @abstractmethod
    def on(self, graph: Connectivity, speed: Tensor, outputs: Tensor) -> BoundTraces:
        """The traces on a graph whose neurons have these speeds, 0 where they are held.

        Raises:
            InputError: speeds that these traces are not made for.
        """


@final
@dataclass(frozen=True)
class SenderMemory(Memory):
    """One trace for each sender and speed of a receiver, q̇ = c (x − q), read in the place of x: (6h).

    Memory: as many numbers per stream and neuron as there are different speeds. Exact for what a neuron remembers by
    itself where σ′ stays the same meanwhile, as in a linear network.
    """

    def on(self, graph: Connectivity, speed: Tensor, outputs: Tensor) -> BoundTraces:
        """One class of neurons per speed.

        Raises:
            InputError: more than 16 different speeds.
        """
        speeds = sorted(set(speed[speed > 0].tolist()))
        if len(speeds) > _MOST_CLASSES:
            raise InputError(
                f"SenderMemory keeps a trace for each speed, and the neurons have {len(speeds)} different ones",
                f"at most {_MOST_CLASSES} different speeds",
                "group them with NeuronModel(speed=SpeedClasses(slow, fast)), or keep a trace per edge with "
                "memory=EdgeMemory()",
            )
        members = (speed == speed.new_tensor(speeds)[:, None]).to(speed)
        told = [k for k, row in enumerate(members[:, outputs].sum(1).tolist()) if row]
        return _SenderTraces(graph, members, members.argmax(1), told)


@final
@dataclass(frozen=True)
class EdgeMemory(Memory):
    """One trace for each edge and stream, ε̇_ij = c_i (σ′(a_i) x_j − ε_ij): (6g), exact for a neuron's own memory.

    With one hop of credit these are the eligibility traces of e-prop. Memory and work: edges × streams.

    Args:
        self_loops: also carry the trace through a neuron's edge to itself, which is then left out of the pull: where
            no other edge is recurrent, θ = 0 and outputs forget at once, credit is the gradient through all time.

    Reference:
        Bellec et al., A solution to the learning dilemma for recurrent networks of spiking neurons, 2020; Zucchet et
        al., Online learning of long-range dependencies, arXiv 2305.15947.
    """

    self_loops: bool = True

    def on(self, graph: Connectivity, speed: Tensor, outputs: Tensor) -> BoundTraces:
        """Any speeds."""
        return _EdgeTraces(graph, speed, self.self_loops)


@final
class _SenderTraces(BoundTraces):
    """Traces q of shape (classes, streams, neurons).

    Args:
        graph: who is connected to whom.
        members: (classes, neurons), 1 where a neuron has the speed of the class.
        representatives: a neuron of each class.
        told: classes with an output.
    """

    def __init__(self, graph: Connectivity, members: Tensor, representatives: Tensor, told: list[int]) -> None:
        self._graph = graph
        self._members = members[:, None]
        self._representatives = representatives
        self._told = told

    def empty(self, streams: int) -> Eligibility:
        """Zeros."""
        classes, _, neurons = self._members.shape
        return self._members.new_zeros(classes, streams, neurons)

    def own_pull(self, weights: Edges, sensitivity: Neurons) -> Neurons | None:
        """Traces of senders know nothing of self-loops."""
        return None

    def step(self, traces: Eligibility, force: Force, response: Response, into: Accumulator | None) -> None:
        """F_i σ′(a_i) q_j, with the trace of i's own speed."""
        if into is not None:
            self._add(into, self._members, force.before * response.slope, traces)
        traces.lerp_(response.state.expand_as(traces), response.reach[self._representatives, None, None])
        if into is not None and force.after is not None:
            heard = traces if len(self._told) == len(traces) else traces[self._told]
            self._add(into.more, self._members[self._told], force.after * response.slope, heard)

    def _add(self, into: Accumulator, members: Tensor, credit: Neurons, traces: Eligibility) -> None:
        credits = members * into.scaled(credit)
        if into.edges.dim() == len(
            self._graph.edge_shape
        ):  # streams that share their weights: classes are more of them
            rows = credits.flatten(0, 1), traces.flatten(0, 1)
            self._graph.add_effort(into.edges, *rows, keep=into.keep, gain=into.gain)
            return
        keep = into.keep
        for own, heard in zip(credits, traces, strict=True):
            self._graph.add_effort(into.edges, own, heard, keep=keep, gain=into.gain)
            keep = 1.0


@final
class _EdgeTraces(BoundTraces):
    """Traces ε of shape (streams, *edges)."""

    def __init__(self, graph: Connectivity, speed: Tensor, self_loops: bool) -> None:
        self._graph = graph
        self._like = speed
        self._self_loops = self_loops

    def empty(self, streams: int) -> Eligibility:
        """Zeros."""
        return self._like.new_zeros(streams, *self._graph.edge_shape)

    def own_pull(self, weights: Edges, sensitivity: Neurons) -> Neurons | None:
        """w_ii δ_i, which the traces carry along."""
        return self._graph.self_weights(weights) * sensitivity if self._self_loops else None

    def step(self, traces: Eligibility, force: Force, response: Response, into: Accumulator | None) -> None:
        """F_i ε_ij."""
        if into is not None:
            self._add(into, force.before, traces)
        fresh = response.reach * response.slope
        keep = 1 - response.reach
        if self._self_loops:
            keep = keep + fresh * self._graph.self_weights(response.weights)
        traces.mul_(self._graph.at_targets(keep.expand_as(fresh)))
        self._graph.add_effort(traces, fresh, response.state, keep=1.0, gain=1.0)
        if into is not None and force.after is not None:
            self._add(into.more, force.after, traces)

    def _add(self, into: Accumulator, force: Neurons, traces: Eligibility) -> None:
        effort = self._graph.at_targets(into.scaled(force)) * traces
        shared = into.edges.dim() == len(self._graph.edge_shape)
        into.edges.mul_(into.keep).add_(effort.sum(0) if shared else effort, alpha=into.gain)
