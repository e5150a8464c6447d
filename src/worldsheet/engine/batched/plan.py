"""A tick of a descent as one list of operations on fields where they lie."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.types import AnyState, Costate, Field, Point, State
from worldsheet.dynamics import Coefficients, Dynamics
from worldsheet.engine.batched.slab import Slab, Span, cut
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.layers import BoundOperations, Cost, OperandSlots, Operation, Stack, Step
from worldsheet.problem import BoundLayers
from worldsheet.schedules import Phase, Tick


class LayerOperands(NamedTuple):
    """The fields that layers first..last read and write, a row for each layer l.

    Attributes:
        below: x_{l-1}.
        states: x_l.
        credits: r_l, and e_l once the credit has been made of it.
        pulled: p_{l-1}, what the layer sends down.
    """

    below: Point
    states: AnyState
    credits: AnyState
    pulled: AnyState

    def rows(self, start: int) -> "LayerOperands":
        """The rows from one on."""
        return LayerOperands(*(field[start:] for field in self)) if start else self


class LayerGroupPlan(ABC):
    """Consecutive layers first..last that are evaluated together."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last

    @abstractmethod
    def bound(self, start: int, quiet: int) -> BoundOperations:
        """What makes r_l = f_l(x_{l-1}) − x_l, and p_{l-1} = J_lᵀ e_l, of its rows from `start` on.

        The first `quiet` of them send nothing down.
        """


@final
class InputLayerPlan(LayerGroupPlan):
    """Layer 1, whose input never moves: its prediction is a constant, and nobody asks for its pull-back.

    Args:
        prediction: f_1(x_0).
        state: x_1.
        credit: r_1 goes here.
    """

    def __init__(self, prediction: State, state: State, credit: Costate) -> None:
        super().__init__(1, 1)
        self._residual = partial(torch.sub, prediction, state, out=credit)

    def bound(self, start: int, quiet: int) -> BoundOperations:
        """One difference."""
        return BoundOperations((self._residual,), ())


@final
class Batched(LayerGroupPlan):
    """A run of equal layers, or one of any closed form, with memory of its own for what lies between its steps.

    Args:
        first: its lowest layer.
        steps: the elementary maps of all its layers, in order.
        strip: a row for each layer.
    """

    def __init__(self, first: int, steps: Sequence[Stack], strip: LayerOperands) -> None:
        super().__init__(first, first + strip.states.shape[0] - 1)
        self._steps = steps
        self._strip = strip
        self._rooms = rooms_of(steps, strip)

    def bound(self, start: int, quiet: int) -> BoundOperations:
        """Batched operations on the rows wanted."""
        count = self.last + 1 - self.first
        steps = [step.part(start, count) for step in self._steps] if start else self._steps
        bound = bound_chain(steps, self._strip.rows(start), self._rooms.rows(start), quiet)
        return bound if quiet < count - start else BoundOperations(bound.ahead, ())


class Workspaces(NamedTuple):
    """Memory between the steps of some layers, a tensor for each step.

    Attributes:
        values: what each step makes.
        work: of the shape of what it reads.
        credits: of that shape too, for what is pulled back to it; the first is p.
    """

    values: list[AnyState]
    work: list[AnyState]
    credits: list[AnyState]

    def rows(self, start: int) -> "Workspaces":
        """The rows from one on."""
        return Workspaces(*([room[start:] for room in held] for held in self)) if start else self


def rooms_of(steps: Sequence[Stack], strip: LayerOperands) -> Workspaces:
    """Memory for the steps of a strip; one row is evaluated, which tells the shapes."""
    values, value = [], strip.below[:1]
    for step in steps:
        value = step.part(0, 1).forward(value, None, None)[0]
        values.append(value.new_empty((len(strip.states), *value.shape[1:])))
    work = [torch.empty_like(field) for field in (strip.below, *values[:-1])]
    return Workspaces(values, work, [strip.pulled, *(torch.empty_like(value) for value in values[:-1])])


def bound_chain(
    steps: Sequence[Stack], strip: LayerOperands, rooms: Workspaces, quiet: int, *, settled: bool = False
) -> BoundOperations:
    """The steps of some layers, one after the other, at the states where they lie.

    Args:
        steps: their elementary maps, in order.
        strip: their fields.
        rooms: their memory.
        quiet: how many of them, from below, send nothing down.
        settled: whether states take what is predicted; otherwise residuals are written to the credits.
    """
    top = len(steps) - 1
    bound: list[BoundOperations] = []
    x, credits = strip.below, [*rooms.credits[1:], strip.credits]
    for index, step in enumerate(steps):
        value = strip.states if settled and index == top else rooms.values[index]
        below = rooms.credits[index]
        at = OperandSlots(x, value, rooms.work[index], credits[index], below[quiet:] if quiet else below, quiet)
        bound.append(step.bound(at, strip.states if index == top and not settled else None))
        x = value
    return BoundOperations(
        tuple(operation for each in bound for operation in each.ahead),
        tuple(operation for each in reversed(bound) for operation in each.back),
    )


class Descent(NamedTuple):
    """The coefficients (19) of a dynamics whose states descend: e = λ + ρ r or e = ρ r, x += η (e − p).

    Attributes:
        step: η.
        penalty: ρ.
        ascent: α in λ += α r, None where costates are made from credits, so that nothing is made from costates.
    """

    step: float
    penalty: float
    ascent: float | None

    @property
    def unit(self) -> float:
        """What credits are counted in: ρ where they are residuals, which then need not be multiplied."""
        return self.penalty if self.ascent is None else 1.0


class Program(NamedTuple):
    """The plan of a tick.

    Attributes:
        tick: itself.
        operations: in order.
        evaluations: how many layers they evaluate.
        pulls: how many they pull back through.
        left: a phase that nothing but an onlooker reads, to be fired when one looks.
        forces: make e − p, by which it has moved the states, in the place of e, which the next tick makes anew.
    """

    tick: Tick
    operations: tuple[Operation, ...]
    evaluations: int
    pulls: int
    left: Phase | None
    forces: tuple[Callable[[], Tensor], ...]


@final
class Programs:
    """Makes the programs of one relaxation, for ticks in which the sites from one on to the output move both fields.

    In a tick all residuals are made, costates and credits of them, then everything that is pulled back, and at last the
    states move: r, λ += α r, e = λ + ρ r, p, x += η (e − p). The first layer's prediction is a constant.

    Args:
        descent: the coefficients.
        caller: the layers, with closed forms from layer 2 on, and the cost, with one of its own.
        cost: the cost's.
        slabs: the fields.
        first: f_1(x_0).
    """

    def __init__(self, descent: Descent, caller: BoundLayers, cost: Cost, slabs: Sequence[Slab], first: State) -> None:
        self._descent = descent
        self._hidden = [slab for slab in slabs[:-1] if slab.span.last > 0]
        memory = {id(slab): (torch.empty_like(slab.states), torch.empty_like(slab.states)) for slab in slabs}
        self._memory = memory
        self._links = _links(caller, slabs, memory, first)
        size = caller.head - 1
        strip = _strip(Span(size, size), self._hidden[-1], slabs[-1], memory)
        if descent.ascent is not None:  # the output's credit is its costate
            strip = strip._replace(credits=slabs[-1].costates)
        self._output = _output(
            _alone(caller.traits[-2].steps), strip, partial(cost.bound_slope, target=caller.target, unit=descent.unit)
        )
        self._size = caller.head - 1
        self._kept: dict[int, tuple[Tick, Program | None]] = {}

    def of(self, tick: Tick) -> Program | None:
        """The program of a tick, remembered; None for a tick of another form."""
        kept = self._kept.get(id(tick))
        if kept is None or kept[0] is not tick:
            kept = self._kept[id(tick)] = (tick, self._written(tick))
        return kept[1]

    def _written(self, tick: Tick) -> Program | None:
        leads, follows = (Field.STATE, Field.COSTATE) if self._descent.ascent is None else (Field.COSTATE, Field.STATE)
        if len(tick) != 2 or not self._ends_at_output(tick[0], leads) or not self._ends_at_output(tick[1], follows):
            return None
        lowest = tick[0][0].site
        if tick[1][0].site != lowest or lowest == self._size:
            return None
        moving = [link for link in self._links if link.last >= lowest]
        bound = [link.bound(max(lowest - link.first, 0), int(link.first <= lowest)) for link in moving]
        steps, forces = self._steps(lowest)
        operations: tuple[Operation, ...] = (
            *(operation for each in bound for operation in each.ahead),
            *self._credits(lowest),
            *self._output,
            *(operation for each in bound for operation in each.back),
            *steps,
        )
        layers = self._size + 1 - max(lowest, 2)
        pulls = self._size - lowest
        left = tick[1] if self._descent.ascent is None else None
        return Program(tick, operations, layers, pulls, left, tuple(forces))

    def _ends_at_output(self, phase: Phase, field: Field) -> bool:
        """Whether a phase moves this one field at all sites from one on."""
        sites = [firing.site for firing in phase if firing.field is field]
        return bool(sites) and sites == list(range(phase[0].site, self._size + 1)) and len(sites) == len(phase)

    def _credits(self, lowest: int) -> list[Operation]:
        """Costates λ += α r, and e = λ + ρ r in the place of r."""
        found: list[Operation] = []
        ascent, penalty = self._descent.ascent, self._descent.penalty
        for slab, span in self._moving(lowest) if ascent is not None else ():
            costates, residuals = slab.rows(Field.COSTATE, span), cut(self._memory[id(slab)][0], slab.span, span)
            found += [
                partial(costates.add_, residuals, alpha=ascent),
                partial(torch.add, costates, residuals, alpha=penalty, out=residuals),
            ]
        return found

    def _steps(self, lowest: int) -> tuple[list[Operation], list[Callable[[], Tensor]]]:
        """States x += η (e − p), and what makes e − p of the two afterwards."""
        steps: list[Operation] = []
        forces: list[Callable[[], Tensor]] = []
        step = self._descent.step * self._descent.unit
        for slab, span in self._moving(lowest):
            states = slab.rows(Field.STATE, span)
            credits, pulled = (cut(held, slab.span, span) for held in self._memory[id(slab)])
            steps += [partial(states.add_, credits, alpha=step), partial(states.sub_, pulled, alpha=step)]
            forces.append(partial(credits.sub_, pulled))
        return steps, forces

    def _moving(self, lowest: int) -> list[tuple[Slab, Span]]:
        return [
            (slab, Span(max(slab.span.first, lowest), slab.span.last))
            for slab in self._hidden
            if slab.span.last >= lowest
        ]


def programs_for(
    dynamics: Dynamics, messages: Messages, slabs: Sequence[Slab], outputs: Sequence[Tensor]
) -> Programs | None:
    """A planner, if the dynamics is a descent with an open output and all above layer 1 is gathered or closed.

    Args:
        dynamics: how a site moves.
        messages: know the layers and the cost.
        slabs: the fields.
        outputs: the input and the forward pass, x_0..x_L.
    """
    caller = messages.caller
    descent = descent_of(dynamics.coefficients(outputs[-1].shape[0])) if outputs[-1].dim() else None
    if descent is None or not dynamics.character.open_output or caller.cost is None or len(outputs) < 3:
        return None
    gathered = {
        layer for slab in slabs for run in slab.runs if not run.alone for layer in range(run.first, run.last + 1)
    }
    bindable = all(layer in gathered or messages.closed(layer, outputs[layer - 1]) for layer in range(2, caller.head))
    if not bindable or not caller.cost.fits(outputs[-1], caller.target):
        return None
    return Programs(descent, caller, caller.cost, slabs, outputs[1])


def descent_of(table: Coefficients | None) -> Descent | None:
    """The coefficients as a descent; None for any other dynamics."""
    if table is None or not table.credit.residual:
        return None
    state, costate, credit = table.state, table.costate, table.credit
    if state.residual or state.costate or state.credit != -state.pulled or costate.pulled:
        return None
    if credit.costate == 0 and costate == (0.0, -1.0, 1.0, 0.0):
        return Descent(state.credit, credit.residual, None)
    if credit.costate == 1 and not (costate.costate or costate.credit):
        return Descent(state.credit, credit.residual, costate.residual)
    return None


def _links(
    caller: BoundLayers, slabs: Sequence[Slab], memory: dict[int, tuple[Tensor, Tensor]], first: State
) -> list[LayerGroupPlan]:
    """Layers 1..L − 1, the run of the first layer without it."""
    ground = next(slab for slab in slabs if slab.span.last >= 1)
    one = 1 - ground.span.first
    found: list[LayerGroupPlan] = [InputLayerPlan(first, ground.states[one], memory[id(ground)][0][one])]
    for below, slab in zip([slabs[0], *slabs], slabs[:-1], strict=False):
        for run in slab.runs:
            start = max(run.first, 2)
            if start > run.last:
                continue
            under = slab if start > slab.span.first else below
            strip = _strip(Span(start, run.last), under, slab, memory)
            own = caller.traits[start - 1].steps if start == run.last else None
            steps = _alone(own) if own else run.part(start, run.last)  # of two layers without a form, one is left
            found.append(Batched(start, steps, strip))
    return found


def _output(
    steps: Sequence[Stack], strip: LayerOperands, price: Callable[..., tuple[Operation, ...]]
) -> tuple[Operation, ...]:
    """The open output: the last layer's prediction is the state, the cost's slope there is the credit."""
    bound = bound_chain(steps, strip, rooms_of(steps, strip), 0, settled=True)
    return (*bound.ahead, *price(strip.states[0], out=strip.credits[0]), *bound.back)


def _alone(steps: Sequence[Step] | None) -> list[Stack]:
    return [step.alone() for step in steps or ()]


def _strip(layers: Span, under: Slab, slab: Slab, memory: dict[int, tuple[Tensor, Tensor]]) -> LayerOperands:
    sites = Span(layers.first - 1, layers.last - 1)
    return LayerOperands(
        cut(under.states, under.span, sites),
        cut(slab.states, slab.span, layers),
        cut(memory[id(slab)][0], slab.span, layers),
        cut(memory[id(under)][1], under.span, sites),
    )
