"""Messages between stages: exact unless rounding is asked for, and then rounded once each way."""

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import law
from worldsheet.core.errors import InputError
from worldsheet.engine.sitewise.messages import Messages
from worldsheet.pipeline import Locked, Pipeline, Unlocked
from worldsheet.pipeline.transport.base import LocalTransport, queues
from worldsheet.pipeline.transport.distributed import backend_of
from worldsheet.pipeline.transport.message import FLOATING, HEADER, Header
from worldsheet.problem import BoundLayers


class Rounded(torch.autograd.Function):
    """What a message does to a state, and to the credit that comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.bfloat16().to(x.dtype)

    @staticmethod
    def backward(ctx: Any, credit: Tensor) -> Tensor:
        return credit.bfloat16().to(credit.dtype)


def layers() -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3)] + [nn.Linear(6, 3)]


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, 6, generator=generator), torch.randn(9, 3, generator=generator)


def displacement(messages: torch.dtype | None) -> list[Tensor]:
    """One step of descent in four stages."""
    net = nn.Sequential(*layers())
    before = [p.detach().clone() for p in net.parameters()]
    make = partial(torch.optim.SGD, lr=1.0)
    pipeline = Pipeline(ws.Chain(net, nn.MSELoss()), 4, optimizer=make, schedule=Locked(1), messages=messages)
    pipeline.train([data()])
    return [a - b.detach() for a, b in zip(before, net.parameters(), strict=True)]


def test_a_rounded_message_is_rounded_once_each_way_and_nothing_else_is() -> None:
    net = nn.Sequential(*layers())
    x, target = data()
    state = x
    for number, layer in enumerate(net):
        state = layer(Rounded.apply(state) if number else state)
    nn.functional.mse_loss(state, target).backward()
    found = displacement(torch.bfloat16)
    for mine, parameter in zip(found, net.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-5, atol=1e-7)


def test_rounding_moves_a_gradient_by_no_more_than_the_steps_of_bfloat16() -> None:
    for exact, found in zip(displacement(None), displacement(torch.bfloat16), strict=True):
        off = float((exact - found).norm() / exact.norm())
        assert off < 4 * 2**-8  # six messages, each off by at most 2^-9 of a number
    assert not torch.equal(displacement(None)[0], displacement(torch.bfloat16)[0])
    assert torch.equal(displacement(None)[0], displacement(torch.float32)[0])


@given(
    packet=st.integers(0, 2**40),
    kept=st.sampled_from(FLOATING),
    messages=st.sampled_from([None, *FLOATING]),
    shape=st.lists(st.integers(0, 5), max_size=5),
)
@law(60)
def test_what_is_written_is_read(
    packet: int, kept: torch.dtype, messages: torch.dtype | None, shape: list[int]
) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(kept)
    header = Header.of(packet, tensor, messages)
    buffer = torch.full((HEADER + header.bytes + 7,), 255, dtype=torch.uint8)
    header.write(buffer)
    header.numbers(buffer).copy_(tensor)
    assert Header.read(buffer) == header
    found = header.numbers(buffer).to(header.kept)
    assert torch.equal(found, tensor if messages is None else tensor.to(messages).to(kept))


def test_noise_is_no_header() -> None:
    assert Header.read(torch.full((HEADER,), 255, dtype=torch.uint8)) is None


@pytest.mark.parametrize("messages", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_messages_that_cannot_be_numbers_are_refused(messages: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"use torch\.bfloat16"):
        Pipeline(ws.Chain(layers(), nn.MSELoss()), 2, optimizer=partial(torch.optim.SGD, lr=0.1), messages=messages)


def test_links_that_round_otherwise_are_refused() -> None:
    make = partial(torch.optim.SGD, lr=0.1)
    pipeline = Pipeline(ws.Chain(layers(), nn.MSELoss()), 1, optimizer=make, messages=torch.bfloat16)
    with pytest.raises(InputError, match=r"messages=pipeline\.messages"):
        pipeline.run_stage(0, queues(1)[0], [data()])


@pytest.mark.parametrize(("device", "backend"), [("cpu", "gloo"), ("cuda:3", "cpu:gloo,cuda:nccl")])
def test_the_device_decides_what_carries_messages(device: str, backend: str) -> None:
    assert backend_of(torch.device(device)) == backend


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 3),
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 3), nn.GELU()),
        nn.Tanh(),
    ],
    ids=str,
)
@pytest.mark.parametrize("to_input", [True, False])
def test_a_pull_back_in_two_halves_is_the_pull_back(module: nn.Module, to_input: bool) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    chain = ws.Chain([module], nn.MSELoss())
    with torch.no_grad():
        whole, halved = (Messages(BoundLayers(chain, None), everywhere=True, to_input=to_input) for _ in range(2))
        credit = torch.randn_like(whole.evaluation(1, [x]).output)
        pulled = whole.pull(1, [x], credit, last=True)
        below, efforts = halved.split_backward(1, [x], credit)
    assert (below is None) == (not to_input)
    if below is not None:
        assert pulled.inputs[0] is not None
        assert torch.equal(below, pulled.inputs[0])
    for mine, other in zip(efforts(), pulled.efforts or (), strict=True):
        assert mine is not None
        assert other is not None
        assert torch.equal(mine, other)


@pytest.mark.parametrize("slack", [0, 1, 2])
def test_slack_is_given_to_each_edge(slack: int) -> None:
    leads = [Unlocked(1, slack).warmup(stage, 4) for stage in range(4)]
    assert leads == [3 * (1 + slack), 2 * (1 + slack), 1 + slack, 0]


def test_a_credit_leaves_before_the_efforts_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(*layers())
    make = partial(torch.optim.SGD, lr=0.1)
    pipeline = Pipeline(ws.Chain(net, nn.MSELoss()), 2, optimizer=make, packets_per_update=1)
    there: list[bool] = []
    send = LocalTransport.send_credit

    def noted(links: LocalTransport, packet: int, credit: Tensor) -> None:
        there.append(any(p.grad is not None for p in pipeline.stages[1].parameters))
        send(links, packet, credit)

    monkeypatch.setattr(LocalTransport, "send_credit", noted)
    pipeline.train([data()] * 3)
    assert there == [False] * 3
