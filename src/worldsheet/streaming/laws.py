"""The equations of motion (6): every quantity of a neuron moves by its own, its parents' and its children's.

No line of this file adds over neurons, picks one out or counts them: neurons meet only in the three sums over edges of
a `Connectivity`.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.streaming.connectivity import Connectivity
from worldsheet.streaming.functional import Functional, Medium
from worldsheet.streaming.integrator import Factors, Integrator
from worldsheet.streaming.phase import PhasePoint
from worldsheet.streaming.shapes import Edges, Neurons
from worldsheet.streaming.sign import Sign


class Sight(NamedTuple):
    """What the neurons see of their parents at an instant.

    Attributes:
        drive: a_i = Σ_j w_ij x_j.
        activity: σ(a).
    """

    drive: Neurons
    activity: Neurons


class Pace(NamedTuple):
    """How far the fields move in one step: decay and gain of x, π and π_w; the sign of time is in the gains.

    Attributes:
        reach: the part of the way to σ(a) that x goes.
        costate: of π.
        momentum_keep: decay of π_w, the same for all edges.
        momentum_gain: gain of π_w, one number per stream if signs differ.
        momentum_gain_on_edges: the same in a shape that multiplies edges.
        flow: −dt/m.
    """

    reach: Tensor
    costate: Factors
    momentum_keep: float
    momentum_gain: float | Tensor
    momentum_gain_on_edges: float | Tensor
    flow: float


@final
@dataclass(frozen=True)
class Laws:
    """Equations (6) on a graph, s being the sign of time.

        ẋ_i   = c_i (σ(a_i) − x_i),                                  a_i = Σ_j w_ij x_j
        π̇_i   = −(θ − s c_i) π_i − s [ Σ_k w_ki c_k σ′(a_k) π_k + ∂(V + R)/∂x_i ]
        π̇_ij  = −θ π_ij − s [ c_i σ′(a_i) π_i x_j + ∂R/∂w_ij ],       ẇ_ij = −π_ij/m

    Neurons that are held at an input have the speed 0: they keep what they are given and their edges feel no force.
    """

    graph: Connectivity
    speed: Tensor
    medium: Medium
    functional: Functional
    integrator: Integrator

    def see(self, weights: Edges, state: Neurons) -> Sight:
        """Listen to the parents."""
        drive = self.graph.drive(weights, state)
        return Sight(drive, self.medium.activation.value(drive))

    def velocity(self, state: Neurons, sight: Sight) -> Neurons:
        """ẋ."""
        return self.speed * (sight.activity - state)

    def state(self, state: Neurons, sight: Sight, pace: Pace) -> Neurons:
        """X a step later."""
        return torch.lerp(state, sight.activity, pace.reach)

    def conductance(self, sight: Sight) -> Neurons:
        """c_i σ′(a_i), which turns a costate into what the parents and edges of i feel of it."""
        return self.medium.activation.slope(self.speed, sight.drive, sight.activity)

    def pull(self, point: PhasePoint, conductance: Neurons) -> Neurons:
        """Σ_k w_ki c_k σ′(a_k) π_k + ∂R/∂x_i, in memory of its own."""
        pulled = self.graph.pull(point.weights, conductance * point.costate)
        return self.functional.regulariser.pull_states(pulled, point.state)

    def costate(self, point: PhasePoint, force: Neurons, pace: Pace) -> Neurons:
        """π a step later, under all that pulls at it."""
        return torch.addcmul(pace.costate.gain * force, pace.costate.keep, point.costate)

    def effort(self, costate: Neurons, conductance: Neurons, state: Neurons, shared: bool) -> Edges:
        """The force on every weight, c_i σ′(a_i) π_i x_j."""
        return self.graph.effort(conductance * costate, state, shared=shared)

    def momentum(self, point: PhasePoint, effort: Edges, pace: Pace) -> Edges:
        """π_w a step later, in the memory of an effort that has been multiplied by the gain."""
        force = self.functional.regulariser.pull_weights(effort, point.weights, pace.momentum_gain_on_edges)
        return force.add_(point.momentum, alpha=pace.momentum_keep)

    def weights(self, weights: Edges, momentum: Edges, pace: Pace) -> Edges:
        """The weights a step later."""
        return weights.add(momentum, alpha=pace.flow)

    def pace(self, sign: Sign, dt: float, shared: bool) -> Pace:
        """Decays and gains of a step under a sign, one for each system if it is a tensor."""
        advance, functional = self.integrator.factors, self.functional
        theta = torch.tensor(functional.dissipation, dtype=torch.float64)
        momentum = advance(theta, dt)
        per_neuron = sign.to(self.speed)[:, None] if isinstance(sign, Tensor) else sign
        costate = advance(functional.dissipation - per_neuron * self.speed, dt)
        gain = -per_neuron * float(momentum.gain)
        return Pace(
            reach=1 - advance(self.speed, dt).keep,
            costate=Factors(costate.keep, -per_neuron * costate.gain),
            momentum_keep=float(momentum.keep),
            momentum_gain=gain,
            momentum_gain_on_edges=_beside_edges(gain, self.graph, shared) if isinstance(gain, Tensor) else gain,
            flow=-dt / functional.mass,
        )


def _beside_edges(gain: Tensor, graph: Connectivity, shared: bool) -> Tensor:
    return gain.view(()) if shared else gain.view(-1, *[1] * len(graph.edge_shape))
