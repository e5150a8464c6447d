"""`python -m benchmarks.gpu`: parity, time, memory, batches and training on a GPU, in under eight minutes.

Needs the source tree, torch, numpy, jaxtyping and safetensors. Without a GPU every part runs on the CPU at toy size.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.gpu.batches import Batches
from benchmarks.gpu.cost import Cost
from benchmarks.gpu.ledger import STARTED, Ledger
from benchmarks.gpu.parity import Parity
from benchmarks.gpu.plan import Part, Plan
from benchmarks.gpu.scan import Scan
from benchmarks.gpu.training import Training
from benchmarks.gpu.worker import BROKEN, told, verdict, work
from worldsheet.version import __version__
from worldsheet_lab.machine import this_machine

ROOT = Path(__file__).parents[2]
PARTS: dict[str, Part] = {part.name: part for part in (Parity(), Cost(), Batches(), Scan(), Training())}

_GRACE = 15.0  # seconds between the moment a part should end and the moment it is ended


def main(arguments: list[str] | None = None) -> int:
    """Run the parts one after the other, each in a process of its own."""
    options = _options().parse_args(arguments)
    toy = options.toy or options.device == "cpu"
    options.out = (options.out or Path("runs") / f"gpu-{options.device.partition(':')[0]}").resolve()
    if options.worker:
        deadline = time.monotonic() + options.seconds
        plan = Plan(torch.device(options.device), toy, tuple(options.data), options.out, deadline)
        return work(PARTS[options.worker], plan, once=options.once)
    _same_run(options.out, {"version": __version__, "device": options.device, "toy": toy})
    end = time.monotonic() + options.seconds
    for part in options.parts or PARTS.values():
        _run(part, options, end)
    return _report(options)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    here = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("parts", nargs="*", type=_part, help=f"some of {', '.join(PARTS)}; all if left out")
    parser.add_argument("--device", default=here, help="cuda, cuda:1, cpu")
    parser.add_argument("--toy", action="store_true", help="toy size; always so on a CPU")
    parser.add_argument("--data", type=Path, action="append", default=_folders(), help="a folder with CIFAR-10")
    parser.add_argument("--out", type=Path, help="folder of results, runs/gpu-DEVICE if left out; a run goes on there")
    parser.add_argument("--seconds", type=float, default=460.0, help="how long everything may take, but for 15 s")
    parser.add_argument("--worker", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    return parser


def _part(name: str) -> Part:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"no part is called {name!r}; there are {', '.join(PARTS)}")
    return PARTS[name]


def _folders() -> list[Path]:
    named = os.environ.get("WORLDSHEET_DATA")
    return [Path(folder) for folder in (named, ROOT / "data") if folder]


def _same_run(out: Path, facts: dict[str, object]) -> None:
    """Refuse to mix results of different runs."""
    file = out / "run.json"
    out.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        file.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    known = json.loads(file.read_text(encoding="utf-8"))
    if known != facts:
        sys.exit(f"error: {out} holds a run with {known}, and this one has {facts}\n  remedy: name another --out")


def _run(part: Part, options: argparse.Namespace, end: float) -> None:
    """One part, in one process after the other as long as only the device fails."""
    first = True
    begun = time.monotonic()
    while (left := min(part.seconds - (time.monotonic() - begun), end - time.monotonic())) > 0:
        words = [sys.executable, "-m", "benchmarks.gpu", "--worker", part.name, "--device", options.device]
        words += ["--out", str(options.out), "--seconds", str(left)]
        words += ["--toy"] * options.toy + ["--once"] * (not first)
        words += [word for folder in options.data for word in ("--data", str(folder))]
        try:
            status = subprocess.run(words, cwd=ROOT, check=False, env=_environment(), timeout=left + _GRACE).returncode
        except subprocess.TimeoutExpired:
            print(f"{part.name}: ended after {left + _GRACE:.0f} s", flush=True)
            return
        if status != BROKEN:
            return
        first = False


def _environment() -> dict[str, str]:
    paths = (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", ""))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


def _report(options: argparse.Namespace) -> int:
    """The table, and everything as JSON; status 1 if anything is wrong or failed."""
    machine = this_machine(torch.device(options.device), (torch.get_num_threads(),))
    found = {name: list(Ledger(options.out / f"{name}.jsonl").rows.values()) for name in PARTS}
    result = {"machine": vars(machine), "version": __version__, "command": "python -m benchmarks.gpu", "parts": found}
    file = options.out / "results.json"
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"\n{machine}")
    bad = 0
    for name, rows in found.items():
        for row in rows:
            word = verdict(row["state"], row["figures"])
            bad += word in ("WRONG", "failed", STARTED)
            print(f"{name:<9} {row['item']:<58} {row['seconds']:7.1f} s  {told(row['state'], row['figures'])}")
    print(f"\n{file}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
