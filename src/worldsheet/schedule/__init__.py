"""Schedules: when each site moves, as data that is printed, checked and simulated without tensors."""

from worldsheet.schedule.asynchronous import Asynchronous
from worldsheet.schedule.base import Firing, Phase, Schedule, Tick
from worldsheet.schedule.delays import FRESH, Delays
from worldsheet.schedule.front import CreditFront
from worldsheet.schedule.late import Late
from worldsheet.schedule.leapfrog import Leapfrog
from worldsheet.schedule.onset import Onset
from worldsheet.schedule.simulate import Settling, simulate
from worldsheet.schedule.slow import Slow
from worldsheet.schedule.sweep import Sweep
from worldsheet.schedule.synchronous import Synchronous
from worldsheet.schedule.wavefront import Wavefront

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
    "Schedule",
    "Settling",
    "Slow",
    "Sweep",
    "Synchronous",
    "Tick",
    "Wavefront",
    "simulate",
]
