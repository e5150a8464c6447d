"""What of a batched block is valid between two calls, and which calls lead from there to where.

    any moment ── start ──▶ Known ── measured ──▶ Measured ── tick, phase by phase ──▶ Known
    Known, Ahead ── planned tick ──▶ Ahead ── look ──▶ Known

The fields are always those of this moment. A transition that is not drawn here has no method, and what is not valid at
a moment no attribute, which the type checker sees.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, final

from worldsheet.core.errors import InputError
from worldsheet.engine.batched.messages import SlabMessages
from worldsheet.engine.batched.plan import Program, Programs
from worldsheet.engine.batched.slab import Slab
from worldsheet.schedules import Tick


class Started(NamedTuple):
    """What a start makes, for all that follows.

    Attributes:
        slabs: the fields.
        messages: what travels between them; to be asked through `Known` and `Measured` alone.
        programs: the plans of ticks, None where ticks cannot be planned.
    """

    slabs: list[Slab]
    messages: SlabMessages
    programs: Programs | None

    def program(self, tick: Tick) -> Program | None:
        """The plan of a tick, if there is one."""
        return None if self.programs is None else self.programs.of(tick)


class PlannedTick(NamedTuple):
    """A tick as a list of operations, and the moment behind it."""

    program: Program
    then: "Ahead"


@final
@dataclass(frozen=True, slots=True)
class Unstarted:
    """There are no fields yet."""

    def refused(self) -> InputError:
        """What is said to whoever asks for them."""
        return InputError(
            "StackedBlock: it has no fields before it was started",
            "a block whose `start` has been called",
            "call block.start(None) first, for the dynamics' own fields",
        )


@final
@dataclass(frozen=True, slots=True)
class Known:
    """Messages that are kept are of the fields as they are; others are made when they are asked for."""

    started: Started

    @property
    def messages(self) -> SlabMessages:
        """Of this moment."""
        return self.started.messages

    def measured(self) -> "Measured":
        """Somebody has looked at the messages of all sites."""
        return Measured(self.started)

    def planned(self, tick: Tick) -> PlannedTick | None:
        """The tick by a plan, if there is one."""
        program = self.started.program(tick)
        return None if program is None else PlannedTick(program, Ahead(self.started, program))


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """The messages of all sites have been made for an onlooker; they serve the next tick, which is not planned."""

    started: Started

    @property
    def messages(self) -> SlabMessages:
        """Of this moment."""
        return self.started.messages

    def measured(self) -> "Measured":
        """Nothing new."""
        return self

    def ticked(self) -> Known:
        """The tick that the messages served is over."""
        return Known(self.started)


@final
@dataclass(frozen=True, slots=True)
class Ahead:
    """Planned ticks have moved the fields past the messages, and left what nothing but an onlooker reads.

    Attributes:
        started: the fields, and messages that are older.
        program: the last tick, with a phase that is to be fired when one looks.
    """

    started: Started
    program: Program

    def planned(self, tick: Tick) -> PlannedTick | None:
        """The next tick by a plan, if there is one; what this one left is then left for good."""
        if tick is self.program.tick:
            return PlannedTick(self.program, self)
        program = self.started.program(tick)
        return None if program is None else PlannedTick(program, Ahead(self.started, program))

    def looked(self) -> Known:
        """Let go of the older messages. What was left is to be fired now."""
        for slab in self.started.slabs:
            slab.renew()
        return Known(self.started)


Moment: TypeAlias = Unstarted | Known | Measured | Ahead
