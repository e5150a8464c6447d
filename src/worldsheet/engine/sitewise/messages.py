"""What travels between neighbours: states through a layer, credits back through it."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from worldsheet.core.types import Costate, Point, State
from worldsheet.layers import Checkpointed, ClosedForm, CostEvaluation, Efforts, Evaluation, Pull, Recorded, Step
from worldsheet.problem import BoundLayers


@final
class Messages:
    """Evaluates and pulls back single layers, remembering what was made from the same tensors.

    The cost counts as layer L + 1: its pull-back of credit 1 is ∇C. Asking for a message twice costs once, as long as
    the tensors it is made from have not been replaced.

    Args:
        caller: the layers and the loss.
        everywhere: whether every site's costate is wanted, or only those that parameters or the input's gradient use.
        to_input: whether the input's gradient is wanted.
        recompute: keep of each layer what it returned and evaluate it again to pull back, but for the topmost.

    Attributes:
        evaluations: forward evaluations so far, the loss not counted.
        pulls: pull-backs so far, the loss not counted.
        wanted: by site, whether anything at or below it uses its costate; the input, at 0, if its gradient is wanted.
    """

    def __init__(
        self,
        caller: BoundLayers,
        *,
        everywhere: bool,
        to_input: bool,
        recompute: bool = False,
    ) -> None:
        self._recompute = recompute
        self.caller = caller
        self._autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
        self.evaluations = 0
        self.pulls = 0
        self.wanted = [to_input]
        for site in range(1, caller.head):
            self.wanted.append(everywhere or bool(caller.traits[site - 1].parameters) or self.wanted[-1])
        self._evaluations: dict[int, Evaluation] = {}
        self._pulled: dict[int, tuple[Evaluation, Tensor, Pull]] = {}

    def evaluation(self, layer: int, points: Sequence[Point]) -> Evaluation:
        """The layer at `points`.

        Raises:
            LayerError: a layer or loss that fails there.
        """
        kept = self._evaluations.get(layer)
        if kept is not None and not kept.emptied and kept.is_at(points):
            return kept
        self.evaluations += layer != self.caller.head
        made = self._evaluate(layer, points)
        if self._recompute and layer < self.caller.head - 1:
            made = Checkpointed(made)
        self._evaluations[layer] = made
        return made

    def pull(self, layer: int, points: Sequence[Point], credit: Costate, *, last: bool, keep: bool = False) -> Pull:
        """Pull `credit` back through the layer at `points`; with `last`, efforts come along.

        With `last` the graph is freed too, unless it is kept.

        Raises:
            LayerError: a pull-back that torch refuses.
        """
        kept = self._pulled.get(layer)
        if (
            kept is not None
            and kept[1] is credit
            and kept[0].is_at(points)
            and (kept[2].efforts is not None or not last)
        ):
            return kept[2]
        evaluation = self.evaluation(layer, points)
        if evaluation.spent:
            del evaluation  # with the output that the layer is about to return once more
            self.forget(layer)
            self.evaluations += layer != self.caller.head
            evaluation = self._evaluations[layer] = self._evaluate(layer, points)
        self.pulls += layer != self.caller.head
        try:
            pull = evaluation.pull(credit, effort=last, keep=keep or not last)
        except RuntimeError as error:
            raise self.caller.blame(layer, points, error) from error
        self._pulled[layer] = (evaluation, credit, pull)
        return pull

    def split_backward(self, layer: int, points: Sequence[Point], credit: Costate) -> tuple[Tensor | None, Efforts]:
        """Pull `credit` back through the layer for the last time: its input's credit now, the efforts when called for.

        Raises:
            LayerError: a pull-back that torch refuses.
        """
        evaluation = self.evaluation(layer, points)
        self.pulls += layer != self.caller.head
        self.forget(layer)
        try:
            return evaluation.split_backward(credit)
        except RuntimeError as error:
            raise self.caller.blame(layer, points, error) from error

    def forward(self, layer: int, point: Point) -> State:
        """The layer at a point, with nothing kept for derivatives.

        Raises:
            LayerError: a layer that fails there.
        """
        if self.closed(layer, point):
            try:
                return forward(self.caller.traits[layer - 1].steps or (), point)
            except RuntimeError:
                pass  # let the module itself say what is wrong
        return self.caller.function(layer)(point)

    def closed(self, layer: int, point: Point) -> bool:
        """Whether the layer's closed form holds at such a point."""
        steps = self.caller.traits[layer - 1].steps
        return bool(steps) and not self._autocast and _fit(steps or (), point)

    def forget(self, layer: int) -> None:
        """Let go of a layer that will not be evaluated or pulled through again."""
        self._evaluations.pop(layer, None)
        self._pulled.pop(layer, None)

    def renew(self) -> None:
        """Forget what was made with parameters as they were."""
        self._evaluations.clear()
        self._pulled.clear()

    def _evaluate(self, layer: int, points: Sequence[Point]) -> Evaluation:
        traits = self.caller.traits[layer - 1]
        differentiate = self.wanted[layer - 1]
        if traits.steps and self.closed(layer, points[0]):
            try:
                return ClosedForm(traits.steps, points, differentiate, traits.parameters)
            except RuntimeError:
                pass  # let the module itself say what is wrong
        elif layer == self.caller.head:
            if differentiate and (priced := self._price(points[0])):
                return priced
            made = Recorded(self.caller.function(layer), points, [differentiate], traits, searched=self.caller.searches)
            self.caller.traits[-1] = traits._replace(parameters=made.parameters)
            return made
        return Recorded(self.caller.function(layer), points, [differentiate], traits)

    def _price(self, output: Point) -> Evaluation | None:
        cost, target = self.caller.cost, self.caller.target
        if cost is None or self._autocast or not cost.fits(output, target):
            return None
        try:
            return CostEvaluation(cost, output, target)
        except (RuntimeError, IndexError):  # let the loss itself say what is wrong
            return None


def forward(steps: Sequence[Step], point: Point) -> State:
    """The steps one after the other."""
    for step in steps:
        point, _ = step.forward(point)
    return point


def _fit(steps: Sequence[Step], point: Point) -> bool:
    for step in steps:  # noqa: SIM110  all() costs a generator per message
        if not step.fits(point):
            return False
    return True
