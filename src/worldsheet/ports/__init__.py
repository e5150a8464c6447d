"""Ports: how parameters answer their effort. Any `torch.optim` optimizer does in their place."""

from worldsheet.ports.around import Joined
from worldsheet.ports.base import Port, ScalarPort
from worldsheet.ports.centered import BiasCentered
from worldsheet.ports.delays import RateBounded, Resisted, Slowed, by_site, delayed, per_tick
from worldsheet.ports.inertial import Inertial
from worldsheet.ports.newton import Newton
from worldsheet.ports.resistive import Resistive

__all__ = [
    "BiasCentered",
    "Inertial",
    "Joined",
    "Newton",
    "Port",
    "RateBounded",
    "Resisted",
    "Resistive",
    "ScalarPort",
    "Slowed",
    "by_site",
    "delayed",
    "per_tick",
]
