"""What `python -m benchmarks control` measures: one problem, a batch, a tick over the horizon."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch

from benchmarks.rivals import ExternalMethod, running
from worldsheet.control import Compiled, Execution, Guess, Problem, Trajectory, solve
from worldsheet_lab.control.problems import PROBLEMS, Known

CROCODDYL = {"crocoddyl": Path(__file__).with_name("rival_crocoddyl.py")}
CROCODDYL_KNOWS = ("pendulum", "cartpole", "quadrotor", "vanderpol")  # no path or end constraint, a fixed duration
HORIZONS = (100, 300, 1000, 2000, 3000, 10_000)


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
        to_fatrop: the same over fatrop's.
        steps: iterations or ticks.
        cost: what it found.
        residual: the largest KKT residual, where it is told.
    """

    name: str
    build: float
    seconds: float
    best: float
    ratio: float
    to_fatrop: float
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
        fatrop_rate: the same of fatrop.
        sample: how many they solved.
        rate: problems per second, all at once.
        ratio: rate / ipopt_rate.
        to_fatrop: rate / fatrop_rate.
        ipopt_solved: share that IPOPT solved.
        fatrop_solved: share that fatrop solved.
        solved: share that we solved.
        agreeing: share of the sample in which our cost and IPOPT's agree to 1e-4, relative.
        better: share of the sample in which ours is lower by more than that.
    """

    case: str
    name: str
    build: float
    batch: int
    ipopt_rate: float
    fatrop_rate: float
    sample: int
    rate: float
    ratio: float
    to_fatrop: float
    ipopt_solved: float
    fatrop_solved: float
    solved: float
    agreeing: float
    better: float


@final
@dataclass(frozen=True)
class Tick:
    """What a tick takes over a horizon of N stages.

    Attributes:
        name: our execution.
        stages: N.
        seconds: wall-clock time of a tick, the median of rounds.
    """

    name: str
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


@final
@dataclass(frozen=True)
class Others:
    """Solvers of one problem that others wrote, `IPOPT` and `fatrop`.

    Attributes:
        solvers: each with `build_seconds`, and `solve(initial, start)`.
        start: what they start from, made of states and controls.
    """

    solvers: Mapping[str, Any]
    start: Callable[[list[Any], list[Any]], Any]


def _answer(problem: Problem, known: Known, tol: float) -> Answer:
    begun = time.process_time()
    solution = solve(problem, initial_guess=known.guess(problem), tol=tol)
    seconds = time.process_time() - begun
    return Answer(seconds, float(solution.cost), solution.outcome.ticks, solution.outcome.residual)


def one(
    case: str, others: Others, executions: dict[str, Execution], rounds: int, tol: float, python: Path | None
) -> One:
    """Rounds in turns after one of each to warm up; IPOPT first. All start from the same states and controls."""
    known = PROBLEMS[case]
    begun = solve(known.problem(), initial_guess=known.guess(known.problem()), max_ticks=0)
    start = others.start(begun.states.tolist(), begun.controls.tolist())

    def theirs(solver: Any) -> Answer:
        found = solver.solve(known.initial, start)
        return Answer(found.seconds, found.cost, found.iterations, None)

    turns: dict[str, Callable[[], Answer]] = {}
    for name, solver in others.solvers.items():
        turns[name] = lambda solver=solver: theirs(solver)  # type: ignore[misc]
    for name, execution in executions.items():
        problem = replace(known.problem(), execution=execution)
        turns[name] = lambda problem=problem: _answer(problem, known, tol)  # type: ignore[misc]
    if python is None or case not in CROCODDYL_KNOWS:
        return One(case, _raced(turns, rounds, _builds(others, executions, None)))
    with running({"crocoddyl": python}, [case, str(tol)], CROCODDYL) as rivals:
        turns["crocoddyl"] = lambda: _asked(rivals[0], known)
        return One(case, _raced(turns, rounds, _builds(others, executions, rivals[0])))


def _builds(others: Others, executions: dict[str, Execution], rival: ExternalMethod | None) -> Callable[[str], float]:
    def seconds(name: str) -> float:
        if name in others.solvers:
            return float(others.solvers[name].build_seconds)
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

    def ratio(name: str, anchor: str) -> float:
        return statistics.median(mine / other for mine, other in zip(times[name], times[anchor], strict=True))

    return [
        Share(
            name,
            build(name),
            statistics.median(times[name]),
            min(times[name]),
            ratio(name, "IPOPT"),
            ratio(name, "fatrop"),
            last[name].steps,
            last[name].cost,
            last[name].residual,
        )
        for name in turns
    ]


def many(
    case: str, others: Others, executions: dict[str, Execution], sizes: tuple[int, int, int], tol: float
) -> list[Many]:
    """All of a batch at once by each execution, and the first few of it by the others one by one."""
    batch, sample, seed = sizes
    known = PROBLEMS[case]
    drawn = known.batch(batch, torch.Generator().manual_seed(seed))
    begun = solve(drawn, initial_guess=known.guess(drawn), max_ticks=0)
    starts = [others.start(*pair) for pair in zip(begun.states.tolist(), begun.controls.tolist(), strict=True)]
    chosen = list(zip(drawn.initial_state.tolist(), starts, strict=True))[:sample]
    answers = {name: [solver.solve(*each) for each in chosen] for name, solver in others.solvers.items()}
    rows = []
    for name, execution in executions.items():
        problem = replace(drawn, execution=execution)
        made = execution.seconds if isinstance(execution, Compiled) else 0.0
        if isinstance(execution, Compiled):  # machine code for the shapes of a batch
            solve(problem, initial_guess=known.guess(problem), tol=tol, max_ticks=1)
        clock = time.process_time()
        solution = solve(problem, initial_guess=known.guess(problem), tol=tol)
        rate = batch / (time.process_time() - clock)
        build = execution.seconds - made if isinstance(execution, Compiled) else 0.0
        rows.append(_compared(case, (name, build, batch), answers, solution, rate))
    return rows


def _compared(
    case: str, ours: tuple[str, float, int], answers: dict[str, list[Any]], solution: Trajectory, rate: float
) -> Many:
    sample = len(answers["IPOPT"])
    costs = torch.tensor([answer.cost for answer in answers["IPOPT"]], dtype=solution.cost.dtype)
    gap = (solution.cost[:sample].cpu() - costs) / costs.abs().clamp(min=1e-3)
    rates = {name: sample / sum(answer.seconds for answer in found) for name, found in answers.items()}
    solved = {name: sum(answer.success for answer in found) / sample for name, found in answers.items()}
    return Many(
        case,
        *ours,
        rates["IPOPT"],
        rates["fatrop"],
        sample,
        rate,
        rate / rates["IPOPT"],
        rate / rates["fatrop"],
        solved["IPOPT"],
        solved["fatrop"],
        float(solution.converged.double().mean()),
        float((gap.abs() <= 1e-4).double().mean()),
        float((gap < -1e-4).double().mean()),
    )


def over_the_horizon(
    executions: dict[str, Callable[[], Execution]], rounds: int, horizons: tuple[int, ...] = HORIZONS
) -> list[Tick]:
    """A van der Pol oscillator calmed in ten seconds, in more and more stages: four ticks after the first."""
    known, rows = PROBLEMS["vanderpol"], []
    for name, execution in executions.items():
        for stages in horizons:
            problem = replace(known.problem(), steps=stages, dt=10 / stages, execution=execution())
            times = [_tick(problem) for _ in range(rounds + 1)]
            rows.append(Tick(name, stages, statistics.median(times[1:])))
    return rows


def _tick(problem: Problem) -> float:
    guess, seconds = Guess(states=problem.initial_state), []
    for ticks in (1, 5):
        begun = time.perf_counter()
        solve(problem, initial_guess=guess, tol=1e-12, max_ticks=ticks)
        seconds.append(time.perf_counter() - begun)
    return (seconds[1] - seconds[0]) / 4
