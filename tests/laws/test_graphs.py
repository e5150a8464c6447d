"""Random graphs: fan-in, fan-out, long skips, shared modules and several outputs, under any order, give autograd's."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, assert_gradients, asynchronous, law, random_fields, schedules

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


def exact(web: nn.Module, x: tuple[Tensor, Tensor], target: Tensor) -> dict[str, Tensor]:
    leaves = {f"input {k}": leaf for k, leaf in enumerate(x) if leaf.requires_grad} | dict(web.named_parameters())
    found = torch.autograd.grad(spread(web(*x), target), list(leaves.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(leaves, found, strict=True) if gradient is not None}


def relaxed(sol: ws.Solution) -> dict[str, Tensor]:
    inputs = {f"input {k}": part for k, part in enumerate(sol.input_gradient) if part is not None}
    return inputs | sol.gradients()


@law(15)
@given(webs(), schedules(), st.booleans())
def test_any_graph_under_any_schedule(web: Any, schedule: ws.Schedule, fuse: bool) -> None:
    module, x, target = web
    chain = ws.Chain(module, spread, fuse=fuse)
    sol = ws.relax(chain, x, target, schedule=schedule)
    assert sol.ticks == schedule.settles_after(chain.topology)
    assert_gradients(relaxed(sol), exact(module, x, target))


@law(8)
@given(webs(), st.integers(0, 3), st.integers(0, 2**20), st.booleans())
def test_any_delay_from_any_start(web: Any, max_delay: int, seed: int, fuse: bool) -> None:
    module, x, target = web
    chain = ws.Chain(module, spread, fuse=fuse)
    start = random_fields(ws.relax(chain, x, target).fields, seed)
    sol = ws.relax(chain, x, target, schedule=asynchronous(seed, max_delay), initial=start)
    assert_gradients(relaxed(sol), exact(module, x, target))


@law(15)
@given(webs(), st.sampled_from([ws.Wavefront(), ws.Sweep(), ws.Synchronous()]), st.booleans())
def test_backward_lets_go_of_nothing_too_early(web: Any, schedule: ws.Schedule, fuse: bool) -> None:
    module, x, target = web
    wanted = exact(module, x, target)
    ws.backward(ws.Chain(module, spread, fuse=fuse), x, target, schedule=schedule)
    leaves = {f"input {k}": leaf for k, leaf in enumerate(x)} | dict(module.named_parameters())
    assert_gradients({name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}, wanted)


@law(6)
@given(webs())
def test_the_wavefront_of_a_graph_evaluates_and_pulls_every_layer_once(web: Any) -> None:
    module, x, target = web
    chain = ws.Chain(module, spread, fuse=False)
    sol = ws.relax(chain, x, target)
    graph = chain.graph  # a layer below which nothing is trained need not be pulled through
    below = [
        any(parents) or any(x[k].requires_grad for k in own)
        for parents, own in zip(graph.topology.parents, graph.inputs, strict=True)
    ]
    trained = [any(True for _ in layer.module.parameters()) for layer in chain.layers]
    assert sol.evaluations == len(chain)
    assert sol.pulls == sum(a or b for a, b in zip(below, trained, strict=True))
    full = ws.relax(chain, x, target, schedule=ws.Synchronous())
    assert all(a.equal(b) for a, b in zip(sol.states + sol.costates, full.states + full.costates, strict=True))
