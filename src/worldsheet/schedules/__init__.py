"""Schedules: when each site moves, as data that is printed, checked and simulated without tensors."""

from worldsheet.schedules.asynchronous import Asynchronous
from worldsheet.schedules.base import Firing, Phase, Schedule, Tick
from worldsheet.schedules.delays import FRESH, Delays
from worldsheet.schedules.front import CreditFront
from worldsheet.schedules.late import Late
from worldsheet.schedules.leapfrog import Leapfrog
from worldsheet.schedules.onset import Onset
from worldsheet.schedules.scan import Scan
from worldsheet.schedules.simulate import Settling, simulate
from worldsheet.schedules.slow import Slow
from worldsheet.schedules.sweep import Sweep
from worldsheet.schedules.synchronous import Synchronous
from worldsheet.schedules.wavefront import Wavefront

__all__ = [
    "FRESH",
    "Asynchronous",
    "CreditFront",
    "Delays",
    "Firing",
    "Late",
    "Leapfrog",
    "Onset",
    "Phase",
    "Scan",
    "Schedule",
    "Settling",
    "Slow",
    "Sweep",
    "Synchronous",
    "Tick",
    "Wavefront",
    "simulate",
]
