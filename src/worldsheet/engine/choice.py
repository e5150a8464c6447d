"""Which engine carries a relaxation."""

from typing import Any

from worldsheet.core.errors import InputError
from worldsheet.dynamics import Dyadic, Dynamics
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
    if schedule.carries:
        _check_carried(chain, dynamics, schedule, compiled=compiled)
        return StackedBlock(chain, x, target, dynamics, carried=True)
    if not chain.is_path:
        if compiled:
            raise nothing_to_compile()
        return ForwardEngine(chain, x, target, dynamics, schedule)
    one_by_one = dynamics.settles_at_once or dynamics.character.whole_credit
    if stack and schedule.uniform and not one_by_one:
        return StackedBlock(chain, x, target, dynamics, compiled=compiled)
    if compiled:
        raise nothing_to_compile()
    return Block(chain, x, target, dynamics, schedule, keep=keep, recompute=recompute)


def _check_carried(chain: Chain, dynamics: Dynamics, schedule: Schedule, *, compiled: bool) -> None:
    if compiled:
        raise nothing_to_compile()
    if not chain.is_path or not isinstance(dynamics, Dyadic) or dynamics.rate != 1:
        raise InputError(
            f"{schedule} must have a path of layers that relaxes by Dyadic(rate=1), got "
            f"{'a path' if chain.is_path else 'a module of another kind'} and {dynamics}",
            "an nn.Sequential or a list of layers, and Dyadic(rate=1)",
            "leave schedule out, so that one is chosen for the dynamics",
        )
