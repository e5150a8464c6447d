"""What travels between slabs: the messages of many sites at once."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from worldsheet.core.types import AnyState, Costate, Field, Point, State
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import check_answer
from worldsheet.engine.batched.runs import LayerGroup
from worldsheet.engine.batched.slab import Made, Slab, Span, cut
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.layers import Evaluation, Pull, proximal
from worldsheet.problem import View


@final
class SlabMessages:
    """Evaluates and pulls back runs of layers, and makes credits; what is made is kept until a move lets go of it.

    Args:
        messages: of layers that are alone, and of the cost.
        dynamics: says what is sent down.
        slabs: sites 0..L.
        x: the input.

    Attributes:
        slabs: as given.
        evaluations: forward evaluations of layers in runs.
        pulls: pull-backs through layers in runs.
    """

    def __init__(self, messages: Messages, dynamics: Dynamics, slabs: Sequence[Slab], x: Tensor) -> None:
        self.slabs = slabs
        self.evaluations = self.pulls = 0
        self._messages = messages
        self._dynamics = dynamics
        self._x = x
        self._at = [slab for slab in slabs for _ in range(slab.span.first, slab.span.last + 1)]
        self._own: dict[tuple[Span, int], tuple[Sequence[float], Tensor]] = {}
        self._unit: Tensor | None = None
        for slab in slabs:
            slab.table = None if slab.single else dynamics.coefficients(slab.states.shape[1])

    @property
    def loss(self) -> Tensor:
        """C at the output as it is now."""
        return self._messages.evaluation(self._messages.caller.head, [self.output()]).output

    def absorbed(self, point: State, step: float) -> State:
        """The cost's proximal step."""
        caller = self._messages.caller
        return proximal(caller.function(caller.head), point, step)

    def view(self, slab: Slab, span: Span) -> View:
        """What some sites see."""
        return _SpanView(self, slab, span)

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
        if slab is self.slabs[-1]:
            part = self.pull_cost(last=False).inputs[0]
            return torch.zeros_like(slab.states) if part is None else part.unsqueeze(0)
        kept = slab.pulled
        if kept is not None and kept.span.holds(span):
            return kept.of(span)
        above = self.pull(span.last + 1, last=False) if span.last == slab.span.last else None
        if slab.single:
            return _present(above, slab.states[-1]).unsqueeze(0)
        value = slab.room.pulled.like(slab.rows(Field.STATE, span))
        self._pull_inside(slab, Span(span.first + 1, min(span.last + 1, slab.span.last)), value)
        if above is not None:
            value[-1].copy_(_present(above, value[-1]))
        slab.pulled = Made(span, value, {})
        return value

    def own(self, slab: Slab, span: Span, values: Sequence[float]) -> float | Tensor:
        """Some sites' entries of a list with one number per site, remembered as a tensor shaped like their fields."""
        if span.first == span.last:
            return values[span.first - 1]
        kept = self._own.get((span, id(values)))
        if kept is None or kept[0] is not values:
            entries = slab.states.new_tensor(values[span.first - 1 : span.last])
            kept = self._own[span, id(values)] = (values, entries.reshape(-1, *[1] * (slab.states.dim() - 1)))
        return kept[1]

    def _pull_inside(self, slab: Slab, layers: Span, out: AnyState) -> None:
        """Pull credits back through layers between sites of one slab, the lowest into the first row of `out`."""
        first = max(layers.first - 1, 1)  # the lowest layer too, since its residual is read at the same states
        points, credits = self._evaluated(slab, Span(first, layers.last)), self._credited(slab, layers)
        for run in slab.runs:
            first, last = max(run.first, layers.first), min(run.last, layers.last)
            if first > last:
                continue
            rows = out[first - layers.first : last + 1 - layers.first]
            if run.alone:
                rows[0].copy_(_present(self.pull(first, last=False), rows[0]))
                continue
            self.pulls += last + 1 - first
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
        self, slab: Slab, run: LayerGroup, span: Span, out: AnyState, saved: dict[int, tuple[Span, list[Point]]]
    ) -> None:
        first, last = max(run.first, span.first), min(run.last, span.last)
        if first > last:
            return
        rows = out[first - span.first : last + 1 - span.first]
        if run.alone:
            rows[0].copy_(self._alone(first).output)
            return
        self.evaluations += last + 1 - first
        points = cut(slab.states, slab.span, Span(first - 1, last - 1))
        saved[run.first] = (Span(first, last), run.forward(first, last, points, rows))

    def _credited(self, slab: Slab, span: Span) -> Made:
        kept = slab.credits
        if kept is None or not kept.span.holds(span):
            slab.sent.clear()
            kept = slab.credits = Made(span, self._credit(slab, span), {})
        return kept

    def _credit(self, slab: Slab, span: Span) -> Costate:
        if slab.table is None:
            view = _SpanView(self, slab, span)
            return check_answer(self._dynamics, "credit", self._dynamics.credit(view), view.state)
        costate, (residual, kept, *_) = slab.rows(Field.COSTATE, span), slab.table.credit
        if residual == 0 and kept == 1:
            return costate
        out = slab.room.credits.like(costate)
        if kept == 0:
            return torch.mul(self.state_residual(slab, span), residual, out=out)
        whole = costate if kept == 1 else torch.mul(costate, kept, out=out)
        return torch.add(whole, self.state_residual(slab, span), alpha=residual, out=out)

    def efforts(self, slab: Slab, run: LayerGroup) -> list[tuple[Tensor, Tensor | None]]:
        """∂𝓛/∂θ (4) of a run's parameters."""
        if run.alone:
            return list(zip(run.parameters, self.pull(run.first, last=True).efforts or (), strict=True))
        span = Span(run.first, run.last)
        kept, saved = self._evaluated(slab, span).saved[run.first]
        found = run.efforts(self.credit(slab, span), [cut(each, kept, span) for each in saved])
        return [(p, found[id(p)][1] if id(p) in found else None) for p in run.parameters]

    def pull(self, layer: int, *, last: bool) -> Pull:
        """Pull a single layer's credit back."""
        slab = self._at[layer]
        credits = self._credited(slab, Span(layer, layer))
        credit = slab.sent.get(layer)
        if credit is None:  # one view per value, since single layers know messages by their tensors
            credit = slab.sent[layer] = credits.value[layer - credits.span.first]
        return self._messages.pull(layer, [self._point(layer - 1)], credit, last=last)

    def pull_cost(self, *, last: bool) -> Pull:
        """∇C."""
        if self._unit is None:
            self._unit = torch.ones_like(self.loss)
        return self._messages.pull(self._messages.caller.head, [self.output()], self._unit, last=last)

    def output(self) -> State:
        """What the cost reads."""
        last = self.slabs[-1].span.last
        return self._alone(last).output if self._dynamics.character.open_output else self._point(last)

    def _point(self, site: int) -> Tensor:
        """One view per value, since single layers know messages by their tensors."""
        if site == 0 and self._at[0].single:
            return self._x
        slab = self._at[site]
        point = slab.points.get(site)
        if point is None:
            point = slab.points[site] = slab.states[site - slab.span.first]
        return point


@final
class _SpanView(View):
    """Sites of one slab seen as one: every tensor has a leading site dimension."""

    __slots__ = ("_messages", "_slab", "_span")

    def __init__(self, messages: SlabMessages, slab: Slab, span: Span) -> None:
        self._messages = messages
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
        return self._messages.prediction(self._slab, self._span)

    @property
    def pulled(self) -> Costate:
        return self._messages.pulled(self._slab, self._span)

    @property
    def state_residual(self) -> State:
        return self._messages.state_residual(self._slab, self._span)

    @property
    def credit(self) -> Costate:
        return self._messages.credit(self._slab, self._span)

    @property
    def samples(self) -> int:
        return self._slab.states.shape[1]

    def own(self, values: Sequence[float]) -> float | Tensor:
        return self._messages.own(self._slab, self._span, values)

    def absorbed(self, point: State, step: float) -> State:
        return self._messages.absorbed(point[-1], step).unsqueeze(0)

    @property
    def at_output(self) -> bool:
        return self._span.last == self._messages.slabs[-1].span.last


def _present(pull: Pull | None, like: Tensor) -> Tensor:
    part = None if pull is None else pull.inputs[0]
    return torch.zeros_like(like) if part is None else part
