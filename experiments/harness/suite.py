"""Several experiments in processes of their own, a few at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import final

from experiments.harness.claim import Claim
from experiments.harness.record import Size

ROOT = Path(__file__).parents[2]
"""Of the source tree."""


class Ending(Enum):
    """How an experiment's process ended: its exit status, where any other says that it failed."""

    AS_EXPECTED = 0
    FAILED = 1
    NOT_AS_EXPECTED = 3
    NO_DATA = 4


@final
@dataclass(frozen=True)
class Finished:
    """One experiment that has run.

    Attributes:
        claim: which.
        ending: how.
        seconds: wall time of its process.
        log: what it printed; empty where it printed to the terminal itself.
    """

    claim: Claim
    ending: Ending
    seconds: float
    log: str


def run_all(claims: Sequence[Claim], size: Size, out: Path | None, jobs: int) -> Iterator[Finished]:
    """Run the scripts, `jobs` at a time, and tell of each as it ends.

    Cores are shared out evenly. A single job prints to the terminal as it goes.

    Args:
        claims: what to run, in this order.
        size: how much of each.
        out: folder of the records, a sub-folder per claim; beside the scripts if None.
        jobs: how many run at once.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ if jobs > 1 else dict(os.environ)
    path = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))  # scripts find this harness
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_run, claim, _words(claim, size, out), environment, jobs > 1) for claim in claims]
        for done in as_completed(running):
            yield done.result()


def _words(claim: Claim, size: Size, out: Path | None) -> list[str]:
    words = [sys.executable, str(claim.folder / "run.py"), "--size", size.value]
    return words + (["--out", str(out / claim.folder.name)] if out else [])


def _run(claim: Claim, words: list[str], environment: dict[str, str], quiet: bool) -> Finished:
    begun = time.perf_counter()
    sink = subprocess.PIPE if quiet else None
    done = subprocess.run(words, check=False, env=environment, stdout=sink, stderr=subprocess.STDOUT if quiet else None)
    status = done.returncode
    ending = Ending(status) if status in {ending.value for ending in Ending} else Ending.FAILED
    log = done.stdout.decode(errors="replace") if quiet else ""
    return Finished(claim, ending, time.perf_counter() - begun, log)
