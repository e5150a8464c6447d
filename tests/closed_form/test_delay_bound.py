"""A multiplier that hears of its own past: λ' = λ − (α/ρ) λ(t − τ) rings down below 2 sin(π/(2(2τ + 1))) only."""

from dataclasses import dataclass, replace
from math import pi, sin
from typing import final

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.core.types import Field

ONE = torch.ones(1, 1, dtype=torch.float64)


@final
@dataclass(frozen=True)
class Reckless(ws.substrates.Substrate):
    """A dynamics that does not say how late its own costate may be, or it would be refused."""

    def arrived(self, message: Tensor, view: ws.extend.View) -> Tensor:
        return message

    @property
    def character(self) -> ws.dynamics.Character:
        return replace(self.inner.character, patience=None)


def single_mode() -> ws.Chain:
    """One hidden site between unit layers, and a linear loss: ησ²ρ = 1 at η = ρ = 1."""
    layers = [nn.Linear(1, 1, bias=False, dtype=torch.float64) for _ in range(2)]
    for layer in layers:
        nn.init.ones_(layer.weight)
    return ws.Chain(nn.Sequential(*layers), lambda output, target: (output * target).sum())


def costate(alpha: float, late: int, ticks: int, penalty: float = 1.0) -> Tensor:
    order = ws.schedules.Late(ws.Leapfrog(Field.COSTATE), ws.schedules.Delays(own=late))
    dynamics = Reckless(ws.AugmentedLagrangian(rate=1 / penalty, dual_rate=alpha, penalty=penalty))
    return ws.relax(single_mode(), ONE, ONE, dynamics, schedule=order, stop=ws.Stop(max_ticks=ticks)).costates[0]


@pytest.mark.parametrize("late", [0, 1, 2, 4])
def test_the_delay_equation_is_followed_to_rounding(late: int) -> None:
    alpha = 0.3
    past = [0.0] * (late + 1)  # λ = 0 before the first tick, in which r = 0
    for ticks in range(1, 16):
        past.append(past[-1] + alpha * (1 - past[-1 - late]) if ticks > 1 else 0.0)
        assert float(costate(alpha, late, ticks)) == pytest.approx(past[-1], abs=1e-12)


@pytest.mark.parametrize(("late", "penalty"), [(1, 1.0), (2, 0.5), (3, 1.0)])
def test_multipliers_ring_down_below_the_bound_and_up_beyond_it(late: int, penalty: float) -> None:
    bound = 2 * penalty * sin(pi / (2 * (2 * late + 1)))
    below, beyond = (
        [float((costate(share * bound, late, ticks, penalty) - 1).abs()) for ticks in (60, 61, 180, 181)]
        for share in (0.92, 1.08)
    )
    assert max(below[2:]) < 0.5 * max(below[:2])
    assert max(beyond[2:]) > 2 * max(beyond[:2])


@pytest.mark.parametrize(
    ("alpha", "late", "refused"), [(0.99, 1, False), (1.0, 1, True), (0.61, 2, False), (0.62, 2, True)]
)
def test_the_door_knows_the_bound(alpha: float, late: int, refused: bool) -> None:
    order = ws.schedules.Late(
        ws.schedules.Late(ws.Leapfrog(Field.COSTATE), ws.schedules.Delays(own=late - 1)),
        ws.schedules.Delays(own=1),
    )
    dynamics, stop = ws.AugmentedLagrangian(rate=1.0, dual_rate=alpha), ws.Stop(max_ticks=5)
    if not refused:
        ws.relax(single_mode(), ONE, ONE, dynamics, schedule=order, stop=stop)
        return
    for verb in (ws.relax, ws.backward):
        with pytest.raises(ws.errors.InputError, match=rf"at most {late - 1} ticks.*\n.*dual_rate smaller"):
            verb(single_mode(), ONE, ONE, dynamics, schedule=order, stop=stop)
