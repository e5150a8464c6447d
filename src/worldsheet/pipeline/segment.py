"""Consecutive sites of a relaxation whose neighbours are elsewhere."""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from worldsheet.core.bundle import single
from worldsheet.core.types import Costate, Field, State, Table
from worldsheet.dynamics import Dynamics
from worldsheet.engine import Block, SiteRange
from worldsheet.layers import Cost, OffersCost
from worldsheet.pipeline.transport.base import Transport
from worldsheet.problem import Chain
from worldsheet.schedules import FRESH, Phase, Schedule


@final
@dataclass(frozen=True)
class Endpoints:
    """Where a stage of a relaxation stands.

    Attributes:
        stage: which one it is.
        fields: its edges for states and pulled-back credits.
        tables: its edges for what all stages must know: residuals and the loss.
    """

    stage: int
    fields: Transport
    tables: Transport


@final
class StageBlock:
    """A block between two others. Two messages cross an edge: x_l up, and J_{l+1}ᵀ·credit down.

    The state below is the block's input, which moves; the message from above is the slope of a linear cost. Messages
    go where a firing site reads them, which every stage knows from the schedule: x_l if it has moved since it last went
    up and a site at the edge fires, the credit if site l does.

    Args:
        part: its layers, with the loss if it is the topmost.
        sites: their numbers in the whole chain.
        depth: how many sites that has.
        dynamics: how a site moves.
        place: its edges.
    """

    def __init__(self, part: Chain, sites: range, depth: int, dynamics: Dynamics, place: Endpoints) -> None:
        self.sites = sites
        self.first, self.last = sites.start == 1, sites.stop == depth + 1
        self._part = part if self.last else part.with_loss(_Passed())
        self._dynamics = dynamics
        self._transport, self._tables = place.fields, place.tables
        self._heard = self._told = False  # whether the neighbour's state here, and ours there, is the newest
        self._whole: Tensor | None = None

    def start(self, x: Tensor, target: Any, schedule: Schedule) -> None:
        """Give the fields values before tick 0; carries a forward pass on."""
        point = x if self.first else single(self._transport.take_state(0)).requires_grad_()
        kind = SiteRange(before=self.sites.start - 1, passes=not self.last)
        aim = target if self.last else None
        self.block = Block(self._part, point, aim, self._dynamics, schedule, keep=True, part=kind)
        outputs = self.block.forward()
        self.block.sheet.start(self._dynamics.start(outputs))
        if not self.last:
            self._transport.send_state(0, outputs[-1])

    def offer(self, number: int, fired: Set[int]) -> None:
        """Send the topmost state up, where it is read."""
        below, above = self.sites.stop - 1, self.sites.stop
        if not self.last and not self._told and (below in fired or above in fired):
            state = self.block.sheet.states[len(self.sites)]
            self._transport.send_state(number, cast(Tensor, state))
            self._told = True

    def answer(self, number: int, fired: Set[int], closed: Set[int]) -> None:
        """Take the state from below and pull the credit back to it, where these are read."""
        below = self.sites.start - 1
        if self.first or not (below in fired or below + 1 in fired):
            return
        if not self._heard:
            self.block.sheet.states[0] = single(self._transport.take_state(number))
            self._heard = True
        if below in fired:
            self._transport.send_credit(number, self.block.pulled(0, FRESH, last=below in closed))

    def hear(self, number: int, fired: Set[int]) -> None:
        """Take the message from above, where it is read."""
        if not self.last and self.sites.stop - 1 in fired:
            self.block.caller.target = self._transport.take_credit(number)
            self.block.messages.forget(self.block.caller.head)

    def fire(self, phase: Phase) -> None:
        """Move the sites that are here."""
        before = self.sites.start - 1
        moved = {firing.site for firing in phase if firing.field is Field.STATE}
        self._told = self._told and self.sites.stop - 1 not in moved
        self._heard = self._heard and before not in moved
        self.block.fire(tuple(f._replace(site=f.site - before) for f in phase if f.site in self.sites))

    def collect(self, number: int, rows: Table) -> None:
        """Put this segment's rows on those from below and hand them up."""
        if not self.first:
            rows = torch.cat([single(self._tables.take_state(number)), rows])
        if self.last:
            self._whole = rows
        else:
            self._tables.send_state(number, rows)

    def learn(self, number: int) -> Table:
        """Take the rows of all segments from above and hand them down."""
        whole = cast(Tensor, self._whole) if self.last else single(self._tables.take_credit(number))
        if not self.first:
            self._tables.send_credit(number, whole)
        return whole

    def close(self) -> None:
        """See to it that what was sent has arrived."""
        self._transport.close()
        self._tables.close()


@final
class _Passed(nn.Module, OffersCost):
    """C(x) = Re⟨m, x⟩, whose slope is m: what the sites above pull back stands where a cost's slope would."""

    def forward(self, output: State, target: Costate) -> Tensor:
        """C."""
        return torch.vdot(target.flatten(), output.flatten()).real

    def cost(self) -> Cost:
        """Its closed form."""
        return _LINEAR


@final
class _Linear(Cost):
    def value(self, output: State, target: Any) -> Tensor:
        return torch.vdot(target.flatten(), output.flatten()).real

    def slope(self, output: State, target: Any) -> Costate:
        return cast(Tensor, target)

    def fits(self, output: State, target: Any) -> bool:
        return True


_LINEAR = _Linear()
