"""What was measured, as values that become JSON and tables."""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

from benchmarks.timing import Spread


class Timing(NamedTuple):
    """How long one method took.

    Attributes:
        method: its name.
        threads: CPU threads of torch.
        rounds: how often it was called.
        seconds: per call.
        ratio: to autograd in the same round.
    """

    method: str
    threads: int
    rounds: int
    seconds: Spread
    ratio: Spread


class Memory(NamedTuple):
    """Peak memory of one call above what parameters and input take, gradients and activations included."""

    method: str
    peak_bytes: int
    ratio: float


class Work(NamedTuple):
    """How often a relaxation evaluates a layer and pulls back through it, on average over the layers."""

    method: str
    evaluations_per_layer: float
    pulls_per_layer: float


class Fidelity(NamedTuple):
    """The parameter tensor whose float32 gradient is furthest from the float64 reference.

    Attributes:
        method: its name.
        parameter: the tensor's.
        cosine: between the two gradients.
        one_minus_cosine: the same with all its digits.
    """

    method: str
    parameter: str
    cosine: float
    one_minus_cosine: float


@final
@dataclass(frozen=True)
class Result:
    """All that was measured of one case.

    Attributes:
        case: its name.
        group: the table it is in.
        layers: number of sites.
        parameters: number of trained numbers.
        batch: inputs per gradient.
        time_goal: largest time ratio of wavefront to autograd that is aimed at; None for none.
        memory_goal: the same for peak memory.
        timings: by threads and method.
        memory: autograd and wavefront.
        work: by method.
        fidelity: by method; empty if it was not asked for.
    """

    case: str
    group: str
    layers: int
    parameters: int
    batch: int
    time_goal: float | None
    memory_goal: float | None
    timings: tuple[Timing, ...]
    memory: tuple[Memory, ...]
    work: tuple[Work, ...]
    fidelity: tuple[Fidelity, ...]


def plain(value: Any) -> Any:
    """Named tuples as objects, so that every figure carries its name."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return {name: plain(entry) for name, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
