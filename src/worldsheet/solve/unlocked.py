"""Training that never waits: parameters move at every tick, while the fields still move."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.reading import read
from worldsheet.core.record import Record
from worldsheet.core.words import number_of, plural
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.engine import Block, Efforts, ForwardEngine, ParameterUpdater, Stop, engine_for, run
from worldsheet.problem import Chain
from worldsheet.schedules import Leapfrog, Onset, Schedule, Synchronous
from worldsheet.solve.calibrate import calibrate
from worldsheet.solve.calibration import Calibration
from worldsheet.solve.checks import check_chain, check_finite, check_options, inputs_of
from worldsheet.solve.gradients import accumulate, sum_uses
from worldsheet.solve.solution import refuse_half


@final
@dataclass(frozen=True)
class UnlockedResult:
    """What a batch that was held for some ticks leaves behind.

    Attributes:
        outcome: budget spent, with a remedy if costates could not reach the first layer; or diverged.
        loss: C at the output as it is at the end, a scalar without graph.
        fields: states and costates at the end; `unlocked(..., initial=held.fields)` carries them to the next batch.
        record: the record that was asked for, or None.
    """

    outcome: Outcome
    loss: Tensor
    fields: Fields
    record: Record | None

    def __repr__(self) -> str:
        sites = plural(len(self.fields.states), "site")
        return f"UnlockedResult at {sites}: {self.outcome}\n  loss {number_of(self.loss)}"

    @property
    def ticks(self) -> int:
        """Ticks of optimisation time."""
        return self.outcome.ticks


def unlocked(  # noqa: PLR0913  the public signature, in the order of decreasing use
    chain: Chain,
    x: Any,
    target: Any,
    port: torch.optim.Optimizer,
    dynamics: Dynamics | Calibration = Dyadic(),
    *,
    ticks: int | None = None,
    schedule: Schedule | None = None,
    record: Record | None = None,
    initial: Fields | None = None,
) -> UnlockedResult:
    """Hold a batch for some ticks, at each of which states, costates and parameters move together.

    At a tick every site reads its neighbours' messages, and every layer its effort (4), from one moment:

        x_l ← x_l + …,    λ_l ← λ_l + …,    θ_l ← θ_l + flow(e_l),    e_l = (∂f_l/∂θ_l)ᵀ λ_l at x_{l−1}           (M)

    No site waits for another, and a tick costs each layer one evaluation and one pull-back whatever the depth. With
    depth D, the effort of the first layer is backprop's from tick 2D on, up to the D ticks by which its message is
    older than the parameters above. A tick is a K-th of a batch: a port's rates are scaled by `ports.per_tick`.

    With `PredictiveCoding()` this is incremental predictive coding, iPC: states and parameters descend one energy
    together. Its step belongs to the parameters that the batch began with; a `Calibration` follows them from batch to
    batch.

    A parameter whose effort is zero in every entry has no `.grad` at that tick, and stands still whatever its inertia.
    `.grad` of the parameters that the port moves is overwritten at each tick and None afterwards.

    Args:
        chain: the layers and the loss.
        x: input x_0, clamped.
        target: what the loss compares the output with.
        port: any `torch.optim.Optimizer` over parameters of the chain; it steps once a tick.
        dynamics: how a site moves; or a `Calibration`, whose step follows the parameters from batch to batch.
        ticks: K, by default 4D.
        schedule: when; by default every site at every tick.
        record: filled with the residuals of every site at every tick.
        initial: fields before tick 0, those of the last batch for example; the dynamics' own by default.

    References:
        Pehle & Slotine, arXiv 2602.10461; for iPC Salvatori et al., arXiv 2212.00720.

    Raises:
        InputError: arguments that cannot be right, NaN or infinity in the input or a parameter.
        LayerError: a layer or loss that fails on what it receives.
    """
    check_chain(chain, "unlocked")
    followed = dynamics if isinstance(dynamics, Calibration) else None
    check_options(followed.dynamics if followed else dynamics, schedule, record=record)
    check_finite(chain, *inputs_of(chain, x))
    dynamics = calibrate(chain, x, target, dynamics)
    refuse_half(dynamics.character.contrasted, "unlocked")
    schedule = _schedule_for(dynamics, schedule, initial)
    moved = _moved(chain, port, ticks)
    with torch.no_grad():  # layers record their own graphs
        engine = engine_for(chain, x, target, dynamics, schedule, keep=True, stack=False)
        assert isinstance(engine, (Block, ForwardEngine))
        engine.start(initial)
        depth = engine.topology.depth
        stop = Stop(max_ticks=4 * depth if ticks is None else ticks)
        outcome = run(engine, schedule, stop, record, ParameterUpdater(engine, _Answer(port, moved)))
        engine.close()
        if followed is not None:
            followed.tell(outcome)
        for parameter in moved:
            parameter.grad = None
        return UnlockedResult(_advised(outcome, depth, initial), engine.loss, engine.fields, record)


@final
class _Answer:
    """A port's answer to the efforts of one tick, parameter by parameter."""

    def __init__(self, port: torch.optim.Optimizer, moved: Iterable[Parameter]) -> None:
        self._port = port
        self._moved = {id(parameter): parameter for parameter in moved}

    def __call__(self, efforts: Efforts) -> bool:
        """Let the port step, unless an effort is not finite."""
        gradients = [pair for pair in sum_uses(efforts) if id(pair[0]) in self._moved]
        largest = _largest([gradient for _, gradient in gradients])
        if not all(map(isfinite, largest)):
            return False
        for parameter in self._moved.values():
            parameter.grad = None
        answered = [pair for pair, size in zip(gradients, largest, strict=True) if size]
        accumulate(answered)  # where no credit has come yet there is nothing to answer
        self._port.step()
        torch.clear_autocast_cache()  # where `autocast` surrounds the call, rounded parameters are kept in it
        return True


def _largest(gradients: Sequence[Tensor]) -> list[float]:
    """The size of the largest entry of each, which NaN survives: one read of a device, however many there are."""
    filled = [gradient for gradient in gradients if gradient.numel()]
    sizes = iter(read([torch.linalg.vector_norm(gradient, float("inf")) for gradient in filled]))
    return [next(sizes) if gradient.numel() else 0.0 for gradient in gradients]


def _schedule_for(dynamics: Dynamics, schedule: Schedule | None, initial: Fields | None) -> Schedule:
    if schedule is None and dynamics.character.leads is not None:
        return Leapfrog(dynamics.character.leads)
    if schedule is None:
        return Onset() if initial is None else Synchronous()
    if schedule.once:
        raise InputError(
            f"unlocked training cannot use {schedule}, which moves each site once",
            "a schedule that moves each site many times",
            "use Synchronous(), Sweep(count=None) or Asynchronous(generator)",
        )
    if schedule.carries:
        raise InputError(
            f"unlocked training cannot use {schedule}, whose moves are carried by Jacobians of layers that stand still",
            "a schedule in which a site reads its neighbours alone",
            "use Synchronous() or leave schedule out",
        )
    return schedule


def _moved(chain: Chain, port: Any, ticks: int | None) -> list[Parameter]:
    """The chain's parameters that the port moves."""
    if ticks is not None and ticks < 1:
        raise InputError(
            f"ticks must be at least 1, got {ticks}",
            "for how many ticks a batch is held, 1 or more",
            "leave ticks out to hold the batch for 4 times the depth",
        )
    if not isinstance(port, torch.optim.Optimizer) or isinstance(port, torch.optim.LBFGS):
        raise InputError(
            f"the port must be an optimizer that steps without a closure, got an object of type {type(port).__name__}",
            "a torch.optim.Optimizer that steps without a closure",
            "use ws.ports.Inertial(chain.parameters(), lr=…) or torch.optim.Adam(chain.parameters())",
        )
    held = {id(parameter) for group in port.param_groups for parameter in group["params"]}
    moved = [parameter for parameter in chain.parameters() if id(parameter) in held and parameter.requires_grad]
    if not moved:
        raise InputError(
            "this optimizer holds none of the chain's trainable parameters",
            "an optimizer over the chain's own parameters",
            "make it from chain.parameters(), after the module has been moved to its device",
        )
    return moved


def _advised(outcome: Outcome, depth: int, initial: Fields | None) -> Outcome:
    if outcome.status is Status.DIVERGED:
        advice = (
            "parameter gradients overflowed and parameters did not follow them: lower the optimizer's learning rate, "
            "or the rate of the dynamics"
        )
        return replace(outcome, remedy=advice)
    needed = 2 * depth
    if outcome.status is Status.BUDGET_SPENT and initial is None and outcome.ticks < needed:
        advice = f"costates need {needed} ticks to reach the first layer: raise ticks, or carry fields with initial="
        return replace(outcome, remedy=advice)
    return outcome
