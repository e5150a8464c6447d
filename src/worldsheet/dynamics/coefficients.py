"""A dynamics as a table of coefficients."""

from dataclasses import dataclass
from typing import NamedTuple, final


class Mix(NamedTuple):
    """A sum of what a site sees, each with a factor.

    Attributes:
        residual: of its state residual r_l.
        costate: of its costate λ_l.
        credit: of its credit e_l.
        pulled: of the message from above, p_l = J_{l+1}ᵀe_{l+1}.
    """

    residual: float = 0.0
    costate: float = 0.0
    credit: float = 0.0
    pulled: float = 0.0


@final
@dataclass(frozen=True)
class Coefficients:
    """The moves of a site below the output, linear in what it sees.

        x_l ← x_l + state·(r, λ, e, p)_l,     λ_l ← λ_l + costate·(r, λ, e, p)_l,     e_l = credit·(r, λ)_l     (19)

    An engine may add these to the fields where they lie instead of asking for new ones.

    Attributes:
        state: what is added to a state.
        costate: what is added to a costate.
        credit: what is sent down, of residual and costate alone.
    """

    state: Mix
    costate: Mix
    credit: Mix
