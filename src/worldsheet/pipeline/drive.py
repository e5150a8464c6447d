"""One stage's deeds, carried out: the same loop in one process and across processes."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.shapes import Costate
from worldsheet.pipeline.links import Links
from worldsheet.pipeline.order import Act, Deed
from worldsheet.pipeline.stage import Stage

Packets: TypeAlias = Sequence[tuple[Tensor, Any]]
"""Micro-batches (x, target), each asked for when it is needed: x by the first stage, the target by the last."""


class Done(NamedTuple):
    """A deed that is done.

    Attributes:
        deed: what was done.
        begin: the moment at which its message had come and work began, in seconds of `time.perf_counter`.
        end: the moment at which it was over.
    """

    deed: Deed
    begin: float
    end: float


def drive(stage: Stage, deeds: Iterator[Deed | None], links: Links, packets: Packets) -> Iterator[Done | None]:
    """Carry out a stage's deeds; yields each that is done, or None where it must wait for a stage of this process."""
    for deed in deeds:
        if deed is None:
            yield None
            continue
        while not _can(stage, deed, links):
            yield None
        begin = _carry_out(stage, deed, links, packets)
        yield Done(deed, begin, perf_counter())


def _can(stage: Stage, deed: Deed, links: Links) -> bool:
    if deed.act is Act.FORWARD:
        return stage.first or links.state_here(deed.packet)
    return deed.act is Act.UPDATE or stage.last or links.credit_here(deed.packet)


def _carry_out(stage: Stage, deed: Deed, links: Links, packets: Packets) -> float:
    """Do it; the moment at which its message was there."""
    if deed.act is Act.FORWARD:
        return _forward(stage, deed.packet, links, packets)
    if deed.act is Act.PULL:
        return _pull(stage, deed.packet, links)
    begin = perf_counter()
    stage.update()
    return begin


def _forward(stage: Stage, number: int, links: Links, packets: Packets) -> float:
    begin = perf_counter()
    if stage.first:
        x = packets[number][0]
    else:
        x, begin = links.take_state(number), perf_counter()
    state = stage.forward(number, x, packets[number][1] if stage.last else None)
    if state is not None:
        links.send_state(number, state)
    return begin


def _pull(stage: Stage, number: int, links: Links) -> float:
    above = None if stage.last else links.take_credit(number)
    begin = perf_counter()
    credit = stage.pull(number, above)
    if not stage.first:
        links.send_credit(number, _passed_on(stage, credit))
    stage.answer()  # while the credit travels
    return begin


def _passed_on(stage: Stage, credit: Costate | None) -> Costate:
    if credit is None:
        raise InputError(
            f"stage of layers {', '.join(layer.label for layer in stage.chain.layers)}: its output does not depend on "
            "its input",
            "layers that pass a credit on",
            "cut the chain elsewhere",
        )
    return credit
