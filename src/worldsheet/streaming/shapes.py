"""Shapes are types: the tensors of a network in real time, named once."""

from typing import TypeAlias

from jaxtyping import Float, Int, Shaped
from torch import Tensor

Neurons: TypeAlias = Float[Tensor, "stream neuron"]
"""One number per stream and neuron: states x, costates π, drives a."""

Edges: TypeAlias = Float[Tensor, "*edge"]
"""One number per edge, (E,) or (n, n), with the streams in front where each has weights of its own."""

Eligibility: TypeAlias = Float[Tensor, "*traces"]
"""What edges remember: (classes, streams, neurons) of senders, or the streams in front of `Edges`."""

Index: TypeAlias = Int[Tensor, "edge"]
"""A neuron's number for each edge."""

Signal: TypeAlias = Float[Tensor, "stream channel"]
"""What enters or leaves at an instant: inputs u, outputs."""

TargetValues: TypeAlias = Shaped[Tensor, "stream *channel"]
"""What the outputs are compared with: numbers of their shape, or one class per stream."""

PerStream: TypeAlias = Float[Tensor, "stream"]
"""One number per stream: a loss."""

PerSystem: TypeAlias = Float[Tensor, "system"]
"""One number per system: all streams together where they share weights, else one each."""
