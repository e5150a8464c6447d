"""The fields of one relaxation and their past."""

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar, final, runtime_checkable

from torch import Tensor
from typing_extensions import override

from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Costate, State
from worldsheet.dynamics import Dynamics
from worldsheet.problem import View
from worldsheet.schedules import Delays

ReplayedRun: TypeAlias = tuple[list[Tensor | None], list[AnyState | None]]
"""States and costates by site, 0..L; None where nothing is held: before the front, or after everyone has read it."""


@final
class FieldHistory:
    """States x_0..x_L and costates λ_1..λ_L now and, if messages may be old, some ticks ago.

    Tensors are replaced, never written into, so a moment in the past is a list of references.

    Args:
        x: the input x_0, clamped.
        size: number of sites L.
        memory: how many ticks back messages may come from.
    """

    def __init__(self, x: Tensor, size: int, memory: int) -> None:
        self.states: list[Tensor | None] = [x, *[None] * size]
        self.costates: list[AnyState | None] = [None] * (size + 1)
        self._past: deque[ReplayedRun] = deque(maxlen=memory)

    def start(self, fields: Fields) -> None:
        """Give the fields values before tick 0."""
        self.states[1:] = [_bare(state) for state in fields.states]
        self.costates[1:] = [_bare(costate) for costate in fields.costates]
        self.close_tick()

    def close_tick(self) -> None:
        """Remember the fields as they are at the end of a tick."""
        if self._past.maxlen:
            self._past.appendleft((self.states.copy(), self.costates.copy()))

    def moment(self, age: int) -> ReplayedRun:
        """The fields now (age 0) or at the end of the tick `age` ticks ago, as far back as memory goes."""
        if age == 0 or not self._past:
            return self.states, self.costates
        return self._past[min(age, len(self._past)) - 1]

    @property
    def fields(self) -> Fields:
        """The fields now, input left out.

        Raises:
            LookupError: a field that has not moved or was let go.
        """
        sites = range(1, len(self.costates))
        return Fields(
            tuple(held(self.states, site) for site in sites), tuple(held(self.costates, site) for site in sites)
        )


@runtime_checkable
class _Owner(Protocol):
    """An engine that keeps its fields in a sheet."""

    sheet: FieldHistory
    dynamics: Dynamics


Owner = TypeVar("Owner", bound=_Owner)


class SheetView(View, Generic[Owner]):
    """A site's own fields, `age` ticks old, with its neighbours' messages as late as its delays say.

    Args:
        owner: the engine.
        site: whose view it is.
        delays: of its messages.
        age: of all it sees.
        last: whether what it reads may be let go.
    """

    __slots__ = ("_age", "_delays", "_last", "_owner", "_site")

    def __init__(self, owner: Owner, site: int, delays: Delays, age: int = 0, *, last: bool = False) -> None:
        self._owner = owner
        self._site = site
        self._delays = delays
        self._age = age
        self._last = last

    @property
    @override
    def state(self) -> State:
        sheet = self._owner.sheet
        return held(sheet.moment(self._age)[0] if self._age else sheet.states, self._site)

    @property
    @override
    def costate(self) -> Costate:
        sheet, age = self._owner.sheet, self._age + self._delays.own
        return held(sheet.moment(age)[1] if age else sheet.costates, self._site)

    @property
    @override
    def state_residual(self) -> State:
        return self.prediction - self.state

    @property
    @override
    def credit(self) -> Costate:
        return self._owner.dynamics.credit(self)


def _bare(field: Tensor) -> Tensor:
    """Without a graph; itself if it has none, so that messages made from it are known to be."""
    return field.detach() if field.requires_grad else field


def held(fields: Sequence[Tensor | None], site: int) -> Tensor:
    """The tensor at a site, which a schedule has promised to be there."""
    tensor = fields[site]
    if tensor is None:
        raise LookupError(f"site {site} was read before it moved or after it was let go: check the schedule's `last`")
    return tensor
