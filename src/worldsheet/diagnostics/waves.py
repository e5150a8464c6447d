"""What a relaxation by waves did with its energy, tick by tick and site by site."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi, sin
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.record import Record
from worldsheet.core.types import AnyState, Worldsheet
from worldsheet.dynamics import Wave
from worldsheet.dynamics.per_prediction import mean_over
from worldsheet.problem import Chain, Linearised, linearise
from worldsheet.solve.calibrate import calibrate


@final
@dataclass(frozen=True)
class WaveReport:
    """Energy, absorption, reflection and fronts of a recorded wave, about its point of rest; T ticks, L sites.

    In linear networks the balance is exact to rounding: energy[t + 1] − energy[t], summed over the sites, is
    −(at_output[t] + Σ_l absorbed[t, l]). The clamped input reflects everything and absorbs nothing.

    Attributes:
        energy: ½(‖δx_l‖²/z_l + z_l‖δλ_l‖²) − ½ ν δλ_lᵀδr_l per site, shape (T + 1, L) (W5).
        at_output: what the cost takes up in each tick, shape (T,).
        absorbed: what matching takes up, less what nonlinear layers and the limiter feed, shape (T, L).
        reflected: ‖p − (z_l/z_m) J_mᵀJ_m p‖²/4z_l for p = δx_l and the layers m above, with z_L∇²C at the output: the
            power that a rising wave of this state sends back; shape (T + 1, L).
        state_front: sites from the input on whose state has come a quarter of its way to rest, shape (T + 1,); past the
            meeting with the costates' front, which may push states away first, it can lag.
        costate_front: sites from the output down whose costate has, shape (T + 1,).
    """

    energy: Worldsheet
    at_output: Tensor
    absorbed: Tensor
    reflected: Worldsheet
    state_front: Tensor
    costate_front: Tensor


def wave_report(chain: Chain, x: Any, target: Any, wave: Wave, record: Record, rest: Fields) -> WaveReport:
    """Read the recorded fields as waves; costs an evaluation of every layer and some six pull-backs a tick.

    Args:
        chain: what was relaxed.
        x: its input.
        target: what the loss compares the output with.
        wave: the dynamics that moved the fields; calibrated if need be.
        record: a `Record(fields=True)` of every tick.
        rest: the fields that the wave came or comes to rest at: `ws.relax(chain, x, target).fields`.

    Raises:
        InputError: a record without fields or with gaps, or fields of another chain or batch.
    """
    settled = calibrate(chain, x, target, wave)
    moments = [Fields(*moment) for moment in record.moments]
    shapes = [tuple(state.shape) for state in rest.states]
    if record.every != 1 or not moments or any([tuple(s.shape) for s in f.states] != shapes for f in moments):
        raise InputError(
            "the record must hold the fields of every tick for this chain and batch, "
            f"got those of {len(moments)} ticks, every {record.every} ticks",
            "a record that was filled by relaxing this chain on this batch",
            "relax with record=ws.Record(fields=True)",
        )
    if not isinstance(settled, Wave):
        raise InputError(
            f"wave must be a Wave, got {type(settled).__name__}", "a ws.Wave", "relax with the Wave that is reported"
        )
    angle = (1 - settled.matching) * pi / 2
    with torch.no_grad(), linearise(chain, x, target) as linearised:
        samples = mean_over(linearised.samples, settled.averaged, settled.positions)
        impedances = [samples * z for z in settled.impedances(len(shapes))]
        line = _Line(linearised, impedances, settled.speed * sin(angle))
        deviations = [_minus(fields, rest) for fields in moments]
        works = [line.works(*pair) for pair in pairwise(deviations)]
        return WaveReport(
            energy=torch.stack([line.energy(deviation) for deviation in deviations]),
            at_output=torch.tensor([output for output, _ in works], dtype=torch.float64),
            absorbed=torch.stack([sites for _, sites in works]) if works else torch.zeros(0, len(shapes)),
            reflected=torch.stack([line.reflected(deviation) for deviation in deviations]),
            state_front=_front([deviation.states for deviation in deviations]),
            costate_front=_front([deviation.costates[::-1] for deviation in deviations]),
        )


@final
class _Line:
    """The layers as a transmission line: linear about the point of rest, lossless but for its output.

    Args:
        linearised: the layers' Jacobians.
        impedances: z_l in units of state per costate.
        crossing: ν.
    """

    def __init__(self, linearised: Linearised, impedances: Sequence[float], crossing: float) -> None:
        self._jacobians = linearised
        self._z = impedances
        self._crossing = crossing

    def energy(self, deviation: Fields) -> Tensor:
        """(W5), which the lossless leapfrog keeps to rounding."""
        residuals = _difference(self._jacobians.ahead(deviation.states), deviation.states)
        rows = zip(self._z, deviation.states, deviation.costates, residuals, strict=True)
        found = [(_dot(x, x) / z + z * _dot(c, c) - self._crossing * _dot(c, r)) / 2 for z, x, c, r in rows]
        return torch.tensor(found, dtype=torch.float64)

    def works(self, before: Fields, after: Fields) -> tuple[float, Tensor]:
        """Work done in one tick by all that is not the lossless line: at the output by the cost, at sites by the rest.

        A force u that moves x by u does the work u·(x + x')/2z, and one that moves λ by v the work z v·(λ + λ')/2.
        """
        pulled = _difference(self._jacobians.back(before.costates), before.costates)
        residuals = _difference(self._jacobians.ahead(after.states), after.states)
        ends = self._jacobians.outputs
        bends = self._jacobians.curved([before.states[index] for index in ends])
        found = []
        for site, z in enumerate(self._z):
            x, moved_x = before.states[site], after.states[site]
            costate, moved = before.costates[site], after.costates[site]
            force = moved_x - x + self._crossing * z * pulled[site]
            push = moved - costate - self._crossing / z * residuals[site]
            found.append(-(_dot(force, x + moved_x) / z + z * _dot(push, costate + moved)) / 2)
        taken = [
            self._crossing * _dot(bend, before.states[index] + after.states[index]) / 2
            for index, bend in zip(ends, bends, strict=True)
        ]
        for index, output in zip(ends, taken, strict=True):
            found[index] -= output
        return sum(taken), torch.tensor(found, dtype=torch.float64)

    def reflected(self, deviation: Fields) -> Tensor:
        """What rising waves of the states send back at the layers above them."""
        inverse = [image / z for image, z in zip(self._jacobians.ahead(deviation.states), self._z, strict=True)]
        loads = list(self._jacobians.back(inverse))
        ends = self._jacobians.outputs
        for index, bend in zip(ends, self._jacobians.curved([deviation.states[i] for i in ends]), strict=True):
            loads[index] = loads[index] + bend
        rows = zip(self._z, deviation.states, loads, strict=True)
        sizes = [float(torch.linalg.vector_norm(x - z * load)) ** 2 / (4 * z) for z, x, load in rows]
        return torch.tensor(sizes, dtype=torch.float64)


def _minus(fields: Fields, rest: Fields) -> Fields:
    return Fields(_difference(fields.states, rest.states), _difference(fields.costates, rest.costates))


def _difference(one: Sequence[AnyState], other: Sequence[AnyState]) -> tuple[AnyState, ...]:
    return tuple(a - b for a, b in zip(one, other, strict=True))


def _dot(one: Tensor, other: Tensor) -> float:
    return float(torch.vdot(one.flatten(), other.flatten()).real)


def _front(deviations: Sequence[Sequence[Tensor]]) -> Tensor:
    """How many sites in a row have come a quarter of the way at least once, from where they stood at tick 0.

    A quarter, since a wave that passes without a wave from the other side takes a field just half way.
    """
    distances = torch.tensor([[float(torch.linalg.vector_norm(part)) for part in moment] for moment in deviations])
    arrived = (distances <= 0.75 * distances[0]).cummax(0).values
    return arrived.to(torch.int64).cumprod(1).sum(1)
