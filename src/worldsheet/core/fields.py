"""The two fields of a worldsheet at one moment, in both readings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState
from worldsheet.core.words import plural, shapes_of


@final
@dataclass(frozen=True)
class Fields:
    """States x_1..x_L and costates λ_1..λ_L; `states[-1]` is the output.

    Read doubled, the same fields are x̂_l = x_l + λ_l/2 and ẑ_l = x_l − λ_l/2 (8): the mean of the two copies is the
    state and their difference the costate.

    Raises:
        InputError: unequal numbers of states and costates, or a costate whose shape is not its state's.
    """

    states: tuple[AnyState, ...]
    costates: tuple[AnyState, ...]

    def __post_init__(self) -> None:
        """Refuse fields that do not pair."""
        if len(self.states) != len(self.costates):
            raise InputError(
                f"Fields needs one costate per state, got {len(self.states)} states and {len(self.costates)} costates",
                "as many costates as states",
                "leave out the input x_0: fields start at site 1",
            )
        for site, (state, costate) in enumerate(zip(self.states, self.costates, strict=True), start=1):
            if state.shape != costate.shape:
                raise InputError(
                    f"the costate of site {site} has shape {tuple(costate.shape)}, its state has {tuple(state.shape)}",
                    "the same shape for both",
                    "a costate is the cost's derivative by its state and has its shape",
                )

    def __repr__(self) -> str:
        return f"Fields of {plural(len(self.states), 'site')}, states and costates of shape {shapes_of(self.states)}"

    def doubled(self) -> tuple[tuple[AnyState, ...], tuple[AnyState, ...]]:
        """(x̂, ẑ) of (8): x̂ climbs and ẑ descends the energy λᵀ(f(x) − x) + C(x)."""
        pairs = list(zip(self.states, self.costates, strict=True))
        return tuple(x + costate / 2 for x, costate in pairs), tuple(x - costate / 2 for x, costate in pairs)

    @staticmethod
    def from_doubled(climbing: tuple[AnyState, ...], descending: tuple[AnyState, ...]) -> "Fields":
        """The inverse of `doubled`: x = (x̂ + ẑ)/2, λ = x̂ − ẑ."""
        pairs = list(zip(climbing, descending, strict=True))
        return Fields(tuple((hat + check) / 2 for hat, check in pairs), tuple(hat - check for hat, check in pairs))

    def waves(self, impedances: Sequence[float]) -> tuple[tuple[AnyState, ...], tuple[AnyState, ...]]:
        """Wave variables a = x + zλ, which moves towards the output, and b = x − zλ, towards the input (5).

        Args:
            impedances: z_l for the sites 1..L, in units of state per costate.
        """
        triples = list(zip(self.states, self.costates, impedances, strict=True))
        return tuple(x + z * costate for x, costate, z in triples), tuple(x - z * costate for x, costate, z in triples)

    @staticmethod
    def from_waves(
        rising: tuple[AnyState, ...], falling: tuple[AnyState, ...], impedances: Sequence[float]
    ) -> "Fields":
        """The inverse of `waves`: x = (a + b)/2, λ = (a − b)/2z."""
        triples = list(zip(rising, falling, impedances, strict=True))
        return Fields(tuple((a + b) / 2 for a, b, _ in triples), tuple((a - b) / (2 * z) for a, b, z in triples))
