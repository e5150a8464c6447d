"""Random graphs: fan-in, fan-out, long skips, shared modules and several outputs, under any order, give autograd's."""

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, assert_gradients, asynchronous, law, random_fields, schedules, topology_of

Wiring = list[tuple[int, list[int]]]


class Web(nn.Module):
    """Nodes that each read some of the nodes before them through a module, which others may use too.

    Args:
        wiring: for each node, which module it uses and which values it reads, 0 and 1 being the inputs.
        ends: how many of the last values are returned.
    """

    def __init__(self, wiring: Wiring, ends: int, width: int = 3) -> None:
        super().__init__()
        self.wiring = wiring
        self.ends = ends
        self.parts = nn.ModuleList(nn.Linear(width, width) for _ in range(1 + max(part for part, _ in wiring)))

    def forward(self, x: Tensor, other: Tensor) -> tuple[Tensor, ...]:
        values = [x, other]
        for part, sources in self.wiring:
            total = values[sources[0]]
            for source in sources[1:]:
                total = total * torch.sigmoid(values[source]) + values[source]
            values.append(torch.tanh(self.parts[part](total)))
        return tuple(values[-self.ends :])


def spread(outputs: tuple[Tensor, ...], target: Tensor) -> Tensor:
    """A loss in which every output counts, and not apart from the others."""
    product = torch.stack([output.square().mean(-1) for output in outputs]).prod(0)
    return product.sum() + sum((output - target).square().mean() for output in outputs)


@st.composite
def webs(draw: st.DrawFn) -> tuple[nn.Module, tuple[Tensor, Tensor], Tensor]:
    size = draw(st.integers(1, 9))
    part = st.integers(0, draw(st.integers(0, 4)))
    wiring = [(draw(part), draw(st.lists(st.integers(0, node + 1), min_size=1, max_size=3))) for node in range(size)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    web = Web(wiring, draw(st.integers(1, min(3, size)))).to(DOUBLE)
    for parameter in web.parameters():
        parameter.data.normal_(std=0.7, generator=generator)
    x, other, target = (torch.randn(2, 3, dtype=DOUBLE, generator=generator) for _ in range(3))
    return web, (x.requires_grad_(draw(st.booleans())), other.requires_grad_(draw(st.booleans()))), target


def everywhere(part: nn.Module) -> bool:
    return True


CHOICES = {"default": None, "everywhere": everywhere, "a class": nn.Linear, "names": "parts.*"}
"""By default sums outside of the modules are sites too; elsewhere they belong to the sites that read them."""

choices = st.sampled_from(sorted(CHOICES))


def exact(web: nn.Module, x: tuple[Tensor, Tensor], target: Tensor) -> dict[str, Tensor]:
    leaves = {f"input {k}": leaf for k, leaf in enumerate(x) if leaf.requires_grad} | dict(web.named_parameters())
    loss = spread(web(*x), target)
    found: Sequence[Tensor | None] = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


def relaxed(sol: ws.Solution) -> dict[str, Tensor]:
    inputs = {f"input {k}": part for k, part in enumerate(sol.input_gradient) if part is not None}
    return inputs | sol.gradients()


@law(25)
@given(webs(), schedules(), choices)
def test_any_graph_under_any_schedule(web: Any, schedule: ws.schedules.Schedule, choice: str) -> None:
    module, x, target = web
    chain = ws.Chain(module, spread, blocks=CHOICES[choice])
    sol = ws.relax(chain, x, target, schedule=schedule)
    assert sol.ticks == schedule.settles_after(chain.sites(x).topology)
    assert sol.outcome.converged
    assert_gradients(relaxed(sol), exact(module, x, target))


@law(12)
@given(webs(), schedules(), st.integers(0, 2**20), choices)
def test_any_graph_from_any_start(web: Any, schedule: ws.schedules.Schedule, seed: int, choice: str) -> None:
    module, x, target = web
    chain = ws.Chain(module, spread, blocks=CHOICES[choice])
    start = random_fields(ws.relax(chain, x, target).fields, seed)
    sol = ws.relax(chain, x, target, schedule=schedule, initial=start)
    assert_gradients(relaxed(sol), exact(module, x, target))


@law(6)
@given(webs(), st.integers(0, 3), st.integers(0, 2**20), choices)
def test_any_delay_from_any_start(web: Any, max_delay: int, seed: int, choice: str) -> None:
    module, x, target = web
    chain = ws.Chain(module, spread, blocks=CHOICES[choice])
    start = random_fields(ws.relax(chain, x, target).fields, seed)
    sol = ws.relax(chain, x, target, schedule=asynchronous(seed, max_delay), initial=start)
    assert_gradients(relaxed(sol), exact(module, x, target))


@law(25)
@given(webs(), schedules(), choices, st.booleans())
def test_backward_lets_go_of_nothing_too_early(
    web: Any, schedule: ws.schedules.Schedule, choice: str, recompute: bool
) -> None:
    module, x, target = web
    wanted = exact(module, x, target)
    chain = ws.Chain(module, spread, blocks=CHOICES[choice])
    ws.backward(chain, x, target, schedule=schedule, recompute=recompute and schedule.once)
    leaves = {f"input {k}": leaf for k, leaf in enumerate(x)} | dict(module.named_parameters())
    assert_gradients({name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}, wanted)


@law(10)
@given(webs(), choices)
def test_exact_after_twice_the_depth_and_not_before(web: Any, choice: str) -> None:
    """Which costates a schedule has settled when is told by a simulation without tensors."""
    module, x, target = web
    chain = ws.Chain(module, spread, blocks=CHOICES[choice])
    exact_fields = ws.relax(chain, x, target).fields
    topology = chain.sites(x).topology
    assert topology.parents == topology_of(ws.relax(chain, x, target)).parents
    start = random_fields(exact_fields, 3)
    settled = ws.schedules.simulate(ws.Synchronous(), topology)
    for ticks in (2 * topology.depth, 2 * topology.depth - 1, topology.depth):
        stop = ws.Stop(max_ticks=ticks)
        sol = ws.relax(chain, x, target, schedule=ws.Synchronous(), stop=stop, initial=start)
        assert sol.outcome.converged == (ticks == 2 * topology.depth)
        for tick, mine, other in zip(settled.states, sol.states, exact_fields.states, strict=True):
            assert torch.allclose(mine, other, rtol=1e-12, atol=1e-14) or tick > ticks
        for tick, mine, other in zip(settled.costates, sol.costates, exact_fields.costates, strict=True):
            assert torch.allclose(mine, other, rtol=1e-10, atol=1e-13) or tick > ticks


@law(10)
@given(webs(), choices)
def test_a_module_is_called_as_often_as_by_its_own_forward(web: Any, choice: str) -> None:
    """Once each by a backward pass, a pull-back for each site; once more for each tick where all sites move."""
    module, x, target = web
    chain = ws.Chain(module, spread, blocks=CHOICES[choice])
    ws.backward(chain, x, target)
    calls: list[str] = []
    for name, part in module.named_modules():
        part.register_forward_pre_hook(lambda own, inputs, name=name: calls.append(name))
    module(*x)
    once = list(calls)
    calls.clear()
    ws.backward(chain, x, target)
    assert calls == once
    calls.clear()
    sol = ws.relax(chain, x, target)
    assert calls == once
    size, depth = len(chain.sites(x)), chain.sites(x).topology.depth
    assert (sol.evaluations, sol.pulls) == (size, size)
    calls.clear()
    full = ws.relax(chain, x, target, schedule=ws.Synchronous())
    assert calls.count("") * size == full.evaluations + size  # the first is for the shapes
    assert full.pulls <= (2 * depth + 1) * size
    for mine, other in zip(sol.states + sol.costates, full.states + full.costates, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-13)
