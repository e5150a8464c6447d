"""Which engine carries a relaxation."""

from typing import Any

from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import Engine
from worldsheet.engine.batched.engine import StackedBlock
from worldsheet.engine.batched.runs import nothing_to_compile
from worldsheet.engine.forward import ForwardEngine
from worldsheet.engine.sitewise.block import Block
from worldsheet.problem import Chain
from worldsheet.schedules import Schedule


def engine_for(  # noqa: PLR0913  what a verb was given
    chain: Chain,
    x: Any,
    target: Any,
    dynamics: Dynamics,
    schedule: Schedule,
    *,
    keep: bool,
    stack: bool = True,
    recompute: bool = False,
    compiled: bool = False,
) -> Engine:
    """Of a path, equal sites as one where the schedule moves all at once, else site by site; else run by run.

    A dynamics that settles at once moves site by site too: its fields are then the same to the last bit under every
    schedule, which batched products would break. So does one whose credit crosses the network within a tick.

    Raises:
        InputError: compilation asked for where sites move one by one.
    """
    if not chain.is_path:
        if compiled:
            raise nothing_to_compile()
        return ForwardEngine(chain, x, target, dynamics, schedule)
    through = dynamics.settles_at_once or dynamics.character.whole_credit
    if stack and schedule.uniform and not through:
        return StackedBlock(chain, x, target, dynamics, compiled=compiled)
    if compiled:
        raise nothing_to_compile()
    return Block(chain, x, target, dynamics, schedule, keep=keep, recompute=recompute)
