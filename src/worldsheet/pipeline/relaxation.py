"""A relaxation spread over stages."""

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.outcome import Outcome, Status
from worldsheet.core.record import Record
from worldsheet.core.words import number_of
from worldsheet.dynamics import Dyadic, Dynamics
from worldsheet.engine import Stop, run
from worldsheet.pipeline.partition import Plan, balanced, untied_parts_of
from worldsheet.pipeline.row import StagedEngine
from worldsheet.pipeline.segment import Endpoints, StageBlock
from worldsheet.pipeline.transport.base import queues
from worldsheet.problem import Chain
from worldsheet.schedules import Schedule
from worldsheet.solve.checks import check_finite, check_input, default_schedule
from worldsheet.solve.gradients import accumulate, sum_uses
from worldsheet.solve.positions import positions_of
from worldsheet.solve.solution import Pairs, named, owned, refuse_diverged, refuse_half


@final
@dataclass(frozen=True)
class StagedResult:
    """What a relaxation left at the sites of this process.

    Attributes:
        chain: the whole of what was relaxed.
        sites: those here, in the numbers of the whole chain.
        outcome: how it ended, the same at every stage.
        loss: C(x_L, target), in float64, the same at every stage.
        fields: states and costates of the sites here.
        record: residuals of all sites, if a record was asked for.
        pairs: the parameters here with their gradients; empty if the relaxation diverged.
        input_gradient: ∂C/∂x_0 at the stage that has the input, if that requires grad.
    """

    chain: Chain
    sites: range
    outcome: Outcome
    loss: Tensor
    fields: Fields
    record: Record | None
    pairs: Pairs = field(repr=False)
    input_gradient: Tensor | None = field(repr=False)

    def __repr__(self) -> str:
        here = f"sites {self.sites[0]} to {self.sites[-1]}" if len(self.sites) else "no sites"
        return f"StagedResult at {here}: {self.outcome}\n  loss {number_of(self.loss)}"

    def gradients(self) -> dict[str, Tensor]:
        """∂C/∂θ (4) of the parameters here, under their names in the whole chain.

        Raises:
            RelaxationError: the relaxation diverged, so there is nothing to use.
        """
        refuse_diverged(self.outcome)
        return named(self.chain, self.pairs)

    def accumulate(self) -> None:
        """Add these gradients to the parameters' `.grad`.

        Raises:
            RelaxationError: the relaxation diverged; `.grad` is untouched.
        """
        refuse_diverged(self.outcome)
        accumulate(owned(self.pairs))


def relax(  # noqa: PLR0913  the signature of `worldsheet.relax`, with the stages
    chain: Chain,
    stages: int | Plan,
    x: Tensor,
    target: Any,
    dynamics: Dynamics = Dyadic(),
    *,
    schedule: Schedule | None = None,
    stop: Stop = Stop(),
    record: Record | None = None,
    place: Endpoints | None = None,
) -> StagedResult:
    """Relax a chain whose layers are spread over stages: the fields of `worldsheet.relax(stack=False)`, bit for bit.

    Per phase and edge a state goes up and a pulled-back credit down, and nothing else; no stage waits for more than its
    two neighbours. Measuring a residual, which a tolerance asks for at every tick, or every `stop.every` ticks, hands a
    table of norms from neighbour to neighbour up the chain and back down; a number of ticks alone costs one such
    journey, at the end. Layers that draw random numbers draw those of their own process.

    Args:
        chain: the layers and the loss; each layer reads the one below.
        stages: how many, or a `Plan`.
        x: input x_0; only the first stage looks at it.
        target: only the last stage looks at it.
        dynamics: how a site moves; its constants are numbers, as `worldsheet.calibrate` gives them.
        schedule: when; as in `worldsheet.relax` by default. `Synchronous` and `Leapfrog` keep all stages busy.
        stop: budget and tolerance.
        record: filled with the residuals of every site, at every stage.
        place: which stage this process is, and its edges; None for all of them, in turns.

    Raises:
        InputError: arguments that cannot be right, automatic constants, a schedule whose messages are old.
        LayerError: a layer or loss that fails on what it receives.
        NeighbourError: a neighbour that is gone or silent.
    """
    plan = stages if isinstance(stages, Plan) else balanced([1.0] * len(chain), stages)
    schedule = _checked(dynamics, default_schedule(dynamics, schedule))
    dynamics.fit(len(chain))
    _refuse_uncounted(dynamics, chain, target)
    here = _places(chain, plan, place)
    for part, each in here:
        check_finite(part, *([x] if each.stage == 0 else []))
    segments = [_segment(part, plan, dynamics, each) for part, each in here]
    if segments[0].first:
        check_input(x)
    row = StagedEngine(chain, segments, x, target, dynamics, schedule)
    with torch.no_grad():  # layers record their own graphs
        row.start()
        outcome = run(row, schedule, stop, record)
        good = outcome.status is not Status.DIVERGED
        pairs = sum_uses(row.efforts()) if good else []
        share = StagedResult(
            chain=chain,
            sites=range(segments[0].sites.start, segments[-1].sites.stop),
            outcome=outcome,
            loss=row.loss,
            fields=row.fields,
            record=record,
            pairs=tuple(pairs),
            input_gradient=row.input_gradient() if good else None,
        )
        row.close()
    return share


def _checked(dynamics: Dynamics, schedule: Schedule) -> Schedule:
    refuse_half(dynamics.character.contrasted, "a relaxation in stages")
    if dynamics.character.whole_credit:
        raise InputError(
            f"{type(dynamics).__name__} needs the credit of the whole network in every tick, and a stage hears only "
            "its neighbours",
            "a dynamics whose messages go from neighbour to neighbour",
            "use PredictiveCoding(), which has the same rest",
        )
    if dynamics.automatic:
        raise InputError(
            f"{type(dynamics).__name__} has automatic constants, which no stage can find by itself",
            "numbers for all constants",
            "dynamics = ws.calibrate(chain, x, target, dynamics), once and for all stages",
        )
    if schedule.carries:
        raise InputError(
            f"stages cannot relax by {schedule}, whose moves are carried along the whole path at once",
            "a schedule in which a site reads its neighbours alone",
            "use Synchronous() or leave schedule out",
        )
    if schedule.memory:
        raise InputError(
            f"messages of {schedule} may be {schedule.memory} ticks old, and stages keep none",
            "a schedule whose messages are fresh",
            "use Synchronous(), Leapfrog(), Wavefront() or Sweep()",
        )
    return schedule


def _refuse_uncounted(dynamics: Dynamics, chain: Chain, target: Any) -> None:
    """Only the last stage sees the target of sequences, whose positions all stages must know."""
    if dynamics.counts_positions and positions_of(chain, target, target) != 1:
        raise InputError(
            f"{type(dynamics).__name__} must know over how many positions of a sample the loss averages, and only the "
            "last stage sees them",
            "their number",
            "dynamics = ws.calibrate(chain, x, target, dynamics), once and for all stages; or say positions=",
        )


def _places(chain: Chain, plan: Plan, place: Endpoints | None) -> list[tuple[Chain, Endpoints]]:
    """The parts that are here, with their edges."""
    parts = untied_parts_of(chain, plan)
    if place is not None:
        return [(parts[place.stage], place)]
    fields, tables = queues(plan.stages), queues(plan.stages)
    return [(part, Endpoints(stage, fields[stage], tables[stage])) for stage, part in enumerate(parts)]


def _segment(part: Chain, plan: Plan, dynamics: Dynamics, place: Endpoints) -> StageBlock:
    layers = plan.layers(place.stage)
    return StageBlock(part, range(layers.start + 1, layers.stop + 1), plan.cuts[-1], dynamics, place)
