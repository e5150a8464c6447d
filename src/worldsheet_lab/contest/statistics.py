"""Paired statistics over seeds."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t

LEAST = 3
"""Seeds below which no interval is given: with two it would be wider than any accuracy is."""


class Paired(NamedTuple):
    """The mean of paired differences and the half-width of its 95 % interval; None with fewer than three pairs."""

    mean: float
    half_width: float | None


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Student's interval for the mean of ours − theirs, seed by seed: mean ± t(0.975, n − 1)·s/√n."""
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    count = len(differences)
    if count < LEAST:
        return Paired(fmean(differences), None)
    return Paired(fmean(differences), float(t.ppf(0.975, count - 1)) * stdev(differences) / sqrt(count))
