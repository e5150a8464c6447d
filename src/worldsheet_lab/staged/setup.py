"""What decides a run in stages, beside its recipe."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from worldsheet.core.errors import InputError
from worldsheet.pipeline import (
    Current,
    DelayBounded,
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
from worldsheet.pipeline.partition import balanced
from worldsheet_lab.choices import choose
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.recipes import Recipe
from worldsheet_lab.staged.images import Images
from worldsheet_lab.staged.job import Job
from worldsheet_lab.staged.texts import Texts
from worldsheet_lab.text.recipe import TextRecipe
from worldsheet_lab.typed_json import from_json, to_json

WEIGHTS: Mapping[str, Weights] = {
    "passive": DelayCompensated(),
    "predicted": Predicted(),
    "stashed": Stashed(),
    "current": Current(),
    "bounded": DelayBounded(),
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
        weights: passive, predicted, stashed, current or bounded.
        locked: flush before every update.
        segment: updates between checkpoints, at which the pipeline runs dry.
        cuts: the plan; found by measuring before the first segment.
        free_running: whether stages take messages as they come.
        messages: exact, or what states and credits are rounded to between stages: bfloat16 or float16.

    Raises:
        InputError: a number out of range or an unknown name.
    """

    recipe: Recipe | TextRecipe
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
            images = isinstance(self.recipe, Recipe)
            most = f"--depth {self.recipe.depth}" if images else f"the {self.recipe.depth} layers of the network"
            raise InputError(
                f"--stages must be between 1 and {most}, got {self.stages}",
                "1 or more stages, no more than there are layers",
                f"a stage owns a layer at least: raise {'--depth' if images else '--blocks'} or lower --stages",
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

    def job(self, data_dir: Path | None = None) -> Job:
        """What is trained.

        Raises:
            DataMissingError: no data.
            InputError: a text that has changed since the run began.
        """
        recipe = self.recipe
        return Images(recipe, data_dir) if isinstance(recipe, Recipe) else Texts(recipe)

    def plan(self, job: Job) -> Plan:
        """The cuts asked for, else those by which stages take equally long, by measuring every layer on one packet."""
        return Plan(self.cuts) if self.cuts else balanced(job.costs(self.packets_per_update), self.stages)

    def pipeline(self, job: Job, stage: int) -> Pipeline:
        """The stages, cut as planned, of which one has weights."""
        plan = Plan(self.cuts)
        chain = job.chain(plan.layers(stage))
        rule = job.rule(chain)
        return Pipeline(
            chain,
            plan,
            optimizer=rule.optimizer,
            scheduler=rule.scheduler,
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
