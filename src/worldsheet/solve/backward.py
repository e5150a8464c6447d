"""The one changed line of a training loop."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from worldsheet.core.errors import InputError, RelaxationError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.reading import read
from worldsheet.cut import Itself, pull_by_sites
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.engine import Engine, Stop, engine_for, run
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
    reads_start,
)
from worldsheet.solve.gradients import accumulate, sum_uses
from worldsheet.solve.solution import refuse_diverged, refuse_half, refuse_other_sites

LARGE = 0.1
"""A residual that says that some site has hardly heard of the cost."""


_ATTEMPTS = 4  # relaxations of one batch again with smaller steps, each of at most half the last
_ROUNDING = 64  # predictions that are computed anew differ from states by rounding, which looks like a little credit


class NotConvergedWarning(UserWarning):
    """Gradients were used although the fields were far from rest, and nobody had chosen the budget."""


class UnstableStepWarning(UserWarning):
    """Gradients were used although the step of the relaxation was too long for these layers."""


def backward(  # noqa: PLR0913  the public signature, in the order of decreasing use
    chain: Chain,
    x: Any,
    target: Any,
    dynamics: Dynamics | Calibration = Dyadic(),
    *,
    schedule: Schedule | None = None,
    stop: Stop = Stop(),
    recompute: bool = False,
    compile: bool = False,
) -> Tensor:
    """Relax, add the gradients to `.grad` as `loss.backward()` does, and return the loss.

    With the defaults each layer is evaluated once and pulled back once, gradients are backprop's to rounding, and what
    everyone has read is let go at once, so that time and memory are those of backpropagation. Only costates that a
    parameter needs are computed: frozen layers at the bottom cost a forward pass. Use `relax` to look at the fields.

    The loss and the sum of the input are read once, after the forward pass, so that nothing is added to `.grad` where
    they are not finite: on a GPU that is the one moment at which the host waits for the device.

    Args:
        chain: the layers and the loss.
        x: input x_0; its `.grad` is filled too if it requires grad. For a traced module also a tuple of arguments, or a
            dict of arguments by name.
        target: what the loss compares the output with.
        dynamics: how a site moves; or a `Calibration`, whose step follows the parameters from call to call.
        schedule: when; by default `Wavefront` for a dynamics that settles at once, else `CreditFront`, `Leapfrog` or
            `Synchronous`.
        stop: budget and tolerance.
        recompute: keep states only and evaluate each layer once more to pull back through it, which takes the memory of
            the states and of one layer's insides; for a schedule that moves each site once.
        compile: as for `relax`.

    Returns:
        The loss, a scalar without graph.

    Raises:
        InputError: arguments that cannot be right; NaN or infinity in the input, or in a parameter if the loss shows
            it.
        LayerError: a layer or loss that fails on what it receives.
        RelaxationError: the relaxation diverged, or the loss is not finite. `.grad` is untouched in all these cases.

    Warns:
        NotConvergedWarning: a tolerance was asked for and not reached, no budget was asked for and the residual is
            above 0.1 at the end of the default one, or credit did not reach all parameters.
        UnstableStepWarning: residuals grew at the end as at no stable step, so that gradients may point anywhere.
    """
    check_chain(chain, "backward")
    followed = dynamics if isinstance(dynamics, Calibration) else None
    check_options(followed.dynamics if followed else dynamics, schedule, stop)
    inputs = inputs_of(chain, x)
    dynamics = calibrate(chain, x, target, dynamics)
    refuse_half(dynamics.character.contrasted, "backward")
    schedule = default_schedule(dynamics, schedule)
    if recompute and not schedule.once:
        raise InputError(
            f"recompute=True does not apply to {schedule}, which moves sites many times",
            "a schedule that moves each site once: Wavefront() or Sweep()",
            "leave recompute out: other schedules evaluate every layer at every tick anyway",
        )
    if not chain.is_path and schedule.once and stop.max_ticks is None:
        return _by_sites(chain, x, target, inputs, recompute=recompute)
    with torch.no_grad():  # layers record their own graphs
        attempt = partial(_relaxed, chain, x, target, schedule, stop, recompute=recompute, compiled=compile)
        engine, outcome = attempt(dynamics)
        if followed is not None:
            engine, outcome = _until_stable(followed, partial(followed.at, chain, x, target), attempt, engine, outcome)
        to_input = engine.input_gradient()
        efforts, loss = engine.efforts(), engine.loss
        engine.close()
        _refuse_unusable(chain, inputs, loss, outcome)
        gradients = sum_uses(efforts)
        if to_input is not None:
            gradients.append((x, to_input.clone()))
        short = _out_of_reach(engine, outcome, gradients)
        accumulate(gradients)
    if _falls_short(outcome, stop):
        warnings.warn(f"the relaxation did not converge, {outcome}", NotConvergedWarning, stacklevel=2)
    if outcome.growing:
        warnings.warn(f"gradients may point anywhere: {outcome}", UnstableStepWarning, stacklevel=2)
    if short is not None:
        warnings.warn(short, NotConvergedWarning, stacklevel=2)
    return loss


def _relaxed(  # noqa: PLR0913  what `backward` was given
    chain: Chain,
    x: Any,
    target: Any,
    schedule: Schedule,
    stop: Stop,
    dynamics: Dynamics,
    *,
    recompute: bool,
    compiled: bool,
) -> tuple[Engine, Outcome]:
    engine = engine_for(chain, x, target, dynamics, schedule, keep=False, recompute=recompute, compiled=compiled)
    if reads_start(schedule, stop, engine.topology):
        engine.start(None)
    return engine, run(engine, schedule, stop, measure_final=False)


def _until_stable(
    followed: Calibration,
    again: Callable[[], Dynamics],
    attempt: Callable[[Dynamics], tuple[Engine, Outcome]],
    engine: Engine,
    outcome: Outcome,
) -> tuple[Engine, Outcome]:
    """The same relaxation with smaller steps, as if it were the first, for as long as its residuals grow."""
    for _ in range(_ATTEMPTS):
        followed.tell(outcome)
        if not (outcome.growing or outcome.status is Status.DIVERGED):
            break
        engine.problem.undo()
        engine, outcome = attempt(again())
    return engine, outcome


def _out_of_reach(engine: Engine, outcome: Outcome, gradients: Sequence[tuple[Tensor, Tensor]]) -> str | None:
    """What to say if the budget was shorter than the network is deep, and credit did not reach all parameters."""
    depth = engine.topology.depth
    if outcome.status is not Status.BUDGET_SPENT or outcome.ticks >= depth:
        return None
    sizes = read([gradient.norm().double() for _, gradient in gradients])
    silent = sum(size <= _ROUNDING * engine.precision * max(sizes) for size in sizes)
    if not silent:
        return None
    return (
        f"credit did not cross the network, {silent} of {len(gradients)} gradients are zero: it moves one layer a "
        f"tick at most, and {outcome.ticks} ticks are too few for {depth} layers; raise max_ticks to {2 * depth}"
    )


def _by_sites(chain: Chain, x: Any, target: Any, inputs: Sequence[Tensor], *, recompute: bool) -> Tensor:
    """One forward of the user's own and one pull-back a site, in the order in which costates become final."""
    run_, cost = chain.program.run(x, target, Itself(), recompute=recompute)
    chain.program.settle(run_, cost)
    loss = cost.detach()
    _refuse_unusable(chain, inputs, loss, Outcome(Status.CONVERGED, 0))
    with torch.no_grad():
        pull_by_sites(run_, cost, once=isinstance(chain.module, nn.parallel.DistributedDataParallel))
    return loss


def _falls_short(outcome: Outcome, stop: Stop) -> bool:
    """Whether the user should hear of it: a tolerance was missed, or a budget that nobody chose leaves much to do."""
    if outcome.status is not Status.BUDGET_SPENT:
        return False
    if stop.tol is not None:
        return True
    return stop.max_ticks is None and outcome.residual is not None and outcome.residual > LARGE


def _refuse_unusable(chain: Chain, inputs: Sequence[Tensor], loss: Tensor, outcome: Outcome) -> None:
    refuse_other_sites(outcome)
    if are_finite([loss, *inputs]) and outcome.status is not Status.DIVERGED:
        return
    check_finite(chain, *inputs)
    refuse_diverged(outcome)
    raise RelaxationError(
        f"the loss is {loss.item()}, though the input and all parameters are finite",
        "a finite loss",
        "an activation or the loss overflowed: lower the learning rate, or check log and division in the loss",
    )
