"""One stage's deeds, carried out: the same loop in one process and across processes."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.pipeline.links import Links
from worldsheet.pipeline.order import Act, Deed
from worldsheet.pipeline.stage import Stage

Packets: TypeAlias = Sequence[tuple[Tensor, Any]]
"""Micro-batches (x, target), each asked for when it is needed: x by the first stage, the target by the last."""


def drive(stage: Stage, deeds: Iterator[Deed], links: Links, packets: Packets) -> Iterator[Deed | None]:
    """Carry out a stage's deeds; yields each that is done, or None where it must wait for a stage of this process."""
    for deed in deeds:
        while not _can(stage, deed, links):
            yield None
        if deed.act is Act.FORWARD:
            _forward(stage, deed.packet, links, packets)
        elif deed.act is Act.PULL:
            _pull(stage, deed.packet, links)
        else:
            stage.update()
        yield deed


def _can(stage: Stage, deed: Deed, links: Links) -> bool:
    if deed.act is Act.FORWARD:
        return stage.first or links.state_here(deed.packet)
    return deed.act is Act.UPDATE or stage.last or links.credit_here(deed.packet)


def _forward(stage: Stage, number: int, links: Links, packets: Packets) -> None:
    x = packets[number][0] if stage.first else links.take_state(number)
    state = stage.forward(number, x, packets[number][1] if stage.last else None)
    if state is not None:
        links.send_state(number, state)


def _pull(stage: Stage, number: int, links: Links) -> None:
    credit = stage.pull(number, None if stage.last else links.take_credit(number))
    if stage.first:
        return
    if credit is None:
        raise InputError(
            f"stage of layers {', '.join(layer.label for layer in stage.chain.layers)}: its output does not depend on "
            "its input",
            "layers that pass a credit on",
            "cut the chain elsewhere",
        )
    links.send_credit(number, credit)
