"""Functions of one number that PyTorch and CasADi compute alike, so that a problem is written once for both."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Scalar: TypeAlias = Any
"""A `torch.Tensor` of any shape or a scalar `casadi.SX`: sums, products, powers and what is below; else a float."""

Vector: TypeAlias = Sequence[Scalar]
"""One scalar for each component."""

Rate: TypeAlias = Callable[[Vector, Vector], Vector]
"""(state, control) → a vector."""


def sin(angle: Scalar) -> Scalar:
    """Its sine; angles are in radians."""
    return angle.sin()


def cos(angle: Scalar) -> Scalar:
    """Its cosine."""
    return angle.cos()


def tan(angle: Scalar) -> Scalar:
    """Its tangent."""
    return angle.tan()


def exp(value: Scalar) -> Scalar:
    """e to this power."""
    return value.exp()


def sqrt(value: Scalar) -> Scalar:
    """Its square root; there is no derivative at 0."""
    return value.sqrt()


def squares(values: Vector, weights: Sequence[float] = (), goal: Sequence[float] = ()) -> Scalar:
    """Σ weight_i (value_i − goal_i)², with weights 1 and goals 0 where none are given."""
    terms = zip(values, weights or [1.0] * len(values), goal or [0.0] * len(values), strict=True)
    return sum(weight * (value - aim) ** 2 for value, weight, aim in terms)
