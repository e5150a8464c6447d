"""A chain cut into stages that never wait for a global pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias, final

from torch import nn

from worldsheet.core.errors import InputError
from worldsheet.pipeline.drive import Packets, drive
from worldsheet.pipeline.links import Links, queues
from worldsheet.pipeline.order import Act, Deed, Order, Unlocked
from worldsheet.pipeline.partition import Plan, balanced
from worldsheet.pipeline.stage import MakeOptimizer, Stage
from worldsheet.pipeline.weights import Passive, Weights
from worldsheet.problem import Chain

Watch: TypeAlias = Callable[[Deed, float], None]
"""Is told what a stage has done, and when it was over."""

_PASSIVE = Passive()


@final
@dataclass(frozen=True)
class Traversal:
    """What one passage of packets left.

    Attributes:
        losses: of each packet, in order, as it was when the packet reached the last stage; empty where another process
            has it.
        updates: how often each stage of this process has moved its parameters since it was made.
    """

    losses: tuple[float, ...]
    updates: tuple[int, ...]


@final
class Pipeline:
    """Unlocked training: stages of consecutive layers, each busy with its own packet, talking to two neighbours only.

    A stage carries a packet up, pulls another's credit back and moves its own parameters after every M credits. There
    is no global backward pass and no flush; the price is that credits answer parameters that have moved meanwhile, as
    `order.delay` says. `order=Locked(M)` flushes before each update and is training in one process to the last bit.

    Cost per packet and stage: one evaluation and one pull-back of its layers, one state up and one credit down.

    Args:
        chain: the layers and the loss; each layer reads the one below.
        stages: how many, or a `Plan`; a number cuts into equal counts of layers.
        optimizer: makes the optimizer of one stage's parameters: `partial(torch.optim.Adam, lr=1e-3)`.
        packets_per_update: M, for the default order.
        weights: what packets see of the parameters while they are in flight, and how those answer late credits.
        order: what stages do when; `Unlocked(packets_per_update)` by default.

    Raises:
        InputError: more stages than layers, a parameter that two stages share, or a chain that is no path.
    """

    def __init__(
        self,
        chain: Chain,
        stages: int | Plan,
        *,
        optimizer: MakeOptimizer,
        packets_per_update: int = 8,
        weights: Weights = _PASSIVE,
        order: Order | None = None,
    ) -> None:
        self.order = order if order is not None else Unlocked(packets_per_update)
        self.plan = stages if isinstance(stages, Plan) else balanced([1.0] * len(chain), stages)
        self._parts = _parts(chain, self.plan)
        count = len(self._parts)
        self.stages = [
            Stage(
                part,
                optimizer,
                weights,
                delay=self.order.delay(index, count),
                packets_per_update=self.order.packets_per_update,
                first=index == 0,
                last=index == count - 1,
            )
            for index, part in enumerate(self._parts)
        ]

    def train(self, packets: Packets) -> Traversal:
        """Let packets pass through all stages in this process, in turns.

        The deeds of each stage are those of `order`, so that the weights are, to the last bit, what the same stages in
        processes of their own arrive at.

        Args:
            packets: pairs (x, target).

        Raises:
            InputError: no packets.
            LayerError: a layer or loss that fails on what it receives.
        """
        if not len(packets):
            raise InputError("no packets", "at least one (x, target)", "cut a batch: x.split(8), target.split(8)")
        count = len(self.stages)
        losses: list[float] = []
        runs = [self._run(index, links, packets, losses) for index, links in enumerate(queues(count))]
        while runs:
            runs = [run for run in runs if next(run, _ENDED) is not _ENDED]
        return Traversal(tuple(losses), tuple(stage.updates for stage in self.stages))

    def run_stage(self, index: int, links: Links, packets: Packets, watch: Watch | None = None) -> Traversal:
        """Let packets pass through one stage, whose neighbours are elsewhere; every process gives the same packets.

        Args:
            index: which stage.
            links: its edges.
            packets: pairs (x, target); only the first stage looks at x, only the last at the target.
            watch: is told each deed with the moment at which it was done, its wait for a message included.
        """
        losses: list[float] = []
        stage, deeds = self.stages[index], self.order.deeds(index, len(self.stages), len(packets))
        for deed in drive(stage, deeds, links, packets):
            _note(stage, deed, losses)
            if watch is not None and deed is not None:
                watch(deed, perf_counter())
        links.close()
        return Traversal(tuple(losses), (self.stages[index].updates,))

    def _run(self, index: int, links: Links, packets: Packets, losses: list[float]) -> Iterator[bool]:
        stage = self.stages[index]
        deeds = self.order.deeds(index, len(self.stages), len(packets))
        for deed in drive(stage, deeds, links, packets):
            _note(stage, deed, losses)
            yield True


_ENDED = object()


def _note(stage: Stage, deed: Deed | None, losses: list[float]) -> None:
    if stage.last and deed is not None and deed.act is Act.FORWARD and stage.loss is not None:
        losses.append(stage.loss.item())


def _parts(chain: Chain, plan: Plan) -> list[Chain]:
    """The chain's layers cut by the plan, each with the loss, which only the last uses."""
    if plan.cuts[-1] != len(chain):
        raise InputError(f"a plan for {plan.cuts[-1]} layers", f"{len(chain)} layers", "make a plan for this chain")
    if chain.topology.parents != tuple((site - 1,) for site in chain.topology.sites):
        raise InputError("a graph with skip connections", "layers in a row", "join what a skip spans in one layer")
    parts = [Chain([chain.layers[i].module for i in plan.layers(s)], chain.loss) for s in range(plan.stages)]
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
