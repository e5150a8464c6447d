"""A stage: consecutive layers that one process owns, with their optimizer."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import unnoticed_writes
from worldsheet.core.types import Costate, Point, State
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.layers import Efforts
from worldsheet.pipeline.schedule import Action, ActionType
from worldsheet.pipeline.transport.base import Transport
from worldsheet.pipeline.weights import Weights
from worldsheet.problem import BoundLayers, Chain
from worldsheet.solve.gradients import accumulate, sum_uses

MakeOptimizer: TypeAlias = Callable[[Iterable[Parameter]], Optimizer]
"""Makes the optimizer of one stage's parameters: `partial(torch.optim.Adam, lr=1e-3)`."""


class _Flight(NamedTuple):
    """A packet on its way: what must be known when its credit comes back."""

    messages: Messages
    points: list[Point]
    values: list[Tensor] | None
    updates: int


class _Due(NamedTuple):
    """Efforts of a packet whose credit has been passed on, by layer, and the values that they are made with."""

    efforts: list[tuple[tuple[Tensor, ...], Efforts]]
    values: list[Tensor] | None


@final
class Stage:
    """Carries packets up through its layers, pulls their credits back, and moves its own parameters.

    Args:
        chain: its layers; the loss is used by the last stage only.
        optimizer: makes its optimizer.
        weights: what packets see of the parameters.
        delay: updates between a packet and its credit.
        packets_per_update: M; credits are averaged over the packets of an update.
        first: whether its input is the data, which has no costate.
        last: whether the loss stands above it.

    Attributes:
        updates: how often its parameters have moved.
        loss: of the packet that was carried up last, at the last stage.
        costate: λ at its topmost site, of the packet that was answered last.
        staleness: by how many updates its parameters had moved since that packet passed.
    """

    def __init__(
        self,
        chain: Chain,
        optimizer: MakeOptimizer,
        weights: Weights,
        *,
        delay: float,
        packets_per_update: int,
        first: bool,
        last: bool,
    ) -> None:
        self.chain = chain
        self.first, self.last = first, last
        self.parameters = [p for p in chain.parameters() if p.requires_grad]
        self.optimizer = (
            weights.port(optimizer(self.parameters), [layer.module for layer in chain.layers], delay)
            if self.parameters
            else None
        )
        self.updates = self.staleness = 0
        self.loss: Tensor | None = None
        self.costate: Costate | None = None
        self._weights = weights
        self._delay = delay
        self._share = 1 / packets_per_update
        self._flights: dict[int, _Flight] = {}
        self._due = _Due([], None)
        self._before = [p.detach().clone() for p in self.parameters] if delay else []
        self._values = weights.seen([p.detach() for p in self.parameters], self._before, delay)

    @torch.no_grad()
    def forward(self, packet: int, x: Point, target: Any = None) -> State | None:
        """Carry a packet up: the state for the stage above; None from the last stage, which has the loss then."""
        caller = BoundLayers(self.chain, target)
        messages = Messages(caller, everywhere=False, to_input=not self.first)
        points = [x]
        with _borrowed(self.parameters, self._values):
            for layer in self.chain.topology.sites:
                points.append(messages.evaluation(layer, points[-1:]).output)
            if self.last:
                self.loss = messages.evaluation(caller.head, points[-1:]).output
        self._flights[packet] = _Flight(messages, points, self._values if self._weights.keeps else None, self.updates)
        return None if self.last else points[-1]

    @property
    def in_flight(self) -> int:
        """Packets that were carried up and whose credits have not come back."""
        return len(self._flights)

    def train(self, mode: bool) -> None:
        """Put the layers into training mode, or out of it."""
        for layer in self.chain.layers:
            layer.module.train(mode)

    @torch.no_grad()
    def infer(self, x: Point) -> State:
        """The layers' output as an ordinary forward pass, in whatever mode the modules are; nothing is remembered."""
        for layer in self.chain.layers:
            x = layer.module(x)
        return x

    def tensors(self) -> dict[str, Tensor]:
        """All that moves in training when no packet is in flight: parameters, buffers and the optimizer's own."""
        found = {f"before.{index}": tensor for index, tensor in enumerate(self._before)}
        for layer in self.chain.layers:
            found |= {f"model.{layer.name}.{name}": tensor for name, tensor in layer.module.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            own = self.optimizer.state.get(parameter, {}) if self.optimizer else {}
            found |= {f"optimizer.{index}.{n}": t for n, t in own.items() if isinstance(t, Tensor)}
        return found

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go back to where `tensors` was taken, after so many updates.

        Raises:
            InputError: tensors of another stage.
        """
        for index, parameter in enumerate(self.parameters):
            begin = f"optimizer.{index}."
            own = {n.removeprefix(begin): t.clone() for n, t in tensors.items() if n.startswith(begin)}
            if own and self.optimizer is not None:
                self.optimizer.state[parameter] = own
        mine = {n: t for n, t in self.tensors().items() if not n.startswith("optimizer.")}
        if set(mine) != {n for n in tensors if not n.startswith("optimizer.")}:
            raise InputError("tensors of another stage", f"{', '.join(sorted(mine))}", "resume with the same stages")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
        self.updates = updates
        self._values = self._weights.seen([p.detach() for p in self.parameters], self._before, self._delay)

    @torch.no_grad()
    def pull(self, packet: int, credit: Costate | None = None) -> Costate | None:
        """Pull a packet's credit back: the credit for the stage below, which can be on its way before `answer`.

        Raises:
            InputError: a packet that has not passed, or one that was answered already.
        """
        flight = self._flights.pop(packet, None)
        if flight is None:
            raise InputError(f"a credit for packet {packet}", f"packets {sorted(self._flights)}", "keep the order")
        self.staleness = self.updates - flight.updates
        messages, points = flight.messages, flight.points
        self._due = _Due([], flight.values)
        with _borrowed(self.parameters, flight.values):
            top = messages.caller.head if self.last else len(self.chain)
            if self.last:
                credit = torch.full_like(messages.evaluation(top, points[-1:]).output, self._share)
            for layer in range(top, 0, -1):
                if credit is None:
                    break
                if layer == len(self.chain):
                    self.costate = credit
                credit, efforts = messages.split_backward(layer, points[layer - 1 : layer], credit)
                self._due.efforts.append((messages.caller.traits[layer - 1].parameters, efforts))
        return credit

    @torch.no_grad()
    def answer(self) -> None:
        """Add the efforts of the packet that was pulled back last to `.grad`."""
        due, self._due = self._due, _Due([], None)
        found: list[tuple[Tensor, Tensor | None]] = []
        with _borrowed(self.parameters, due.values):
            for parameters, efforts in due.efforts:
                found += zip(parameters, efforts(), strict=False)
        accumulate(sum_uses(found))

    def update(self) -> None:
        """Move the parameters by what has been added up since the last update."""
        self.updates += 1
        if self.optimizer is None:
            return
        if self._delay:
            for kept, parameter in zip(self._before, self.parameters, strict=True):
                kept.copy_(parameter.detach())
        # layers in flight hold on to the parameters and are told what they shall see of them
        with unnoticed_writes(self.parameters):
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._values = self._weights.seen([p.detach() for p in self.parameters], self._before, self._delay)


@contextmanager
def _borrowed(parameters: Sequence[Parameter], values: Sequence[Tensor] | None) -> Iterator[None]:
    """The modules compute with other values for a while; nothing is copied."""
    if values is None:
        yield
        return
    own = [parameter.data for parameter in parameters]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value
    try:
        yield
    finally:
        for parameter, data in zip(parameters, own, strict=True):
            parameter.data = data


Packets: TypeAlias = Sequence[tuple[Tensor, Any]]
"""Micro-batches (x, target), each asked for when it is needed: x by the first stage, the target by the last."""


class Completed(NamedTuple):
    """A action that is done.

    Attributes:
        action: what was done.
        begin: the moment at which its message had come and work began, in seconds of `time.perf_counter`.
        end: the moment at which it was over.
    """

    action: Action
    begin: float
    end: float


def execute(
    stage: Stage, actions: Iterator[Action | None], transport: Transport, packets: Packets
) -> Iterator[Completed | None]:
    """Carry out a stage's actions; yields each that is done, or None where it must wait for a stage of this process."""
    for action in actions:
        if action is None:
            yield None
            continue
        while not _can(stage, action, transport):
            yield None
        begin = _carry_out(stage, action, transport, packets)
        yield Completed(action, begin, perf_counter())


def _can(stage: Stage, action: Action, transport: Transport) -> bool:
    if action.act is ActionType.FORWARD:
        return stage.first or transport.state_here(action.packet)
    return action.act is ActionType.UPDATE or stage.last or transport.credit_here(action.packet)


def _carry_out(stage: Stage, action: Action, transport: Transport, packets: Packets) -> float:
    """Do it; the moment at which its message was there."""
    if action.act is ActionType.FORWARD:
        return _forward(stage, action.packet, transport, packets)
    if action.act is ActionType.PULL:
        return _pull(stage, action.packet, transport)
    begin = perf_counter()
    stage.update()
    return begin


def _forward(stage: Stage, number: int, transport: Transport, packets: Packets) -> float:
    begin = perf_counter()
    if stage.first:
        x = packets[number][0]
    else:
        x, begin = transport.take_state(number), perf_counter()
    state = stage.forward(number, x, packets[number][1] if stage.last else None)
    if state is not None:
        transport.send_state(number, state)
    return begin


def _pull(stage: Stage, number: int, transport: Transport) -> float:
    above = None if stage.last else transport.take_credit(number)
    begin = perf_counter()
    credit = stage.pull(number, above)
    if not stage.first:
        transport.send_credit(number, _passed_on(stage, credit))
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
