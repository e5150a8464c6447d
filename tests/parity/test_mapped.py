"""Equal layers without a closed form, moved as one by `torch.func`, give the numbers of the loop over sites."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from nets import DOUBLE, assert_gradients, assert_tells, autograd
from worldsheet.engine.batched.runs import runs
from worldsheet.problem import BoundLayers


class Block(nn.Module):
    """A pre-normed residual block with a buffer, a bias that nothing reads, and one weight used twice."""

    def __init__(self, width: int, scale: float = 0.3, unused: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.scale = scale
        self.register_buffer("shift", torch.randn(width))
        self.idle = nn.Parameter(torch.randn(3)) if unused else None

    def forward(self, x: Tensor) -> Tensor:
        inside = F.gelu(self.inner(self.norm(x) + self.shift))
        return x + self.scale * inside @ self.inner.weight


class Conditional(Block):
    """Its way depends on the numbers, which no map over sites can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if bool(x.detach().sum() > 0) else x


class Overwriting(Block):
    """It writes into what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(0.9))


class Counting(Block):
    """A setting that is no plain number tells two of them apart."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.curve = lambda x: x * float(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.curve(x))


def chain_of(*blocks: nn.Module, width: int = 6) -> ws.Chain:
    return ws.Chain(nn.Sequential(nn.Linear(5, width), *blocks, nn.Linear(width, 3)).to(DOUBLE), nn.MSELoss())


def together(chain: ws.Chain, x: Tensor) -> list[tuple[int, int]]:
    """The spans of layers that are gathered."""
    passed = [x]
    with torch.no_grad():
        for layer in chain.layers:
            passed.append(layer.module(passed[-1].clone()))
        found = runs(BoundLayers(chain, None).traits[:-1], passed, compiled=False)
    return [(run.first, run.last) for run in found if not run.alone]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, target = (torch.randn(4, size, dtype=DOUBLE, generator=generator) for size in (5, 3))
    return x, target


def equal_blocks() -> ws.Chain:
    torch.manual_seed(0)
    blocks = [Block(6) for _ in range(5)]
    blocks[1].inner.weight.requires_grad_(False)
    blocks[3] = blocks[2]  # one block at two sites
    return chain_of(*blocks)


@pytest.mark.parametrize(
    "dynamics",
    [ws.Dyadic(0.7), ws.Wave(), ws.PredictiveCoding(0.2), ws.AugmentedLagrangian(0.2)],
    ids=lambda dynamics: type(dynamics).__name__,
)
@pytest.mark.parametrize("ticks", [1, 4, 15])
def test_mapped_blocks_are_blocks_one_by_one(dynamics: ws.dynamics.Dynamics, ticks: int) -> None:
    chain, (x, target) = equal_blocks(), batch()
    x.requires_grad_()
    assert together(chain, x.detach()) == [(2, 6)]
    stop = ws.Stop(max_ticks=ticks)
    one, many = (ws.relax(chain, x, target, dynamics, stop=stop, stack=stack) for stack in (True, False))
    for ours, theirs in zip(one.states + one.costates, many.states + many.costates, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    assert_gradients(one.gradients(), many.gradients())
    torch.testing.assert_close(one.input_gradient, many.input_gradient, rtol=1e-10, atol=1e-13)


def test_mapped_blocks_rest_on_autograds_gradient() -> None:
    chain, (x, target) = equal_blocks(), batch()
    sol = ws.relax(chain, x, target, schedule=ws.Synchronous())
    slow = ws.relax(chain, x, target, ws.Dyadic(0.9), stop=ws.Stop(tol=1e-12))
    model = nn.Sequential(*(layer.module for layer in chain.layers))
    wanted = autograd(model, chain.loss, x, target)
    for found in (sol, slow):
        assert_gradients(dict(zip(wanted, found.gradients().values(), strict=True)), wanted, tol=1e-9)


@pytest.mark.parametrize(
    ("blocks", "spans"),
    [
        pytest.param(
            lambda: [Block(6), Block(6), Block(6, scale=0.2), Block(6, scale=0.2)], [(2, 3), (4, 5)], id="scale"
        ),
        pytest.param(lambda: [Block(6), Block(6, unused=False)], [], id="parameters"),
        pytest.param(lambda: [Conditional(6), Conditional(6)], [], id="depends on numbers"),
        pytest.param(lambda: [Overwriting(6), Overwriting(6)], [], id="writes its input"),
        pytest.param(lambda: [Counting(6), Counting(6)], [], id="settings"),
        pytest.param(lambda: [nn.BatchNorm1d(6), nn.BatchNorm1d(6)], [], id="moves buffers"),
        pytest.param(lambda: [nn.BatchNorm1d(6).eval(), nn.BatchNorm1d(6).eval()], [(2, 3)], id="holds buffers still"),
        pytest.param(lambda: [nn.Dropout(0.5), nn.Dropout(0.5)], [], id="draws"),
        pytest.param(lambda: [nn.GELU(), nn.GELU(), nn.Softplus()], [(2, 3)], id="functions"),
    ],
)
def test_only_layers_that_are_equal_and_can_be_mapped_are_gathered(
    blocks: Callable[[], list[nn.Module]], spans: list[tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    chain, (x, target) = chain_of(*blocks()), batch()
    assert together(chain, x) == spans
    stop, dynamics = ws.Stop(max_ticks=9), ws.Dyadic(0.8)
    torch.manual_seed(3)
    one = ws.relax(chain, x, target, dynamics, stop=stop)
    torch.manual_seed(3)
    many = ws.relax(chain, x, target, dynamics, stop=stop, stack=False)
    assert_gradients(one.gradients(), many.gradients())


def test_a_hook_keeps_a_layer_by_itself() -> None:
    chain, (x, _) = equal_blocks(), batch()
    calls: list[int] = []
    chain.layers[4].module.register_forward_hook(lambda *_: calls.append(1))
    assert together(chain, x) == [(2, 3)]  # the block that is hooked is at sites 4 and 5


@pytest.mark.parametrize(
    ("dynamics", "schedule", "stack"),
    [(ws.Dyadic(), None, True), (ws.Dyadic(0.8), None, False), (ws.Dyadic(0.8), ws.Sweep(count=None), True)],
)
def test_compilation_where_sites_move_one_by_one_is_refused(
    dynamics: ws.dynamics.Dynamics, schedule: ws.schedules.Schedule | None, stack: bool
) -> None:
    chain, (x, target) = equal_blocks(), batch()
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.relax(chain, x, target, dynamics, schedule=schedule, stop=ws.Stop(max_ticks=3), stack=stack, compile=True)
    assert_tells(refusal.value, "compile=True", "leave compile out")


def test_closed_forms_have_nothing_to_compile() -> None:
    torch.manual_seed(0)
    chain, (x, target) = chain_of(*[nn.Linear(6, 6) for _ in range(3)]), batch()
    with pytest.raises(ws.errors.InputError, match="closed form"):
        ws.relax(chain, x, target, ws.Dyadic(0.8), stop=ws.Stop(max_ticks=3), compile=True)


def test_a_compiler_that_fails_is_told_before_anything_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        def call(*_: object) -> object:
            raise RuntimeError("no C++ compiler found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    chain, (x, target) = equal_blocks(), batch()
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.backward(chain, x, target, ws.Dyadic(0.8), stop=ws.Stop(max_ticks=3), compile=True)
    assert_tells(refusal.value, "no C++ compiler found", "leave compile out")
    assert all(parameter.grad is None for parameter in chain.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch about itself, while it compiles
@pytest.mark.parametrize("dynamics", [ws.Dyadic(0.8), ws.AugmentedLagrangian(0.2)])
def test_compiled_blocks_are_blocks_one_by_one(dynamics: ws.dynamics.Dynamics) -> None:
    chain, (x, target) = equal_blocks(), batch()
    stop = ws.Stop(max_ticks=9)
    one = ws.relax(chain, x, target, dynamics, stop=stop, compile=True)
    many = ws.relax(chain, x, target, dynamics, stop=stop, stack=False)
    assert_gradients(one.gradients(), many.gradients(), tol=1e-9)
