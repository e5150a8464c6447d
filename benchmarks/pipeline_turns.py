"""Contenders in turns, in two processes: every number of micro-batches once, then the best of each again and again."""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple, final

import torch
import torch.distributed as dist

from benchmarks.pipeline_cases import Case, instance
from benchmarks.pipeline_contenders import ONE, RANKS, UNLOCKED, Bench, Contender, Entry, Stages, field
from benchmarks.pipeline_messages import Post, posts
from benchmarks.pipeline_processes import in_processes
from benchmarks.timing import Spread, paired_ratios, spread
from worldsheet.pipeline import Predicted, Unlocked
from worldsheet.pipeline.transport.distributed import joined
from worldsheet_lab.atomic import replace_file

_PATIENCE = 300.0
_WARM_UP = 2


class Length(NamedTuple):
    """How long is measured.

    Attributes:
        screened: batches of each contender with each number of micro-batches.
        batches: of a turn of the best ones; 0 for the case's own number.
        rounds: turns of each.
        pieces: numbers of micro-batches.
    """

    screened: int
    batches: int
    rounds: int
    pieces: tuple[int, ...]


@final
@dataclass(frozen=True)
class Tried:
    """One contender with one number of micro-batches, once.

    Attributes:
        name: of the contender.
        pieces: micro-batches; 0 where the batch is not cut.
        rate: samples per second; None if it failed.
        note: why.
    """

    name: str
    pieces: int
    rate: float | None
    note: str = ""


@final
@dataclass(frozen=True)
class Rated:
    """The best number of micro-batches of a contender: median and quartiles over rounds.

    Attributes:
        name: of the contender.
        pieces: micro-batches.
        rate: samples per second.
        over_one: times the rate of one process with one thread, in the same round.
        over_torch: times that of torch's best schedule.
        work: CPU seconds per update of the process that had more of them, messages included, by the median. Other
            programs on the machine hardly touch it; what stages wait for is not in it.
    """

    name: str
    pieces: int
    rate: Spread
    over_one: Spread
    over_torch: Spread
    work: float


class Turn(NamedTuple):
    """What a turn took.

    Attributes:
        seconds: from when both processes began to when both were done; of a pipeline without a flush, the updates times
            what the slower stage took from one to the next.
        work: CPU seconds of the process that had more of them.
    """

    seconds: float
    work: float


@final
@dataclass(frozen=True)
class Outcome:
    """A case.

    Attributes:
        case: its name.
        text: what it is.
        batch: samples per update.
        tokens: of a sample.
        parameters: numbers.
        cuts: of the two stages.
        shares: of the time, by measurement.
        tried: all contenders.
        rated: the best of each.
        posts: what travels.
    """

    case: str
    text: str
    batch: int
    tokens: int
    parameters: int
    cuts: tuple[int, ...]
    shares: tuple[float, ...]
    tried: tuple[Tried, ...]
    rated: tuple[Rated, ...]
    posts: tuple[Post, ...]


def measured(case: Case, length: Length, seed: int) -> dict[str, Any]:
    """Start two processes with a thread each and let everybody train the case: an `Outcome` as plain data.

    Raises:
        ProcessRaisedException: a process that failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        in_processes(_take_part, (case, length, seed, where), RANKS)
        found: dict[str, Any] = json.loads((where / "outcome.json").read_text())
        return found


def _take_part(rank: int, case: Case, length: Length, seed: int, where: Path) -> None:
    torch.set_num_threads(1)
    with joined(rank, RANKS, f"file://{where}/store", _PATIENCE):
        outcome = _outcome(case, length, seed, rank)
        if rank == 0:
            replace_file(where / "outcome.json", json.dumps(asdict(outcome)).encode())
        dist.barrier()


def _outcome(case: Case, length: Length, seed: int, rank: int) -> Outcome:
    bench = Bench(case, seed, rank, _costs(case, seed))
    entries = [entry for entry in field() if entry.pieces in (0, *length.pieces)]
    tried: list[Tried] = []
    best: dict[str, tuple[float, Entry]] = {}
    for entry in entries:
        row = _screened(entry, bench, length.screened)
        _say(rank, f"{case.name}: {row.name}, {row.pieces or 1} pieces: {row.note or f'{row.rate:.0f} samples/s'}")
        tried.append(row)
        if row.rate is not None and row.rate > best.get(row.name, (0.0, entry))[0]:
            best[row.name] = row.rate, entry
    finalists = {entry.name: entry for _, entry in best.values()}
    pieces = finalists[UNLOCKED[1]].pieces
    brief = partial(Stages, order=Unlocked(pieces), weights=Predicted(), messages=torch.bfloat16)
    finalists[f"{UNLOCKED[1]}, bfloat16"] = Entry(f"{UNLOCKED[1]}, bfloat16", pieces, brief)
    _say(rank, f"{case.name}: {len(finalists)} contenders, {length.rounds} rounds in turns")
    made = {name: entry.make(bench) for name, entry in finalists.items()}
    batches = length.batches or case.batches
    taken = _in_turns(made, length.rounds, batches)
    ours = {name: one for name, one in made.items() if isinstance(one, Stages)}
    built = bench.instance()
    plan = built.plan(RANKS, bench.costs)
    return Outcome(
        case=case.name,
        text=case.text,
        batch=case.batch,
        tokens=case.tokens,
        parameters=sum(parameter.numel() for parameter in built.chain.parameters()),
        cuts=plan.cuts,
        shares=tuple(sum(bench.costs[i] for i in plan.layers(s)) / sum(bench.costs) for s in range(RANKS)),
        tried=tuple(tried),
        rated=tuple(_rated(finalists, taken, case.batch, batches)),
        posts=tuple(post for name, one in ours.items() for post in posts(name, one, batches, case.batch)),
    )


def _costs(case: Case, seed: int) -> tuple[float, ...]:
    """Seconds per layer, measured by the first process while the second one sleeps."""
    built = instance(case, seed)
    costs = torch.zeros(len(built.chain), dtype=torch.float64)
    if dist.get_rank() == 0:
        costs += torch.tensor(built.costs(), dtype=torch.float64)
    dist.broadcast(costs, 0)
    return tuple(costs.tolist())


def _screened(entry: Entry, bench: Bench, batches: int) -> Tried:
    """Both processes see whether the other one has failed."""
    note, seconds = "", 0.0
    try:
        contender = entry.make(bench)
        contender.train(_WARM_UP)
        seconds = _turn(contender, batches).seconds
    except (RuntimeError, ValueError) as error:
        note = " ".join(str(error).split())[:120] or type(error).__name__
    failed = torch.tensor([bool(note)], dtype=torch.int64)
    dist.all_reduce(failed)
    if failed.item():
        return Tried(entry.name, entry.pieces, None, note or "failed in the other process")
    return Tried(entry.name, entry.pieces, bench.case.batch * batches / seconds)


def _in_turns(contenders: Mapping[str, Contender], rounds: int, batches: int) -> dict[str, list[Turn]]:
    """A B C A B C; entry k of every list is from round k."""
    taken: dict[str, list[Turn]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            contender.train(_WARM_UP)
            taken[name].append(_turn(contender, batches))
    return taken


def _turn(contender: Contender, batches: int) -> Turn:
    dist.barrier()
    begun, used = perf_counter(), process_time()
    contender.train(batches)
    dist.barrier()
    seconds, work = perf_counter() - begun, process_time() - used
    if contender.cadence is not None:
        seconds = contender.cadence * batches
    both = torch.tensor([seconds, work], dtype=torch.float64)
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return Turn(*both.tolist())


def _rated(
    entries: Mapping[str, Entry], taken: Mapping[str, Sequence[Turn]], batch: int, batches: int
) -> Iterator[Rated]:
    times = {name: [turn.seconds for turn in turns] for name, turns in taken.items()}
    torchs = {name: spread(seconds).median for name, seconds in times.items() if name.startswith("torch")}
    fastest = min(torchs, key=lambda name: torchs[name])
    for name, seconds in times.items():
        rate = spread([batch * batches / taking for taking in seconds])
        over = paired_ratios(times[ONE], seconds), paired_ratios(times[fastest], seconds)
        work = spread([turn.work / batches for turn in taken[name]]).median
        yield Rated(name, entries[name].pieces, rate, *over, work)


def _say(rank: int, text: str) -> None:
    if rank == 0:
        print(text, file=sys.stderr, flush=True)
