"""A stage: consecutive layers that one process owns, with their optimizer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter
from torch.optim import Optimizer

from worldsheet.core.bundle import Bundle, Parcel, bundled, parcel, unwrapped
from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import set_versions, unnoticed_writes
from worldsheet.core.types import Costate
from worldsheet.layers import Efforts
from worldsheet.pipeline.carriage import Carriage
from worldsheet.pipeline.clipping import Norms, norms_of
from worldsheet.pipeline.norm_exchange import NormExchange
from worldsheet.pipeline.packet_weights import Share
from worldsheet.pipeline.packets import PacketStream
from worldsheet.pipeline.schedule import Action, ActionType, Waiting
from worldsheet.pipeline.ties import Tie, Ties
from worldsheet.pipeline.transport.base import Transport
from worldsheet.pipeline.update_rule import UpdateRule
from worldsheet.pipeline.weights import Weights
from worldsheet.problem import Chain
from worldsheet.solve.gradients import accumulate, sum_uses

StageState: TypeAlias = dict[str, dict[Any, Any]]
"""What one stage or several have learned, under the names of the whole network."""

_WHOLE = Share()


class _Seen(NamedTuple):
    """What a packet sees of parameters: of the stage's own, themselves where None, and of those that others move."""

    own: list[Tensor] | None
    others: list[Tensor]


class _Flight(NamedTuple):
    """A packet on its way: what must be known when its credit comes back."""

    carriage: Carriage
    point: Parcel
    loss: Tensor | None
    values: "_Seen"
    updates: int


class _Due(NamedTuple):
    """Efforts of a packet whose credit has been passed on, by layer, and the values that they are made with."""

    efforts: list[tuple[tuple[Tensor, ...], Efforts]]
    values: _Seen


_NOTHING_SEEN = _Seen(None, [])


@final
class Stage:
    """Carries packets up through its layers, pulls their credits back, and moves its own parameters.

    Args:
        chain: its layers; the loss is used by the last stage only.
        whole: the chain that it is a part of.
        rule: what it makes of its parameters.
        weights: what packets see of the parameters.
        delay: updates between a packet and its credit.
        index: which stage it is, counted from 0.
        stages: how many there are.
        flushes: whether no packet is in flight when parameters move.
        ties: parameters that several stages use.
        layers: which layers of the whole chain it has, counted from 0.

    Attributes:
        index: which stage it is.
        first: whether its input is the data, which has no costate.
        last: whether the loss stands above it.
        streaming: whether packets of a passage are on their way through the stages, if not here.
        updates: how often its parameters have moved.
        loss: of the packet that was carried up last, at the last stage.
        costate: λ at its topmost site, of the packet that was answered last.
        staleness: by how many updates its parameters had moved since that packet passed.
    """

    def __init__(  # noqa: PLR0913  what a stage is made of
        self,
        chain: Chain,
        whole: Chain,
        rule: UpdateRule,
        weights: Weights,
        *,
        delay: float,
        index: int,
        stages: int,
        layers: range,
        flushes: bool,
        ties: Sequence[Tie] = (),
    ) -> None:
        self.chain = chain
        self.first, self.last = index == 0, index == stages - 1
        self.streaming = False
        self.index = index
        self._layers = layers
        self._prefixes = [whole.layers[layer].name for layer in layers]
        self.ties = Ties(ties, index, exact=flushes)
        self._named = _moving(chain, whole, with_loss=self.last, others=self.ties.read)
        self.parameters = list(self._named.values())
        modules = [layer.module for layer in chain.layers]
        if self.ties.own:  # ports ask which parameters several layers share
            modules += [layer.module for layer in whole.layers if layer.module not in modules]
        self.updater = rule.updater(self._named, self.name, lambda port: weights.port(port, modules, delay))
        self._clips = rule.clip is not None
        is_global = rule.clip is not None and rule.clip.is_global and stages > 1
        self._agrees = is_global and flushes
        self.exchange = NormExchange(travels=is_global and not flushes)
        self.updates = self.staleness = 0
        self.loss: Tensor | None = None
        self.costate: Costate | None = None
        self._weights = weights
        self._delay = delay
        self._flights: dict[int, _Flight] = {}
        self._due = _Due([], _NOTHING_SEEN)
        self._sums: list[tuple[int, Tensor]] = []
        self._before: list[Tensor] = []
        self._values: list[Tensor] | None = None
        self._marks: list[tuple[int, int]] = []
        self._forget_course()

    @torch.no_grad()
    def forward(self, packet: int, x: Any, target: Any = None) -> Parcel | None:
        """Carry a packet up: the state for the stage above; None from the last stage, which has the loss then."""
        self._notice_changes()
        point = x if isinstance(x, Tensor | Bundle) else self._data(x)
        carriage = Carriage(self.chain, target, point, to_input=not self.first)
        kept = _Seen(self._values if self._weights.keeps else None, self.ties.values)
        with self._showing(kept._replace(own=self._values)):
            for layer in self.chain.topology.sites:
                carriage.evaluate(layer)
            if self.last:
                self.loss = carriage.price()
        self._marks = _marks_of(self.parameters)  # a layer may write into its own, as an embedding with max_norm does
        self._flights[packet] = _Flight(carriage, point, self.loss, kept, self.updates)
        return None if self.last else carriage.output

    @property
    def optimizer(self) -> Optimizer | None:
        """What moves its parameters; None if it has none to move."""
        return None if self.updater is None else self.updater.optimizer

    @property
    def name(self) -> str:
        """How the stage is called in messages."""
        return f"stage {self.index} (layers {self._layers.start + 1}..{self._layers.stop})"

    @property
    def in_flight(self) -> int:
        """Packets that were carried up and whose credits have not come back."""
        return len(self._flights)

    def train(self, mode: bool) -> None:
        """Put the layers into training mode, or out of it."""
        for layer in self.chain.layers:
            layer.module.train(mode)

    @torch.no_grad()
    def infer(self, x: Any) -> Parcel:
        """The layers' output as an ordinary forward pass, in whatever mode the modules are; nothing is remembered."""
        value = unwrapped(x)
        for layer in self.chain.layers:
            value = layer.module(value)
        return parcel(value)

    def state_dict(self) -> StageState:
        """All that it has learned, under the names of the whole network; the tensors are its own, not copies.

        Returns:
            `model`: parameters and buffers, a part of the state_dict of the user's module; `loss`: those of the loss;
            `optimizer` and `groups`: what the optimizer remembers of each parameter, and its options; `before`: each
            parameter one update ago, where the stage looks ahead by it; `stages`: counts and schedules of rates.

        Raises:
            InputError: packets are in flight.
        """
        self._refuse_in_flight("be written down")
        of_layers = zip(self._prefixes, self.chain.layers, strict=True)
        model = {f"{at}.{key}": v for at, layer in of_layers for key, v in layer.module.state_dict().items()}
        loss = self.chain.loss.state_dict() if self.last and isinstance(self.chain.loss, nn.Module) else {}
        own = self.updater.state_dict() if self.updater is not None else {"optimizer": {}, "groups": {}}
        place = {
            "layers": (self._layers.start, self._layers.stop),
            "updates": self.updates,
            "rates": None if self.updater is None else self.updater.rates,
            "norms": tuple(self.exchange.norms),
        }
        before = dict(zip(self._named, self._before, strict=False))
        return {"model": model, "loss": dict(loss), "before": before, **own, "stages": {self.index: place}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[Any, Any]]) -> None:
        """Go back to where a state was taken: of this stage, or of the whole pipeline with stages cut in any way.

        Raises:
            InputError: a state that lacks what this stage has, or packets in flight.
        """
        self._refuse_in_flight("go back")
        place = _place_in(state, self._layers, self.name)
        for prefix, layer in zip(self._prefixes, self.chain.layers, strict=True):
            own = {
                key.removeprefix(f"{prefix}."): v for key, v in state["model"].items() if key.startswith(f"{prefix}.")
            }
            with unnoticed_writes(self.ties.read):  # their owner would take it for a change from outside
                _load(layer.module, own, self.name)
        if self.last and isinstance(self.chain.loss, nn.Module):
            _load(self.chain.loss, state["loss"], self.name)
        if self.updater is not None:
            self.updater.load_state_dict(state, place["rates"], self.name)
        self.updates = place["updates"]
        same = tuple(place["layers"]) == (self._layers.start, self._layers.stop)
        self.exchange.norms = Norms(*place["norms"]) if same else Norms()
        self._forget_course()
        for name, kept in zip(self._named, self._before, strict=False):
            kept.copy_(state["before"].get(name, kept))
        self._show_from_now([p.detach() for p in self.parameters])

    @torch.no_grad()
    def pull(self, packet: int, credit: Parcel | None = None, share: Share = _WHOLE) -> Parcel | None:
        """Pull a packet's credit back: the credit for the stage below, which can be on its way before `answer`.

        Args:
            packet: which one.
            credit: what the stage above sent; the last stage makes its own.
            share: of the packet in its update, for the last stage.

        Raises:
            InputError: a packet that has not passed, or one that was answered already.
        """
        self._notice_changes()
        flight = self._flights.pop(packet, None)
        if flight is None:
            raise InputError(
                f"packet {packet} has not passed, or its credit has come back already",
                f"packets {sorted(self._flights)}, which are in flight",
                "keep the order of actions of the schedule",
            )
        self.staleness = self.updates - flight.updates
        self._due = _Due([], flight.values)
        with self._showing(flight.values):
            if self.last:
                credit = self._credit_of_loss(flight, share)
            self.costate = credit if isinstance(credit, Tensor) else None
            for layer in range(len(self.chain), 0, -1):
                if credit is None:
                    break
                pulled = flight.carriage.pull(layer, credit)
                credit = pulled.credit
                self._due.efforts.append((pulled.parameters, pulled.efforts))
        return _asked_for(flight.point, credit)

    def _credit_of_loss(self, flight: _Flight, share: Share) -> Parcel | None:
        """The credit of the output, 0 where the packet weighs nothing."""
        assert flight.loss is not None
        pulled = flight.carriage.pull(len(self.chain) + 1, share.credit(flight.loss))
        if not share.is_nothing:
            self._due.efforts.append((pulled.parameters, pulled.efforts))
        return share.of_output(pulled.credit)

    def _data(self, x: Any) -> Bundle:
        try:
            return bundled(x)
        except TypeError as error:
            raise InputError(
                f"{self.name} was given {error}, which cannot be taken apart",
                "tensors, numbers, strings and None, in tuples, lists and dicts with strings for keys",
                "make packets of these: (dict(batch), target)",
            ) from error

    @torch.no_grad()
    def answer(self) -> None:
        """Add the efforts of the packet that was pulled back last to `.grad`."""
        due, self._due = self._due, _Due([], _NOTHING_SEEN)
        found: list[tuple[Tensor, Tensor | None]] = []
        with self._showing(due.values):
            for parameters, efforts in due.efforts:
                found += zip(parameters, efforts(), strict=False)
        accumulate(sum_uses(self.ties.divided(found)))

    @contextmanager
    def _showing(self, seen: _Seen) -> Iterator[None]:
        """The modules compute with what a packet sees."""
        with _borrowed(self.parameters, seen.own), _borrowed(self.ties.read, seen.others or None):
            yield

    def update(self) -> None:
        """Move the parameters by what has been added up since the last update."""
        self._notice_changes()
        self.updates += 1
        if self.updater is None:
            return
        if self._clips and not self._agrees:  # else they were told already
            self.exchange.measured(norms_of(self.parameters))
        self._sums += [(self.updates, each) for each in _sums_of(self.parameters)]
        if self._delay:
            for kept, parameter in zip(self._before, self.parameters, strict=True):
                kept.copy_(parameter.detach())
        # layers in flight hold on to the parameters and are told what they shall see of them
        with unnoticed_writes(self.parameters):
            self.updater.answer(self.exchange.norms)
        torch.clear_autocast_cache()  # where `autocast` surrounds the whole training, rounded weights are kept in it
        self._show_from_now([p.detach() for p in self.parameters])
        self._marks = _marks_of(self.parameters)

    @torch.no_grad()
    def agree(self, packet: int, transport: Transport) -> Iterator[Waiting]:
        """Before an update by efforts that are clipped by their norm everywhere: learn it, where nobody is in flight.

        Args:
            packet: the last one of the update.
            transport: the stage's edges.
        """
        if self._agrees:
            self.exchange.measured(norms_of(self.parameters))
            yield from self.exchange.agree(packet, transport, first=self.first, last=self.last)

    @torch.no_grad()
    def look_at_weights(self) -> None:
        """Let the next packet see parameters that were changed from outside since the last action, in whatever way.

        Writing through `p.data` leaves no mark. So what packets are shown is made anew, and where it differs the course
        of the parameters begins anew, without the host waiting to know whether it does.
        """
        self._notice_changes()
        self.ties.moved(self.parameters, self._values)
        if not self._values:
            return
        now = [p.detach() for p in self.parameters]
        seen = self._weights.seen(now, self._before, self._delay) or []
        differ = [(a != b).any() for a, b in zip(seen, self._values, strict=True)]
        changed = torch.stack([each.to(differ[0].device) for each in differ]).any()
        for kept, value in zip(self._before, now, strict=True):
            kept.copy_(torch.where(changed.to(kept.device), value, kept))
        self._show_from_now(now)

    def _show_from_now(self, now: Sequence[Tensor]) -> None:
        """What the packets that follow see of these parameters."""
        self._values = self._weights.seen(now, self._before, self._delay)
        self.ties.moved(self.parameters, self._values)

    def _notice_changes(self) -> None:
        """Begin the course of the parameters anew where somebody else has written into them, or replaced them.

        Raises:
            InputError: packets are in flight that are to be pulled back through the parameters as they were.
        """
        marks = _marks_of(self.parameters)
        if marks == self._marks:
            return
        kept_nowhere = any(flight.values.own is None for flight in self._flights.values())
        if kept_nowhere and (self._weights.keeps or not self._delay):
            raise InputError(
                f"parameters of {self.name} were changed while packets were in flight that need them as they were",
                "changes while no packet is in flight",
                "call pipeline.drain() before, or keep averaged weights in a copy of the module",
            )
        if self._flights:  # their graphs hold the parameters, and are told which values to take
            set_versions(self.parameters, [version for version, _ in self._marks])
        self._forget_course()

    def _forget_course(self) -> None:
        """Show packets the parameters as they are, as if they had always been so."""
        now = [p.detach() for p in self.parameters]
        self._before = [tensor.clone() for tensor in now] if self._delay else []
        self._show_from_now(now)
        self._marks = _marks_of(self.parameters)

    def take_efforts(self) -> list[tuple[int, Tensor]]:
        """The sum of the efforts of each update since this was asked for last, still on its device."""
        found, self._sums = self._sums, []
        return found

    def abandon(self) -> None:
        """Forget packets in flight and efforts that have not moved anything."""
        self._flights.clear()
        self._sums.clear()
        self._due, self.streaming = _Due([], _NOTHING_SEEN), False
        self.ties.forget()
        if self.optimizer is not None:
            self.optimizer.zero_grad()

    def _refuse_in_flight(self, what: str) -> None:
        if self.streaming or self._flights:
            raise InputError(
                f"{self.name} cannot {what} while packets are in flight",
                "a pipeline that has run dry",
                "call pipeline.drain() before, or train(packets) without drain=False",
            )


def _moving(chain: Chain, whole: Chain, *, with_loss: bool, others: Sequence[Parameter]) -> dict[str, Parameter]:
    """What a stage moves, under the names of the whole chain; the loss is the last stage's."""
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    modules = [layer.module for layer in chain.layers]
    if with_loss and isinstance(chain.loss, nn.Module):
        modules.append(chain.loss)
    theirs = {id(p) for p in others}
    found = [p for module in modules for p in module.parameters() if p.requires_grad and id(p) not in theirs]
    return {names[id(p)]: p for p in found}


def _place_in(state: Mapping[str, Mapping[Any, Any]], layers: range, name: str) -> Mapping[str, Any]:
    """What a stage with the first of these layers knew of its course; rates are the same wherever any are moved."""
    places = state.get("stages", {}).values()
    rates = next((place["rates"] for place in places if place["rates"] is not None), None)
    for place in places:
        first, stop = place["layers"]
        if first <= layers.start < stop:
            return {**place, "rates": place["rates"] or rates}
    raise InputError(
        f"the state does not hold {name}",
        "what pipeline.state_dict() gave, or ws.pipeline.merged of the states of all stages",
        "load the states of all stages of a run; weights alone are loaded into the module, by module.load_state_dict",
    )


def _load(module: nn.Module, own: Mapping[str, Any], name: str) -> None:
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise InputError(
            f"the state does not fit {name}: {error}", "a state of the same network", "make the same network"
        ) from error


def _marks_of(parameters: Sequence[Parameter]) -> list[tuple[int, int]]:
    """What changes when somebody writes into parameters, or puts others in their place."""
    return [(parameter._version, parameter.data_ptr()) for parameter in parameters]


def _sums_of(parameters: Sequence[Parameter]) -> list[Tensor]:
    """The sum of all efforts, if there are any: one that is not finite shows in it, by the quickest pass there is."""
    grads = [p.grad._values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    reals = [grad.abs() if grad.is_complex() else grad for grad in grads]
    sums = [real.sum(dtype=torch.promote_types(real.dtype, torch.float32)) for real in reals]
    return [torch.stack([each.to(sums[0].device) for each in sums]).sum()] if sums else []


@contextmanager
def _borrowed(parameters: Sequence[Parameter], values: Sequence[Tensor] | None) -> Iterator[None]:
    """The modules compute with other values for a while; nothing is copied."""
    if values is None:
        yield
        return
    own = [parameter.data for parameter in parameters]
    _show(parameters, values)
    try:
        yield
    finally:
        _show(parameters, own)


def _show(parameters: Sequence[Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data = value
    torch.clear_autocast_cache()  # it knows parameters by identity, and would show the rounded ones of before


class Completed(NamedTuple):
    """An action that is done.

    Attributes:
        action: what was done.
        begin: the moment at which its message had come and work began, in seconds of `time.perf_counter`.
        end: the moment at which it was over.
    """

    action: Action
    begin: float
    end: float


def execute(
    stage: Stage, actions: Iterator[Action | Waiting], transport: Transport, packets: PacketStream
) -> Iterator[Completed | Waiting]:
    """Carry out a stage's actions; yields each that is done, or what the stage waits for."""
    for action in actions:
        if isinstance(action, Waiting):
            yield action
            continue
        while (waiting := _waits_for(stage, action, transport, packets)) is not None:
            yield waiting
        if action.act is ActionType.UPDATE:
            yield from stage.agree(action.packet, transport)
        begin = _carry_out(stage, action, transport, packets)
        yield Completed(action, begin, perf_counter())
    yield from stage.ties.settle(packets.count - 1, transport)


def _waits_for(stage: Stage, action: Action, transport: Transport, packets: PacketStream) -> Waiting | None:
    """What an action must wait for in this process; no stage waits for credits of an update that is not known yet."""
    if action.act is ActionType.UPDATE:
        return None
    if action.act is ActionType.FORWARD:
        here = stage.first or transport.state_here(action.packet)
    elif packets.has_update_of(action.packet):
        here = stage.last or transport.credit_here(action.packet)
    else:
        return Waiting.PACKET
    return None if here else Waiting.MESSAGE


def _carry_out(stage: Stage, action: Action, transport: Transport, packets: PacketStream) -> float:
    """Do it; the moment at which its message was there."""
    if action.act is ActionType.FORWARD:
        return _forward(stage, action.packet, transport, packets)
    if action.act is ActionType.PULL:
        return _pull(stage, action.packet, transport, packets)
    begin = perf_counter()
    stage.update()
    return begin


def _forward(stage: Stage, number: int, transport: Transport, packets: PacketStream) -> float:
    begin = perf_counter()
    if stage.last:
        packets.weight(number)  # while the packet is here
    x, target = packets.take(number) if stage.first or stage.last else (None, None)
    if not stage.first:
        x = stage.ties.from_below(stage.exchange.from_below(transport.take_state(number)))
        begin = perf_counter()
    state = stage.forward(number, x, target if stage.last else None)
    if state is not None:
        transport.send_state(number, stage.exchange.to_above(stage.ties.to_above(state)))
    return begin


def _pull(stage: Stage, number: int, transport: Transport, packets: PacketStream) -> float:
    above = None if stage.last else stage.ties.from_above(stage.exchange.from_above(transport.take_credit(number)))
    begin, closes = perf_counter(), packets.closes_update(number)
    credit = stage.pull(number, above, packets.share(number)) if stage.last else stage.pull(number, above)
    told = stage.ties.is_told(closes)
    if told:
        stage.answer()
    if not stage.first:
        credit = stage.ties.to_below(_passed_on(stage, credit), closes)
        transport.send_credit(number, stage.exchange.to_below(credit))
    if not told:
        stage.answer()  # while the credit travels
    return begin


def _asked_for(point: Parcel, credit: Parcel | None) -> Parcel | None:
    """A credit for the stage below, which is of nothing where that has asked for none, as of integers."""
    return _NOTHING if isinstance(point, Bundle) and not point.is_wanted else credit


_NOTHING = bundled(())


def _passed_on(stage: Stage, credit: Parcel | None) -> Parcel:
    if credit is None:
        raise InputError(
            f"the output of {stage.name} does not depend on its input",
            "layers that pass a credit on",
            "cut the chain elsewhere",
        )
    return credit
