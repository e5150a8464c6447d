"""Shapes are types: the tensors that travel on a worldsheet, named once."""

from enum import Enum
from typing import TypeAlias

from jaxtyping import Inexact, Shaped
from torch import Tensor

State: TypeAlias = Inexact[Tensor, "*site"]
"""The state x_l of one site: any floating or complex dtype, any shape, usually (batch, ...)."""

Costate: TypeAlias = Inexact[Tensor, "*site"]
"""The costate λ_l of one site: the shape, dtype and device of its state; units of cost per unit of state."""

Point: TypeAlias = Shaped[Tensor, "..."]
"""What a layer reads: the state of a site below it, or the input, which may hold integers."""

AnyState: TypeAlias = Inexact[Tensor, "..."]
"""A state or costate of some site, where tensors of several sites with shapes of their own stand together."""

Residuals: TypeAlias = Inexact[Tensor, "site"]
"""One norm per site, from the input side to the output side."""

Table: TypeAlias = Inexact[Tensor, "_ 4"]
"""A row per site, of any number of them: norms of both residuals and of both messages."""

Worldsheet: TypeAlias = Inexact[Tensor, "tick site"]
"""A depth × tick picture: one row per tick, one column per site."""


class Field(Enum):
    """Which of a site's two fields."""

    STATE = "x"
    COSTATE = "λ"
