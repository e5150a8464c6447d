"""`worldsheet stream --forecast`: a network with memory says each next value of a series before it hears it."""

import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from worldsheet.streaming import (
    Dense,
    Functional,
    HamiltonianNetwork,
    NeuronModel,
    SenderMemory,
    SpeedClasses,
    Squared,
    Start,
    StepResult,
)
from worldsheet_lab.series import Series

_SLOW, _FAST, _THETA, _RATE = 0.05, 3.0, 4.0, 0.3  # per gap: those of experiments/c18_online


def forecaster(hidden: int, gap: float, seed: int, device: str) -> HamiltonianNetwork:
    """One input, hidden neurons of four speeds and one output, all connected, in units of the series' own gap."""
    return HamiltonianNetwork(
        Dense(hidden + 2, self_loops=True),
        [hidden + 1],
        [0],
        model=NeuronModel(SpeedClasses(_SLOW / gap, _FAST / gap)),
        functional=Functional(Squared(), mass=gap**2 / (_RATE * _THETA), dissipation=_THETA / gap),
        memory=SenderMemory(),
        start=Start(generator=torch.Generator().manual_seed(seed)),
        device=device,
    )


@final
class Progress:
    """Squared errors as they come: of forecasts, and of saying the last known value again.

    Args:
        heard: the series.
    """

    def __init__(self, heard: Series) -> None:
        self._heard = heard.values.tolist()
        self._step = 0
        self._last = math.nan
        self._squares: list[tuple[float, float]] = []

    def look(self, step: StepResult) -> None:
        """Note a step."""
        now, target = self._heard[self._step], self._heard[self._step + 1]
        self._last = self._last if math.isnan(now) else now
        self._step += 1
        if not (math.isnan(target) or math.isnan(self._last)):
            self._squares.append(((float(step.output[0, 0]) - target) ** 2, (self._last - target) ** 2))

    def errors(self) -> dict[str, float | None]:
        """Root mean squares over the second half of what was known."""
        late = self._squares[len(self._squares) // 2 :]
        forecasts, repeats = (
            math.sqrt(sum(each) / len(late)) if late else math.nan for each in zip(*late, strict=True)
        )
        return {
            "forecast_error": forecasts if math.isfinite(forecasts) else None,
            "repeating_error": repeats if math.isfinite(repeats) else None,
        }


def moments(heard: Series) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Input, target and seconds to the next, which may be any; NaN where unknown."""
    values = heard.values.float()[:, None, None]
    yield from zip(values[:-1], values[1:], heard.times.diff().tolist(), strict=True)
