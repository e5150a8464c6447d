"""Relaxing a worldsheet and looking at it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from worldsheet.core.fields import Fields
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.private_torch import tree_map
from worldsheet.core.record import Record
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.engine import ForwardEngine, Stop, engine_for, run
from worldsheet.problem import Chain
from worldsheet.schedules import Schedule
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.calibration import Calibration
from worldsheet.solve.checks import (
    are_finite,
    check_chain,
    check_finite,
    check_options,
    default_schedule,
    inputs_of,
    moves_once,
    reads_start,
)
from worldsheet.solve.gradients import sum_uses
from worldsheet.solve.solution import Solution


def relax(  # noqa: PLR0913  the public signature, in the order of decreasing use
    chain: Chain,
    x: Any,
    target: Any,
    dynamics: Dynamics | Calibration = Dyadic(),
    *,
    schedule: Schedule | None = None,
    stop: Stop = Stop(),
    record: Record | None = None,
    initial: Fields | None = None,
    stack: bool = True,
    compile: bool = False,
) -> Solution:
    """Relax states and costates towards r = g = 0 (2), (3), where (4) is backprop's gradient, and return the fields.

    `.grad` is not touched. Batch-norm statistics move once, dropout draws one mask.

    Args:
        chain: the layers and the loss.
        x: input x_0, any shape and dtype that the first layer takes. Its gradient comes along if it requires grad. For
            a traced module also a tuple of arguments, or a dict of arguments by name.
        target: what the loss compares the output with.
        dynamics: how a site moves; or a `Calibration`, which is told the outcome.
        schedule: when; by default `Wavefront` for a dynamics that settles at once, else `Leapfrog`, `Synchronous` or,
            for a descent from the forward pass, `CreditFront`.
        stop: budget and tolerance.
        record: filled with the residuals of every site at every tick.
        initial: fields before tick 0; the dynamics' own by default.
        stack: let equal consecutive layers move as one batched operation where the schedule moves all sites at once.
        compile: let `torch.compile` write the code of equal layers without a closed form, for all of them at once; the
            first call, and the first on other shapes, waits for the compiler.

    Raises:
        InputError: arguments that cannot be right, NaN or infinity in the input or a parameter, nothing to compile or
            no compiler.
        LayerError: a layer or loss that fails on what it receives.
    """
    check_chain(chain, "relax")
    followed = dynamics if isinstance(dynamics, Calibration) else None
    check_options(followed.dynamics if followed else dynamics, schedule, stop, record)
    inputs = inputs_of(chain, x)
    check_finite(chain, *inputs)
    dynamics = calibrate(chain, x, target, dynamics)
    schedule = default_schedule(dynamics, schedule, fresh=initial is None)
    with torch.no_grad():  # layers record their own graphs
        engine = engine_for(chain, x, target, dynamics, schedule, keep=True, stack=stack, compiled=compile)
        if isinstance(engine, ForwardEngine) and record is None and moves_once(schedule, stop, engine.topology):
            engine.settle()
            outcome = Outcome(Status.CONVERGED, schedule.settles_after(engine.topology) or 0)
        else:
            if record is not None or initial is not None or reads_start(schedule, stop, engine.topology):
                engine.start(initial)
            outcome = run(engine, schedule, stop, record)
        outcome = _checked(outcome, engine.loss)
        if followed is not None:
            followed.tell(outcome)
        good = outcome.status not in (Status.DIVERGED, Status.SITES_CHANGED)
        to_input = engine.input_gradient() if good else None
        pairs = sum_uses(engine.efforts()) if good else []
        engine.close()
        own = {id(tensor) for tensor in inputs}
        given = {id(leaf): gradient for leaf, gradient in pairs if id(leaf) in own}
        return Solution(
            chain=chain,
            outcome=outcome,
            loss=engine.loss,
            fields=engine.fields,
            record=record,
            evaluations=engine.evaluations,
            pulls=engine.pulls,
            problem=engine.problem,
            pairs=tuple(pair for pair in pairs if id(pair[0]) not in own),
            half=dynamics.character.contrasted,
            input_gradient=_like(x, given if to_input is None else {id(x): to_input.clone()}),
        )


def _like(x: Any, gradients: Mapping[int, Tensor]) -> Any:
    """The gradients in the places of their tensors."""
    if isinstance(x, Tensor):
        return gradients.get(id(x))
    return tree_map(lambda leaf: gradients.get(id(leaf)), x)


def _checked(outcome: Outcome, loss: Tensor) -> Outcome:
    """An exact schedule measures nothing, so that only its loss tells an overflow."""
    if outcome.status in (Status.DIVERGED, Status.SITES_CHANGED) or are_finite([loss]):
        return outcome
    remedy = "the loss is not finite though input and parameters are: lower the learning rate, or check its logarithms"
    return Outcome(Status.DIVERGED, outcome.ticks, outcome.residual, remedy)
