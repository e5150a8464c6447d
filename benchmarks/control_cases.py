"""What `python -m benchmarks control` measures: one problem, a batch, a tick over the horizon."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from benchmarks.rivals import ExternalMethod, running
from worldsheet.control import Compiled, Execution, Guess, Problem, Trajectory, solve
from worldsheet_lab.control.problems import KNOWN, Known

CROCODDYL = {"crocoddyl": Path(__file__).with_name("rival_crocoddyl.py")}
CROCODDYL_KNOWS = ("pendulum", "cartpole", "quadrotor", "vanderpol")  # no path or end constraint, a fixed duration
HORIZONS = (100, 300, 1000, 3000, 10_000)


@final
@dataclass(frozen=True)
class Share:
    """A contender at one problem.

    Attributes:
        name: who.
        build: seconds before it could solve, wall-clock for machine code.
        seconds: CPU seconds of a solve by one thread, the median over rounds.
        best: the smallest of them.
        ratio: seconds over IPOPT's of the same round, the median.
        steps: iterations or ticks.
        cost: what it found.
        residual: the largest KKT residual, where it is told.
    """

    name: str
    build: float
    seconds: float
    best: float
    ratio: float
    steps: int
    cost: float
    residual: float | None


@final
@dataclass(frozen=True)
class One:
    """One problem from one initial state."""

    case: str
    shares: list[Share]


@final
@dataclass(frozen=True)
class Many:
    """Many initial states of one problem.

    Attributes:
        case: its name.
        name: our execution.
        build: seconds on machine code.
        batch: how many.
        ipopt_rate: problems per second, IPOPT in a loop over the first `sample` of them.
        sample: how many IPOPT solved.
        rate: problems per second, all at once.
        ratio: rate / ipopt_rate.
        ipopt_solved: share that IPOPT solved.
        solved: share that we solved.
        agreeing: share of the sample in which both costs agree to 1e-4, relative.
        better: share of the sample in which ours is lower by more than that.
    """

    case: str
    name: str
    build: float
    batch: int
    ipopt_rate: float
    sample: int
    rate: float
    ratio: float
    ipopt_solved: float
    solved: float
    agreeing: float
    better: float


@final
@dataclass(frozen=True)
class Tick:
    """What a tick takes over a horizon of N stages.

    Attributes:
        stages: N.
        seconds: wall-clock time of a tick, the median of rounds.
    """

    stages: int
    seconds: float


@final
@dataclass(frozen=True)
class Answer:
    """One solve of anybody."""

    seconds: float
    cost: float
    steps: int
    residual: float | None


def _answer(problem: Problem, known: Known, tol: float) -> Answer:
    begun = time.process_time()
    solution = solve(problem, initial_guess=known.guess(problem), tol=tol)
    seconds = time.process_time() - begun
    return Answer(seconds, float(solution.cost), solution.outcome.ticks, solution.outcome.residual)


def one(case: str, solver: Any, executions: dict[str, Execution], rounds: int, tol: float, python: Path | None) -> One:
    """Rounds in turns after one of each to warm up; IPOPT first."""
    known = KNOWN[case]

    def theirs() -> Answer:
        found = solver.solve(known.initial)
        return Answer(found.seconds, found.cost, found.iterations, None)

    turns: dict[str, Callable[[], Answer]] = {"IPOPT": theirs}
    for name, execution in executions.items():
        problem = replace(known.problem(), execution=execution)
        turns[name] = lambda problem=problem: _answer(problem, known, tol)  # type: ignore[misc]
    if python is None or case not in CROCODDYL_KNOWS:
        return One(case, _raced(turns, rounds, _builds(solver, executions, None)))
    with running({"crocoddyl": python}, [case, str(tol)], CROCODDYL) as rivals:
        turns["crocoddyl"] = lambda: _asked(rivals[0], known)
        return One(case, _raced(turns, rounds, _builds(solver, executions, rivals[0])))


def _builds(solver: Any, executions: dict[str, Execution], rival: ExternalMethod | None) -> Callable[[str], float]:
    def seconds(name: str) -> float:
        if name == "IPOPT":
            return float(solver.build_seconds)
        if name == "crocoddyl" and rival is not None:
            return rival.compiling
        execution = executions[name]
        return execution.seconds if isinstance(execution, Compiled) else 0.0

    return seconds


def _asked(rival: ExternalMethod, known: Known) -> Answer:
    seconds, cost, steps, _ = rival.ask(" ".join(map(str, known.initial))).split()
    return Answer(float(seconds), float(cost), int(steps), None)


def _raced(turns: dict[str, Callable[[], Answer]], rounds: int, build: Callable[[str], float]) -> list[Share]:
    last = {name: turn() for name, turn in turns.items()}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, turn in turns.items():
            times[name].append(turn().seconds)
    return [
        Share(
            name,
            build(name),
            statistics.median(times[name]),
            min(times[name]),
            statistics.median(mine / other for mine, other in zip(times[name], times["IPOPT"], strict=True)),
            last[name].steps,
            last[name].cost,
            last[name].residual,
        )
        for name in turns
    ]


def many(
    case: str, solver: Any, executions: dict[str, Execution], sizes: tuple[int, int, int], tol: float
) -> list[Many]:
    """All of a batch at once by each execution, and the first few of it by IPOPT one by one."""
    batch, sample, seed = sizes
    known = KNOWN[case]
    drawn = known.batch(batch, torch.Generator().manual_seed(seed))
    answers = [solver.solve(start) for start in drawn.initial_state[:sample].tolist()]
    rows = []
    for name, execution in executions.items():
        problem = replace(drawn, execution=execution)
        made = execution.seconds if isinstance(execution, Compiled) else 0.0
        if isinstance(execution, Compiled):  # machine code for the shapes of a batch
            solve(problem, initial_guess=known.guess(problem), tol=tol, max_ticks=1)
        begun = time.process_time()
        solution = solve(problem, initial_guess=known.guess(problem), tol=tol)
        rate = batch / (time.process_time() - begun)
        build = execution.seconds - made if isinstance(execution, Compiled) else 0.0
        rows.append(_compared(case, (name, build, batch), answers, solution, rate))
    return rows


def _compared(case: str, ours: tuple[str, float, int], answers: list[Any], solution: Trajectory, rate: float) -> Many:
    costs = torch.tensor([answer.cost for answer in answers], dtype=solution.cost.dtype)
    gap = (solution.cost[: len(answers)].cpu() - costs) / costs.abs().clamp(min=1e-3)
    ipopt_rate = len(answers) / sum(answer.seconds for answer in answers)
    return Many(
        case,
        *ours,
        ipopt_rate,
        len(answers),
        rate,
        rate / ipopt_rate,
        sum(answer.success for answer in answers) / len(answers),
        float(solution.converged.double().mean()),
        float((gap.abs() <= 1e-4).double().mean()),
        float((gap < -1e-4).double().mean()),
    )


def over_the_horizon(rounds: int, horizons: tuple[int, ...] = HORIZONS) -> list[Tick]:
    """A van der Pol oscillator calmed in ten seconds, in more and more stages: four ticks after the first."""
    known, rows = KNOWN["vanderpol"], []
    for stages in horizons:
        problem = replace(known.problem(), steps=stages, dt=10 / stages)
        guess = Guess(states=problem.initial_state)
        times = []
        for _ in range(rounds + 1):
            seconds = []
            for ticks in (1, 5):
                begun = time.perf_counter()
                solve(problem, initial_guess=guess, tol=1e-12, max_ticks=ticks)
                seconds.append(time.perf_counter() - begun)
            times.append((seconds[1] - seconds[0]) / 4)
        rows.append(Tick(stages, statistics.median(times[1:])))
    return rows
