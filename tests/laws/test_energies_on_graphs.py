"""On graphs predictive coding rests where its energy is least, the augmented Lagrangian at backprop's gradient."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, assert_gradients, grads, random_fields


class Skips(nn.Module):
    """Residual layers, and around all of them a skip."""

    def __init__(self, width: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(width, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) to (batch, width)."""
        start = x = self.stem(x)
        for layer in self.inner:
            x = x + torch.tanh(layer(x))
        out: Tensor = self.head(x + start)
        return out


class Both(nn.Module):
    """The cost reads a value that a layer reads too."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, width) to two such."""
        low = self.one(x)
        return low, self.two(torch.tanh(low))


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def both(outputs: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return 0.3 * half_squares(outputs[0], target) + half_squares(outputs[1], -target)


class ByHand:
    """A network written out, in which a value that has a state is that state for all who read it.

    Args:
        states: by name.
    """

    def __init__(self, states: Mapping[str, Tensor]) -> None:
        self.states = states
        self.predictions: dict[str, Tensor] = {}

    def __call__(self, name: str, made: Tensor) -> Tensor:
        """What readers get."""
        self.predictions[name] = made
        return self.states.get(name, made)


def skips(net: Any, x: Tensor, site: ByHand) -> Tensor:
    start = x = site("stem", net.stem(x))
    for number, layer in enumerate(net.inner):
        bent = torch.tanh(site(f"inner.{number}", layer(x)))
        x = site("add" if number == 0 else f"add#{number + 1}", x + bent)
    return site("head", net.head(site(f"add#{len(net.inner) + 1}", x + start)))


def two_ends(net: Any, x: Tensor, site: ByHand) -> tuple[Tensor, Tensor]:
    low = site("one", net.one(x))
    return low, site("two", net.two(torch.tanh(low)))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[..., Any], Callable[..., Tensor], Any]] = {
    "sites of sums": (lambda: Skips(depth=1), skips, half_squares, None),
    "weight layers": (Skips, skips, half_squares, nn.Linear),
    "some": (Skips, skips, half_squares, ("stem", "inner.1", "head")),
    "an output read inside": (Both, two_ends, both, None),
    "an output read inside, chosen": (Both, two_ends, both, nn.Linear),
}

every_case = pytest.mark.parametrize("case", CASES)


def problem(case: str, seed: int = 2) -> tuple[ws.Chain, Tensor, Tensor]:
    make, _, loss, blocks = CASES[case]
    torch.manual_seed(seed)
    chain = ws.Chain(make().to(DOUBLE), loss, blocks=blocks)
    x, target = 2 * torch.randn(2, 4, 3, dtype=DOUBLE)
    return chain, x, target


@every_case
def test_predictive_coding_rests_where_its_energy_is_least(case: str) -> None:
    """Ends that the cost alone reads are predictions; all other states are free, whether the cost reads them or not."""
    _, by_hand, loss, _ = CASES[case]
    chain, x, target = problem(case)
    sol = ws.relax(chain, x, target, ws.PredictiveCoding(), stop=ws.Stop(max_ticks=4000, tol=1e-8, every=10))
    assert sol.outcome.converged, sol.outcome
    table = chain.sites(x)
    names = [row.name for row in table]
    assert len(names) >= 2
    last = names[-1]
    free = {n: s.clone().requires_grad_() for n, s in zip(names, sol.states, strict=True) if n != last}
    site = ByHand(free)
    energy = loss(by_hand(chain.module, x, site), target)
    energy = energy + sum(half_squares(state, site.predictions[name]) for name, state in free.items())
    for slope in torch.autograd.grad(energy, list(free.values())):
        assert slope.abs().max() < 1e-7
    assert torch.isclose(sol.loss, loss(by_hand(chain.module, x, ByHand(free)), target).detach(), rtol=1e-10)


@every_case
def test_descent_in_the_errors_comes_to_the_same_rest(case: str) -> None:
    chain, x, target = problem(case)
    stop = ws.Stop(max_ticks=4000, tol=1e-10, every=10)
    wanted = ws.relax(chain, x, target, ws.PredictiveCoding(), stop=stop)
    sol = ws.relax(chain, x, target, ws.dynamics.ErrorBasedCoding(), stop=stop)
    assert sol.outcome.converged, sol.outcome
    for ours, theirs in zip(sol.states, wanted.states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)
    assert_gradients(sol.gradients(), wanted.gradients(), tol=1e-6)


@every_case
def test_one_tick_moves_every_site_by_what_is_written_out(case: str) -> None:
    """From states that are nowhere near rest: new costates are slopes of the Lagrangian along the predictions."""
    _, by_hand, loss, _ = CASES[case]
    chain, x, target = problem(case)
    names = [row.name for row in chain.sites(x)]
    start = random_fields(ws.relax(chain, x, target).fields, seed=3)
    once = ws.Stop(max_ticks=1)
    sol = ws.relax(chain, x, target, schedule=ws.Synchronous(), stop=once, initial=start)
    states = {name: state.clone().requires_grad_() for name, state in zip(names, start.states, strict=True)}
    site = ByHand(states)
    lagrangian = loss(by_hand(chain.module, x, site), target)
    for name, costate in zip(names, start.costates, strict=True):
        lagrangian = lagrangian + (costate * site.predictions[name]).sum()
    for name, state in zip(names, sol.states, strict=True):
        torch.testing.assert_close(state, site.predictions[name].detach(), rtol=1e-12, atol=1e-14)
    for costate, slope in zip(sol.costates, torch.autograd.grad(lagrangian, list(states.values())), strict=True):
        torch.testing.assert_close(costate, slope, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("case", "penalty"), [("some", 4.0), ("an output read inside", 2.0)])
def test_multipliers_rest_at_backprops_gradient(case: str, penalty: float) -> None:
    chain, x, target = problem(case)
    alm = ws.AugmentedLagrangian(penalty=penalty)
    sol = ws.relax(chain, x, target, alm, stop=ws.Stop(max_ticks=4000, tol=1e-8, every=10))
    assert sol.outcome.converged, sol.outcome
    assert ws.compare(chain, x, target, sol).relative_error < 1e-6
    twin = copy.deepcopy(chain.module)
    assert isinstance(twin, nn.Module)
    chain.loss(twin(x), target).backward()
    assert_gradients(sol.gradients(), grads(twin), tol=1e-6)


def test_a_curved_graph_needs_a_larger_penalty() -> None:
    """With long skips the curvature of the Lagrangian outweighs ρ = 1; the outcome says what to do."""
    chain, x, target = problem("weight layers")
    stop = ws.Stop(max_ticks=250, tol=1e-3, every=10)
    weak = ws.relax(chain, x, target, ws.AugmentedLagrangian(), stop=stop)
    assert not weak.outcome.converged
    assert "penalty" in str(weak.outcome)
    firm = ws.relax(chain, x, target, ws.AugmentedLagrangian(penalty=4.0), stop=stop)
    assert firm.outcome.converged, firm.outcome
    assert ws.compare(chain, x, target, firm).relative_error < 0.02
