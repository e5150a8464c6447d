"""Norms of efforts on their way between stages, beside states and credits."""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from worldsheet.core.bundle import Parcel, bundled, with_note, without_note
from worldsheet.pipeline.clipping import Norms, beside
from worldsheet.pipeline.schedule import Waiting
from worldsheet.pipeline.transport.base import Transport


@final
class NormExchange:
    """What a stage knows of the others' norms.

    Args:
        travels: whether norms go along with every state and credit, the newest that each stage knows.

    Attributes:
        norms: of the stages below, of this one at its last update, and of the stages above.
    """

    def __init__(self, *, travels: bool) -> None:
        self._travels = travels
        self.norms = Norms()

    def measured(self, own: Tensor | None) -> None:
        """Take in this stage's norms of an update."""
        self.norms = self.norms._replace(own=own)

    def from_below(self, state: Parcel) -> Parcel:
        """A state, less the norms that came along."""
        if not self._travels:
            return state
        return self._heard_below(state)

    def from_above(self, credit: Parcel) -> Parcel:
        """A credit, likewise."""
        return self._heard_above(credit) if self._travels else credit

    def to_above(self, state: Parcel) -> Parcel:
        """A state, with the norms of this stage and of those below."""
        return self._with(state, self.norms.below, self.norms.own) if self._travels else state

    def to_below(self, credit: Parcel) -> Parcel:
        """A credit, with the norms of this stage and of those above."""
        return self._with(credit, self.norms.own, self.norms.above) if self._travels else credit

    def agree(self, packet: int, transport: Transport, *, first: bool, last: bool) -> Iterator[Waiting]:
        """Learn the norms of all stages of this very update: down the chain and up again; while it waits, it says so.

        Args:
            packet: the last of the update.
            transport: the edges, on which nothing else is under way.
            first: whether nobody is below.
            last: whether nobody is above.
        """
        if not last:
            while not transport.credit_here(packet):
                yield Waiting.MESSAGE
            self._heard_above(transport.take_credit(packet))
        if not first:
            transport.send_credit(packet, self._with(_NOTHING, self.norms.own, self.norms.above))
            while not transport.state_here(packet):
                yield Waiting.MESSAGE
            self._heard_below(transport.take_state(packet))
        if not last:
            transport.send_state(packet, self._with(_NOTHING, self.norms.below, self.norms.own))

    def _heard_below(self, state: Parcel) -> Parcel:
        state, note = without_note(state)
        self.norms = self.norms._replace(below=note)
        return state

    def _heard_above(self, credit: Parcel) -> Parcel:
        credit, note = without_note(credit)
        self.norms = self.norms._replace(above=note)
        return credit

    @staticmethod
    def _with(given: Parcel, *norms: Tensor | None) -> Parcel:
        known = beside(*norms)
        return with_note(given, torch.empty(0) if known is None else known)


_NOTHING = bundled(())
