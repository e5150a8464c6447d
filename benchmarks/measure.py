"""Measuring one case: time, memory, work and fidelity, every method beside autograd."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from benchmarks.memory import peak_bytes
from benchmarks.methods import AUTOGRAD, WAVEFRONT, Method
from benchmarks.models import MEMORY_GOAL, Case, Instance, instance
from benchmarks.results import Fidelity, Memory, Result, Timing, Work
from benchmarks.timing import Stopwatch, in_turns, paired_ratios, spread, threads
from worldsheet.problem import Chain
from worldsheet.solve import relax

FAST = (AUTOGRAD, WAVEFRONT)

_WARM_UP = 2
_QUICK_ROUNDS = 5
_QUICK_SLOW_ROUNDS = 1
_COUNTED_BATCH = 2  # how often a layer is evaluated does not depend on the batch


@final
@dataclass(frozen=True)
class Settings:
    """How much is measured, and where.

    Attributes:
        threads: CPU threads of torch, one after the other.
        rounds: of autograd and wavefront; None for each case's own number.
        quick: few rounds and small batches.
        device: where the networks are.
        seed: of weights, inputs and labels.
    """

    threads: tuple[int, ...]
    rounds: int | None
    quick: bool
    device: torch.device
    seed: int

    def fast_rounds(self, case: Case) -> int:
        """Rounds of autograd and wavefront."""
        return self.rounds or (_QUICK_ROUNDS if self.quick else case.repeats)

    def slow_rounds(self, case: Case) -> int:
        """Rounds of the slow methods, never more than of the others."""
        return min(_QUICK_SLOW_ROUNDS if self.quick else case.slow_repeats, self.fast_rounds(case))


def measure(case: Case, settings: Settings, tell: Callable[[str], object]) -> Result:
    """Measure a case.

    Args:
        case: what.
        settings: how.
        tell: is told what comes next; nothing is written while a clock runs.
    """
    batch = case.batch(settings.quick)
    built = instance(case, batch, settings.seed, settings.device)
    timings: list[Timing] = []
    for count in settings.threads:
        tell(f"{case.name}: time, {count} thread{'s' * (count > 1)}")
        # a quick run times the slow methods with one number of threads only
        timings += _timings(case, settings, built, count, () if settings.quick and timings else case.slow)
    tell(f"{case.name}: memory and work")
    return Result(
        case=case.name,
        group=case.group,
        layers=len(built.chain.sites(built.x)),
        parameters=sum(parameter.numel() for parameter in built.chain.parameters()),
        batch=batch,
        time_goal=case.goal,
        memory_goal=None if case.goal is None else MEMORY_GOAL,
        timings=tuple(timings),
        memory=_memory(built, settings.device),
        work=tuple(work(method, built) for method in (WAVEFRONT, *case.slow)),
        fidelity=tuple(fidelities(built)) if case.fidelity else (),
    )


def _timings(case: Case, settings: Settings, built: Instance, count: int, slow: tuple[Method, ...]) -> Iterator[Timing]:
    """The slow methods take turns with autograd in rounds of their own, where they disturb no other pair's caches."""
    with threads(count):
        for _ in range(_WARM_UP):
            for method in FAST:
                _clear(built.chain)
                method.gradient(*built)
        yield from timings_of(FAST, built, settings.fast_rounds(case), count)
        if slow:
            yield from timings_of((AUTOGRAD, *slow), built, settings.slow_rounds(case), count)[1:]


def timings_of(methods: tuple[Method, ...], built: Instance, rounds: int, count: int) -> list[Timing]:
    """Time methods in turns; the first is the baseline. `.grad` is None before each call."""
    device = built.x.device
    wait = partial(torch.get_device_module(device).synchronize, device)
    watch = Stopwatch(prepare=partial(_clear, built.chain), wait=wait)
    taken = in_turns({method.name: partial(method.gradient, *built) for method in methods}, rounds, watch)
    baseline = taken[methods[0].name]
    return [
        Timing(name, count, rounds, spread(seconds), paired_ratios(seconds, baseline))
        for name, seconds in taken.items()
    ]


def _memory(built: Instance, device: torch.device) -> tuple[Memory, ...]:
    peaks = []
    for method in FAST:
        _clear(built.chain)
        peaks.append(peak_bytes(partial(method.gradient, *built), device))
    return tuple(Memory(method.name, size, size / peaks[0]) for method, size in zip(FAST, peaks, strict=True))


def work(method: Method, built: Instance) -> Work:
    """Count evaluations and pull-backs of one relaxation, the reading of the parameters included.

    Raises:
        LookupError: a method that is no relaxation.
    """
    if method.rules is None:
        raise LookupError(f"{method.name} relaxes nothing")
    few = slice(_COUNTED_BATCH)
    solution = relax(
        built.chain, built.x[few], built.target[few], method.rules.dynamics, schedule=method.rules.schedule
    )
    layers = len(solution.states)
    return Work(method.name, solution.evaluations / layers, solution.pulls / layers)


def fidelities(built: Instance) -> Iterator[Fidelity]:
    """Each method's worst gradient against autograd's in float64 from the same numbers."""
    twin = Instance(Chain(deepcopy(built.module).double(), built.chain.loss), built.x.double(), built.target)
    exact = _gradients(AUTOGRAD, twin)
    names = [name for name, _ in built.chain.named_parameters()]
    for method in FAST:
        found = _gradients(method, built)
        gaps = {name: one_minus_cosine(*pair) for name, *pair in zip(names, found, exact, strict=True)}
        yield _worst(method, gaps)


def _worst(method: Method, gaps: Mapping[str, float]) -> Fidelity:
    name = max(gaps, key=lambda name: gaps[name])
    return Fidelity(method.name, name, 1 - gaps[name], gaps[name])


def one_minus_cosine(mine: Tensor, reference: Tensor) -> float:
    """1 − cos(a, b) as ½‖a/‖a‖ − b/‖b‖‖², which loses no digits where the cosine is close to 1."""
    ours, theirs = mine.double().flatten(), reference.double().flatten()
    lengths = float(ours.norm()), float(theirs.norm())
    if 0 in lengths:
        return 0.0 if lengths[0] == lengths[1] else 1.0
    return float((ours / lengths[0] - theirs / lengths[1]).square().sum()) / 2


def _gradients(method: Method, built: Instance) -> list[Tensor]:
    _clear(built.chain)
    method.gradient(*built)
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in built.chain.parameters()]


def _clear(chain: Chain) -> None:
    for parameter in chain.parameters():
        parameter.grad = None
