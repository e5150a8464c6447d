"""What is compared: a recipe, the rivals' names and the seeds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on only

from worldsheet.core.errors import InputError
from worldsheet.engine import Stop
from worldsheet_lab.choices import choose
from worldsheet_lab.contest.rivals import BACKPROP, LEARNING_RULES, LearningRule
from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.recipes import Recipe, recipe_for
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.typed_json import from_json

CONTEST = "compare.json"


class _Kept(TypedDict):
    """What stands in that file."""

    dynamics: tuple[str, ...]
    seeds: int
    ticks: int | None


@final
@dataclass(frozen=True)
class RuleComparison:
    """A comparison before it runs.

    Attributes:
        recipe: what is trained, from its seed on; rate and schedule are the rivals' own.
        names: the rivals, backprop first.
        seeds: how many seeds, counted up from the recipe's.
        ticks: budget of those that do not settle at once; None for each its own.

    Raises:
        InputError: an unknown or repeated name, no seed, or no tick.
    """

    recipe: Recipe
    names: tuple[str, ...]
    seeds: int
    ticks: int | None

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        for name in self.names:
            choose("dynamics", name, LEARNING_RULES)
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise InputError(f"--dynamics has {twice[0]} twice", "each name once", "leave out the second one")
        if self.seeds < 1:
            raise InputError(
                f"--seeds must be at least 1, got {self.seeds}", "1 or more; 3 or more for an interval", "use --seeds 3"
            )
        if self.ticks is not None and self.ticks < 1:
            raise InputError(
                f"--ticks must be at least 1, got {self.ticks}",
                "1 or more",
                "leave it out for each dynamics' own budget",
            )

    @property
    def cells(self) -> list[tuple[str, int]]:
        """Rival and seed, all rivals of a seed before the next."""
        return [(name, self.recipe.seed + k) for k in range(self.seeds) for name in self.names]

    def rival(self, name: str) -> LearningRule:
        """A rival with its budget."""
        rival = LEARNING_RULES[name](self.recipe.depth)
        bounded = rival.dynamics is not None and not rival.dynamics.settles_at_once
        return replace(rival, stop=Stop(max_ticks=self.ticks)) if bounded and self.ticks else rival

    def recipe_of(self, seed: int) -> Recipe:
        """The recipe of one seed."""
        return replace(self.recipe, seed=seed)

    def save(self, folder: RunFolder) -> None:
        """Write what the folder's recipe does not say."""
        plain: _Kept = {"dynamics": self.names, "seeds": self.seeds, "ticks": self.ticks}
        folder.write(CONTEST, json.dumps(plain, indent=2).encode() + b"\n")

    @staticmethod
    def load(folder: RunFolder) -> "RuleComparison":
        """The contest that a folder was made for.

        Raises:
            RunFolderError: a folder of something else.
        """
        try:
            kept = from_json(_Kept, folder.read(CONTEST))
            return RuleComparison(folder.recipe(), kept["dynamics"], kept["seeds"], kept["ticks"])
        except (ValueError, FileNotFoundError) as error:
            raise RunFolderError(
                f"{folder.path / CONTEST} cannot be read as the plan of a comparison: {error}",
                "the folder of a comparison that worldsheet compare started",
                "name the folder that the comparison printed when it began",
            ) from error


def comparison_for(data: str, names: str, seeds: int, ticks: int | None, changes: Mapping[str, Any]) -> RuleComparison:
    """A contest with the defaults of a data set: small enough that every dynamics trains in minutes on one core.

    Raises:
        InputError: unknown names, or numbers out of range.
    """
    defaults: dict[str, Any] = {
        "depth": 6,
        "width": 64,
        "dropout": 0.0,
        "epochs": 10,
        "compare_every": 50,
        "threads": 1,
    }
    if data != "digits":
        defaults |= {"train_size": 10000, "epochs": 1, "architecture": "mlp"}
    asked = [name.strip() for name in names.split(",") if name.strip()]
    others = tuple(name for name in asked if name != BACKPROP)
    return RuleComparison(recipe_for(data, {**defaults, **changes}), (BACKPROP, *others), seeds, ticks)
