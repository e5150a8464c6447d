"""An engine for modules of any kind: a tick is a run of the user's own forward and one call of torch's engine."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.errors import RelaxationError, SitesChangedError
from worldsheet.core.fields import Fields
from worldsheet.core.reading import read
from worldsheet.core.types import Costate, Field, State, Table
from worldsheet.cut import Replayed, ReplayedRun
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import Engine, Residual, check_answer, total
from worldsheet.engine.measure import norms, residual_of, start_fields, table_of
from worldsheet.engine.sitewise.history import FieldHistory, SheetView
from worldsheet.problem import Chain
from worldsheet.schedules import FRESH, Delays, Firing, Phase, Schedule, Tick

_RUNS = 2
"""How many runs are remembered, each with its graph."""


@final
class ForwardEngine(Engine):
    """Every tensor that a site returns is a state; messages come from runs of the forward with the states put in.

    A phase in which all sites move costs one run, for the predictions, and one call of torch's engine with the credits
    of all sites, for what is pulled back; one in which a single site moves costs the same.

    Args:
        chain: a module of any kind, and its loss.
        x: what the module is called with.
        target: what the loss compares the output with.
        dynamics: how a site moves.
        schedule: when. It also says how long old messages are remembered.

    Raises:
        LayerError: a module or loss that fails on what it receives.
    """

    def __init__(self, chain: Chain, x: Any, target: Any, dynamics: Dynamics, schedule: Schedule) -> None:
        self.chain = chain
        self.dynamics = dynamics
        self._replayed = Replayed(chain.program, x, target)
        self.topology = self._replayed.topology
        self.sheet = FieldHistory(torch.empty(0), self.topology.size, schedule.memory)
        self.samples = self._replayed.samples
        self.outputs = self.topology.open_ends
        self._whole = dynamics.character.whole_credit
        self._runs = [self._replayed.first]
        self._runs_made = 1
        self._pulls_made = 0
        self._credits: dict[int, list[Tensor]] = {}
        self._pulled: dict[tuple[int, int], list[Tensor | None]] = {}
        self._efforts: list[Tensor | None] | None = None

    @property
    def problem(self) -> Replayed:
        """The module and its loss."""
        return self._replayed

    @property
    def evaluations(self) -> int:
        """Runs of the forward, times the sites."""
        return (self._runs_made - 1) * self.topology.size

    @property
    def pulls(self) -> int:
        """Calls of torch's engine for all sites, times the sites."""
        return self._pulls_made * self.topology.size

    @property
    def sees_all_reads(self) -> bool:
        """False: what is read without a derivative leaves no trace in torch's graph."""
        return False

    @property
    def precision(self) -> float:
        """Relative rounding of the output's dtype."""
        return torch.finfo(self._replayed.first.predictions[self.topology.ends[-1] - 1].dtype).eps

    @override
    def start(self, initial: Fields | None) -> None:
        self.sheet.start(start_fields(self.dynamics, self._replayed.first.predictions, initial))
        self._forget()

    def settle(self) -> None:
        """What a schedule leaves that moves each site once, on settled neighbours: one run, one pull-back a site."""
        first = self._replayed.first
        costates, efforts = first.solved()
        found = [torch.zeros_like(x) if c is None else c for x, c in zip(first.predictions, costates, strict=True)]
        self.sheet.start(Fields(tuple(first.predictions), tuple(found)))
        self._runs, self._runs_made, self._pulls_made = [first], 2, 1
        known = {id(leaf): gradient for leaf, gradient in efforts}
        self._forget()
        self._efforts = [known.get(id(leaf)) for leaf in self._replayed.leaves]

    def fire(self, phase: Phase) -> None:
        """Move the sites of a phase: all read before any writes."""
        moves = self._moved_along(phase) if self._whole else [(firing, self._move(firing)) for firing in phase]
        for firing, value in moves:
            fields = self.sheet.states if firing.field is Field.STATE else self.sheet.costates
            fields[firing.site] = value
        self._forget()

    def close_tick(self) -> None:
        """Remember the tick if old messages may be asked for."""
        self.sheet.close_tick()

    def renew(self) -> None:
        """Forget all messages: parameters have moved since they were made."""
        self._runs.clear()
        self._forget()

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
        """See `Engine.efforts`: one entry for each leaf, all uses summed."""
        del keep
        if self._efforts is None:
            self.pulled_at(0, 0)
        return list(zip(self._replayed.leaves, self._efforts or (), strict=True))

    def input_gradient(self) -> Tensor | None:
        """None: inputs that require grad are leaves like parameters, and have their efforts."""
        return None

    def close(self) -> None:
        """Nothing: statistics have moved once, in the forward pass."""

    @override
    def credit_at_ends(self) -> tuple[float, float]:
        credits = self.credits(0)
        near = [credits[site - 1] for site in self.topology.children[0]]
        ends = [self.pulled(site, FRESH) for site in self.topology.ends]
        below, above = read([norms(near or [ends[0].new_zeros(())]).norm(), norms(ends).norm()])
        return below, above

    @property
    def fields(self) -> Fields:
        """The fields now."""
        return self.sheet.fields

    @property
    def loss(self) -> Tensor:
        """C at the output as it is now; where the forward calls other sites there, as it was last known."""
        if self.sheet.states[1] is None:
            return self._replayed.first.cost
        try:
            return self._at(0).cost
        except SitesChangedError:
            return self._runs[0].cost

    def prediction(self, site: int, age: int) -> State:
        """f_l at the states of `age` ticks ago."""
        return self._at(age).predictions[site - 1]

    def pulled(self, site: int, delays: Delays) -> Costate:
        """The message from above: what all readers of a state pull back, summed; ∇C where the cost alone reads it."""
        if self._whole:
            found = self._through(delays.point)[site - 1]
        elif site in self.outputs:
            found = self._slope(delays.point)[site - 1]
        else:
            found = self.pulled_at(delays.point, delays.above)[site - 1]
        return torch.zeros_like(self._replayed.first.predictions[site - 1]) if found is None else found

    def pulled_at(self, point: int, above: int) -> list[Tensor | None]:
        """By site, what credits of `above` ticks ago are pulled back to, through layers at the states of `point`."""
        known = self._pulled.get((point, above))
        if known is None:
            moment = self._at(point)
            self._pulls_made += 1
            known, efforts = moment.pull(self._read(self.credits(above)), self._replayed.leaves)
            self._pulled[point, above] = known
            if point == above == 0:
                self._efforts = efforts
        return known

    def credits(self, age: int) -> list[Tensor]:
        """What each site pulls back, `age` ticks ago."""
        known = self._credits.get(age)
        if known is None:
            delays = Delays(age, age, age)
            views = [_SiteView(self, site, delays, age) for site in self.topology.sites]
            answers = zip([self.dynamics.credit(view) for view in views], self.sheet.states[1:], strict=True)
            known = [check_answer(self.dynamics, "credit", answer, like) for answer, like in answers]
            self._credits[age] = known
        return known

    def _read(self, credits: list[Tensor]) -> list[Tensor | None]:
        """The credits of the sites that the cost depends on: what the others were made from has no gradient at all."""
        alive = self.topology.alive
        return [credit if site in alive else None for site, credit in enumerate(credits, start=1)]

    def _moved_along(self, phase: Phase) -> list[tuple[Firing, Tensor]]:
        """The moves of a phase, of states each on predictions that have moved: one run, which the next tick needs."""
        moves = [(firing, self._move(firing)) for firing in phase if firing.field is Field.COSTATE]
        firings = {firing.site: firing for firing in phase if firing.field is Field.STATE}
        if not firings:
            return moves
        found: list[tuple[Firing, Tensor]] = []

        def state(site: int, prediction: State) -> State:
            firing = firings[site]
            answer = self.dynamics.state(_SiteView(self, site, firing.delays, made=prediction))
            found.append((firing, check_answer(self.dynamics, "state", answer, prediction)))
            return found[-1][1]

        self._runs = [self._replayed.along(state)]
        self._runs_made += 1
        return moves + found

    def _slope(self, age: int) -> list[Tensor | None]:
        known = self._pulled.get((age, -1))
        if known is None:
            known, _ = self._at(age).pull([None] * self.topology.size)
            self._pulled[age, -1] = known
        return known

    def _through(self, age: int) -> list[Tensor | None]:
        """J_{l+1}ᵀ … J_Lᵀ ∇C of all sites, at the states of `age` ticks ago."""
        known = self._pulled.get((age, -1))
        if known is None:
            self._pulls_made += 1
            known = self._pulled[age, -1] = self._at(age).through()
        return known

    def _at(self, age: int) -> ReplayedRun:
        """The run at the states of `age` ticks ago."""
        states = (self.sheet.moment(age)[0] if age else self.sheet.states)[1 : self.topology.size + 1]
        is_open = self.dynamics.character.open_output
        given = [None if is_open and n in self.outputs else x for n, x in enumerate(states, start=1)]
        for moment in self._runs:
            if all(one is other or one is None for one, other in zip(given, moment.states, strict=True)):
                return moment
        made = self._replayed.at(given)
        self._runs_made += 1
        self._runs = [made, *self._runs[: _RUNS - 1]]
        return made

    def _move(self, firing: Firing) -> Tensor:
        view = _SiteView(self, firing.site, firing.delays)
        if firing.field is Field.STATE:
            return check_answer(self.dynamics, "state", self.dynamics.state(view), self.sheet.states[firing.site])
        return check_answer(self.dynamics, "costate", self.dynamics.costate(view), self.sheet.costates[firing.site])

    def _forget(self) -> None:
        self._credits.clear()
        self._pulled.clear()
        self._efforts = None


@final
class _SiteView(SheetView[ForwardEngine]):
    """A site of a module of any kind.

    Args:
        owner: the engine.
        site: whose view it is.
        delays: of its messages.
        age: of all it sees.
        made: its prediction, where states below it have moved already.
    """

    __slots__ = ("_made",)

    def __init__(
        self, owner: ForwardEngine, site: int, delays: Delays, age: int = 0, *, made: State | None = None
    ) -> None:
        super().__init__(owner, site, delays, age)
        self._made = made

    @property
    def samples(self) -> int:
        return self._owner.samples

    @property
    def at_output(self) -> bool:
        return self._site in self._owner.outputs

    def own(self, values: Sequence[float]) -> float:
        return values[self._site - 1]

    def absorbed(self, point: State, step: float) -> State:
        raise _no_proximal_step()

    @property
    def prediction(self) -> State:
        return self._owner.prediction(self._site, self._delays.below) if self._made is None else self._made

    @property
    def pulled(self) -> Costate:
        return self._owner.pulled(self._site, self._delays)


def _no_proximal_step() -> RelaxationError:
    return RelaxationError(
        "this module's output is not a site of a path, so that its cost has no proximal step",
        "the slope of the cost",
        "use Wave(output=Output.EXPLICIT), the default, or a chain of an nn.Sequential",
    )
