"""Ports: how parameters answer their effort. Any `torch.optim` optimizer does in their place."""

from worldsheet.port.base import Port, ScalarPort
from worldsheet.port.grounded import Grounded
from worldsheet.port.inertial import Inertial
from worldsheet.port.newton import Newton
from worldsheet.port.pace import by_site, delayed, per_tick
from worldsheet.port.resistive import Resistive

__all__ = ["Grounded", "Inertial", "Newton", "Port", "Resistive", "ScalarPort", "by_site", "delayed", "per_tick"]
