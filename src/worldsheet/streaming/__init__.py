"""Networks that learn in real time: nature-inspired local propagation on any directed graph."""

from worldsheet.streaming.activation import Activation, Identity, Logistic, Rectifier, Tanh
from worldsheet.streaming.config import MissingValues, Start, Streams
from worldsheet.streaming.costate_network import CostateNetwork, LinearQuadratic
from worldsheet.streaming.edge_port import EdgePort, Inertia, RmsScaled
from worldsheet.streaming.functional import Functional, NeuronModel, Quadratic, Regulariser, SpeedClasses
from worldsheet.streaming.graphs.builders import from_matrix, from_networkx, layered, random, small_world
from worldsheet.streaming.graphs.connectivity import Connectivity, Dense
from worldsheet.streaming.graphs.sparse import Sparse
from worldsheet.streaming.integrator import Exponential, ForwardEuler, NeuronIntegrator
from worldsheet.streaming.memory import EdgeMemory, Memory, SenderMemory
from worldsheet.streaming.network import HamiltonianNetwork
from worldsheet.streaming.potential import CrossEntropy, Custom, Potential, Squared
from worldsheet.streaming.sign import (
    ConstantFlip,
    PeriodicFlip,
    Plain,
    SignPolicy,
    TrackFlip,
    costate_within,
    hamiltonian_within,
)
from worldsheet.streaming.state import EdgeState, Energies, PhasePoint, Snapshot
from worldsheet.streaming.trace import StepResult, Trace

__all__ = [
    "Activation",
    "Connectivity",
    "ConstantFlip",
    "CostateNetwork",
    "CrossEntropy",
    "Custom",
    "Dense",
    "EdgeMemory",
    "EdgePort",
    "EdgeState",
    "Energies",
    "Exponential",
    "ForwardEuler",
    "Functional",
    "HamiltonianNetwork",
    "Identity",
    "Inertia",
    "LinearQuadratic",
    "Logistic",
    "Memory",
    "MissingValues",
    "NeuronIntegrator",
    "NeuronModel",
    "PeriodicFlip",
    "PhasePoint",
    "Plain",
    "Potential",
    "Quadratic",
    "Rectifier",
    "Regulariser",
    "RmsScaled",
    "SenderMemory",
    "SignPolicy",
    "Snapshot",
    "Sparse",
    "SpeedClasses",
    "Squared",
    "Start",
    "StepResult",
    "Streams",
    "Tanh",
    "Trace",
    "TrackFlip",
    "costate_within",
    "from_matrix",
    "from_networkx",
    "hamiltonian_within",
    "layered",
    "random",
    "small_world",
]
