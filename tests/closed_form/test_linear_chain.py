"""Deep linear networks with squared error, where everything can be written down."""

import itertools
from math import comb

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE

WIDTHS = (3, 5, 4, 2, 6, 3)
DEPTH = len(WIDTHS) - 1


def linear_chain(*, bias: bool) -> tuple[ws.Chain, list[Tensor], list[Tensor], Tensor]:
    """A chain with cost ½‖x_L − y‖², its matrices (x_l = x_{l-1} A_l + c_l), its offsets and an input."""
    torch.manual_seed(0)
    layers = [nn.Linear(n, m, bias=bias, dtype=DOUBLE) for n, m in itertools.pairwise(WIDTHS)]
    matrices = [layer.weight.detach().T for layer in layers]
    offsets = [
        layer.bias.detach() if bias else torch.zeros(m, dtype=DOUBLE)
        for layer, m in zip(layers, WIDTHS[1:], strict=True)
    ]
    chain = ws.Chain(nn.Sequential(*layers), lambda output, target: 0.5 * (output - target).square().sum())
    return chain, matrices, offsets, torch.randn(2, WIDTHS[0], dtype=DOUBLE)


def by_hand(
    matrices: list[Tensor], offsets: list[Tensor], x: Tensor, target: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """States and costates at rest: x_l = x_{l-1} A_l + c_l upward, λ_{l-1} = λ_l A_lᵀ downward from x_L − y."""
    states = [x]
    for A, c in zip(matrices, offsets, strict=True):
        states.append(states[-1] @ A + c)
    costates = [states[-1] - target]
    for A in reversed(matrices[1:]):
        costates.append(costates[-1] @ A.T)
    return states[1:], costates[::-1]


def close(mine: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rate", [1.0, 0.6, 1.3])
def test_fields_at_rest_are_products_of_matrices(rate: float) -> None:
    chain, matrices, offsets, x = linear_chain(bias=True)
    target = torch.randn(2, WIDTHS[-1], dtype=DOUBLE)
    states, costates = by_hand(matrices, offsets, x, target)
    sol = ws.relax(chain, x, target, ws.Dyadic(rate), stop=ws.Stop(max_ticks=300))
    for mine, other in zip((*sol.states, *sol.costates), (*states, *costates), strict=True):
        close(mine, other)
    close(sol.loss, 0.5 * (states[-1] - target).square().sum())
    below = [x, *states[:-1]]
    for site, (state, costate) in enumerate(zip(below, costates, strict=True)):
        close(sol.gradients()[f"{site}.weight"], costate.T @ state)
        close(sol.gradients()[f"{site}.bias"], costate.sum(0))


def weight(ticks: int, hits: int, rate: float) -> float:
    """The binomial probability of `hits` in `ticks` trials (for rates above 1, its continuation)."""
    return comb(ticks, hits) * rate**hits * (1 - rate) ** (ticks - hits) if hits <= ticks else 0.0


@pytest.mark.parametrize("rate", [1.0, 0.75, 0.5, 0.1, 1.4])
@pytest.mark.parametrize("ticks", [0, 1, 4, 2 * DEPTH - 1, 2 * DEPTH, 30])
def test_a_wave_front_spreads_as_a_binomial(rate: float, ticks: int) -> None:
    # From zero fields, without offsets and with target 0, the 2L fields on the way up and down are one linear chain of
    # equal rates: its deviation is a single Jordan chain, so the k-th field holds P(k or more hits in t) of its end.
    chain, matrices, offsets, x = linear_chain(bias=False)
    target = torch.zeros(2, WIDTHS[-1], dtype=DOUBLE)
    states, costates = by_hand(matrices, offsets, x, target)
    sol = ws.relax(
        chain,
        x,
        target,
        ws.Dyadic(rate),
        schedule=ws.Synchronous(),
        stop=ws.Stop(max_ticks=ticks),
        record=(record := ws.Record()),
    )
    path = [*zip(sol.states, states, strict=True), *reversed(list(zip(sol.costates, costates, strict=True)))]
    for k, (field, end) in enumerate(path, start=1):
        close(field, (1 - sum(weight(sol.ticks, hits, rate) for hits in range(k))) * end)
    for tick, state_row, costate_row in zip(
        record.ticks, record.state_residuals, record.costate_residuals, strict=True
    ):
        up = [weight(tick, site - 1, rate) * end.norm() for site, end in enumerate(states, start=1)]
        down = [weight(tick, 2 * DEPTH - site, rate) * end.norm() for site, end in enumerate(costates, start=1)]
        close(state_row, torch.stack(up).abs())
        close(costate_row, torch.stack(down).abs())


def test_at_unit_rate_residuals_vanish_behind_the_fronts_and_only_there() -> None:
    chain, _, _, x = linear_chain(bias=True)
    target = torch.randn(2, WIDTHS[-1], dtype=DOUBLE)
    like = ws.relax(chain, x, target).fields
    start = ws.Fields(*(tuple(torch.randn_like(t) for t in part) for part in (like.states, like.costates)))
    record = ws.Record()
    ws.relax(chain, x, target, schedule=ws.Synchronous(), record=record, initial=start)
    assert record.ticks == list(range(2 * DEPTH + 1))
    for tick in record.ticks:
        for site in range(1, DEPTH + 1):
            state, costate = record.state_residuals[tick, site - 1], record.costate_residuals[tick, site - 1]
            assert (state == 0) if tick >= site else (state > 1e-3)
            assert (costate == 0) if tick >= 2 * DEPTH + 1 - site else (costate > 1e-3)


@pytest.mark.parametrize("every", [1, 3])
def test_a_record_keeps_every_so_many_rows_of_the_same_picture(every: int) -> None:
    chain, _, _, x = linear_chain(bias=True)
    target = torch.zeros(2, WIDTHS[-1], dtype=DOUBLE)
    full, thin = ws.Record(), ws.Record(every)
    for record in (full, thin):
        ws.relax(chain, x, target, ws.Dyadic(0.7), stop=ws.Stop(max_ticks=11), record=record)
    assert thin.ticks == list(range(0, 12, every))
    assert thin.state_residuals.equal(full.state_residuals[::every])
    assert thin.costate_residuals.equal(full.costate_residuals[::every])


def test_the_outcomes_residual_is_the_largest_relative_one() -> None:
    chain, matrices, offsets, x = linear_chain(bias=True)
    target = torch.randn(2, WIDTHS[-1], dtype=DOUBLE)
    sol = ws.relax(chain, x, target, ws.Dyadic(0.5), stop=ws.Stop(max_ticks=14))
    states = [x, *sol.states]
    ratios = []
    for site in range(1, DEPTH + 1):
        prediction = states[site - 1] @ matrices[site - 1] + offsets[site - 1]
        pulled = sol.costates[site] @ matrices[site].T if site < DEPTH else states[-1] - target
        ratios.append((prediction - states[site]).norm() / prediction.norm())
        ratios.append((pulled - sol.costates[site - 1]).norm() / pulled.norm())
    assert sol.outcome.residual == pytest.approx(float(max(ratios)), rel=1e-10)
    assert sol.outcome.status is ws.Status.BUDGET_SPENT
