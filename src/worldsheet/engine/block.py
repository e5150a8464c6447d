"""The one loop body: sites fire, reading only their own fields and their neighbours' messages."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.core.errors import InputError
from worldsheet.core.field import Field
from worldsheet.core.shapes import Costate, Point, State, Table
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import Engine, Residual
from worldsheet.engine.measure import norms, residual_of, start_fields, table_of
from worldsheet.engine.messages import Messages
from worldsheet.engine.part import WHOLE, Part
from worldsheet.engine.sheet import Sheet, held
from worldsheet.problem import Caller, Chain, Fields, Pull, View, proximal
from worldsheet.schedule import FRESH, Delays, Firing, Phase, Schedule


@final
class Block(Engine):
    """Consecutive sites that move in one process; the edges are the clamped input below and the cost above.

    Args:
        chain: the problem.
        x: input x_0, or its tensors.
        target: what the loss compares the output with.
        dynamics: how a site moves.
        schedule: when. It also says how long old messages are remembered.
        keep: hold all fields to the end, for a solution; otherwise let go of what everyone has read.
        recompute: hold states but no graphs of layers, and evaluate a layer again to pull back through it.
        part: which of a chain's sites these are, where others are elsewhere.
    """

    def __init__(  # noqa: PLR0913  what a relaxation is made of
        self,
        chain: Chain,
        x: Tensor | Sequence[Tensor],
        target: Any,
        dynamics: Dynamics,
        schedule: Schedule,
        *,
        keep: bool,
        recompute: bool = False,
        part: Part = WHOLE,
    ) -> None:
        inputs = (x,) if isinstance(x, Tensor) else tuple(x)
        self.chain = chain
        self.topology = chain.topology
        self.dynamics = dynamics
        self.caller = Caller(chain, target, len(inputs))
        first, *others = [each.requires_grad for each in inputs]
        self.messages = Messages(self.caller, everywhere=keep, to_input=first, to_others=others, recompute=recompute)
        self.sheet = Sheet(inputs, len(chain), schedule.memory)
        self._keep = keep
        self._unit: Tensor | None = None
        self._loss: Tensor | None = None
        self._cut: set[int] = set()  # sites that the cost does not depend on: their layers get no gradient at all
        self.part = part
        self._open = dynamics.character.open_output and not part.passes
        if self._open and any(self.topology.children[site] for site in self.topology.ends):
            raise InputError(
                f"{type(dynamics).__name__} on a graph in which an output is read inside too",
                "outputs that only the loss reads",
                "use Dyadic() or Wave(), or give the loss a copy: return output * 1",
            )
        self._efforts: dict[int, tuple[Tensor | None, ...]] = {}
        self._last: dict[int, Pull] = {}  # of layers with several parents, until the last of these has read it
        self._awaited: dict[int, int] = {}

    def start(self, initial: Fields | None) -> None:
        """Give the fields values before tick 0, by default the dynamics' own.

        Evaluates every layer once in order, which also draws random numbers in the order of a forward pass.

        Raises:
            InputError: initial fields whose number or shapes are not those that the layers produce.
        """
        self.sheet.start(start_fields(self.dynamics, self.forward(), initial))

    @property
    def precision(self) -> float:
        """Relative rounding of the output's dtype."""
        return torch.finfo(held(self.sheet.states, self.topology.ends[-1]).dtype).eps

    @property
    def loss(self) -> Tensor:
        """C at the output as it is now, or as it was when the output was let go."""
        head = self.caller.head
        if self._loss is None or all(self.sheet.states[place] is not None for place in self.caller.parents[head]):
            self._loss = self.messages.evaluation(head, self.points(head, 0)).output
        return self._loss

    def fire(self, phase: Phase) -> None:
        """Move the sites of a phase: all read before any writes."""
        wanted = self.messages.wanted
        moves = [(f, self._move(f)) for f in phase if f.field is Field.STATE or wanted[f.site]]
        for firing, value in moves:
            fields = self.sheet.states if firing.field is Field.STATE else self.sheet.costates
            fields[firing.site] = value
            if firing.last and not self._keep:
                self._let_go(firing.site)

    def close_tick(self) -> None:
        """Remember the tick if old messages may be asked for."""
        self.sheet.close_tick()

    @property
    def evaluations(self) -> int:
        """Forward evaluations of layers, those for the shapes of start values left out."""
        return self.messages.evaluations

    @property
    def pulls(self) -> int:
        """Pull-backs through layers."""
        return self.messages.pulls

    @property
    def fields(self) -> Fields:
        """The fields now, input left out."""
        return self.sheet.fields

    def points(self, layer: int, age: int) -> list[Point]:
        """The states that a layer reads, `age` ticks old."""
        if layer == self.caller.head and self._open:
            return [self.messages.evaluation(site, self.points(site, age)).output for site in self.topology.ends]
        states = self.sheet.moment(age)[0] if age else self.sheet.states
        return [state for parent in self.caller.parents[layer] if (state := states[parent]) is not None]

    def pulled(self, site: int, delays: Delays, *, last: bool = False) -> Costate:
        """The message from above: the credits of all layers that read this site, pulled back and summed."""
        total: Tensor | None = None
        for child in self.caller.children[site]:
            if child in self._cut:
                continue
            for parent, part in zip(
                self.caller.parents[child], self._pull(child, delays, last=last).inputs, strict=True
            ):
                if parent == site and part is not None:
                    total = part if total is None else total + part
        if total is not None:
            return total
        self._cut.add(site)
        return torch.zeros_like(held(self.sheet.states, site))

    def residual(self) -> Residual:
        """Measure every site with the messages of this moment."""
        return residual_of(self.dynamics, self.table())

    def table(self) -> Table:
        """What `residual` is made of."""
        return table_of([_SiteView(self, site, FRESH) for site in self.chain.topology.sites], norms)

    def efforts(self, *, keep: bool = False) -> list[tuple[Parameter, Tensor | None]]:
        """∂𝓛/∂θ (4) of every parameter of every layer, an entry per use; None where it was not used.

        Args:
            keep: whether these points will be read again, so that what was saved for them must stay.
        """
        found: list[tuple[Parameter, Tensor | None]] = []
        for layer in range(1, self.caller.head + 1):
            parameters = self.caller.traits[layer - 1].parameters
            if layer in self._cut:
                continue
            if parameters and layer not in self._efforts:
                self._pull(layer, FRESH, last=True, keep=keep)
            found += zip(parameters, self._efforts.get(layer, ()), strict=bool(parameters))
        return found

    def renew(self) -> None:
        """Forget all messages: parameters have moved since they were made."""
        self.messages.renew()
        self._efforts.clear()

    def input_gradient(self, number: int = 0) -> Tensor | None:
        """See `Engine.input_gradient`."""
        place = number and len(self.chain) + number
        if not self.messages.wanted[place]:
            return None
        pulled = self.pulled(place, FRESH, last=True)
        return None if place in self._cut else pulled

    def credit_at_ends(self) -> tuple[float, float]:
        """See `Engine.credit_at_ends`."""
        near = [self.credit(site, 0) for site in self.topology.children[0]]
        size = len(self.chain)
        return float(norms(near).norm()), float(norms([self.pulled(size, FRESH)])[0])

    def credit(self, layer: int, age: int) -> Costate:
        """What a layer pulled back `age` ticks ago: 1 for the cost, for a site what its dynamics says."""
        if layer != self.caller.head:
            return self.dynamics.credit(_SiteView(self, layer, Delays(age, age, age), age))
        if self._unit is None:
            self._unit = torch.ones_like(self.loss)
        return self._unit

    def _move(self, firing: Firing) -> Tensor:
        view = _SiteView(self, firing.site, firing.delays, last=firing.last)
        return self.dynamics.state(view) if firing.field is Field.STATE else self.dynamics.costate(view)

    def _pull(self, layer: int, delays: Delays, *, last: bool, keep: bool = False) -> Pull:
        known = self._last.get(layer)
        if known is not None:
            return known
        points = self.points(layer, delays.point)
        pull = self.messages.pull(layer, points, self.credit(layer, delays.above), last=last, keep=keep)
        if pull.efforts is not None:
            self._efforts[layer] = pull.efforts
            if last and not keep and not self._keep and len(self.caller.parents[layer]) > 1:
                self._last[layer] = pull
        return pull

    def _let_go(self, site: int) -> None:
        children = self.caller.children[site]
        if self.caller.head in children:
            self._loss = self.loss
        self.sheet.states[site] = None
        for child in children:
            if self._is_awaited(child):
                continue  # another parent will ask
            self._last.pop(child, None)
            self.messages.forget(child)
            if child != self.caller.head:
                self.sheet.costates[child] = None

    def _is_awaited(self, layer: int) -> bool:
        parents = self.caller.parents[layer]
        if len(parents) == 1:
            return False
        others = self._awaited.get(layer, sum(self.messages.wanted[parent] for parent in parents)) - 1
        self._awaited[layer] = others
        return others > 0

    @torch.no_grad()
    def forward(self) -> list[Point]:
        """What a forward pass puts at every site."""
        outputs = list(self.sheet.states)
        for site in self.topology.sites:
            outputs[site] = self.caller.function(site)(*(held(outputs, place) for place in self.caller.parents[site]))
        return [held(outputs, site) for site in self.topology.sites]


@final
class _SiteView(View):
    """A site's own fields, `age` ticks old, and its neighbours' messages as late as its delays say."""

    __slots__ = ("_age", "_block", "_delays", "_last", "_site")

    def __init__(self, block: Block, site: int, delays: Delays, age: int = 0, *, last: bool = False) -> None:
        self._block = block
        self._site = site
        self._delays = delays
        self._age = age
        self._last = last

    @property
    def state(self) -> State:
        sheet = self._block.sheet
        return held(sheet.moment(self._age)[0] if self._age else sheet.states, self._site)

    @property
    def costate(self) -> Costate:
        sheet, age = self._block.sheet, self._age + self._delays.own
        return held(sheet.moment(age)[1] if age else sheet.costates, self._site)

    @property
    def state_residual(self) -> State:
        return self.prediction - self.state

    @property
    def credit(self) -> Costate:
        return self._block.dynamics.credit(self)

    @property
    def samples(self) -> int:
        return self.state.shape[0]

    @property
    def at_output(self) -> bool:
        return not self._block.part.passes and self._block.caller.head in self._block.caller.children[self._site]

    def own(self, values: Sequence[float]) -> float:
        return values[self._block.part.before + self._site - 1]

    def absorbed(self, point: State, step: float) -> State:
        caller = self._block.caller
        return proximal(caller.function(caller.head), point, step)

    @property
    def prediction(self) -> State:
        points = self._block.points(self._site, self._delays.below)
        return self._block.messages.evaluation(self._site, points).output

    @property
    def pulled(self) -> Costate:
        return self._block.pulled(self._site, self._delays, last=self._last)
