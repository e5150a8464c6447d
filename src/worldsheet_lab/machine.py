"""What a measurement was made on."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

_CPU_INFO = Path("/proc/cpuinfo")


@final
@dataclass(frozen=True)
class Machine:
    """The machine line of a report.

    Attributes:
        processor: model of the CPU.
        cores: logical cores that this process may use.
        threads: CPU threads that torch was given, one number after the other.
        device: where the tensors were, with its model if it is not the CPU.
        torch: version.
        python: version.
        system: operating system and architecture.
    """

    processor: str
    cores: int
    threads: tuple[int, ...]
    device: str
    torch: str
    python: str
    system: str

    def __str__(self) -> str:
        counts = " and ".join(str(count) for count in self.threads)
        where = f"{self.processor}, {self.cores} cores, threads {counts}, device {self.device}"
        return f"{where}, torch {self.torch}, Python {self.python}"


def this_machine(device: torch.device, threads: tuple[int, ...]) -> Machine:
    """The machine that this process runs on."""
    return Machine(
        processor=_processor(),
        cores=_cores(),
        threads=threads,
        device=_device(device),
        torch=str(torch.__version__),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
    )


def _processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
