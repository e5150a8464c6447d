"""What is recorded of a network while it runs."""

from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.words import number_of, plural
from worldsheet.streaming.shapes import PerStream, Signal
from worldsheet.streaming.sign import Sign
from worldsheet.streaming.state import Energies


class StepResult(NamedTuple):
    """One step, as it was taken.

    Attributes:
        output: the outputs that the target was compared with, (streams, outputs).
        loss: V of them per stream, 0 where the target is unknown; None without a target.
        sign: s.
        time: when the step began, in seconds since the start.
        energies: what it began with; None unless the step was taken with `record=True`.
    """

    output: Signal
    loss: PerStream | None
    sign: Sign
    time: float
    energies: Energies | None

    def __repr__(self) -> str:
        loss = "without a target" if self.loss is None else f"loss {number_of(self.loss)}"
        return f"StepResult at {self.time:.4g} s: output {number_of(self.output)}, {loss}"


@final
class Trace:
    """Curves over time: a row for every `every`-th step, on the CPU in float64.

    Args:
        every: steps per row, at least 1. Energies cost one pass over the edges per row.

    Raises:
        InputError: `every` below 1.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise InputError(f"Trace: every must be at least 1, got {every}", "a whole number of steps", "use every=1")
        self.every = every
        self._seen = 0
        self.times: list[float] = []
        self._rows: dict[str, list[Tensor]] = {}

    def __repr__(self) -> str:
        if not self.times:
            return f"Trace(every={self.every}), empty: give it to network.run as trace="
        rows, ended = plural(len(self.times), "row"), number_of(self.losses[-1])
        return f"Trace of {rows}, {self.times[0]:.4g} to {self.times[-1]:.4g} s, last loss {ended}"

    @property
    def due(self) -> bool:
        """Whether the next step is to be written down: it is to be taken with `record=True` then."""
        return self._seen % self.every == 0

    def add(self, step: StepResult) -> None:
        """Look at a step, and write it down if it is its turn.

        Raises:
            InputError: a step to be written down that was taken without `record=True`.
        """
        if self.due:
            if step.energies is None:
                raise InputError(
                    "the step holds no energies to record",
                    "a step taken with record=True",
                    "call network.step(input, target, dt, record=trace.due), or network.run(…, trace=trace)",
                )
            energies = step.energies
            self.times.append(step.time)
            self._write("outputs", step.output)
            self._write("losses", torch.zeros(len(step.output)) if step.loss is None else step.loss)
            self._write("signs", torch.as_tensor(step.sign).expand_as(energies.costate_norm))
            self._write("hamiltonian", energies.hamiltonian)
            self._write("lagrangian", energies.lagrangian)
            self._write("costate_norm", energies.costate_norm)
        self._seen += 1

    def _write(self, name: str, values: Tensor) -> None:
        self._rows.setdefault(name, []).append(values.double().cpu())

    def _column(self, name: str) -> Tensor:
        return torch.stack(self._rows[name])

    @property
    def outputs(self) -> Tensor:
        """(rows, streams, outputs)."""
        return self._column("outputs")

    @property
    def losses(self) -> Tensor:
        """V, (rows, streams)."""
        return self._column("losses")

    @property
    def signs(self) -> Tensor:
        """s, (rows, systems)."""
        return self._column("signs")

    @property
    def hamiltonians(self) -> Tensor:
        """H/φ, (rows, systems)."""
        return self._column("hamiltonian")

    @property
    def lagrangians(self) -> Tensor:
        """The Lagrangian over φ, (rows, systems)."""
        return self._column("lagrangian")

    @property
    def costate_norms(self) -> Tensor:
        """‖(π, π_w)‖, (rows, systems)."""
        return self._column("costate_norm")

    @property
    def flips(self) -> list[float]:
        """Times at which the sign of any system changed from one row to the next."""
        changed = (self.signs.diff(dim=0) != 0).any(1)
        return [time for time, flipped in zip(self.times[1:], changed.tolist(), strict=True) if flipped]
