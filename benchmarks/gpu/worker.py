"""One part in a process of its own: what ends it ends nothing else."""

import time
import traceback

from benchmarks.gpu.ledger import FAILED, FOUND, NOT_HERE, STARTED, UNFINISHED, Ledger
from benchmarks.gpu.plan import Figures, Item, NotHereError, Part, Plan, UnfinishedError

BROKEN = 9
"""Status of a process whose device answers no more; another process can go on."""


def work(part: Part, plan: Plan, *, once: bool) -> int:
    """Measure what is not known yet, until the deadline.

    Args:
        part: what to measure.
        plan: where.
        once: whether items that failed before are left as they are.

    Returns:
        The status of the process.
    """
    ledger = Ledger(plan.out / f"{part.name}.jsonl")
    for item in part.items(plan):
        if ledger.is_done(item.name) or (once and item.name in ledger.rows):
            continue
        if time.monotonic() > plan.deadline:
            print(f"{part.name}: the time is up; the rest is left for the next run", flush=True)
            return 0
        if not _measured(part.name, item, ledger):
            return BROKEN
    return 0


def _measured(part: str, item: Item, ledger: Ledger) -> bool:
    """Measure an item and note how it went; whether the device still answers."""
    ledger.note(item.name, STARTED, 0.0, {})
    begun = time.monotonic()
    state, figures, works = FOUND, dict[str, float | str](), True
    try:
        figures = dict(item.measure())
    except NotHereError as reason:
        state, figures = NOT_HERE, {"reason": str(reason)}
    except UnfinishedError as reason:
        state, figures = UNFINISHED, {"reason": str(reason)}
    except Exception as error:  # whatever goes wrong on a machine that nobody has tried yet
        trace = traceback.format_exception(error)
        state, figures = FAILED, {"reason": f"{type(error).__name__}: {error}"[:500], "trace": "".join(trace)[-3000:]}
        works = "CUDA error" not in str(error)
    ledger.note(item.name, state, time.monotonic() - begun, figures)
    print(f"{part}: {item.name}: {told(state, figures)}", flush=True)
    return works


def told(state: str, figures: Figures) -> str:
    """A line about an item."""
    shown = {name: value for name, value in figures.items() if name != "trace"}
    numbers = ", ".join(f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in shown.items())
    return f"{verdict(state, figures)}: {numbers}" if numbers else verdict(state, figures)


def verdict(state: str, figures: Figures) -> str:
    """One word: right or wrong where that can be said, else how far it came."""
    if state != FOUND or "error" not in figures:
        return state
    return "right" if float(figures["error"]) <= float(figures["allowed"]) else "WRONG"
