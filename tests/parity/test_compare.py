"""`ws.compare` measures what it says, layer by layer."""

from math import inf

import pytest
import torch
from torch import nn

import worldsheet as ws
from nets import DOUBLE, Net, exact, random_fields, regression, tanh_net


def unfinished(net: Net, ticks: int = 7) -> ws.Solution:
    return ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.5), stop=ws.Stop(max_ticks=ticks))


def test_rows_are_computed_from_both_gradients() -> None:
    net = tanh_net(4)
    sol = unfinished(net)
    rows = ws.compare(net.chain, net.x, net.target, sol).rows
    wanted, found = exact(net), sol.gradients()
    assert [row.name for row in rows] == list(wanted)
    for row in rows:
        mine, other = found[row.name].flatten(), wanted[row.name].flatten()
        noise = (mine - other).norm() / other.norm()
        assert row.relative_error == pytest.approx(float(noise), rel=1e-9)
        assert row.snr == pytest.approx(float(noise) ** -2, rel=1e-9)
        assert row.cosine == pytest.approx(float(torch.cosine_similarity(mine, other, dim=0)), rel=1e-9)


def test_the_summary_is_the_worst_row() -> None:
    net = tanh_net(4)
    comparison = ws.compare(net.chain, net.x, net.target, unfinished(net))
    assert comparison.cosine == min(row.cosine for row in comparison.rows)
    assert comparison.relative_error == max(row.relative_error for row in comparison.rows)
    assert comparison.snr == min(row.snr for row in comparison.rows)
    assert len({row.cosine for row in comparison.rows}) == 8


def test_a_dead_layer_is_not_hidden_by_the_others() -> None:
    # After one synchronous tick from zero states only the last layer has heard of the loss.
    net = tanh_net(3)
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Synchronous(), stop=ws.Stop(max_ticks=1))
    comparison = ws.compare(net.chain, net.x, net.target, sol)
    assert comparison.cosine == 0
    assert [row.cosine for row in comparison.rows if row.name.startswith("0")] == [0, 0]
    assert comparison.rows[-1].cosine > 0.1


def test_equal_gradients_have_no_error() -> None:
    net = tanh_net(4)
    comparison = ws.compare(net.chain, net.x, net.target, ws.relax(net.chain, net.x, net.target))
    assert [(row.cosine, row.relative_error, row.snr) for row in comparison.rows] == [(1.0, 0.0, inf)] * 8


def test_the_table_has_a_line_per_parameter() -> None:
    net = tanh_net(2)
    lines = str(ws.compare(net.chain, net.x, net.target, unfinished(net))).splitlines()
    assert lines[0].split() == ["parameter", "1", "-", "cosine", "rel.", "error", "SNR"]
    assert [line.split()[0] for line in lines[1:]] == [name for name, _ in net.chain.named_parameters()]


def test_the_loss_and_frozen_parameters_are_counted_as_autograd_does() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    net.module[0].requires_grad_(False)
    sol = ws.relax(net.chain, net.x, net.target)
    rows = ws.compare(net.chain, net.x, net.target, sol).rows
    assert [row.name for row in rows] == ["2.weight", "2.bias"]


def test_comparing_touches_no_grad() -> None:
    net = tanh_net(3)
    ws.compare(net.chain, net.x, net.target, ws.relax(net.chain, net.x, net.target))
    assert all(parameter.grad is None for parameter in net.chain.parameters())


def test_error_falls_with_ticks_until_it_is_rounding() -> None:
    net = tanh_net(5)
    start = random_fields(ws.relax(net.chain, net.x, net.target).fields, seed=2)

    def error(ticks: int) -> float:
        stop = ws.Stop(max_ticks=ticks)
        sol = ws.relax(net.chain, net.x, net.target, ws.Dyadic(0.8), stop=stop, initial=start)
        return ws.compare(net.chain, net.x, net.target, sol).relative_error

    errors = [error(ticks) for ticks in (20, 30, 40, 60)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-6
    assert errors[-1] < 1e-12
