"""The same loop body for many sites at once: fields of one shape in one tensor, equal layers as one batched map."""

from math import isfinite
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.fields import Fields
from worldsheet.core.reading import read
from worldsheet.core.types import Field, Residuals
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import Engine, Residual, check_answer, total
from worldsheet.engine.batched.carried import carried_down, carried_up, check_carried
from worldsheet.engine.batched.messages import SlabMessages
from worldsheet.engine.batched.moments import Ahead, Known, Measured, Moment, Started, Unstarted
from worldsheet.engine.batched.plan import programs_for
from worldsheet.engine.batched.runs import runs
from worldsheet.engine.batched.slab import Move, Shift, Slab, Span, Spans, cut, slabs
from worldsheet.engine.measure import residual_of, start_fields, table_of
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.problem import BoundLayers, Chain
from worldsheet.schedules import Phase, Tick


@final
class StackedBlock(Engine):
    """A chain whose consecutive sites of one shape move as one tensor, for schedules that move many sites at once.

    The same numbers as `Block` to rounding. A tick of S equal layers is a few batched kernels instead of S small ones.
    Sites of one shape whose layers differ move together too; their layers are evaluated one by one.

    Args:
        chain: the problem; the output always moves alone.
        x: input x_0.
        target: what the loss compares the output with.
        dynamics: how a site moves; it sees many sites at once and must treat them alike.
        compiled: whether equal layers without a closed form are compiled.
        carried: whether what moves is carried along by the layers' Jacobians, so that a tick is one of Newton's.
    """

    def __init__(
        self,
        chain: Chain,
        x: Tensor,
        target: Any,
        dynamics: Dynamics,
        *,
        compiled: bool = False,
        carried: bool = False,
    ) -> None:
        self._carried = carried
        self._compiled = compiled
        self.chain = chain
        self.topology = chain.topology
        self.dynamics = dynamics
        self.caller = BoundLayers(chain, target)
        self._messages = Messages(self.caller, everywhere=True, to_input=x.requires_grad)
        self._x = x
        self._spans = Spans()
        self._moment: Moment = Unstarted()
        self._planned_evaluations = self._planned_pulls = 0

    @property
    def evaluations(self) -> int:
        """Forward evaluations of layers, a run of S layers counted S times."""
        return self._messages.evaluations + self._started.messages.evaluations + self._planned_evaluations

    @property
    def pulls(self) -> int:
        """Pull-backs through layers, likewise."""
        return self._messages.pulls + self._started.messages.pulls + self._planned_pulls

    @torch.no_grad()
    def start(self, initial: Fields | None) -> None:
        """See `Engine.start`; evaluates every layer once in order."""
        outputs = [self._x, self._messages.evaluation(1, [self._x]).output]  # kept, since the input never moves
        for site in range(2, len(self.chain) + 1):
            outputs.append(self._messages.forward(site, outputs[-1]))
        fields = start_fields(self.dynamics, outputs[1:], initial)
        made = slabs(self._x, fields, runs(self.caller.traits[:-1], outputs, compiled=self._compiled))
        if self._carried:
            check_carried(made, self.caller)
        messages = SlabMessages(self._messages, self.dynamics, made, self._x)
        self._moment = Known(Started(made, messages, programs_for(self.dynamics, self._messages, made, outputs)))

    def move(self, tick: Tick) -> None:
        """See `Engine.move`; by a plan, unless somebody has just looked, whose messages serve the tick as well."""
        moment = self._moment
        planned = moment.planned(tick) if isinstance(moment, (Known, Ahead)) else None
        if planned is None:
            super().move(tick)
            return
        for operation in planned.program.operations:
            operation()
        self._planned_evaluations += planned.program.evaluations
        self._planned_pulls += planned.program.pulls
        self._moment = planned.then

    def fire(self, phase: Phase) -> None:
        """Move the sites of a phase: all read before any writes."""
        moves = self._spans.of(phase, self._started.slabs)
        ready = [self._ready(move) for move in moves]
        for (field, slab, span), value in zip(moves, ready, strict=True):
            if isinstance(value, Tensor):
                slab.move(field, span, value)
            else:
                slab.shift(field, span, value)

    def close_tick(self) -> None:
        """Nothing to remember of the fields: these schedules read the newest messages."""
        if isinstance(self._moment, Measured):
            self._moment = self._moment.ticked()

    def residual(self) -> Residual:
        """See `Engine.residual`; one norm per site."""
        messages = self._measured()
        views = [messages.view(slab, span) for slab, span in self._moving()]
        return residual_of(self.dynamics, table_of(views, _norms))

    @override
    def slope(self, tick: Tick) -> Tensor:
        """Of a planned tick ‖e − p‖ as it has moved the states, so that no program has to be left for the messages.

        Of others, of the sites that have moved: the next tick asks them first, and nothing pulls at those that sleep.
        """
        if isinstance(self._moment, Ahead):
            return total(torch.stack([torch.linalg.vector_norm(force()) for force in self._moment.program.forces]))
        moves = (move for phase in tick for move in self._spans.of(phase, self._started.slabs))
        views = [self._between.view(slab, span) for field, slab, span in moves if field is Field.STATE]
        if not views:  # a tick of costates alone
            return self._started.slabs[-1].states.new_zeros(())
        return total(_norms([view.costate_residual for view in views]))

    @property
    def overflowed(self) -> bool:
        """See `Engine.overflowed`; a sum over each field, which NaN and infinity survive."""
        sums = read([field.sum().abs() for slab in self._started.slabs for field in (slab.states, slab.costates)])
        return not all(map(isfinite, sums)) and super().overflowed

    @property
    def problem(self) -> BoundLayers:
        """The user's functions."""
        return self.caller

    @override
    def close(self) -> None:
        self.caller.replay.settle()

    @override
    def efforts(self) -> list[tuple[Tensor, Tensor | None]]:
        found: list[tuple[Tensor, Tensor | None]] = []
        for slab in self._started.slabs:
            for run in slab.runs:
                if run.parameters:
                    found += self._between.efforts(slab, run)
        if self.caller.has_efforts(self.caller.head):
            efforts = self._between.pull_cost(last=True).efforts or ()
            found += zip(self.caller.traits[-1].parameters, efforts, strict=True)
        return found

    @override
    def input_gradient(self) -> Tensor | None:
        if not self._x.requires_grad:
            return None
        if self._started.slabs[0].span.last > 0:
            return self._between.pulled(self._started.slabs[0], Span(0, 0))[0]
        return self._between.pull(1, last=True).inputs[0]

    @override
    def credit_at_ends(self) -> tuple[float, float]:
        messages, size = self._measured(), len(self.chain)
        near = messages.credit(*self._moving()[0])[0]
        slope = messages.pulled(self._started.slabs[-1], Span(size, size))
        below, above = read([near.norm(), slope.norm()])
        return below, above

    @property
    @override
    def fields(self) -> Fields:
        self._look()
        states = [row for slab, span in self._moving() for row in cut(slab.states, slab.span, span)]
        costates = [row for slab, span in self._moving() for row in cut(slab.costates, slab.span, span)]
        return Fields(tuple(states), tuple(costates))

    @property
    @override
    def loss(self) -> Tensor:
        return self._between.loss

    @property
    @override
    def precision(self) -> float:
        return torch.finfo(self._started.slabs[-1].states.dtype).eps

    def _ready(self, move: Move) -> Tensor | Shift:
        """The new values of a move; or what is to be added to the old ones, if the dynamics has coefficients."""
        field, slab, span = move
        if self._carried and span.first < span.last:
            if field is Field.STATE:
                residual = self._between.state_residual(slab, span)
                return Shift(1.0, [(1.0, carried_up(slab, span, residual, self.caller))])
            missing = self._between.pulled(slab, span) - slab.rows(Field.COSTATE, span)
            return Shift(1.0, [(1.0, carried_down(slab, span, missing, self.caller))])
        if slab.table is None:
            view = self._between.view(slab, span)
            if field is Field.STATE:
                return check_answer(self.dynamics, "state", self.dynamics.state(view), view.state)
            return check_answer(self.dynamics, "costate", self.dynamics.costate(view), view.state)
        mix = slab.table.state if field is Field.STATE else slab.table.costate
        terms = [(mix.residual, self._between.state_residual(slab, span))] if mix.residual else []
        terms += [(mix.credit, self._between.credit(slab, span))] if mix.credit else []
        terms += [(mix.pulled, self._between.pulled(slab, span))] if mix.pulled else []
        if field is Field.COSTATE:
            return Shift(1 + mix.costate, terms)
        return Shift(1.0, [*terms, (mix.costate, slab.rows(Field.COSTATE, span))] if mix.costate else terms)

    @property
    def _started(self) -> Started:
        """The fields, which are of this moment, and what may not be."""
        if isinstance(self._moment, Unstarted):
            raise self._moment.refused()
        return self._moment.started

    @property
    def _between(self) -> SlabMessages:
        """The messages of this moment."""
        return self._look().messages

    def _look(self) -> Known | Measured:
        """Let the messages be of this moment, and costates too: fire what planned ticks have left for an onlooker."""
        moment = self._moment
        if isinstance(moment, Unstarted):
            raise moment.refused()
        if not isinstance(moment, Ahead):
            return moment
        self._moment = known = moment.looked()
        if moment.program.left is not None:
            self.fire(moment.program.left)
        return known

    def _measured(self) -> SlabMessages:
        """The messages of this moment, for somebody who asks for those of all sites."""
        self._moment = measured = self._look().measured()
        return measured.messages

    def _moving(self) -> list[tuple[Slab, Span]]:
        """Slabs with their sites, the input left out."""
        pairs = [(slab, Span(max(slab.span.first, 1), slab.span.last)) for slab in self._started.slabs]
        return [(slab, span) for slab, span in pairs if span.first <= span.last]


def _norms(tensors: list[Tensor]) -> Residuals:
    """One norm per site, where the tensors are."""
    parts = [torch.linalg.vector_norm(tensor.reshape(tensor.shape[0], -1), dim=1) for tensor in tensors]
    return torch.cat(parts)
