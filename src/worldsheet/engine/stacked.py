"""The same loop body for runs of equal sites: each run moves as one batched tensor."""

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.core.field import Field
from worldsheet.core.shapes import Costate, Elsewhere, Point, Residuals, State
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import Engine, Residual
from worldsheet.engine.measure import residual_of, start_fields
from worldsheet.engine.messages import Messages
from worldsheet.engine.runs import gathered, runs, scattered
from worldsheet.problem import Caller, Chain, Evaluation, Fields, Pull, Stepwise, Topology, View
from worldsheet.schedule import Phase


@final
class StackedBlock(Engine):
    """A chain whose equal consecutive layers are one batched operation, for schedules that move all sites at once.

    The same numbers as `Block` to rounding. Fields of a run are tensors (site, batch, ...); a tick of S equal layers is
    a few batched kernels instead of S small ones.

    Args:
        chain: the problem; the last layer always moves alone.
        x: input x_0.
        target: what the loss compares the output with.
        dynamics: how a site moves; it sees whole runs and must treat sites alike.
    """

    def __init__(self, chain: Chain, x: Tensor, target: Any, dynamics: Dynamics) -> None:
        self.chain = chain
        self.dynamics = dynamics
        self.caller = Caller(chain, target)
        self._runs = runs(self.caller.traits[:-1])
        self.topology = Topology.chain(len(self._runs))
        self._messages = Messages(self.caller, everywhere=True, to_input=x.requires_grad)
        self._x = x
        self._states: list[Elsewhere] = []
        self._costates: list[Elsewhere] = []
        self._evaluated: dict[int, tuple[Tensor, Tensor, Evaluation]] = {}
        self._pulled: dict[int, tuple[Evaluation, Tensor, Pull]] = {}
        self._credits: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._residuals: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._tops: dict[int, tuple[Tensor, Tensor]] = {}
        self._own: dict[tuple[int, int], tuple[Sequence[float], Tensor]] = {}
        self._unit: Tensor | None = None
        self._stacked_evaluations = self._stacked_pulls = 0

    @property
    def evaluations(self) -> int:
        """Forward evaluations of layers, a run of S sites counted S times."""
        return self._messages.evaluations + self._stacked_evaluations

    @property
    def pulls(self) -> int:
        """Pull-backs through layers, likewise."""
        return self._messages.pulls + self._stacked_pulls

    @torch.no_grad()
    def start(self, initial: Fields | None) -> None:
        """See `Engine.start`; evaluates every layer once in order."""
        outputs = [self._x]
        for site in self.chain.topology.sites:
            outputs.append(self.caller.function(site)(outputs[-1]))
        fields = start_fields(self.dynamics, outputs[1:], initial)
        self._states = [gathered(fields.states, run) for run in self._runs]
        self._costates = [gathered(fields.costates, run) for run in self._runs]

    def fire(self, phase: Phase) -> None:
        """Move the runs of a phase."""
        moves = []
        for firing in phase:
            view = _RunView(self, firing.site - 1)
            moves.append(self.dynamics.state(view) if firing.field is Field.STATE else self.dynamics.costate(view))
        for firing, value in zip(phase, moves, strict=True):
            fields = self._states if firing.field is Field.STATE else self._costates
            fields[firing.site - 1] = value

    def close_tick(self) -> None:
        """Nothing to remember: these schedules read the newest messages."""

    def residual(self) -> Residual:
        """See `Engine.residual`; one norm per site."""
        return residual_of(self.dynamics, [_RunView(self, run) for run in range(len(self._runs))], self._norms)

    def efforts(self) -> list[tuple[Parameter, Tensor | None]]:
        """See `Engine.efforts`."""
        found: list[tuple[Parameter, Tensor | None]] = []
        for index, run in enumerate(self._runs):
            if run.parameters:
                found += zip(run.parameters, self.pull(index, last=True).efforts or (), strict=True)
        if loss_parameters := self.caller.traits[-1].parameters:
            found += zip(loss_parameters, self._pull_cost(last=True).efforts or (), strict=True)
        return found

    def input_gradient(self, number: int = 0) -> Tensor | None:
        """See `Engine.input_gradient`."""
        if not self._x.requires_grad:
            return None
        part = self.pull(0, last=True).inputs[0]
        return part if part is None or self._runs[0].size == 1 else part[0]

    @property
    def fields(self) -> Fields:
        """See `Engine.fields`."""
        states = [s for run, state in zip(self._runs, self._states, strict=True) for s in scattered(state, run)]
        costates = [c for run, costate in zip(self._runs, self._costates, strict=True) for c in scattered(costate, run)]
        return Fields(tuple(states), tuple(costates))

    @property
    def loss(self) -> Tensor:
        """See `Engine.loss`."""
        return self._messages.evaluation(self.caller.head, [self._output()]).output

    @property
    def precision(self) -> float:
        """See `Engine.precision`."""
        return torch.finfo(self._states[-1].dtype).eps

    def evaluation(self, index: int) -> Evaluation:
        """The layers of a run at the states below them, remembered until one of these is replaced."""
        run, below, own = self._runs[index], self._below(index), self._states[index]
        if run.size == 1:
            return self._messages.evaluation(run.first, [below])
        kept = self._evaluated.get(index)
        if kept is not None and kept[0] is below and kept[1] is own:
            return kept[2]
        self._stacked_evaluations += run.size
        points = torch.cat([below.unsqueeze(0), own[:-1]])
        made = Stepwise(run.steps, [points], True, run.parameters)
        self._evaluated[index] = (below, own, made)
        return made

    def pull(self, index: int, *, last: bool = False) -> Pull:
        """Pull a run's credits back through its layers."""
        run, credit = self._runs[index], self.credit(index)
        if run.size == 1:
            return self._messages.pull(run.first, [self._below(index)], credit, last=last)
        evaluation = self.evaluation(index)
        kept = self._pulled.get(index)
        if kept is not None and kept[0] is evaluation and kept[1] is credit and (kept[2].efforts or not last):
            return kept[2]
        self._stacked_pulls += run.size
        pull = evaluation.pull(credit, effort=last, keep=True)
        self._pulled[index] = (evaluation, credit, pull)
        return pull

    def own(self, index: int, values: Sequence[float]) -> float | Tensor:
        """A run's entries of a list with one number per site, remembered as a tensor that multiplies its fields."""
        run, like = self._runs[index], self._states[index]
        if run.size == 1:
            return values[run.first - 1]
        kept = self._own.get((index, id(values)))
        if kept is None:
            cut = torch.tensor(values[run.first - 1 : run.first - 1 + run.size], dtype=like.dtype, device=like.device)
            kept = self._own[index, id(values)] = (values, cut.reshape(-1, *[1] * (like.dim() - 1)))
        return kept[1]

    def state_residual(self, index: int) -> State:
        """The state residual of a run, remembered until its prediction or state is replaced."""
        prediction, state = self.evaluation(index).output, self._states[index]
        kept = self._residuals.get(index)
        if kept is not None and kept[0] is prediction and kept[1] is state:
            return kept[2]
        residual = prediction - state
        self._residuals[index] = (prediction, state, residual)
        return residual

    def credit(self, index: int) -> Costate:
        """What the sites of a run send down."""
        state, costate, below = self._states[index], self._costates[index], self._below(index)
        kept = self._credits.get(index)
        if kept is not None and kept[0] is state and kept[1] is costate and kept[2] is below:
            return kept[3]
        credit = self.dynamics.credit(_RunView(self, index))
        self._credits[index] = (state, costate, below, credit)
        return credit

    def pulled(self, index: int) -> Costate:
        """The messages from above, for every site of a run."""
        if index == len(self._runs) - 1:
            return _present(self._pull_cost(last=False).inputs[0], self._states[index])
        above = _present(self.pull(index + 1).inputs[0], self._states[index + 1])
        if self._runs[index + 1].size > 1:
            above = above[0]
        if self._runs[index].size == 1:
            return above
        own = _present(self.pull(index).inputs[0], self._states[index])
        return torch.cat([own[1:], above.unsqueeze(0)])

    def _pull_cost(self, *, last: bool) -> Pull:
        if self._unit is None:
            self._unit = torch.ones_like(self.loss)
        return self._messages.pull(self.caller.head, [self._output()], self._unit, last=last)

    def _output(self) -> State:
        last = len(self._runs) - 1
        return self.evaluation(last).output if self.dynamics.character.open_output else self._states[last]

    def _below(self, index: int) -> Point:
        if index == 0:
            return self._x
        state = self._states[index - 1]
        if self._runs[index - 1].size == 1:
            return state
        kept = self._tops.get(index)
        if kept is None or kept[0] is not state:  # one view per state, since messages are known by their tensors
            kept = self._tops[index] = (state, state[-1])
        return kept[1]

    def _norms(self, tensors: list[Tensor]) -> Residuals:
        parts = [
            torch.linalg.vector_norm(t.reshape(run.size, -1), dim=1) for run, t in zip(self._runs, tensors, strict=True)
        ]
        return torch.cat(parts).double().cpu()


@final
class _RunView(View):
    """A run of sites seen as one: every tensor has a leading site dimension if there is more than one."""

    __slots__ = ("_block", "_index")

    def __init__(self, block: StackedBlock, index: int) -> None:
        self._block = block
        self._index = index

    @property
    def state(self) -> State:
        return self._block._states[self._index]

    @property
    def costate(self) -> Costate:
        return self._block._costates[self._index]

    @property
    def prediction(self) -> State:
        return self._block.evaluation(self._index).output

    @property
    def pulled(self) -> Costate:
        return self._block.pulled(self._index)

    @property
    def state_residual(self) -> State:
        return self._block.state_residual(self._index)

    @property
    def credit(self) -> Costate:
        return self._block.credit(self._index)

    @property
    def samples(self) -> int:
        return self.state.shape[int(self._block._runs[self._index].size > 1)]

    def own(self, values: Sequence[float]) -> float | Tensor:
        return self._block.own(self._index, values)

    @property
    def at_output(self) -> bool:
        return self._index == len(self._block._runs) - 1


def _present(part: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if part is None else part
