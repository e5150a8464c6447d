"""Relaxing a worldsheet and looking at it."""

from typing import Any

import torch
from torch import Tensor

from worldsheet.core.outcome import Status
from worldsheet.core.record import Record
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.engine import Stop, engine_for, run
from worldsheet.problem import Chain, Fields
from worldsheet.schedule import Schedule
from worldsheet.solve.door import check_finite, check_input, default_schedule
from worldsheet.solve.gradients import sum_uses
from worldsheet.solve.solution import Solution

_EXACT = Dyadic()
_UNTIL_SETTLED = Stop()


@torch.no_grad()
def relax(  # noqa: PLR0913  the public signature, in the order of decreasing use
    chain: Chain,
    x: Tensor,
    target: Any,
    dynamics: Dynamics = _EXACT,
    schedule: Schedule | None = None,
    stop: Stop = _UNTIL_SETTLED,
    record: Record | None = None,
    *,
    initial: Fields | None = None,
    stack: bool = True,
) -> Solution:
    """Relax states and costates towards r = g = 0 (2), (3), where (4) is backprop's gradient, and return the fields.

    `.grad` is not touched. Batch-norm statistics move once, dropout draws one mask.

    Args:
        chain: the layers and the loss.
        x: input x_0, any shape and dtype that the first layer takes. Its gradient comes along if it requires grad.
        target: what the loss compares the output with.
        dynamics: how a site moves.
        schedule: when; by default `Wavefront` for a dynamics that settles at once, else `Synchronous`.
        stop: budget and tolerance.
        record: filled with the residuals of every site at every tick.
        initial: fields before tick 0; the dynamics' own by default.
        stack: let equal consecutive layers move as one batched operation where the schedule moves all sites at once.

    Raises:
        InputError: arguments that cannot be right, NaN or infinity in the input or a parameter.
        LayerError: a layer or loss that fails on what it receives.
    """
    check_input(x)
    check_finite(chain, x)
    schedule = default_schedule(dynamics, schedule)
    block = engine_for(chain, x, target, dynamics, schedule, keep=True, stack=stack)
    if record is not None or initial is not None or not schedule.once:
        block.start(initial)
    outcome = run(block, schedule, stop, record)
    good = outcome.status is not Status.DIVERGED
    input_gradient = block.input_gradient() if good else None
    pairs = sum_uses(block.efforts()) if good else []
    block.caller.replay.settle()
    return Solution(
        chain=chain,
        outcome=outcome,
        loss=block.loss,
        fields=block.fields,
        record=record,
        evaluations=block.evaluations,
        pulls=block.pulls,
        caller=block.caller,
        pairs=tuple(pairs),
        input_gradient=input_gradient,
    )
