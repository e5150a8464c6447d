"""What a run has shown, gathered from its metrics and its two networks."""

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from statistics import median

import torch
from torch import nn

from worldsheet.version import __version__
from worldsheet_lab.recipes import Recipe
from worldsheet_lab.run_folder import Row
from worldsheet_lab.training import Training


def result_of(training: Training, rows: Sequence[Row]) -> Row:
    """The result of a finished run as one JSON object, in which null stands for what is infinite or unknown."""
    contenders = {contender.name: _contender(contender.name, rows) for contender in training.contenders}
    relaxed, autograd = (contenders[contender.name] for contender in training.contenders)
    checks = [row["parameters"] for row in rows if row["kind"] == "gradients"]
    return {
        "status": "finished",
        "worldsheet": __version__,
        "torch": torch.__version__,
        "recipe": recipe_row(training.recipe),
        "sites": len(training.relaxed.chain),
        "parameters": sum(parameter.numel() for parameter in training.relaxed.chain.parameters()),
        "contenders": contenders,
        "time_ratio": relaxed["seconds_per_step"] / autograd["seconds_per_step"],
        "weights_difference": _difference(training.relaxed.model, training.autograd.model),
        "comparisons": len(checks),
        "gradients": [_worst(seen) for seen in zip(*checks, strict=True)],
    }


def recipe_row(recipe: Recipe) -> Row:
    """The recipe as a JSON object."""
    return asdict(recipe)


def _contender(name: str, rows: Sequence[Row]) -> Row:
    """The figures after the last epoch, and the time of a step over all epochs."""
    own = [row for row in rows if row["kind"] == "epoch" and row["contender"] == name]
    last = {key: own[-1][key] for key in ("test_accuracy", "test_loss", "train_loss", "ticks")}
    return {**last, "seconds_per_step": median(row["seconds_per_step"] for row in own)}


def _worst(seen: Sequence[Row]) -> Row:
    """One parameter's worst comparison of the run; the SNR is null where the gradients were equal every time."""
    errors = [row["relative_error"] for row in seen]
    ratios = [row["snr"] for row in seen if row["snr"] is not None]
    return {
        "name": seen[0]["name"],
        "one_minus_cosine": max(0.0, *(1 - row["cosine"] for row in seen)),
        "relative_error": None if None in errors else max(errors),
        "snr": min(ratios, default=None),
    }


def _difference(one: nn.Module, other: nn.Module) -> float | None:
    """The largest distance between two weights in the same place; None if one of them has overflowed."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    distances = [float((mine - theirs).detach().abs().max()) for mine, theirs in pairs]
    return max(distances) if all(map(isfinite, distances)) else None
