"""What a stage does when: an order is data, printed and checked without tensors or processes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import count, pairwise
from typing import NamedTuple, final

from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.pipeline.packets import Counted, Supply


class ActionType(Enum):
    """What a stage can do next."""

    FORWARD = "F"
    PULL = "B"
    UPDATE = "U"


class Waiting(Enum):
    """What a stage that cannot go on waits for."""

    PACKET = "a packet that is not there yet"
    MESSAGE = "a message of a neighbour"


class Action(NamedTuple):
    """One act of one stage.

    Attributes:
        act: carry a packet up, pull its credit back, or move the parameters.
        packet: its number, counted from 0; for an update the last packet that it answers.
    """

    act: ActionType
    packet: int

    def __str__(self) -> str:
        return f"{self.act.value}{self.packet}"


class PipelineSchedule(ABC):
    """The actions of every stage, from the first packet to the last. Every concrete order is final."""

    @property
    @abstractmethod
    def packets_per_update(self) -> int:
        """M: after how many packets a stage moves its parameters."""

    @property
    def flushes(self) -> bool:
        """Whether no packet is in flight when parameters move, so that stages may wait for each other then."""
        return False

    @abstractmethod
    def warmup(self, stage: int, stages: int) -> int:
        """How many packets a stage carries up before it waits for the first credit; one more than that is in flight."""

    @abstractmethod
    def endless(self, stage: int, stages: int) -> Iterator[Action]:
        """What stage 0..stages − 1 does with packets that never end, in order, with an update after every M of them."""

    def actions(self, stage: int, stages: int, packets: int) -> Iterator[Action]:
        """What stage 0..stages − 1 does with that many packets, in order."""
        found = of_packets(self.endless(stage, stages), Counted(packets))
        return (action for action in found if isinstance(action, Action))

    def delay(self, stage: int, stages: int) -> float:
        """Updates of a stage between carrying a packet up and answering its credit."""
        return self.warmup(stage, stages) / self.packets_per_update

    def under_way(self, stages: int) -> int:
        """The most messages on an edge at once: with room for fewer, stages may wait for each other for ever."""
        leads = [self.warmup(stage, stages) for stage in range(stages)]
        return 1 + max((below - above for below, above in pairwise(leads)), default=0)

    def table(self, stages: int, packets: int) -> str:
        """The order in writing, a line a stage."""
        return "\n".join(
            f"{stage:>3}  {' '.join(str(action) for action in self.actions(stage, stages, packets))}"
            for stage in range(stages)
        )


def of_packets(actions: Iterator[Action], supply: Supply) -> Iterator[Action | Waiting]:
    """Of the actions for packets that never end those for the packets that there are.

    Where no packet follows, what would be done with it is left out, and packets that have been answered since the last
    update have one of their own at the end. `Waiting.PACKET` comes while nobody knows whether a packet follows.
    """
    due = False
    for action in actions:
        while not (here := supply.has(action.packet)) and supply.is_open:
            yield Waiting.PACKET
        if here:
            due = action.act is ActionType.PULL or (due and action.act is ActionType.FORWARD)
            yield action
        elif action.act is ActionType.PULL:
            if due:
                yield Action(ActionType.UPDATE, action.packet - 1)
            return


@final
@dataclass(frozen=True)
class Unlocked(PipelineSchedule):
    """Packets flow without pause: after its lead a stage alternates one packet up and one credit back.

    Stage s of P leads by (P − 1 − s)(1 + slack) packets, and has at most one more in flight. A credit answers
    parameters that have moved (P − 1 − s)(1 + slack)/M times since its packet passed.

    Args:
        packets_per_update: M.
        slack: packets more on each edge, which cover what a packet takes longer in one stage than in the next.

    Raises:
        InputError: M below 1 or a negative slack.
    """

    packets_per_update: int = 8
    slack: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _refuse_below_one(self.packets_per_update)
        if self.slack < 0:
            raise InputError(
                f"slack must be 0 or more packets, got {self.slack}", "0, 1, 2, …", "use slack=0, the least staleness"
            )

    def warmup(self, stage: int, stages: int) -> int:
        """(P − 1 − s)(1 + slack)."""
        return (stages - 1 - stage) * (1 + self.slack)

    @override
    def endless(self, stage: int, stages: int) -> Iterator[Action]:
        return _alternating(self.warmup(stage, stages), self.packets_per_update)


@final
@dataclass(frozen=True)
class Locked(PipelineSchedule):
    """A flush before every update: all packets of an update see the same parameters, and the pipeline runs dry.

    The oracle: its gradients are those of one process to the last bit. A stage idles (P − 1)/(M + P − 1) of its time.

    Args:
        packets_per_update: M.

    Raises:
        InputError: M below 1.
    """

    packets_per_update: int = 8

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        _refuse_below_one(self.packets_per_update)

    @property
    @override
    def flushes(self) -> bool:
        return True

    def warmup(self, stage: int, stages: int) -> int:
        """P − 1 − s, but no more than an update has packets."""
        return min(stages - 1 - stage, self.packets_per_update - 1)

    def delay(self, stage: int, stages: int) -> float:
        """None: nothing moves while packets are in flight."""
        return 0.0

    @override
    def endless(self, stage: int, stages: int) -> Iterator[Action]:
        many = self.packets_per_update
        for first in count(0, many):
            for action in of_packets(_alternating(self.warmup(stage, stages), many), Counted(many)):
                if isinstance(action, Action):
                    yield Action(action.act, first + action.packet)


def _alternating(lead: int, many: int) -> Iterator[Action]:
    """So many packets up, then one up and one credit back in turn, and an update after every M credits."""
    for packet in range(lead):
        yield Action(ActionType.FORWARD, packet)
    for packet in count():
        yield Action(ActionType.FORWARD, packet + lead)
        yield Action(ActionType.PULL, packet)
        if (packet + 1) % many == 0:
            yield Action(ActionType.UPDATE, packet)


class BusyInterval(NamedTuple):
    """When a stage did what, in units of time."""

    stage: int
    action: Action
    begin: float
    end: float


def timeline(
    schedule: PipelineSchedule,
    packets: int,
    forward: Sequence[float],
    pull: Sequence[float],
    efforts: Sequence[float] | None = None,
    travel: float = 0.0,
) -> list[BusyInterval]:
    """Who computes what when.

    Args:
        schedule: what stages do.
        packets: how many pass.
        forward: what each stage needs to carry one up.
        pull: what each needs to pull its credit back.
        efforts: what each needs for the efforts, when the credit has left; nothing, or part of `pull`, if left out.
        travel: what a message takes.

    Raises:
        InputError: a schedule in which stages wait for each other for ever.
    """
    stages = len(forward)
    waiting = [list(schedule.actions(stage, stages, packets)) for stage in range(stages)]
    clock = [0.0] * stages
    done: dict[tuple[int, ActionType, int], float] = {}
    spans: list[BusyInterval] = []
    while any(waiting):
        moved = False
        for stage in range(stages):
            while waiting[stage] and (ready := _ready(waiting[stage][0], stage, stages, done)) is not None:
                action = waiting[stage].pop(0)
                begin = max(clock[stage], ready)
                sent = (
                    begin
                    + {ActionType.FORWARD: forward[stage], ActionType.PULL: pull[stage], ActionType.UPDATE: 0.0}[
                        action.act
                    ]
                )
                done[stage, action.act, action.packet] = sent + travel
                clock[stage] = sent + (efforts[stage] if efforts and action.act is ActionType.PULL else 0.0)
                spans.append(BusyInterval(stage, action, begin, clock[stage]))
                moved = True
        if not moved:
            raise InputError(
                f"{stages} stages under {schedule} wait for each other for ever",
                "an order in which every message comes",
                "use Unlocked()",
            )
    return spans


def _ready(action: Action, stage: int, stages: int, done: dict[tuple[int, ActionType, int], float]) -> float | None:
    """When the message that a action needs is there; None if its sender has not come to it yet."""
    if action.act is ActionType.FORWARD:
        return 0.0 if stage == 0 else done.get((stage - 1, ActionType.FORWARD, action.packet))
    if action.act is ActionType.PULL:
        return 0.0 if stage == stages - 1 else done.get((stage + 1, ActionType.PULL, action.packet))
    return 0.0


def _refuse_below_one(packets_per_update: int) -> None:
    if packets_per_update < 1:
        raise InputError(
            f"packets_per_update must be at least 1, got {packets_per_update}", "1 or more", "use 8; 1 is the stalest"
        )
