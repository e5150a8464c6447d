"""The equations of motion (6): every quantity of a neuron moves by its own, its parents' and its children's.

No line of this file adds over neurons, picks one out or counts them: neurons meet only in the three sums over edges of
a `Connectivity`.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.streaming.edge_port import AddEffort, EdgeMotion, EdgePort, EdgeStep
from worldsheet.streaming.functional import Functional, NeuronModel
from worldsheet.streaming.graphs.connectivity import Connectivity
from worldsheet.streaming.integrator import NeuronIntegrator, StepFactors
from worldsheet.streaming.memory import BoundTraces
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
        edges: of π_w and w.
        credit_gain: what the credit of each system is multiplied by; None for 1.
    """

    reach: Tensor
    costate: StepFactors
    edges: EdgeStep
    credit_gain: Tensor | None


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
    port: EdgePort
    traces: BoundTraces | None

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

    def effort(self, state: Neurons, sensitivity: Neurons, coefficients: StepCoefficients) -> AddEffort:
        """The effort δ_i x_j of edges without memory."""
        gain = coefficients.credit_gain
        credit = sensitivity if gain is None else sensitivity * gain

        def add(edges: Edges, keep: float, scale: float) -> None:
            self.graph.add_effort(edges, credit, state, keep=keep, gain=scale)

        return add

    def learn(self, edges: EdgeMotion, add_effort: AddEffort, coefficients: StepCoefficients) -> EdgeMotion:
        """Move π_w and the weights under an effort, in their own memory where the integrator staggers."""
        return self.port.move(edges, add_effort, self.functional.regulariser, coefficients.edges)

    def slope(self, activations: Activations) -> Neurons:
        """σ′(a_i), 0 for neurons that are held."""
        return self.model.activation.slope(self.speed.sign(), activations.drive, activations.activity)

    def pushed(self, costate: Neurons, force: Neurons, coefficients: StepCoefficients) -> Neurons:
        """π after one more force, in its own memory."""
        return costate.addcmul_(force, coefficients.costate.gain)

    def coefficients(self, sign: Sign, dt: float, shared: bool) -> StepCoefficients:
        """Decays and gains of a step under a sign, one for each system if it is a tensor."""
        advance, functional = self.integrator.factors, self.functional
        theta = torch.tensor(functional.dissipation, dtype=torch.float64)
        long = self.integrator.every * dt
        momentum = advance(theta, long)
        per_neuron = sign.to(self.speed)[:, None] if isinstance(sign, Tensor) else sign
        costate = advance(functional.dissipation - per_neuron * self.speed, dt)
        gain = -per_neuron * float(momentum.gain)
        edges = EdgeStep(
            seconds=long,
            keep=float(momentum.keep),
            gain=1.0 if isinstance(gain, Tensor) else gain,
            gain_on_edges=_beside_edges(gain, self.graph, shared) if isinstance(gain, Tensor) else gain,
            flow=-long / functional.mass,
            staggered=self.integrator.staggered,
        )
        return StepCoefficients(
            reach=1 - advance(self.speed, dt).keep,
            costate=StepFactors(costate.keep, -per_neuron * costate.gain),
            edges=edges,
            credit_gain=gain if isinstance(gain, Tensor) else None,
        )


def _beside_edges(gain: Tensor, graph: Connectivity, shared: bool) -> Tensor:
    return gain.view(()) if shared else gain.view(-1, *[1] * len(graph.edge_shape))
