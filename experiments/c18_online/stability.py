"""Where tracking is stable: size, topology, speed, dissipation."""

import math
from typing import Any

import torch

from worldsheet import streaming

TOPOLOGIES = ["dense", "small world", "random"]
TRACKS = 0.2  # an error below which a network follows 0.6 sin(t/2), whose own root mean square is 0.42


def tracking_error(n: int, topology: str, speed: float, theta: float) -> dict[str, Any]:
    """Error of tracking 0.6 sin(t/2) in the second half of 12 seconds, median of three seeds; None if any diverged."""
    generator = torch.Generator().manual_seed(0)
    degree = min(8, (n - 1) // 2)
    graphs: dict[str, streaming.Connectivity] = {
        "dense": streaming.Dense(n, self_loops=True),
        "small world": streaming.small_world(n, degree, 0.1, generator),
        "random": streaming.random(n, degree, generator),
    }
    network = streaming.HamiltonianNetwork(
        graphs[topology],
        [0],
        model=streaming.NeuronModel(speed),
        functional=streaming.Functional(mass=0.1 / theta, dissipation=theta),
        streams=streaming.Streams(3, shared=False),
    )
    squares = []
    for step in range(1200):
        wanted = torch.full((3, 1), 0.6 * math.sin((step + 1) * 0.01 / 2))
        squares.append((network.step(None, wanted, 0.01).output - wanted).square()[:, 0])
    late = torch.stack(squares[600:]).mean(0).sqrt()
    value = float(late.median()) if bool(late.isfinite().all()) else None
    return {"neurons": n, "topology": topology, "speed": speed, "theta": theta, "error": value}
