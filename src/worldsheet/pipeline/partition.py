"""Where to cut a chain into stages."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, final

import torch
from torch import Tensor, nn

from worldsheet.core.errors import InputError
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.problem import BoundLayers, Chain


@final
@dataclass(frozen=True)
class Plan:
    """Which layers each stage owns.

    Attributes:
        cuts: 0, the first layer (from 0) of stages 1.., and the number of layers.
        costs: what each layer costs, in any unit; empty if it was not measured.
    """

    cuts: tuple[int, ...]
    costs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse an empty stage."""
        if len(self.cuts) < 2 or self.cuts[0] != 0 or any(b <= a for a, b in pairwise(self.cuts)):
            raise InputError(f"cuts {self.cuts}", "0 < … < number of layers, rising", "use balanced(costs, stages)")

    @property
    def stages(self) -> int:
        """How many there are."""
        return len(self.cuts) - 1

    def layers(self, stage: int) -> range:
        """The layers of a stage, counted from 0."""
        return range(self.cuts[stage], self.cuts[stage + 1])

    def __str__(self) -> str:
        lines = []
        total = sum(self.costs)
        for stage in range(self.stages):
            own = self.layers(stage)
            share = f"  {sum(self.costs[i] for i in own) / total:>5.1%} of the time" if total else ""
            lines.append(f"stage {stage}: layers {own.start + 1}..{own.stop}{share}")
        return "\n".join(lines)


def balanced(costs: Sequence[float], stages: int) -> Plan:
    """The cuts that make the most expensive stage cheapest.

    Raises:
        InputError: no stage, or more stages than layers.
    """
    count = len(costs)
    if not 1 <= stages <= count:
        raise InputError(f"{stages} stages for {count} layers", f"1 to {count} stages", "a stage owns a layer at least")
    sums = [0.0, *accumulate(costs)]
    best = [sums[end] for end in range(count + 1)]  # of the worst stage, when the first `end` layers are cut so far
    chosen: list[list[int]] = []
    for stage in range(2, stages + 1):
        rows = [
            min((max(best[cut], sums[end] - sums[cut]), cut) for cut in range(stage - 1, end))
            for end in range(stage, count + 1)
        ]
        best = [float("inf")] * stage + [worst for worst, _ in rows]
        chosen.append([0] * stage + [cut for _, cut in rows])
    cuts = [count]
    for row in reversed(chosen):
        cuts.append(row[cuts[-1]])
    return Plan((0, *reversed(cuts)), tuple(costs))


@torch.no_grad()
def measured_costs(chain: Chain, x: Tensor, target: Any, repeats: int = 3) -> tuple[float, ...]:
    """Seconds that each layer takes for one evaluation and one pull-back; generators and buffers stay as they were.

    The least of some tries; on the CPU the calling thread's own time, which other programs do not lengthen.

    Raises:
        LayerError: a layer or loss that fails on what it receives.
    """
    found: list[list[float]] = []
    for _ in range(repeats + 1):
        caller = BoundLayers(chain, target)
        with caller.replay.rehearsed(x.device):
            found.append(_once(caller, x, _clock(x.device)))
    return tuple(min(times) for times in zip(*found[1:], strict=True))


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type == "cpu":
        return time.thread_time
    synchronize = torch.get_device_module(device).synchronize

    def clock() -> float:
        synchronize(device)
        return time.perf_counter()

    return clock


def _once(caller: BoundLayers, x: Tensor, clock: Callable[[], float]) -> list[float]:
    messages = Messages(caller, everywhere=True, to_input=False)
    seconds, points = [0.0] * (caller.head - 1), [x]
    for layer in range(1, caller.head):
        begun = clock()
        points.append(messages.evaluation(layer, points[-1:]).output)
        seconds[layer - 1] = clock() - begun
    credit = torch.ones_like(messages.evaluation(caller.head, points[-1:]).output)
    for layer in range(caller.head, 0, -1):
        begun = clock()
        pulled = messages.pull(layer, points[layer - 1 : layer], credit, last=True).inputs[0]
        if layer < caller.head:
            seconds[layer - 1] += clock() - begun
        if pulled is None:
            break
        credit = pulled
    return seconds


def parts_of(chain: Chain, plan: Plan) -> list[Chain]:
    """The chain's layers cut by the plan, each with the loss, which only the last uses.

    Raises:
        InputError: a plan for another chain, a chain that is no path, or a parameter that two stages share.
    """
    layers = chain.layers
    if plan.cuts[-1] != len(layers):
        raise InputError(f"a plan for {plan.cuts[-1]} layers", f"{len(layers)} layers", "make a plan for this chain")
    parts = [Chain([layers[i].module for i in plan.layers(s)], chain.loss) for s in range(plan.stages)]
    owner: dict[int, int] = {}
    for index, part in enumerate(parts):
        modules = [layer.module for layer in part.layers]
        held = [p for module in modules for p in module.parameters()]
        if index == plan.stages - 1 and isinstance(chain.loss, nn.Module):
            held += chain.loss.parameters()
        for parameter in held:
            if owner.setdefault(id(parameter), index) != index:
                raise InputError(
                    f"a parameter of shape {tuple(parameter.shape)} in stages {owner[id(parameter)]} and {index}",
                    "parameters that one stage owns",
                    "cut so that its uses are in one stage, or untie it",
                )
    return parts
