"""Unlocked training refuses what cannot be meant, and stops where efforts overflow."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import assert_tells


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


X, Y = torch.ones(5, 3), torch.zeros(5, 2)


def hold(
    net: nn.Sequential, port: torch.optim.Optimizer | None = None, x: Tensor = X, **options: Any
) -> ws.solve.UnlockedResult:
    port = ws.ports.Resistive(net.parameters(), lr=0.1) if port is None else port
    return ws.unlocked(ws.Chain(net, nn.MSELoss()), x, Y, port, **options)


def test_no_ticks(net: nn.Sequential) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        hold(net, ticks=0)
    assert_tells(caught.value, "ticks must be at least 1, got 0", "4 times the depth")


def test_a_port_over_other_parameters(net: nn.Sequential) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        hold(net, torch.optim.SGD(nn.Linear(3, 4).parameters(), lr=0.1))
    assert_tells(caught.value, "this optimizer holds none of the chain's trainable parameters", "chain.parameters()")


def test_an_optimizer_that_wants_to_evaluate_by_itself(net: nn.Sequential) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        hold(net, torch.optim.LBFGS(net.parameters()))
    assert_tells(caught.value, "LBFGS", "without a closure")


def test_a_schedule_that_moves_sites_once(net: nn.Sequential) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        hold(net, schedule=ws.Wavefront())
    assert_tells(caught.value, "Wavefront", "many times", "Synchronous()")


def test_fields_of_another_batch_size(net: nn.Sequential) -> None:
    fields = hold(net).fields
    with pytest.raises(ws.errors.InputError) as caught:
        ws.unlocked(ws.Chain(net, nn.MSELoss()), X[:2], Y[:2], torch.optim.SGD(net.parameters(), 0.1), initial=fields)
    assert_tells(caught.value, "(5, 4)", "(2, 4)")


def test_too_few_ticks_for_the_first_layer_are_told(net: nn.Sequential) -> None:
    short, long = hold(net, ticks=5), hold(net, ticks=6)
    assert short.outcome.status is ws.Status.BUDGET_SPENT
    assert "6 ticks" in short.outcome.remedy
    assert long.outcome.remedy == ""


def test_parameters_do_not_follow_an_effort_that_has_overflowed(net: nn.Sequential) -> None:
    held = hold(net, torch.optim.SGD(net.parameters(), lr=1e25), ticks=40)
    assert held.outcome.status is ws.Status.DIVERGED
    assert held.ticks < 40
    assert "rate" in held.outcome.remedy
    assert not any(bool(torch.isnan(parameter).any()) for parameter in net.parameters())


@pytest.mark.parametrize("optimizer", [torch.optim.Adadelta, torch.optim.RMSprop, torch.optim.Adagrad])
def test_time_constants_that_no_rule_covers(net: nn.Sequential, optimizer: type[Any]) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        ws.ports.per_tick(optimizer(net.parameters()), 8)
    assert_tells(caught.value, optimizer.__name__, "yourself")


def test_a_batch_that_is_silent_to_its_end(net: nn.Sequential) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        ws.ports.per_tick(ws.ports.Resistive(net.parameters(), lr=0.1), 6, silent=6)
    assert_tells(caught.value, "silent=6", "more than 2D")


@pytest.mark.parametrize("optimizer", [torch.optim.Adadelta, torch.optim.RMSprop, torch.optim.Adagrad])
def test_late_efforts_for_time_constants_that_no_rule_covers(net: nn.Sequential, optimizer: type[Any]) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        ws.ports.delayed(optimizer(net.parameters()), 3.0)
    assert_tells(caught.value, optimizer.__name__, "yourself")


@pytest.mark.parametrize("delay", [-1.0, float("nan")])
def test_efforts_from_the_future(net: nn.Sequential, delay: float) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        ws.ports.delayed(ws.ports.Resistive(net.parameters(), lr=0.1), delay)
    assert_tells(caught.value, f"delay must not be negative, got {delay}", "order.delay")


def test_a_common_mode_that_never_forgets(net: nn.Sequential) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        ws.ports.BiasCentered(ws.ports.Resistive(net.parameters(), lr=0.1), [net], memory=1.0)
    assert_tells(caught.value, "memory must be at least 0 and below 1, got 1.0", "0.98")


def test_a_negative_promptness() -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        ws.pipeline.DelayCompensated(centering_delay=-1.0)
    assert_tells(caught.value, "centering_delay must be 0 or more updates, got -1.0")
