"""What decides a run in stages, beside its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from worldsheet.core.errors import InputError
from worldsheet.pipeline import (
    Current,
    DelayCompensated,
    Locked,
    Pipeline,
    PipelineSchedule,
    Plan,
    Predicted,
    Stashed,
    Unlocked,
    Weights,
)
from worldsheet.pipeline.partition import balanced, measured_costs
from worldsheet.problem import Chain
from worldsheet_lab.choices import choose
from worldsheet_lab.data import DataSet
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.recipes import OPTIMIZERS, Recipe
from worldsheet_lab.typed_json import from_json, to_json

WEIGHTS: Mapping[str, Weights] = {
    "passive": DelayCompensated(),
    "predicted": Predicted(),
    "stashed": Stashed(),
    "current": Current(),
}
MESSAGES: Mapping[str, torch.dtype | None] = {"exact": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@final
@dataclass(frozen=True)
class Setup:
    """How a recipe is trained in stages.

    Attributes:
        recipe: the network, the data and the optimizer.
        stages: processes.
        packets_per_update: M; a batch is cut into that many packets.
        weights: passive, predicted, stashed or current.
        locked: flush before every update.
        segment: updates between checkpoints, at which the pipeline runs dry.
        cuts: the plan; found by measuring before the first segment.
        free_running: whether stages take messages as they come.
        messages: exact, or what states and credits are rounded to between stages: bfloat16 or float16.

    Raises:
        InputError: a number out of range or an unknown name.
    """

    recipe: Recipe
    stages: int
    packets_per_update: int = 8
    weights: str = "passive"
    locked: bool = False
    segment: int = 500
    cuts: tuple[int, ...] = ()
    free_running: bool = False
    messages: str = "exact"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        choose("choice of weights", self.weights, WEIGHTS)
        choose("kind of messages", self.messages, MESSAGES)
        if not 1 <= self.stages <= self.recipe.depth:
            raise InputError(
                f"--stages must be between 1 and --depth {self.recipe.depth}, got {self.stages}",
                "1 or more stages, no more than there are layers",
                "a stage owns a layer at least: raise --depth or lower --stages",
            )
        if self.segment < 1 or not 1 <= self.packets_per_update <= self.recipe.batch_size:
            raise InputError(
                f"--packets-per-update must be between 1 and the batch size, {self.recipe.batch_size}, with at least 1 "
                f"update between checkpoints, got {self.packets_per_update} and {self.segment}",
                "packets of at least one sample each",
                "use --packets-per-update 8",
            )

        if self.free_running and self.locked:
            raise InputError(
                "--free-running and --locked cannot be used together",
                "one of the two: free running does without the flush of a locked order",
                "leave out one of them",
            )

    @property
    def order(self) -> PipelineSchedule:
        """What stages do when."""
        return Locked(self.packets_per_update) if self.locked else Unlocked(self.packets_per_update)

    def chain(self, data: DataSet) -> Chain:
        """The network with its start weights."""
        return Chain(self.recipe.model(data), nn.CrossEntropyLoss())

    def plan(self, chain: Chain, x: Tensor, target: Tensor) -> Plan:
        """Where to cut so that stages take equally long, by measuring every layer on one packet."""
        return balanced(measured_costs(chain, x, target), self.stages)

    def pipeline(self, chain: Chain) -> Pipeline:
        """The stages, cut as planned."""
        make = partial(OPTIMIZERS[self.recipe.optimizer], lr=self.recipe.lr)
        return Pipeline(
            chain,
            Plan(self.cuts),
            optimizer=make,
            weights=WEIGHTS[self.weights],
            schedule=self.order,
            messages=MESSAGES[self.messages],
            free_running=self.free_running,
        )

    def to_json(self) -> str:
        """One JSON object."""
        return to_json(self)

    @staticmethod
    def from_json(text: str) -> "Setup":
        """What `to_json` wrote.

        Raises:
            RunFolderError: something else.
        """
        try:
            return from_json(Setup, text)
        except ValueError as error:
            raise RunFolderError(
                f"the setup of the stages cannot be read: {error}", "what a run in stages wrote", "start a new run"
            ) from error
