"""What stages have measured of packets and updates, read from their devices all at once, and whether it is finite."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple, final

import torch
from torch import Tensor

from worldsheet.core.errors import RelaxationError
from worldsheet.core.reading import read
from worldsheet.pipeline.packet_weights import Weight
from worldsheet.pipeline.packets import PacketStream
from worldsheet.pipeline.schedule import ActionType
from worldsheet.pipeline.stage import Completed, Stage

UPDATES_BETWEEN_LOOKS = 100
"""After how many updates of a stage the host looks whether all has been finite, beside the end of each call."""


class _Loss(NamedTuple):
    packet: int
    value: Tensor
    weight: Weight


class _Broken(NamedTuple):
    """Something that is not finite; the first of them is told."""

    update: int
    rank: int
    text: str


@final
class Ledger:
    """Losses and efforts of the stages of this process.

    Args:
        stages: those of this process.
        packets: what passes through them.
        packets_per_update: M.
    """

    def __init__(self, stages: Sequence[Stage], packets: PacketStream, packets_per_update: int) -> None:
        self._stages = stages
        self._packets = packets
        self._many = packets_per_update
        self._made_before = stages[-1].updates
        self._waiting: list[_Loss] = []
        self._read: list[tuple[float, float]] = []
        self._updates = 0

    def note(self, stage: Stage, done: Completed) -> None:
        """Take an action in, and look now and then."""
        if done.action.act is ActionType.UPDATE:
            self._updates += 1
            if self._updates % (UPDATES_BETWEEN_LOOKS * len(self._stages)) == 0:
                self.look()
        elif stage.last and done.action.act is ActionType.FORWARD and stage.loss is not None:
            weight = self._packets.weight(done.action.packet)
            self._waiting.append(_Loss(done.action.packet, stage.loss, weight))

    def look(self) -> None:
        """Wait for the devices, once.

        Raises:
            RelaxationError: a loss or an effort that is not finite.
        """
        losses, self._waiting = self._waiting, []
        efforts = [(stage, *each) for stage in self._stages for each in stage.take_efforts()]
        tensors = [each.value for each in losses] + [value for _, _, value in efforts]
        tensors += [each.weight for each in losses if isinstance(each.weight, Tensor)]
        numbers = iter(read(tensors))
        values = [next(numbers) for _ in losses]
        sums = [next(numbers) for _ in efforts]
        weights = [next(numbers) if isinstance(each.weight, Tensor) else each.weight for each in losses]
        self._read += zip(values, weights, strict=True)
        broken = [
            self._loss(each.packet, value)
            for each, value, weight in zip(losses, values, weights, strict=True)
            if weight and not isfinite(value)
        ]
        broken += [
            _Broken(
                update,
                -stage.index,
                f"efforts of {stage.name} are not finite at its update {update}: they add up to {value}",
            )
            for (stage, update, _), value in zip(efforts, sums, strict=True)
            if not isfinite(value)
        ]
        if broken:
            raise self._error(min(broken))

    def close(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Losses and weights of the packets that have reached the last stage since this was asked for last.

        Raises:
            RelaxationError: a loss or an effort that is not finite.
        """
        self.look()
        found, self._read = self._read, []
        return tuple(loss for loss, _ in found), tuple(weight for _, weight in found)

    def _loss(self, packet: int, value: float) -> _Broken:
        last, update = self._stages[-1], self._made_before + packet // self._many + 1
        return _Broken(
            update, -last.index - 1, f"the loss of packet {packet} is {value} at update {update} of {last.name}"
        )

    def _error(self, broken: _Broken) -> RelaxationError:
        hurt = [stage.name for stage in self._stages if not _is_finite(stage)]
        left = f"; parameters that are not finite are in {', '.join(hurt)}" if hurt else ""
        return RelaxationError(
            f"the pipeline meets what is not finite: {broken.text}{left}",
            "losses, credits and efforts that are finite",
            f"make the pipeline anew with weights from before update {broken.update}, and lower the learning rate or "
            f"look at the packets of that update; what was in flight is gone",
        )


def _is_finite(stage: Stage) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in stage.parameters)
