"""The equations of motion (6): every quantity of a neuron moves by its own, its parents' and its children's.

No line of this file adds over neurons, picks one out or counts them: neurons meet only in the three sums over edges of
a `Connectivity`.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.streaming.functional import Functional, NeuronModel
from worldsheet.streaming.graphs.connectivity import Connectivity
from worldsheet.streaming.integrator import NeuronIntegrator, StepFactors
from worldsheet.streaming.shapes import Edges, Neurons
from worldsheet.streaming.sign import Sign
from worldsheet.streaming.state import PhasePoint


class Activations(NamedTuple):
    """What the neurons see of their parents at an instant.

    Attributes:
        drive: a_i = Σ_j w_ij x_j.
        activity: σ(a).
    """

    drive: Neurons
    activity: Neurons


class StepCoefficients(NamedTuple):
    """How far the fields move in one step: decay and gain of x, π and π_w; the sign of time is in the gains.

    Attributes:
        reach: the part of the way to σ(a) that x goes.
        costate: of π.
        momentum_keep: decay of π_w, the same for all edges.
        momentum_gain: gain of π_w; 1 if signs differ, each system's gain being in `credit_gain` then.
        credit_gain: what the credit of each system is multiplied by; None for 1.
        momentum_gain_on_edges: the whole gain, in a shape that multiplies edges if signs differ.
        flow: −dt/m.
    """

    reach: Tensor
    costate: StepFactors
    momentum_keep: float
    momentum_gain: float
    credit_gain: Tensor | None
    momentum_gain_on_edges: float | Tensor
    flow: float


@final
@dataclass(frozen=True)
class Equations:
    """Equations (6) on a graph, s being the sign of time.

        ẋ_i   = c_i (σ(a_i) − x_i),                                  a_i = Σ_j w_ij x_j
        π̇_i   = −(θ − s c_i) π_i − s [ Σ_k w_ki c_k σ′(a_k) π_k + ∂(V + R)/∂x_i ]
        π̇_ij  = −θ π_ij − s [ c_i σ′(a_i) π_i x_j + ∂R/∂w_ij ],       ẇ_ij = −π_ij/m

    Neurons that are held at an input have the speed 0: they keep what they are given and their edges feel no force.
    """

    graph: Connectivity
    speed: Tensor
    model: NeuronModel
    functional: Functional
    integrator: NeuronIntegrator

    def see(self, weights: Edges, state: Neurons) -> Activations:
        """Listen to the parents."""
        drive = self.graph.drive(weights, state)
        return Activations(drive, self.model.activation.value(drive))

    def velocity(self, state: Neurons, activations: Activations) -> Neurons:
        """ẋ."""
        return self.speed * (activations.activity - state)

    def state(self, state: Neurons, activations: Activations, coefficients: StepCoefficients) -> Neurons:
        """x a step later."""
        return torch.lerp(state, activations.activity, coefficients.reach)

    def conductance(self, activations: Activations) -> Neurons:
        """c_i σ′(a_i), which turns a costate into what the parents and edges of i feel of it."""
        return self.model.activation.slope(self.speed, activations.drive, activations.activity)

    def pull(self, point: PhasePoint, sensitivity: Neurons) -> Neurons:
        """Σ_k w_ki c_k σ′(a_k) π_k + ∂R/∂x_i, in memory of its own."""
        pulled = self.graph.pull(point.weights, sensitivity)
        return self.functional.regulariser.pull_states(pulled, point.state)

    def costate(self, point: PhasePoint, force: Neurons, coefficients: StepCoefficients) -> Neurons:
        """π a step later, in the memory of all that pulls at it."""
        return force.mul_(coefficients.costate.gain).addcmul_(coefficients.costate.keep, point.costate)

    def sensitivity(self, costate: Neurons, conductance: Neurons) -> Neurons:
        """δ_i = c_i σ′(a_i) π_i, which the edges of i feel."""
        return conductance * costate

    def learn(self, point: PhasePoint, sensitivity: Neurons, coefficients: StepCoefficients) -> Edges:
        """Move π_w, in its own memory, under the effort δ_i x_j; then the weights, which are returned."""
        weights, momentum = point.weights, point.momentum
        gain, staggered = coefficients.credit_gain, self.integrator.staggered
        moved = weights if staggered else weights.add(momentum, alpha=coefficients.flow)
        credit = sensitivity if gain is None else sensitivity * gain
        self.graph.add_effort(
            momentum, credit, point.state, keep=coefficients.momentum_keep, gain=coefficients.momentum_gain
        )
        self.functional.regulariser.pull_weights(momentum, weights, coefficients.momentum_gain_on_edges)
        return weights.add_(momentum, alpha=coefficients.flow) if staggered else moved

    def coefficients(self, sign: Sign, dt: float, shared: bool) -> StepCoefficients:
        """Decays and gains of a step under a sign, one for each system if it is a tensor."""
        advance, functional = self.integrator.factors, self.functional
        theta = torch.tensor(functional.dissipation, dtype=torch.float64)
        long = self.integrator.every * dt
        momentum = advance(theta, long)
        per_neuron = sign.to(self.speed)[:, None] if isinstance(sign, Tensor) else sign
        costate = advance(functional.dissipation - per_neuron * self.speed, dt)
        gain = -per_neuron * float(momentum.gain)
        return StepCoefficients(
            reach=1 - advance(self.speed, dt).keep,
            costate=StepFactors(costate.keep, -per_neuron * costate.gain),
            momentum_keep=float(momentum.keep),
            momentum_gain=1.0 if isinstance(gain, Tensor) else gain,
            credit_gain=gain if isinstance(gain, Tensor) else None,
            momentum_gain_on_edges=_beside_edges(gain, self.graph, shared) if isinstance(gain, Tensor) else gain,
            flow=-long / functional.mass,
        )


def _beside_edges(gain: Tensor, graph: Connectivity, shared: bool) -> Tensor:
    return gain.view(()) if shared else gain.view(-1, *[1] * len(graph.edge_shape))
