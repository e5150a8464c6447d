"""The same loop body for many sites at once: fields of one shape in one tensor, equal layers in one batched operation."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.core.field import Field
from worldsheet.core.shapes import Costate, Elsewhere, Point, Residuals, State
from worldsheet.dynamics import Coefficients, Dynamics
from worldsheet.engine.base import Engine, Residual
from worldsheet.engine.measure import residual_of, start_fields
from worldsheet.engine.messages import Messages
from worldsheet.engine.runs import Run, runs
from worldsheet.engine.slab import Made, Shift, Slab, Span, cut, slabs
from worldsheet.engine.spans import Move, Spans
from worldsheet.problem import Caller, Chain, Evaluation, Fields, Pull, View
from worldsheet.schedule import Phase


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
    """

    def __init__(self, chain: Chain, x: Tensor, target: Any, dynamics: Dynamics) -> None:
        self.chain = chain
        self.topology = chain.topology
        self.dynamics = dynamics
        self.caller = Caller(chain, target)
        self._messages = Messages(self.caller, everywhere=True, to_input=x.requires_grad)
        self._x = x
        self._slabs: list[Slab] = []
        self._at: list[Slab] = []  # by site
        self._table: Coefficients | None = None
        self._own: dict[tuple[Span, int], tuple[Sequence[float], Tensor]] = {}
        self._unit: Tensor | None = None
        self._spans = Spans()
        self._stacked_evaluations = self._stacked_pulls = 0

    @property
    def evaluations(self) -> int:
        """Forward evaluations of layers, a run of S layers counted S times."""
        return self._messages.evaluations + self._stacked_evaluations

    @property
    def pulls(self) -> int:
        """Pull-backs through layers, likewise."""
        return self._messages.pulls + self._stacked_pulls

    @torch.no_grad()
    def start(self, initial: Fields | None) -> None:
        """See `Engine.start`; evaluates every layer once in order."""
        outputs = [self._x]
        for site in self.topology.sites:
            outputs.append(self.caller.function(site)(outputs[-1]))
        fields = start_fields(self.dynamics, outputs[1:], initial)
        found = runs(self.caller.traits[:-1], [self._x, *fields.states[:-1]])
        self._slabs = slabs(self._x, fields, found)
        self._at = [slab for slab in self._slabs for _ in range(slab.span.first, slab.span.last + 1)]
        self._table = self.dynamics.coefficients(outputs[-1].shape[0] if outputs[-1].dim() else 1)

    def fire(self, phase: Phase) -> None:
        """Move the sites of a phase: all read before any writes."""
        moves = self._spans.of(phase, self._slabs)
        ready = [self._ready(move) for move in moves]
        for (field, slab, span), value in zip(moves, ready, strict=True):
            if isinstance(value, Tensor):
                slab.move(field, span, value)
            else:
                slab.shift(field, span, value)

    def close_tick(self) -> None:
        """Nothing to remember: these schedules read the newest messages."""

    def residual(self) -> Residual:
        """See `Engine.residual`; one norm per site."""
        return residual_of(self.dynamics, [_SpanView(self, slab, span) for slab, span in self._moving()], _norms)

    def efforts(self) -> list[tuple[Parameter, Tensor | None]]:
        """See `Engine.efforts`."""
        found: list[tuple[Parameter, Tensor | None]] = []
        for slab in self._slabs:
            for run in slab.runs:
                if run.parameters:
                    found += self._efforts(slab, run)
        if loss_parameters := self.caller.traits[-1].parameters:
            found += zip(loss_parameters, self._pull_cost(last=True).efforts or (), strict=True)
        return found

    def input_gradient(self, number: int = 0) -> Tensor | None:
        """See `Engine.input_gradient`."""
        if not self._x.requires_grad:
            return None
        if self._slabs[0].span.last > 0:
            return self.pulled(self._slabs[0], Span(0, 0))[0]
        return self._pull(1, last=True).inputs[0]

    def credit_at_ends(self) -> tuple[float, float]:
        """See `Engine.credit_at_ends`."""
        size = len(self.chain)
        near, slope = self.credit(*self._moving()[0])[0], self.pulled(self._slabs[-1], Span(size, size))
        return float(near.norm()), float(slope.norm())

    @property
    def fields(self) -> Fields:
        """See `Engine.fields`."""
        states = [row for slab, span in self._moving() for row in cut(slab.states, slab.span, span)]
        costates = [row for slab, span in self._moving() for row in cut(slab.costates, slab.span, span)]
        return Fields(tuple(states), tuple(costates))

    @property
    def loss(self) -> Tensor:
        """See `Engine.loss`."""
        return self._messages.evaluation(self.caller.head, [self._output()]).output

    @property
    def precision(self) -> float:
        """See `Engine.precision`."""
        return torch.finfo(self._slabs[-1].states.dtype).eps

    def _ready(self, move: Move) -> Tensor | Shift:
        """The new values of a move; or what is to be added to the old ones, if the dynamics has coefficients."""
        field, slab, span = move
        if slab.single or self._table is None:
            view = _SpanView(self, slab, span)
            return self.dynamics.state(view) if field is Field.STATE else self.dynamics.costate(view)
        mix = self._table.state if field is Field.STATE else self._table.costate
        terms = [(mix.residual, self.state_residual(slab, span))] if mix.residual else []
        terms += [(mix.credit, self.credit(slab, span))] if mix.credit else []
        terms += [(mix.pulled, self.pulled(slab, span))] if mix.pulled else []
        if field is Field.COSTATE:
            return Shift(1 + mix.costate, terms)
        return Shift(1.0, [*terms, (mix.costate, slab.rows(Field.COSTATE, span))] if mix.costate else terms)

    def prediction(self, slab: Slab, span: Span) -> State:
        """The messages from below: the layers of some sites at the states below them."""
        return self._evaluated(slab, span).of(span)

    def state_residual(self, slab: Slab, span: Span) -> State:
        """The state residuals of some sites, remembered until a prediction or state is replaced."""
        kept = slab.residuals
        if kept is None or not kept.span.holds(span):
            made = self._evaluated(slab, span)
            states = slab.rows(Field.STATE, made.span)
            residual = torch.sub(made.value, states, out=slab.room.residuals.like(states))
            kept = slab.residuals = Made(made.span, residual, {})
        return kept.of(span)

    def credit(self, slab: Slab, span: Span) -> Costate:
        """What some sites send down, as their dynamics says."""
        return self._credited(slab, span).of(span)

    def pulled(self, slab: Slab, span: Span) -> Costate:
        """The messages from above, for some sites."""
        if slab is self._slabs[-1]:
            part = self._pull_cost(last=False).inputs[0]
            return torch.zeros_like(slab.states) if part is None else part.unsqueeze(0)
        kept = slab.pulled
        if kept is not None and kept.span.holds(span):
            return kept.of(span)
        above = self._pull(span.last + 1, last=False) if span.last == slab.span.last else None
        if slab.single:
            return _present(above, slab.states[-1]).unsqueeze(0)
        value = slab.room.pulled.like(slab.rows(Field.STATE, span))
        self._pull_inside(slab, Span(span.first + 1, min(span.last + 1, slab.span.last)), value)
        if above is not None:
            value[-1].copy_(_present(above, value[-1]))
        slab.pulled = Made(span, value, {})
        return value

    def own(self, slab: Slab, span: Span, values: Sequence[float]) -> float | Tensor:
        """Some sites' entries of a list with one number per site, remembered as a tensor that multiplies their fields."""
        if span.first == span.last:
            return values[span.first - 1]
        kept = self._own.get((span, id(values)))
        if kept is None or kept[0] is not values:
            entries = slab.states.new_tensor(values[span.first - 1 : span.last])
            kept = self._own[span, id(values)] = (values, entries.reshape(-1, *[1] * (slab.states.dim() - 1)))
        return kept[1]

    def _pull_inside(self, slab: Slab, layers: Span, out: Elsewhere) -> None:
        """Pull credits back through layers between sites of one slab, the lowest into the first row of `out`."""
        points, credits = self._evaluated(slab, layers), self._credited(slab, layers)
        for run in slab.runs:
            first, last = max(run.first, layers.first), min(run.last, layers.last)
            if first > last:
                continue
            rows = out[first - layers.first : last + 1 - layers.first]
            if run.alone:
                rows[0].copy_(_present(self._pull(first, last=False), rows[0]))
                continue
            self._stacked_pulls += last + 1 - first
            span, saved = points.saved[run.first]
            some = Span(first, last)
            run.pull(first, last, credits.of(some), [cut(each, span, some) for each in saved], rows)

    def _evaluated(self, slab: Slab, span: Span) -> Made:
        """The layers of some sites at the states below them, remembered until one of these is replaced."""
        kept = slab.predictions
        if kept is not None and kept.span.holds(span):
            return kept
        saved: dict[int, tuple[Span, list[Point]]] = {}
        if slab.single:
            value = self._alone(span.first).output.unsqueeze(0)
        else:
            value = slab.room.predictions.like(slab.rows(Field.STATE, span))
            for run in slab.runs:
                self._evaluate(slab, run, span, value, saved)
        made = slab.predictions = Made(span, value, saved)
        return made

    def _alone(self, layer: int) -> Evaluation:
        return self._messages.evaluation(layer, [self._point(layer - 1)])

    def _evaluate(
        self, slab: Slab, run: Run, span: Span, out: Elsewhere, saved: dict[int, tuple[Span, list[Point]]]
    ) -> None:
        first, last = max(run.first, span.first), min(run.last, span.last)
        if first > last:
            return
        rows = out[first - span.first : last + 1 - span.first]
        if run.alone:
            rows[0].copy_(self._alone(first).output)
            return
        self._stacked_evaluations += last + 1 - first
        points = cut(slab.states, slab.span, Span(first - 1, last - 1))
        saved[run.first] = (Span(first, last), run.forward(first, last, points, rows))

    def _credited(self, slab: Slab, span: Span) -> Made:
        kept = slab.credits
        if kept is None or not kept.span.holds(span):
            slab.sent.clear()
            kept = slab.credits = Made(span, self._credit(slab, span), {})
        return kept

    def _credit(self, slab: Slab, span: Span) -> Costate:
        if slab.single or self._table is None:
            return self.dynamics.credit(_SpanView(self, slab, span))
        costate, (residual, kept, *_) = slab.rows(Field.COSTATE, span), self._table.credit
        if residual == 0 and kept == 1:
            return costate
        out = slab.room.credits.like(costate)
        if kept == 0:
            return torch.mul(self.state_residual(slab, span), residual, out=out)
        whole = costate if kept == 1 else torch.mul(costate, kept, out=out)
        return torch.add(whole, self.state_residual(slab, span), alpha=residual, out=out)

    def _efforts(self, slab: Slab, run: Run) -> list[tuple[Parameter, Tensor | None]]:
        if run.alone:
            return list(zip(run.parameters, self._pull(run.first, last=True).efforts or (), strict=True))
        span = Span(run.first, run.last)
        made, (kept, saved) = self._evaluated(slab, span), slab.predictions.saved[run.first]
        found = run.efforts(self.credit(slab, span), [cut(each, kept, span) for each in saved])
        return [(p, found[id(p)][1] if id(p) in found else None) for p in run.parameters]

    def _pull(self, layer: int, *, last: bool) -> Pull:
        """Pull a single layer's credit back."""
        slab = self._at[layer]
        credits = self._credited(slab, Span(layer, layer))
        credit = slab.sent.get(layer)
        if credit is None:  # one view per value, since single layers know messages by their tensors
            credit = slab.sent[layer] = credits.value[layer - credits.span.first]
        return self._messages.pull(layer, [self._point(layer - 1)], credit, last=last)

    def _pull_cost(self, *, last: bool) -> Pull:
        if self._unit is None:
            self._unit = torch.ones_like(self.loss)
        return self._messages.pull(self.caller.head, [self._output()], self._unit, last=last)

    def _output(self) -> State:
        last = len(self.chain)
        return self._alone(last).output if self.dynamics.character.open_output else self._point(last)

    def _point(self, site: int) -> Tensor:
        """One view per value, since single layers know messages by their tensors."""
        if site == 0 and self._at[0].single:
            return self._x
        slab = self._at[site]
        point = slab.points.get(site)
        if point is None:
            point = slab.points[site] = slab.states[site - slab.span.first]
        return point

    def _moving(self) -> list[tuple[Slab, Span]]:
        """Slabs with their sites, the input left out."""
        pairs = [(slab, Span(max(slab.span.first, 1), slab.span.last)) for slab in self._slabs]
        return [(slab, span) for slab, span in pairs if span.first <= span.last]


@final
class _SpanView(View):
    """Sites of one slab seen as one: every tensor has a leading site dimension."""

    __slots__ = ("_block", "_slab", "_span")

    def __init__(self, block: StackedBlock, slab: Slab, span: Span) -> None:
        self._block = block
        self._slab = slab
        self._span = span

    @property
    def state(self) -> State:
        return cut(self._slab.states, self._slab.span, self._span)

    @property
    def costate(self) -> Costate:
        return cut(self._slab.costates, self._slab.span, self._span)

    @property
    def prediction(self) -> State:
        return self._block.prediction(self._slab, self._span)

    @property
    def pulled(self) -> Costate:
        return self._block.pulled(self._slab, self._span)

    @property
    def state_residual(self) -> State:
        return self._block.state_residual(self._slab, self._span)

    @property
    def credit(self) -> Costate:
        return self._block.credit(self._slab, self._span)

    @property
    def samples(self) -> int:
        return self._slab.states.shape[1]

    def own(self, values: Sequence[float]) -> float | Tensor:
        return self._block.own(self._slab, self._span, values)

    @property
    def at_output(self) -> bool:
        return self._span.last == len(self._block.chain)


def _present(pull: Pull | None, like: Tensor) -> Tensor:
    part = None if pull is None else pull.inputs[0]
    return torch.zeros_like(like) if part is None else part


def _norms(tensors: list[Tensor]) -> Residuals:
    """One norm per site."""
    parts = [torch.linalg.vector_norm(tensor.reshape(tensor.shape[0], -1), dim=1) for tensor in tensors]
    return torch.cat(parts).double().cpu()
