"""Newton's port is a torch optimizer, sees only what its layers hold, and refuses what it cannot do."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, assert_tells, grad


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh()), nn.Flatten(), nn.Linear(18, 4), nn.ReLU(), nn.Linear(4, 3)
    ).to(DOUBLE)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 8, 1, 5, 5, dtype=DOUBLE, generator=generator)
    return list(zip(x, torch.randint(3, (count, 8), generator=generator), strict=True))


def step(net: nn.Sequential, port: ws.ports.Newton, x: Tensor, y: Tensor) -> None:
    port.zero_grad()
    ws.backward(port.attach(ws.Chain(net, nn.CrossEntropyLoss())), x, y)
    port.step()


def test_watching_changes_no_gradient() -> None:
    one, (x, y) = network(), batches(1)[0]
    two = copy.deepcopy(one)
    ws.backward(ws.Chain(one, nn.CrossEntropyLoss()), x, y)
    ws.backward(ws.ports.Newton(two).attach(ws.Chain(two, nn.CrossEntropyLoss())), x, y)
    for mine, other in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(grad(mine), grad(other))


@pytest.mark.parametrize("dynamics", [ws.Dyadic(), ws.Wave(0.5)])
def test_the_factors_are_the_second_moments_of_the_layers_own_fields(dynamics: ws.dynamics.Dynamics) -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4, bias=False)).to(DOUBLE)
    x, target = torch.randn(6, 4, dtype=DOUBLE), torch.randn(6, 4, dtype=DOUBLE)
    port = ws.ports.Newton(net, memory=0.0)
    chain = port.attach(ws.Chain(net, nn.MSELoss()))
    sol = ws.relax(chain, x, target, dynamics, stop=ws.Stop(max_ticks=7))
    ones = torch.ones(6, 1, dtype=DOUBLE)
    for weight, state, costate in (
        (net.get_parameter("0.weight"), torch.cat([x, ones], 1), sol.costates[0]),
        (net.get_parameter("2.weight"), sol.states[1], sol.costates[2]),
    ):
        kept = port.state[weight]
        torch.testing.assert_close(kept["inputs"], state.t() @ state / 6)
        torch.testing.assert_close(kept["credits"], costate.t() @ costate * 6)


def test_averages_fade_by_their_memory() -> None:
    net = network()
    port, alone = ws.ports.Newton(net, memory=0.75), []
    for x, y in batches(3):
        fresh = ws.ports.Newton(net, memory=0.0)
        for watching in (port, fresh):
            ws.relax(watching.attach(ws.Chain(net, nn.CrossEntropyLoss())), x, y)
        alone.append(fresh.state[net.get_parameter("2.weight")]["credits"])
    kept = port.state[net.get_parameter("2.weight")]
    wanted = (alone[2] + 0.75 * alone[1] + 0.5625 * alone[0]) / (1 + 0.75 + 0.5625)
    torch.testing.assert_close(kept["credits"] / kept["weight"], wanted)


def test_a_port_resumes_from_its_state_to_the_last_bit() -> None:
    net = network()
    port = ws.ports.Newton(net, lr=0.1)
    first, second = batches(6)[:3], batches(6)[3:]
    for x, y in first:
        step(net, port, x, y)
    twin = copy.deepcopy(net)
    other = ws.ports.Newton(twin, lr=0.5)
    other.load_state_dict(copy.deepcopy(port.state_dict()))
    for x, y in second:
        step(net, port, x, y)
        step(twin, other, x, y)
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert port.reflected_power == other.reflected_power > 0


def test_groups_have_rates_of_their_own_and_schedulers_move_them() -> None:
    net, (x, y) = network(), batches(1)[0]
    twins = [copy.deepcopy(net) for _ in range(2)]
    whole = ws.ports.Newton(twins[0], lr=0.2)
    groups: list[dict[str, Any]] = [{"modules": twins[1][0], "lr": 0.4}, {"modules": [twins[1][2], twins[1][4]]}]
    parts = ws.ports.Newton(groups, lr=0.2)
    torch.optim.lr_scheduler.LambdaLR(whole, lambda _: 0.5)
    for twin, port in zip(twins, (whole, parts), strict=True):
        step(twin, port, x, y)
    for name, start in net.named_parameters():
        one, two = (twin.get_parameter(name) - start for twin in twins)
        torch.testing.assert_close(two, (4 if name.startswith("0.") else 2) * one, rtol=1e-8, atol=1e-12)


def test_an_unlocked_newton_port_sees_every_tick_that_has_a_credit() -> None:
    net, (x, y) = network(), batches(1)[0]
    port = ws.ports.per_tick(ws.ports.Newton(net, lr=0.1, memory=0.5), 12)
    held = ws.unlocked(port.attach(ws.Chain(net, nn.CrossEntropyLoss())), x, y, port, ticks=12)
    assert held.outcome.status is ws.Status.BUDGET_SPENT
    remembered = 1 - 0.5 / 12
    assert float(port.state[net.get_parameter("4.weight")]["weight"]) == pytest.approx(
        (1 - remembered**6) / (1 - remembered)
    )


def refused(make: Callable[[], object]) -> ws.errors.InputError:
    with pytest.raises(ws.errors.InputError) as caught:
        make()
    return caught.value


def test_layers_without_factors_are_named() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert_tells(refused(lambda: ws.ports.Newton(net)), "'1' (BatchNorm1d)", "weight, bias", "nn.Conv2d")
    grouped = nn.Conv2d(4, 4, 3, groups=2)
    assert_tells(refused(lambda: ws.ports.Newton(grouped)), "Conv2d", "without groups")


def test_a_layer_inside_a_site_of_unknown_derivative_is_named() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), nn.Linear(4, 2))
    port = ws.ports.Newton([net.get_submodule("0.0"), net[1]])
    assert_tells(refused(lambda: port.attach(ws.Chain(net, nn.MSELoss()))), "flatten=True", "known derivatives")
    port.attach(ws.Chain(net, nn.MSELoss(), flatten=True))


def test_a_step_before_anything_was_seen() -> None:
    net, (x, y) = network(), batches(1)[0]
    port = ws.ports.Newton(net)
    ws.backward(ws.Chain(net, nn.CrossEntropyLoss()), x, y)
    assert_tells(refused(port.step), "Newton has not seen", "port.attach(chain)")


def test_a_singular_curvature_asks_for_damping() -> None:
    net = nn.Linear(9, 3).to(DOUBLE)
    x = torch.randn(4, 9, dtype=DOUBLE)
    port = ws.ports.Newton(net, damping=0.0, memory=0.0)
    ws.backward(port.attach(ws.Chain([net], nn.MSELoss())), x, x[:, :3])
    assert_tells(refused(port.step), "singular", "damping=0.1")


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"damping": -1.0}, {"memory": 1.0}, {"damping": float("nan")}])
def test_constants_out_of_range(options: dict[str, Any]) -> None:
    assert_tells(refused(lambda: ws.ports.Newton(nn.Linear(2, 2), **options)), "Newton: ", *options)


@pytest.mark.parametrize("loss", [nn.L1Loss(), nn.MSELoss(reduction="none"), nn.functional.mse_loss])
def test_a_loss_without_a_known_root_of_its_curvature(loss: Callable[..., Tensor]) -> None:
    net = nn.Linear(3, 3)
    port, x = ws.ports.Newton(net), torch.ones(2, 3)
    error = refused(lambda: ws.diagnostics.curvature(ws.Chain([net], loss), x, x, port))
    assert_tells(error, "nn.MSELoss", "port.attach(chain)")


def test_a_port_that_takes_a_sum_for_a_mean() -> None:
    net = nn.Linear(3, 3)
    port, x = ws.ports.Newton(net, averaged=False), torch.ones(2, 3)
    assert_tells(refused(lambda: ws.diagnostics.curvature(ws.Chain([net], nn.MSELoss()), x, x, port)), "averaged=True")
