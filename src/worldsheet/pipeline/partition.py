"""Where to cut a chain into stages."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from worldsheet.core.bundle import Parcel, bundled
from worldsheet.core.errors import InputError
from worldsheet.pipeline.carriage import Carriage
from worldsheet.pipeline.ties import Tie
from worldsheet.problem import Chain


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
            raise InputError(
                f"cuts must rise from 0 to the number of layers, got {self.cuts}",
                "0 < … < number of layers",
                "use balanced(costs, stages)",
            )

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
        raise InputError(
            f"stages must be at least 1 and no more than the {count} layers, got {stages} stages for {count} layers",
            f"1 to {count} stages",
            "a stage owns a layer at least",
        )
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
def measured_costs(chain: Chain, x: Any, target: Any, repeats: int = 3) -> tuple[float, ...]:
    """Seconds that each layer takes for one evaluation and one pull-back; generators and buffers stay as they were.

    The least of some tries; on the CPU the calling thread's own time, which other programs do not lengthen.

    Raises:
        LayerError: a layer or loss that fails on what it receives.
    """
    given = x if isinstance(x, Tensor) else bundled(x)
    found: list[list[float]] = []
    for _ in range(repeats + 1):
        carriage, device = Carriage(chain, target, given, to_input=False), _device_of(given)
        with carriage.rehearsed(device):
            found.append(_once(carriage, len(chain), _clock(device)))
    return tuple(min(times) for times in zip(*found[1:], strict=True))


def _device_of(given: Parcel) -> torch.device:
    leaves = (given,) if isinstance(given, Tensor) else given.leaves
    return leaves[0].device if leaves else torch.device("cpu")


def _clock(device: torch.device) -> Callable[[], float]:
    if device.type == "cpu":
        return time.thread_time
    synchronize = torch.get_device_module(device).synchronize

    def clock() -> float:
        synchronize(device)
        return time.perf_counter()

    return clock


def _once(carriage: Carriage, layers: int, clock: Callable[[], float]) -> list[float]:
    seconds = [0.0] * layers
    for layer in range(1, layers + 1):
        begun = clock()
        carriage.evaluate(layer)
        seconds[layer - 1] = clock() - begun
    credit = carriage.pull(layers + 1, torch.ones_like(carriage.price())).credit
    for layer in range(layers, 0, -1):
        if credit is None:
            break
        begun = clock()
        pulled = carriage.pull(layer, credit)
        pulled.efforts()
        credit = pulled.credit
        seconds[layer - 1] += clock() - begun
    return seconds


def parts_of(chain: Chain, plan: Plan) -> list[Chain]:
    """The chain's layers cut by the plan, each with the loss, which only the last uses.

    Raises:
        InputError: a plan for another chain, or a chain that is no path.
    """
    layers = chain.layers
    if plan.cuts[-1] != len(layers):
        raise InputError(
            f"the plan is for {plan.cuts[-1]} layers, the chain has {len(layers)}",
            f"a plan for {len(layers)} layers",
            "make a plan for this chain",
        )
    return [Chain([layers[i].module for i in plan.layers(s)], chain.loss) for s in range(plan.stages)]


def untied_parts_of(chain: Chain, plan: Plan) -> list[Chain]:
    """The same, of a chain in which stages have no parameter in common.

    Raises:
        InputError: as `parts_of`, or a parameter that two stages share.
    """
    parts = parts_of(chain, plan)
    if ties := ties_of(parts, chain):
        raise InputError(
            f"parameter {ties[0].name!r} of shape {tuple(ties[0].parameter.shape)} is in stages "
            f"{', '.join(map(str, ties[0].stages))}",
            "parameters that one stage owns",
            f"cut so that its uses are in one stage, or {_UNTIE}",
        )
    return parts


def ties_of(parts: Sequence[Chain], whole: Chain) -> list[Tie]:
    """The parameters that several stages use, but for frozen ones, which nobody moves.

    Raises:
        InputError: two different parameters over the same memory, in two stages.
    """
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    known: dict[Hashable, list[_Owned]] = {}
    for stage, part in enumerate(parts):
        in_loss = {id(p) for p in part.loss.parameters()} if isinstance(part.loss, nn.Module) else set[int]()
        of_layers = {id(p) for layer in part.layers for p in layer.module.parameters()}
        for parameter in part.parameters():
            if stage < len(parts) - 1 and id(parameter) in in_loss - of_layers:
                continue  # the loss is the last stage's
            mine = _Owned(names[id(parameter)], parameter, stage, _bytes_of(parameter))
            others = known.setdefault(_memory_of(parameter), [])
            for other in others:
                if other.stage != stage and other.parameter is not parameter and _overlap(mine, other):
                    raise _over_one_memory(mine, other)
            others.append(mine)
    uses: dict[int, list[_Owned]] = {}
    for each in (owned for group in known.values() for owned in group if owned.parameter.requires_grad):
        uses.setdefault(id(each.parameter), []).append(each)
    return [Tie(m[0].name, m[0].parameter, tuple(each.stage for each in m)) for m in uses.values() if len(m) > 1]


class _Owned(NamedTuple):
    """A parameter with its name, its stage, and the bytes of its storage that it lies in."""

    name: str
    parameter: Parameter
    stage: int
    bytes: range


def _over_one_memory(one: _Owned, other: _Owned) -> InputError:
    return InputError(
        f"parameter {one.name!r} of shape {tuple(one.parameter.shape)} is in stage {one.stage} and in stage "
        f"{other.stage}, where {other.name!r} is the same memory",
        "one Parameter that both stages hold, or parameters with memory of their own",
        f"tie it by giving both layers the same Parameter; or {_UNTIE}",
    )


_UNTIE = "untie it with a copy: nn.Parameter(weight.detach().clone())"


def _overlap(one: _Owned, other: _Owned) -> bool:
    """Views of one storage, such as parts of a flat buffer, may lie apart."""
    begin, end = max(one.bytes.start, other.bytes.start), min(one.bytes.stop, other.bytes.stop)
    return begin < end


def _memory_of(parameter: Parameter) -> Hashable:
    """What two parameters over the same memory have in common; one without memory is only like itself."""
    address = 0 if parameter.is_sparse or parameter.is_meta else parameter.untyped_storage().data_ptr()
    return (parameter.device, address) if address else id(parameter)


def _bytes_of(parameter: Parameter) -> range:
    """From its first byte in the storage to its last one, whatever lies between."""
    if parameter.is_sparse or not parameter.numel():
        return range(0)
    steps = ((size - 1) * stride for size, stride in zip(parameter.shape, parameter.stride(), strict=True))
    first = parameter.storage_offset()
    return range(first * parameter.element_size(), (first + sum(steps) + 1) * parameter.element_size())
