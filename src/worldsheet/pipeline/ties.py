"""Parameters that stages have in common: one of them moves each, and the others are told what it is."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.core.bundle import Parcel, bundled, with_note, without_note
from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import unnoticed_writes
from worldsheet.pipeline.schedule import Waiting
from worldsheet.pipeline.transport.base import Transport
from worldsheet.solve.gradients import sum_uses


class Tie(NamedTuple):
    """One parameter that layers of several stages use.

    Attributes:
        name: in the whole network.
        parameter: the one that all of them hold.
        stages: that use it, from the lowest, which moves it.
    """

    name: str
    parameter: Parameter
    stages: tuple[int, ...]

    @property
    def owner(self) -> int:
        """The stage that moves it."""
        return self.stages[0]

    def crosses(self, below: int) -> bool:
        """Whether it is told over the edge between a stage and the one above."""
        return self.stages[0] <= below < self.stages[-1]


Effort = tuple[Tensor, Tensor | None]
"""A parameter, and what one use of it asks of it."""


@final
class Ties:
    """What a stage has in common with others, and how it is told.

    A parameter belongs to the lowest stage that uses it. What packets see of it there goes up beside the first state
    after each update, and the stages above use that for the packets that follow: every packet sees one value of the
    parameter, wherever it is used. What the uses above ask of it comes down beside the credits and is added to what the
    lowest stage finds for the same packets. So it is a parameter of the lowest stage like any other, under any rule,
    and as late; its gradient is that of the packet's loss by the value that the packet has seen. When all packets have
    been answered, the others are told its last value.

    Args:
        ties: of the whole pipeline.
        stage: whose.
        exact: whether efforts are told packet by packet, which gives the bits of one process, or summed over an update.
    """

    def __init__(self, ties: Sequence[Tie], stage: int, *, exact: bool) -> None:
        self.own = [tie.parameter for tie in ties if tie.owner == stage]
        self.read = [tie.parameter for tie in ties if stage in tie.stages[1:]]
        self._up = [tie.parameter for tie in ties if tie.crosses(stage)]
        self._down = [tie.parameter for tie in ties if tie.crosses(stage - 1)]
        self._exact = exact
        self._seen: dict[int, Tensor] = {id(parameter): parameter.detach() for parameter in self.read}
        self._asked: dict[int, Tensor] = {}
        self._fresh = True
        _refuse_mixed([tie for tie in ties if tie.crosses(stage)])

    @property
    def values(self) -> list[Tensor]:
        """What the next packet sees of the parameters that a stage below moves."""
        return [self._seen[id(parameter)] for parameter in self.read]

    def moved(self, parameters: Sequence[Parameter], values: Sequence[Tensor] | None) -> None:
        """Packets see other values of the stage's own parameters from now on; the parameters themselves where None."""
        if not self.own:
            return
        shown = [p.detach() for p in parameters] if values is None else values
        known = {id(p): value for p, value in zip(parameters, shown, strict=True)}
        self._seen |= {id(p): known[id(p)] for p in self.own}
        self._fresh = True

    def forget(self) -> None:
        """Nothing is in flight any more, and what was told may not have arrived."""
        self._asked.clear()
        self._fresh = True

    def from_below(self, state: Parcel) -> Parcel:
        """A state, less the values that came along."""
        if not self._down:
            return state
        state, note = without_note(state)
        self._hear(note)
        return state

    def to_above(self, state: Parcel) -> Parcel:
        """A state, with the values that packets see from this one on."""
        if not self._up:
            return state
        fresh, self._fresh = self._fresh, False
        return with_note(state, self._together(self._up, self._seen) if fresh else torch.empty(0))

    def from_above(self, credit: Parcel) -> Parcel:
        """A credit, less what the uses above ask."""
        if not self._up:
            return credit
        credit, note = without_note(credit)
        for parameter, asked in _apart(self._up, note):
            self._ask(parameter, asked)
        return credit

    def is_told(self, closes: bool) -> bool:
        """Whether the credit of a packet takes efforts along, which are to be found before it leaves.

        Args:
            closes: whether the packet is the last one of its update.
        """
        return bool(self._down) and (closes or self._exact)

    def to_below(self, credit: Parcel, closes: bool) -> Parcel:
        """A credit, with what this stage's uses and those above have asked since the last time."""
        if not self._down:
            return credit
        if not self.is_told(closes):
            return with_note(credit, torch.empty(0))
        asked = {id(p): self._asked.pop(id(p), torch.zeros_like(p)) for p in self._down}
        return with_note(credit, self._together(self._down, asked))

    def divided(self, efforts: Iterable[Effort]) -> list[Effort]:
        """A packet's efforts of the stage's own parameters; those of others' are kept until they are told."""
        own: list[Effort] = [(p, self._asked.pop(id(p))) for p in self.own if id(p) in self._asked]
        read = {id(parameter) for parameter in self.read}
        others: list[Effort] = []
        for parameter, effort in efforts:
            (others if id(parameter) in read else own).append((parameter, effort))
        for parameter, effort in sum_uses([*self._kept(others), *others]):
            self._asked[id(parameter)] = effort
        return own

    def settle(self, packet: int, transport: Transport) -> Iterator[Waiting]:
        """Let the stages above have the last values, where all packets have been answered.

        Args:
            packet: the last of them.
            transport: the edges, on which nothing else is under way.
        """
        if self._down:
            while not transport.state_here(packet):
                yield Waiting.MESSAGE
            self.from_below(transport.take_state(packet))
        if self.read:
            _write(self.read, self.values)
        if self._up:
            last = {id(p): p.detach() for p in self.own}
            told = self._together(self._up, {**self._seen, **last})
            transport.send_state(packet, with_note(_NOTHING, told))
        self._fresh = True

    def _kept(self, efforts: Iterable[Effort]) -> list[Effort]:
        """What has been asked before of the same parameters."""
        named = {id(p): p for p, _ in efforts}
        return [(p, self._asked[key]) for key, p in named.items() if key in self._asked]

    def _ask(self, parameter: Parameter, asked: Tensor) -> None:
        known = self._asked.get(id(parameter))
        self._asked[id(parameter)] = asked if known is None else known + asked

    def _hear(self, note: Tensor) -> None:
        for parameter, value in _apart(self._down, note):
            self._seen[id(parameter)] = value
            self._fresh = True

    @staticmethod
    def _together(parameters: Sequence[Parameter], values: dict[int, Tensor]) -> Tensor:
        return torch.cat([values[id(parameter)].detach().reshape(-1) for parameter in parameters])


_NOTHING = bundled(())


def _apart(parameters: Sequence[Parameter], note: Tensor) -> list[tuple[Parameter, Tensor]]:
    """What stands in a note of each parameter; nothing in an empty one."""
    if not note.numel():
        return []
    parts = torch.split(note, [parameter.numel() for parameter in parameters])
    return [(p, part.view(p.shape)) for p, part in zip(parameters, parts, strict=True)]


@torch.no_grad()
def _write(parameters: Sequence[Parameter], values: Sequence[Tensor]) -> None:
    """In one process all stages hold the same parameter, which has its last value then."""
    for parameter, value in zip(parameters, values, strict=True):
        if not torch.equal(parameter, value):
            with unnoticed_writes([parameter]):
                parameter.copy_(value)


def _refuse_mixed(ties: Sequence[Tie]) -> None:
    for one, other in pairwise(ties):
        if one.parameter.dtype != other.parameter.dtype:
            raise InputError(
                f"parameters {one.name!r} of {one.parameter.dtype} and {other.name!r} of {other.parameter.dtype} are "
                "both used in several stages",
                "tied parameters of one dtype",
                "cut so that the uses of one of them are in one stage",
            )
