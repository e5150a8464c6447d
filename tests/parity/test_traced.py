"""What a traced module may do: overwrite, share, return several things, take several, choose its sites."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from nets import DOUBLE, assert_gradients


def square(output: Any, target: Tensor) -> Tensor:
    first = (
        output if isinstance(output, Tensor) else next(iter(output.values() if isinstance(output, dict) else output))
    )
    return (first - target).square().mean()


class Overwriting(nn.Module):
    """Every way of writing into a tensor that others read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        before = h * 2  # reads h before it is overwritten
        h += before
        h.mul_(0.5)
        h[:, 0] = h[:, 1] * 3
        self.relu(h)  # as a statement: whoever reads h from here on reads the result
        y = self.b(h)
        y = F.leaky_relu(y, 0.1, inplace=True) + h
        return y.add_(x)


class Several(nn.Module):
    """A nested input and output, integers and a mask on the way, one module at three sites."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.shared = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("steps", torch.arange(3))

    def forward(self, tokens: Tensor, *, extra: dict[str, Tensor], factor: float = 1.0) -> dict[str, Any]:
        mask = (tokens > 1).unsqueeze(-1)
        x = self.embed((tokens + self.steps) % 7) * mask
        x = torch.tanh(self.shared(x)) + self.shared(extra["bias"]) * factor
        low, high = x.chunk(2, dim=-1)
        values, indices = x.topk(2, dim=-1)
        x = (
            torch.cat([low * self.scale, high.exp()], -1)
            + values.sum(-1, keepdim=True)
            + x.gather(-1, indices)[..., :1]
        )
        y = self.norm(self.shared(x).mean(1))
        return {"out": y, "best": y.argmax(-1), "hidden": x.mean()}


class Recurrent(nn.Module):
    """Both results of a module are read, by several."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, cell) = self.lstm(x)
        mixed, weights = self.mix(out, x, x)
        return torch.tanh(mixed).mean(1) + hidden[0] * cell[0] + weights.mean()


def check(module: nn.Module, x: Any, target: Tensor, fuse: bool) -> ws.Chain:
    args, kwargs = (tuple(x), {}) if isinstance(x, tuple) else ((), x) if isinstance(x, dict) else ((x,), {})
    before = {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(5)
    square(module(*args, **kwargs), target).backward()
    wanted = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    after = {key: value.clone() for key, value in module.state_dict().items()}
    for run in ("backward", "relax"):
        module.load_state_dict(before)
        module.zero_grad()
        chain = ws.Chain(module, square, fuse=fuse)
        torch.manual_seed(5)
        if run == "backward":
            ws.backward(chain, x, target)
            assert_gradients({n: p.grad for n, p in module.named_parameters() if p.grad is not None}, wanted)
        else:
            assert_gradients(ws.relax(chain, x, target, schedule=ws.Synchronous()).gradients(), wanted)
        for key, value in module.state_dict().items():
            torch.testing.assert_close(value, after[key], rtol=1e-12, atol=1e-12)
    return chain


@pytest.mark.parametrize("fuse", [True, False])
def test_what_is_overwritten_is_overwritten_for_its_readers_only(fuse: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=DOUBLE)
    kept = x.clone()
    check(Overwriting().to(DOUBLE), x, torch.randn(3, 4, dtype=DOUBLE), fuse)
    assert x.equal(kept)


@pytest.mark.parametrize("fuse", [True, False])
def test_trees_in_and_out_with_integers_between(fuse: bool) -> None:
    torch.manual_seed(0)
    x = {"tokens": torch.randint(7, (5, 3)), "extra": {"bias": torch.randn(5, 3, 4, dtype=DOUBLE)}, "factor": 0.7}
    check(Several().to(DOUBLE), x, torch.randn(5, 4, dtype=DOUBLE), fuse)


@pytest.mark.parametrize("fuse", [True, False])
def test_modules_with_several_results(fuse: bool) -> None:
    torch.manual_seed(0)
    check(Recurrent().to(DOUBLE), torch.randn(3, 5, 4, dtype=DOUBLE), torch.randn(3, 4, dtype=DOUBLE), fuse)


class Branching(nn.Module):
    """Looks at values, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if x.sum() > 0:
            return self.line(x)
        keep = x[:, 0] > 0
        out = torch.zeros_like(x)
        out[keep] = self.line(x[keep])
        return out


class Around(nn.Module):
    """A residual connection around something that cannot be followed."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(x) + self.inner(x))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_submodule_that_looks_at_values_is_one_site(sign: int) -> None:
    torch.manual_seed(0)
    inner = Branching()
    x = sign * torch.rand(3, 4, dtype=DOUBLE) + 0.1
    chain = check(Around(inner).to(DOUBLE), x, torch.randn(3, 4, dtype=DOUBLE), fuse=False)
    assert [layer.module for layer in chain.at(x).layers].count(inner) == 1
    calls = inner.calls
    ws.backward(chain, x, torch.randn(3, 4, dtype=DOUBLE))
    assert inner.calls == calls + 1


def test_the_user_chooses_the_sites() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), Around(nn.Sequential(nn.Linear(4, 4), nn.Tanh())), nn.Linear(4, 4))
    x, target = torch.randn(3, 4), torch.randn(3, 4)
    sizes = {}
    for name, options in {
        "as it is": {},
        "blocks": {"blocks": Around},
        "named": {"blocks": lambda part: part is module[1]},
        "operations": {"fuse": False},
        "whole": {"blocks": (Around,), "fuse": False},
    }.items():
        chain = ws.Chain(module, nn.MSELoss(), **options)  # type: ignore[arg-type]
        sol = ws.relax(chain, x, target)
        assert ws.compare(chain, x, target, sol).relative_error < 1e-5
        sizes[name] = len(chain)
    assert sizes == {"as it is": 3, "blocks": 3, "named": 3, "operations": 7, "whole": 3}


def test_a_graph_follows_the_module() -> None:
    torch.manual_seed(0)
    inner = nn.Linear(4, 4)
    module = Around(inner)
    module.scale = 1.0
    chain = ws.Chain(module, nn.MSELoss())
    x, target = torch.randn(3, 4), torch.randn(3, 4)

    def same() -> bool:
        sol = ws.relax(chain, x, target)
        assert ws.compare(chain, x, target, sol).relative_error < 1e-5
        return bool(torch.isclose(sol.loss, nn.functional.mse_loss(module(x), target)))

    assert same()
    known = chain.at(x)
    assert chain.at(torch.randn(3, 4)) is known
    assert chain.at(torch.randn(5, 4)) is not known
    module.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh())  # exchanged
    assert same()
    module.last.weight = nn.Parameter(torch.randn(4, 4))
    assert same()
    module.eval()
    assert same()
    module.double()
    x, target = x.double(), target.double()
    assert same()


class Scaled(nn.Module):
    """A number of the module's own is baked into its graph."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.scale = nn.Linear(3, 3), 2.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.line(x) * self.scale)


def test_a_number_that_changes_is_seen() -> None:
    module = Scaled()
    chain, x, target = ws.Chain(module, nn.MSELoss()), torch.randn(2, 3), torch.randn(2, 3)
    ws.backward(chain, x, target)
    module.scale = 0.5
    assert torch.isclose(ws.backward(chain, x, target), nn.functional.mse_loss(module(x), target))


def test_stop_and_dynamics_work_on_graphs_as_on_chains() -> None:
    torch.manual_seed(0)
    module = Around(nn.Sequential(nn.Linear(4, 4), nn.Tanh())).to(DOUBLE)
    chain = ws.Chain(module, nn.MSELoss(), fuse=False)
    x, target = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 4, dtype=DOUBLE)
    sol = ws.relax(chain, x, target, ws.Dyadic(0.7), stop=ws.Stop(tol=1e-12))
    assert sol.outcome.converged
    assert ws.compare(chain, x, target, sol).relative_error < 1e-10
