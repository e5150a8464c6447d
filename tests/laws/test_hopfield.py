"""A Hopfield-like energy rests where its slope is zero, and two nudges give the gradient at its free rest."""

import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, assert_gradients, assert_tells, distance, tanh_net
from worldsheet.dynamics import Hopfield


class Active(nn.Module):
    """W tanh(x) + b, which bounds the energy."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.map = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) to (batch, outputs)."""
        made: Tensor = self.map(torch.tanh(x))
        return made


class Skip(nn.Module):
    """A network that is no path: the last layer reads two sites."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 5), Active(5, 5), Active(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) to (batch, 3)."""
        low = self.one(x)
        made: Tensor = self.three(torch.cat([self.two(low), low], 1))
        return made


def path(net: Any, x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    return [layer(read) for layer, read in zip(net, [x, *states], strict=False)]


def skip(net: Any, x: Tensor, states: Sequence[Tensor]) -> list[Tensor]:
    return [net.one(x), net.two(states[0]), net.three(torch.cat([states[1], states[0]], 1))]


Predicted = Callable[[Any, Tensor, Sequence[Tensor]], list[Tensor]]

CASES: dict[str, tuple[Callable[[], nn.Module], Predicted, Any]] = {
    "path": (lambda: nn.Sequential(nn.Linear(4, 6), Active(6, 5), Active(5, 3)), path, None),
    "equal layers": (
        lambda: nn.Sequential(nn.Linear(4, 5), *[Active(5, 5) for _ in range(3)], Active(5, 3)),
        path,
        None,
    ),
    "graph": (Skip, skip, ("one", "two", "three")),
}
REST = ws.Stop(max_ticks=6000, tol=1e-11, every=20)


def problem(case: str, strength: float = 0.7) -> tuple[ws.Chain, Tensor, Tensor]:
    make, _, blocks = CASES[case]
    torch.manual_seed(1)
    net = make().to(DOUBLE)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(strength)
    x, target = torch.randn(5, 4, dtype=DOUBLE), torch.randint(3, (5,))
    return ws.Chain(net, nn.CrossEntropyLoss(), blocks=blocks), x, target


def energy(case: str, chain: ws.Chain, x: Tensor, states: Sequence[Tensor]) -> Tensor:
    """E of a batch."""
    pairs = zip(states, CASES[case][1](chain.module, x, states), strict=True)
    return torch.stack([0.5 * state.square().sum() - (state * made).sum() for state, made in pairs]).sum()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("nudge", [0.4, -0.2])
@pytest.mark.parametrize("stack", [True, False])
def test_it_rests_where_the_energy_is_least(case: str, nudge: float, stack: bool) -> None:
    chain, x, target = problem(case)
    sol = ws.relax(chain, x, target, Hopfield(nudge), stop=REST, stack=stack)
    assert sol.outcome.converged, sol.outcome
    states = [state.clone().requires_grad_() for state in sol.states]
    total = energy(case, chain, x, states) + nudge * len(x) * chain.loss(states[-1], target)
    for slope in torch.autograd.grad(total, states):
        assert slope.abs().max() < 1e-9
    forward = ws.relax(chain, x, target).states
    assert float((forward[0] - sol.states[0]).norm()) > 0.1  # the free network is no forward pass


def implicit(case: str, chain: ws.Chain, x: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The gradient of the cost at the free rest, by the implicit function theorem with a dense Hessian."""
    start = ws.relax(chain, x, target, Hopfield(1e-6), stop=ws.Stop(max_ticks=4000)).states
    sizes, shapes = [s.numel() for s in start], [s.shape for s in start]

    def at(flat: Tensor) -> list[Tensor]:
        return [part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]

    rest = torch.cat([state.flatten() for state in start])
    for _ in range(3):  # Newton, to the free rest itself
        hessian = torch.autograd.functional.hessian(lambda flat: energy(case, chain, x, at(flat)), rest)
        slope = torch.autograd.functional.jacobian(lambda flat: energy(case, chain, x, at(flat)), rest)
        rest = rest - torch.linalg.solve(hessian, slope)
    rest = rest.requires_grad_()
    (bend,) = torch.autograd.grad(chain.loss(at(rest)[-1], target), rest)
    (slope,) = torch.autograd.grad(energy(case, chain, x, at(rest)), rest, create_graph=True)
    named = dict(chain.named_parameters())
    found = torch.autograd.grad(-(slope @ torch.linalg.solve(hessian, bend)), list(named.values()))
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_two_nudges_is_the_gradient_at_the_free_rest_to_second_order(case: str) -> None:
    chain, x, target = problem(case)
    wanted = implicit(case, chain, x, target)
    errors = [
        distance(ws.centred(chain, x, target, Hopfield(nudge), stop=REST).gradients(), wanted)
        for nudge in (0.1, 0.05, 0.025)
    ]
    assert errors[-1] < 4e-3
    for larger, smaller in pairwise(errors):
        assert 3.5 < larger / smaller < 4.6


@pytest.mark.parametrize(("ticks", "strength", "told"), [(3, 0.7, True), (300, 0.7, False), (60, 6.0, True)])
def test_a_network_that_is_not_at_rest_is_told(ticks: int, strength: float, told: bool) -> None:
    """Too few ticks, or weights with which layers excite each other."""
    chain, x, target = problem("path", strength)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ws.centred(chain, x, target, Hopfield(), stop=ws.Stop(max_ticks=ticks))
    assert [w.category for w in caught] == [ws.errors.NotConvergedWarning] * told
    assert all("not at rest" in str(w.message) and "smaller rate" in str(w.message) for w in caught)


def test_accumulating_adds_the_mean() -> None:
    chain, x, target = problem("path")
    phases = ws.centred(chain, x, target, Hopfield(), stop=ws.Stop(max_ticks=40))
    phases.accumulate()
    found = {name: p.grad for name, p in chain.named_parameters() if p.grad is not None}
    assert_gradients(found, phases.gradients(), tol=1e-14)


def test_one_nudge_has_no_gradient() -> None:
    net = tanh_net(3)
    sol = ws.relax(net.chain, net.x, net.target, Hopfield(), stop=ws.Stop(max_ticks=5))
    optimizer = torch.optim.SGD(net.chain.parameters(), 0.1)
    for call in (
        sol.gradients,
        sol.accumulate,
        lambda: ws.backward(net.chain, net.x, net.target, Hopfield()),
        lambda: ws.unlocked(net.chain, net.x, net.target, optimizer, Hopfield()),
        lambda: ws.pipeline.relax(net.chain, 2, net.x, net.target, Hopfield()),
    ):
        with pytest.raises(ws.errors.InputError) as caught:
            call()
        assert_tells(caught.value, "one nudge has no gradient", "nudged both ways", "ws.centred(")
    assert all(parameter.grad is None for parameter in net.chain.parameters())


@pytest.mark.parametrize("nudge", [0.0, float("nan")])
def test_no_nudge_is_refused(nudge: float) -> None:
    with pytest.raises(ws.errors.InputError) as caught:
        Hopfield(nudge)
    assert_tells(caught.value, "nudge must be finite and not zero")
