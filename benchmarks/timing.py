"""Timings taken in turns, so that a drifting clock or a busy machine meets every contender alike."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, final

import torch

_QUARTERS = (0.25, 0.5, 0.75)


def _nothing() -> None:
    """On the CPU a call has ended when it returns."""


@final
@dataclass(frozen=True)
class Stopwatch:
    """How a call is timed.

    Attributes:
        prepare: called before each call, outside the time.
        wait: returns when the device has done what was asked of it; before the call outside the time, after it inside.
        clock: seconds.
    """

    prepare: Callable[[], object] = _nothing
    wait: Callable[[], object] = _nothing
    clock: Callable[[], float] = time.perf_counter

    def seconds(self, step: Callable[[], object]) -> float:
        """The time of one call."""
        self.prepare()
        self.wait()
        begun = self.clock()
        step()
        self.wait()
        return self.clock() - begun


class Spread(NamedTuple):
    """The median with the quartiles."""

    lower: float
    median: float
    upper: float


def in_turns(steps: Mapping[str, Callable[[], object]], rounds: int, watch: Stopwatch) -> dict[str, list[float]]:
    """Seconds of each step, called A B C A B C …; entry k of every list is from round k."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(watch.seconds(step))
    return taken


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated between neighbours."""
    quartiles = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor(_QUARTERS, dtype=torch.float64))
    return Spread(*quartiles.tolist())


def paired_ratios(seconds: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Median and quartiles of the ratios within each round.

    A ratio of medians would mix rounds; what slows a whole round down leaves its ratio as it is.
    """
    return spread([mine / other for mine, other in zip(seconds, baseline, strict=True)])


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
