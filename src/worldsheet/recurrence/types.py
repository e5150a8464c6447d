"""Shapes of recurrences: time first, then the batch."""

from typing import TypeAlias

from jaxtyping import Inexact
from torch import Tensor

States: TypeAlias = Inexact[Tensor, "time batch size"]
"""A state or costate at every step."""

Step: TypeAlias = Inexact[Tensor, "batch size"]
"""A state at one step."""

Drive: TypeAlias = Inexact[Tensor, "time batch drive"]
"""What comes into every step from outside: products with inputs and biases."""

Rows: TypeAlias = Inexact[Tensor, "*rows size"]
"""States of any number of steps and samples, each for itself."""

Inputs: TypeAlias = Inexact[Tensor, "*rows drive"]
"""The drive of as many steps and samples."""

Jacobians: TypeAlias = Inexact[Tensor, "*rows size size"]
"""∂h_t/∂h_{t−1}."""

Diagonals: TypeAlias = Inexact[Tensor, "*rows size"]
"""The diagonals of Jacobians."""
