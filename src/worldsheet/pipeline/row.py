"""The segments of a relaxation that are in this process, as one engine."""

from collections.abc import Callable, Sequence, Set
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.types import Table
from worldsheet.dynamics import Dynamics
from worldsheet.engine import Engine, Residual, residual_of
from worldsheet.pipeline.segment import StageBlock
from worldsheet.problem import BoundLayers, Chain
from worldsheet.schedules import Phase, Schedule

Measure: TypeAlias = Callable[[StageBlock], float]
"""A number of one segment."""


@final
class StagedEngine(Engine):
    """One segment, whose neighbours are in other processes, or all of them, in turns.

    A phase is an exchange with the neighbours and a move. What a stop needs of the whole chain, residuals and loss, is
    told from neighbour to neighbour: up to the output and back down, so that all stages decide alike.

    Args:
        chain: the whole problem.
        segments: those here, from the input's side.
        x: input x_0, which the first stage looks at.
        target: what the loss compares the output with, which the last stage looks at.
        dynamics: how a site moves.
        schedule: when; its messages are fresh.
    """

    def __init__(
        self,
        chain: Chain,
        segments: Sequence[StageBlock],
        x: Tensor,
        target: Any,
        dynamics: Dynamics,
        schedule: Schedule,
    ) -> None:
        self.chain = chain
        self.topology = chain.topology
        self.dynamics = dynamics
        self._here = segments
        self._x, self._target, self._schedule = x, target, schedule
        self._number = 0
        self._everywhere = frozenset(chain.topology.sites)
        self._precision = 0.0

    def start(self, initial: Fields | None = None) -> None:
        """The dynamics' own fields; a forward pass goes from stage to stage.

        Raises:
            InputError: initial fields, which no stage has.
        """
        if initial is not None:
            raise InputError(
                "initial fields cannot be spread over stages", "the dynamics' own start", "leave initial out"
            )
        for segment in self._here:
            segment.start(self._x, self._target, self._schedule)
        self._precision = float(self._told(lambda segment: segment.block.precision)[-1, 0])

    @property
    def problem(self) -> BoundLayers:
        """The functions of the topmost stage here."""
        return self._here[-1].block.caller

    @property
    def evaluations(self) -> int:
        """Of the layers here."""
        return sum(segment.block.evaluations for segment in self._here)

    @property
    def pulls(self) -> int:
        """Through the layers here."""
        return sum(segment.block.pulls for segment in self._here)

    def fire(self, phase: Phase) -> None:
        """Exchange what the phase reads across edges, then move."""
        self._exchange({firing.site for firing in phase}, {firing.site for firing in phase if firing.last})
        for segment in self._here:
            segment.fire(phase)

    def close_tick(self) -> None:
        """Nothing to remember: messages are fresh."""

    def residual(self) -> Residual:
        """See `Engine.residual`; of the whole chain, at every stage."""
        self._exchange(self._everywhere, frozenset())
        return residual_of(self.dynamics, self._gathered([segment.block.table() for segment in self._here]))

    def efforts(self) -> list[tuple[Tensor, Tensor | None]]:
        """See `Engine.efforts`; of the parameters here."""
        self._exchange(self._everywhere, frozenset())
        return [pair for segment in self._here for pair in segment.block.efforts()]

    def input_gradient(self) -> Tensor | None:
        """See `Engine.input_gradient`; None where the input is elsewhere."""
        lowest = self._here[0]
        return lowest.block.input_gradient() if lowest.first else None

    @override
    def credit_at_ends(self) -> tuple[float, float]:
        self._exchange(self._everywhere, frozenset())
        near = self._told(lambda segment: segment.block.credit_at_ends()[0])
        slope = self._told(lambda segment: segment.block.credit_at_ends()[1])
        return float(near[0, 0]), float(slope[-1, 0])

    @property
    def fields(self) -> Fields:
        """Of the sites here."""
        parts = [segment.block.fields for segment in self._here]
        states = tuple(state for part in parts for state in part.states)
        return Fields(states, tuple(costate for part in parts for costate in part.costates))

    @property
    def loss(self) -> Tensor:
        """C, in float64, as the topmost stage tells it."""
        return self._told(lambda segment: segment.block.loss.item() if segment.last else 0.0)[-1, 0]

    @property
    def precision(self) -> float:
        """Of the output."""
        return self._precision

    def close(self) -> None:
        """Move the buffers of repeated layers once, and see to it that what was sent has arrived."""
        for segment in self._here:
            segment.block.caller.replay.settle()
            segment.close()

    def _exchange(self, fired: Set[int], closed: Set[int]) -> None:
        self._number += 1
        for segment in self._here:
            segment.offer(self._number, fired)
        for segment in self._here:
            segment.answer(self._number, fired, closed)
        for segment in self._here:
            segment.hear(self._number, fired)

    def _gathered(self, rows: Sequence[Table]) -> Table:
        """The rows of all segments, from the input's side to the output's."""
        self._number += 1
        for segment, own in zip(self._here, rows, strict=True):
            segment.collect(self._number, own)
        return [segment.learn(self._number) for segment in reversed(self._here)][-1]

    def _told(self, value: Measure) -> Table:
        """One number of each segment, in the first column."""
        return self._gathered([torch.tensor([[value(s), 0, 0, 0]], dtype=torch.float64) for s in self._here])
