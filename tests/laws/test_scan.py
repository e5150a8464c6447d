"""Newton's method along a path: exact in a few ticks at any depth, recorded and compared as every relaxation is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Net, assert_gradients, assert_tells, exact, law, random_fields


def tied(depth: int, width: int, batch: int, seed: int, gain: float = 1.0) -> Net:
    """One cell, again and again."""
    torch.manual_seed(seed)
    cell = nn.Sequential(nn.Linear(width, width), nn.Tanh()).to(DOUBLE)
    with torch.no_grad():
        cell[0].get_parameter("weight").mul_(gain)
    x, target = torch.randn(batch, width, dtype=DOUBLE), torch.randn(batch, width, dtype=DOUBLE)
    return Net(nn.Sequential(*[cell] * depth), nn.MSELoss(), x, target)


def residual(depth: int, width: int, seed: int) -> Net:
    """A deep narrow residual net, whose first and last layers have other shapes."""
    torch.manual_seed(seed)
    module = ws.nn.residual_mlp(depth, width, ws.nn.Nonlinearity.TANH, inputs=3, classes=2).to(DOUBLE)
    return Net(module, nn.MSELoss(), torch.randn(2, 3, dtype=DOUBLE), torch.randn(2, 2, dtype=DOUBLE))


@law(20)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99), st.sampled_from([0.5, 1.0, 1.5]))
def test_tied_sites_reach_backprops_gradients(depth: int, width: int, batch: int, seed: int, gain: float) -> None:
    net = tied(depth, width, batch, seed, gain)
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Scan())
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net), tol=1e-9)


@pytest.mark.parametrize("depth", [3, 40, 160])
def test_ticks_do_not_grow_with_depth(depth: int) -> None:
    net, record = residual(depth, 5, 0), ws.Record()
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Scan(), record=record)
    assert sol.outcome.converged
    assert sol.ticks <= 9
    assert_gradients(sol.gradients(), exact(net), tol=1e-9)
    assert record.ticks == list(range(sol.ticks + 1))
    assert float(record.state_residuals[-1].max()) < 1e-12 < float(record.state_residuals[0].max())
    assert ws.compare(net.chain, net.x, net.target, sol).relative_error < 1e-10


def test_the_start_does_not_matter_and_jacobians_are_held_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = residual(30, 4, 1)
    settled = ws.relax(net.chain, net.x, net.target)
    monkeypatch.setattr("worldsheet.engine.batched.carried._NUMBERS", 2 * 4 * 4 * 7)  # seven sites at once
    sol = ws.relax(
        net.chain, net.x, net.target, schedule=ws.Scan(), initial=random_fields(settled.fields, 3, scale=0.5)
    )
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net), tol=1e-9)
    one = ws.relax(net.chain, net.x, net.target, schedule=ws.Scan(), stop=ws.Stop(max_ticks=1))
    assert not one.outcome.converged


def test_layers_without_a_closed_form_are_mapped() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return 0.8 * x + 0.2 * torch.sin(self.inner(x))

    torch.manual_seed(2)
    module = nn.Sequential(*[Gated() for _ in range(20)]).to(DOUBLE)
    net = Net(module, nn.MSELoss(), torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 4, dtype=DOUBLE))
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Scan())
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net), tol=1e-9)


def test_layers_that_are_unlike_their_neighbours_take_part() -> None:
    torch.manual_seed(3)
    layers = [nn.Linear(3, 3) if k % 2 else nn.Tanh() for k in range(9)]
    net = Net(nn.Sequential(*layers).to(DOUBLE), nn.MSELoss(), torch.randn(4, 3).double(), torch.randn(4, 3).double())
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Scan())
    assert sol.outcome.converged
    assert_gradients(sol.gradients(), exact(net), tol=1e-9)


def test_backward_by_a_scan_fills_grad() -> None:
    net = tied(12, 3, 2, 4)
    wanted = exact(net)
    ws.backward(net.chain, net.x, net.target, schedule=ws.Scan())
    assert_gradients({name: p.grad for name, p in net.module.named_parameters() if p.grad is not None}, wanted)


@pytest.mark.parametrize(
    ("module", "dynamics", "fragments"),
    [
        (
            nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)),
            ws.Dyadic(rate=0.5),
            ("Dyadic(rate=1)", "leave schedule out"),
        ),
        (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), ws.Wave(), ("Dyadic(rate=1)",)),
        (nn.Bilinear(3, 3, 3), ws.Dyadic(), ("module of another kind",)),
        (
            nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)) for _ in range(6)]),
            ws.Dyadic(),
            ("keeps statistics", "eval mode"),
        ),
    ],
)
def test_what_cannot_be_carried_is_refused(
    module: nn.Module, dynamics: ws.dynamics.Dynamics, fragments: tuple[str, ...]
) -> None:
    x = torch.randn(2, 3)
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.relax(ws.Chain(module, nn.MSELoss()), x, x, dynamics, schedule=ws.Scan())
    assert_tells(refusal.value, *fragments)


def test_states_that_are_no_rows_are_refused_and_so_are_unlocked_training_and_stages() -> None:
    cell = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh())
    image = torch.randn(2, 2, 5, 5)
    with pytest.raises(ws.errors.InputError, match=r"\(batch, n\)"):
        ws.relax(ws.Chain([cell] * 5, nn.MSELoss()), image, image, schedule=ws.Scan())
    net = tied(4, 3, 2, 0)
    with pytest.raises(ws.errors.InputError, match="stand still"):
        ws.unlocked(net.chain, net.x, net.target, torch.optim.SGD(net.module.parameters(), lr=0.1), schedule=ws.Scan())
    with pytest.raises(ws.errors.InputError, match="whole path at once"):
        ws.pipeline.relax(net.chain, 2, net.x, net.target, schedule=ws.Scan())
