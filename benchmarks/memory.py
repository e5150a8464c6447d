"""Peak memory of one call, counted by the allocator and not sampled."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Event(NamedTuple):
    """One allocation, or with negative `size` the release of one."""

    address: int
    size: int


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most memory that tensors made during a call held at one moment, above what was held before.

    On the CPU every allocation and release is logged by torch's profiler, so the figure is exact and the same each
    time; scratch memory that a kernel library takes past torch's allocator is not seen. Elsewhere it is the peak of
    the device's caching allocator, in its own granularity.
    """
    if device.type == "cpu":
        return peak(_logged(step))
    module = torch.get_device_module(device)
    module.synchronize(device)
    module.reset_peak_memory_stats(device)
    before = int(module.memory_allocated(device))
    step()
    module.synchronize(device)
    return int(module.max_memory_allocated(device)) - before


def peak(events: Iterable[Event]) -> int:
    """The highest sum of what is held.

    A release counts only if its allocation was seen: what was there before the call lies below the zero of the scale,
    and the profiler reports the end of some such tensors too.
    """
    held: dict[int, int] = {}
    total = highest = 0
    for event in events:
        if event.size > 0:
            held[event.address] = event.size
            total += event.size
            highest = max(highest, total)
        else:
            total -= held.pop(event.address, 0)
    return highest


def _logged(step: Callable[[], object]) -> list[Event]:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))  # the only public view that tells each event's address
        trace = json.loads(path.read_text(encoding="utf-8"))
    found = [entry for entry in trace["traceEvents"] if entry.get("name") == "[memory]"]
    found.sort(key=lambda entry: float(entry["ts"]))
    facts = [entry["args"] for entry in found]
    return [Event(int(fact["Addr"]), int(fact["Bytes"])) for fact in facts if int(fact["Device Type"]) == 0]
