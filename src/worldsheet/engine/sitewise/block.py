"""The one loop body: sites fire, reading only their own fields and their neighbours' messages."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.fields import Fields
from worldsheet.core.reading import read
from worldsheet.core.types import Costate, Field, Point, State, Table
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import WHOLE, Engine, Residual, SiteRange, check_answer, total
from worldsheet.engine.measure import norms, residual_of, start_fields, table_of
from worldsheet.engine.sitewise.history import FieldHistory, SheetView, held
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.layers import Pull, proximal
from worldsheet.problem import BoundLayers, Chain
from worldsheet.schedules import FRESH, Delays, Firing, Phase, Schedule, Tick


@final
class Block(Engine):
    """Consecutive sites that move in one process; the edges are the clamped input below and the cost above.

    Args:
        chain: the problem.
        x: input x_0.
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
        x: Tensor,
        target: Any,
        dynamics: Dynamics,
        schedule: Schedule,
        *,
        keep: bool,
        recompute: bool = False,
        part: SiteRange = WHOLE,
    ) -> None:
        self.chain = chain
        self.topology = chain.topology
        self.dynamics = dynamics
        self.caller = BoundLayers(chain, target)
        everywhere = keep or not dynamics.settles_at_once  # a descent moves all sites, whether they are trained or not
        self.messages = Messages(self.caller, everywhere=everywhere, to_input=x.requires_grad, recompute=recompute)
        self.sheet = FieldHistory(x, self.topology.size, schedule.memory)
        self._keep = keep
        self._unit: Tensor | None = None
        self._loss: Tensor | None = None
        self._cut: set[int] = set()  # sites that the cost does not depend on: their layers get no gradient at all
        self.part = part
        self._open = dynamics.character.open_output and not part.passes
        self._whole = dynamics.character.whole_credit
        self._arrived: dict[int, Costate] = {}  # by site, the derivative of the cost through all layers above
        self._efforts: dict[int, tuple[Tensor | None, ...]] = {}

    @property
    def problem(self) -> BoundLayers:
        """The user's functions."""
        return self.caller

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
        return torch.finfo(held(self.sheet.states, self.topology.size).dtype).eps

    @property
    def loss(self) -> Tensor:
        """C at the output as it is now, or as it was when the output was let go."""
        head = self.caller.head
        if self._loss is None or self.sheet.states[head - 1] is not None:
            self._loss = self.messages.evaluation(head, self.points(head, 0)).output
        return self._loss

    def fire(self, phase: Phase) -> None:
        """Move the sites of a phase: all read before any writes, but for states that follow one another upward."""
        wanted = self.messages.wanted
        firings = [f for f in phase if f.field is Field.STATE or wanted[f.site]]
        upward = sorted(filter(_moves_state, firings), key=_site_of) if self._whole else []
        moves = [(f, self._move(f)) for f in firings if not (self._whole and _moves_state(f))]
        for firing in upward:
            self._write(firing, self._move(firing))
        for firing, value in moves:
            self._write(firing, value)

    def _write(self, firing: Firing, value: Tensor) -> None:
        if firing.field is Field.STATE:
            self.sheet.states[firing.site] = value
            self._arrived.clear()
        else:
            self.sheet.costates[firing.site] = value
        if self._efforts and not firing.last:
            self._forget_efforts(firing.site)
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
        """The state that a layer reads, `age` ticks old."""
        if layer == self.caller.head and self._open:
            return [self.messages.evaluation(layer - 1, self.points(layer - 1, age)).output]
        states = self.sheet.moment(age)[0] if age else self.sheet.states
        return [held(states, layer - 1)]

    def pulled(self, site: int, delays: Delays, *, last: bool = False) -> Costate:
        """The message from above: the credit of the layer that reads this site, or of all above it, pulled back."""
        if self._whole and site:
            return self._through(site)
        found = None if site + 1 in self._cut else self._pull(site + 1, delays, last=last).inputs[0]
        if found is not None:
            return found
        self._cut.add(site)
        return torch.zeros_like(held(self.sheet.states, site))

    def _through(self, site: int) -> Costate:
        """J_{l+1}ᵀ … J_Lᵀ ∇C, made once for all sites between two moves of states, from the cost down."""
        above = min(self._arrived, default=self.caller.head)
        for layer in range(above, site, -1):
            credit = self._cost_credit() if layer == self.caller.head else self._arrived[layer]
            found = self.messages.pull(layer, self.points(layer, 0), credit, last=False).inputs[0]
            self._arrived[layer - 1] = torch.zeros_like(held(self.sheet.states, layer - 1)) if found is None else found
        return self._arrived[site]

    def residual(self) -> Residual:
        """Measure every site with the messages of this moment."""
        return residual_of(self.dynamics, self.table())

    @override
    def slope(self, tick: Tick) -> Tensor:
        return total(norms([_SiteView(self, site, FRESH).costate_residual for site in self.topology.sites]))

    def table(self) -> Table:
        """What `residual` is made of."""
        return table_of([_SiteView(self, site, FRESH) for site in self.topology.sites], norms)

    def efforts(self, *, keep: bool = False) -> list[tuple[Tensor, Tensor | None]]:
        """∂𝓛/∂θ (4) of every parameter of every layer, an entry per use; None where it was not used.

        Args:
            keep: whether these points will be read again, so that what was saved for them must stay.
        """
        found: list[tuple[Tensor, Tensor | None]] = []
        for layer in range(1, self.caller.head + 1):
            if layer in self._cut:
                continue
            if layer not in self._efforts and self.caller.has_efforts(layer):
                self._pull(layer, FRESH, last=True, keep=keep)
            parameters = self.caller.traits[layer - 1].parameters
            found += zip(parameters, self._efforts.get(layer, ()), strict=bool(parameters))
        return found

    def renew(self) -> None:
        """Forget all messages: parameters have moved since they were made."""
        self.messages.renew()
        self._efforts.clear()
        self._arrived.clear()

    @override
    def input_gradient(self) -> Tensor | None:
        if not self.messages.wanted[0]:
            return None
        pulled = self.pulled(0, FRESH, last=True)
        return None if 0 in self._cut else pulled

    @override
    def credit_at_ends(self) -> tuple[float, float]:
        near = [self.credit(1, 0)]
        below, above = read([norms(near).norm(), self.pulled(self.topology.size, FRESH).norm()])
        return below, above

    @override
    def close(self) -> None:
        self.caller.replay.settle()

    def credit(self, layer: int, age: int) -> Costate:
        """What a layer pulled back `age` ticks ago: 1 for the cost, for a site what its dynamics says."""
        if layer != self.caller.head:
            credit = self.dynamics.credit(_SiteView(self, layer, Delays(age, age, age), age))
            return check_answer(self.dynamics, "credit", credit, self.sheet.states[layer])
        return self._cost_credit()

    def _cost_credit(self) -> Costate:
        if self._unit is None:
            self._unit = torch.ones_like(self.loss)
        return self._unit

    def _move(self, firing: Firing) -> Tensor:
        view = _SiteView(self, firing.site, firing.delays, last=firing.last)
        if firing.field is Field.STATE:
            return check_answer(self.dynamics, "state", self.dynamics.state(view), self.sheet.states[firing.site])
        return check_answer(self.dynamics, "costate", self.dynamics.costate(view), self.sheet.costates[firing.site])

    def _pull(self, layer: int, delays: Delays, *, last: bool, keep: bool = False) -> Pull:
        points = self.points(layer, delays.point)
        pull = self.messages.pull(layer, points, self.credit(layer, delays.above), last=last, keep=keep)
        if pull.efforts is not None:
            self._efforts[layer] = pull.efforts
        return pull

    def _forget_efforts(self, site: int) -> None:
        """Of a site that has moved: those of its layer, of the one that reads it, of a cost that reads through that."""
        top = site + 2 if self._open and site + 2 == self.caller.head else site + 1
        for layer in range(site, top + 1):
            self._efforts.pop(layer, None)

    def _let_go(self, site: int) -> None:
        above = site + 1
        if above == self.caller.head:
            self._loss = self.loss
        else:
            self.sheet.costates[above] = None
        self.sheet.states[site] = None
        self.messages.forget(above)

    @torch.no_grad()
    def forward(self) -> list[Point]:
        """What a forward pass puts at every site."""
        outputs = [held(self.sheet.states, 0)]
        for site in self.topology.sites:
            outputs.append(self.caller.function(site)(outputs[-1]))
        return outputs[1:]


def _moves_state(firing: Firing) -> bool:
    return firing.field is Field.STATE


def _site_of(firing: Firing) -> int:
    return firing.site


@final
class _SiteView(SheetView[Block]):
    """A site of a path."""

    __slots__ = ()

    @property
    def samples(self) -> int:
        return self.state.shape[0]

    @property
    def at_output(self) -> bool:
        return not self._owner.part.passes and self._site == self._owner.topology.size

    def own(self, values: Sequence[float]) -> float:
        return values[self._owner.part.before + self._site - 1]

    def absorbed(self, point: State, step: float) -> State:
        caller = self._owner.caller
        return proximal(caller.function(caller.head), point, step)

    @property
    def prediction(self) -> State:
        points = self._owner.points(self._site, self._delays.below)
        return self._owner.messages.evaluation(self._site, points).output

    @property
    def pulled(self) -> Costate:
        return self._owner.pulled(self._site, self._delays, last=self._last)
