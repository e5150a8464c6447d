"""Five fully connected neurons that track a signal, with the Lagrangian and the Hamiltonian over time."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldsheet import streaming
from worldsheet.core.outcome import Outcome

DT = 0.004
SEEDS = 4


def sinusoid(time: float) -> float:
    """0.6 sin(t/2)."""
    return 0.6 * math.sin(time / 2)


def patched(time: float) -> float:
    """The hard signal: cosines and constants in turns of four seconds, with jumps between them."""
    piece, phase = divmod(time, 4.0)
    values = [0.6 * math.cos(2 * phase), 0.4, 0.5 * math.cos(4 * phase), -0.5, 0.3 * math.cos(phase), 0.0]
    return values[int(piece) % len(values)]


def network(
    functional: streaming.Functional,
    speed: float = 50.0,
    sign: streaming.SignPolicy | None = None,
    *,
    self_loops: bool = True,
) -> streaming.HamiltonianNetwork:
    """Five neurons, the first being the output; one set of weights per seed."""
    return streaming.HamiltonianNetwork(
        streaming.Dense(5, self_loops=self_loops),
        [0],
        model=streaming.NeuronModel(speed),
        functional=functional,
        sign=sign,
        streams=streaming.Streams(SEEDS, shared=False),
        start=streaming.Start(generator=torch.Generator().manual_seed(0)),
    )


def track(
    built: streaming.HamiltonianNetwork, signal: Callable[[float], float], seconds: float, every: int = 10
) -> tuple[Outcome, streaming.Trace]:
    """Run a network along a signal."""
    trace = streaming.Trace(every)
    steps = round(seconds / DT)
    stream = ((None, torch.full((SEEDS, 1), signal((step + 1) * DT))) for step in range(steps))
    return built.run(stream, DT, trace), trace


def summary(
    outcome: Outcome, trace: streaming.Trace, signal: Callable[[float], float], window: float
) -> dict[str, Any]:
    """Root mean square errors of every window of time, median over the seeds; curves of the first seed."""
    wanted = torch.tensor([signal(time + DT) for time in trace.times], dtype=torch.float64)
    squares = (trace.outputs[:, :, 0] - wanted[:, None]).square()
    errors = [float(part.mean(0).sqrt().median()) for part in _windows(squares, trace.times, window)]
    thin = slice(None, None, max(1, len(trace.times) // 600))
    return {
        "status": outcome.status.value,
        "errors": errors,
        "flips": len(trace.flips),
        "times": trace.times[thin],
        "target": wanted[thin].tolist(),
        "output": trace.outputs[thin, 0, 0].tolist(),
        "hamiltonian": trace.hamiltonians[thin, 0].tolist(),
        "lagrangian": trace.lagrangians[thin, 0].tolist(),
    }


def _windows(squares: Tensor, times: list[float], window: float) -> list[Tensor]:
    number = torch.tensor([int(time / window) for time in times])
    return [squares[number == k] for k in range(int(number[-1]) + 1) if (number == k).sum() > 1]
