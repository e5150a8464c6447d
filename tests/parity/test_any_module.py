"""Modules of any kind: their own forward runs, cut where submodules return, and learns as under `loss.backward()`."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import worldsheet as ws
from nets import DOUBLE, assert_gradients, asynchronous, only, random_fields

Loss = Callable[[Any, Any], Tensor]


def square(output: Any, target: Tensor) -> Tensor:
    """Of the first tensor of an output."""
    return (pytree.tree_leaves(output)[0] - target).square().mean()


def everywhere(part: nn.Module) -> bool:
    """Makes a site of every submodule."""
    return True


any_sites = pytest.mark.parametrize("blocks", [None, everywhere], ids=["default", "everywhere"])


def called(module: nn.Module, x: Any) -> Any:
    if isinstance(x, dict):
        return module(**x)
    return module(*x) if isinstance(x, tuple) else module(x)


def gradients(module: nn.Module, x: Any = None) -> dict[str, Tensor]:
    """Of the parameters, and of the tensors of the input."""
    named = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    leaves = pytree.tree_leaves(x)
    return named | {f"input {k}": leaf.grad for k, leaf in enumerate(leaves) if getattr(leaf, "grad", None) is not None}


Answer = tuple[Tensor, dict[str, Tensor]]


def backward(chain: ws.Chain, x: Any, target: Any) -> Answer:
    assert isinstance(chain.module, nn.Module)
    loss = ws.backward(chain, x, target)
    return loss, gradients(chain.module, x)


def recomputed(chain: ws.Chain, x: Any, target: Any) -> Answer:
    assert isinstance(chain.module, nn.Module)
    loss = ws.backward(chain, x, target, recompute=True)
    return loss, gradients(chain.module, x)


def relaxed(chain: ws.Chain, x: Any, target: Any, schedule: ws.schedules.Schedule | None = None) -> Answer:
    sol = ws.relax(chain, x, target, schedule=schedule)
    inputs = pytree.tree_leaves(sol.input_gradient)
    return sol.loss, sol.gradients() | {f"input {k}": g for k, g in enumerate(inputs) if g is not None}


def from_zero(chain: ws.Chain, x: Any, target: Any) -> Answer:
    return relaxed(chain, x, target, ws.Synchronous())


WAYS = (backward, recomputed, relaxed, from_zero)


def check(module: nn.Module, x: Any, target: Any, blocks: Any, loss: Loss = square, ways: Any = WAYS) -> None:
    """Loss, gradients, buffers and the generator are those of one ordinary backward pass; the input is untouched."""
    given, twin = copy.deepcopy(x), copy.deepcopy(module)
    torch.manual_seed(5)
    value = loss(called(twin, given), target)
    value.backward()
    generator = torch.get_rng_state()
    wanted = gradients(twin, given)
    for way in ways:
        mine, own = copy.deepcopy(module), copy.deepcopy(x)
        chain = ws.Chain(mine, loss, blocks=blocks)
        torch.manual_seed(5)
        found, filled = way(chain, own, target)
        assert torch.get_rng_state().equal(generator), way.__name__
        torch.testing.assert_close(found, value.detach(), rtol=1e-12, atol=1e-14)
        assert_gradients(filled, wanted)
        for (name, buffer), (_, other) in zip(mine.named_buffers(), twin.named_buffers(), strict=True):
            torch.testing.assert_close(buffer, other, rtol=1e-12, atol=1e-12, msg=name)
        for leaf, before in zip(pytree.tree_leaves(own), pytree.tree_leaves(x), strict=True):
            assert torch.equal(leaf, before) if isinstance(leaf, Tensor) else leaf == before


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


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


@any_sites
def test_what_is_overwritten_is_overwritten_for_its_readers_only(blocks: Any) -> None:
    check(Overwriting().to(DOUBLE), data(3, 4), data(3, 4), blocks, ways=(backward, relaxed, from_zero))


class Several(nn.Module):
    """A nested input and output, integers and a mask on the way, one module at three sites."""

    steps: Tensor

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


def trees() -> tuple[nn.Module, dict[str, Any]]:
    x = {"tokens": torch.randint(7, (5, 3)), "extra": {"bias": data(5, 3, 4)}, "factor": 0.7}
    return Several().to(DOUBLE), x


@any_sites
def test_trees_in_and_out_with_integers_between(blocks: Any) -> None:
    module, x = trees()
    check(module, x, data(5, 4), blocks)

    def all_of_it(output: Mapping[str, Tensor], target: Tensor) -> Tensor:
        return square(output["out"], target) * output["hidden"].exp() + output["hidden"]

    check(module, x, data(5, 4), blocks, all_of_it)


def test_a_call_of_one_module_is_a_site_each_time() -> None:
    module, x = trees()
    table = ws.Chain(module, square).sites(x)
    names = [row.name for row in table]
    assert names == ["embed", "shared", "shared#2", "add", "cat", "add#2", "add#3", "shared#3"]
    shapes = {row.name: row.shape for row in table}
    assert shapes["cat"] == (5, 3, 4)
    assert shapes["embed"] == (5, 3, 4)
    reads = {row.name: [names[site - 1] if site else "input" for site in row.reads] for row in table}
    assert reads["embed"] == reads["shared#2"] == ["input"]
    assert reads["shared"] == ["embed"]
    assert reads["add"] == ["shared", "shared#2"]
    assert reads["add#2"] == ["add", "cat"]
    assert reads["add#3"] == ["add", "add#2"]
    assert reads["shared#3"] == ["add#3"]


class Recurrent(nn.Module):
    """Both results of a module are read, by several."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.3)

    def forward(self, x: Tensor) -> Tensor:
        out, (hidden, cell) = self.lstm(x)
        mixed, weights = self.mix(out, x, x)
        return torch.tanh(mixed).mean(1) + hidden[0] * cell[0] + weights.mean()


@any_sites
def test_modules_with_several_results(blocks: Any) -> None:
    module, x = Recurrent().to(DOUBLE), data(3, 5, 4)
    check(module, x, data(3, 4), blocks)
    names = [row.name for row in ws.Chain(module, square, blocks=nn.LSTM).sites(x)]
    assert names == ["lstm", "lstm", "lstm"]  # one call, three states


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
    """A residual connection around any module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.sigmoid(x) + self.inner(x))


@any_sites
@pytest.mark.parametrize("sign", [1, -1])
def test_a_submodule_that_looks_at_values(sign: int, blocks: Any) -> None:
    inner = Branching()
    module = Around(inner).to(DOUBLE)
    x, target = sign * torch.rand(3, 4, dtype=DOUBLE) + 0.1, data(3, 4)
    x[1] = -x[1]  # of the second branch, one row at least passes and one does not
    check(module, x, target, blocks)
    chain = ws.Chain(module, square, blocks=blocks)
    ws.backward(chain, x, target)
    assert inner.calls == 1
    ws.relax(chain, x, target, schedule=ws.Synchronous())
    assert inner.calls == 2  # however often it was called, what it remembers is what one forward leaves


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line, self.head = nn.Linear(4, 4), nn.Linear(4, 4)


class Deciding(Line):
    """Looks at a value of its own, which a start from zero does not have."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.line(x)
        return self.head(hidden if hidden.square().mean() > 1e-6 else -3 * hidden)


class Numbering(Line):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.line(x)
        return self.head(hidden * hidden.max().item() ** 2)


class Remembering(Line):
    """Keeps a result and what it has become, for whoever wants to look."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.line(x)
        self.read = torch.tanh(self.last)
        return self.head(self.read) + self.last


class Counting(Line):
    """Passes of its own decide what it does next time."""

    def __init__(self) -> None:
        super().__init__()
        self.passes, self.seen = 0, [1.0]

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.seen.append(self.seen[-1] / (1 + self.passes))
        return self.head(self.line(x) * self.seen[-1])


@any_sites
@pytest.mark.parametrize("make", [Deciding, Numbering, Remembering, Counting])
def test_forwards_that_decide_read_numbers_or_keep_something(make: type[nn.Module], blocks: Any) -> None:
    check(make().to(DOUBLE), data(3, 4), data(3, 4), blocks)


def test_what_a_forward_keeps_is_what_one_forward_keeps() -> None:
    module = Counting().to(DOUBLE)
    twin, chain, x, target = copy.deepcopy(module), ws.Chain(module, square), data(3, 4), data(3, 4)
    for _ in range(3):
        square(twin(x), target).backward()
        ws.relax(chain, x, target, schedule=ws.Synchronous()).accumulate()
        assert_gradients(gradients(module), gradients(twin))
        assert (module.passes, module.seen) == (twin.passes, twin.seen)


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x * 2, x.argmax(-1), x.float().exp()


class Reading(Line):
    """Reads all results of a module that returns numbers of two precisions, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = Mixed()

    def forward(self, x: Tensor) -> Tensor:
        value, index, single = self.mixed(self.line(x))
        return self.head(value + index.unsqueeze(-1) + single.double() ** 2)


@pytest.mark.parametrize("blocks", [None, everywhere, Mixed])
def test_a_module_that_returns_several_dtypes(blocks: Any) -> None:
    check(Reading().to(DOUBLE), data(3, 4), data(3, 4), blocks)


@any_sites
@pytest.mark.parametrize("make", [Deciding, lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))])
def test_hooks_on_the_root(make: Callable[[], nn.Module], blocks: Any) -> None:
    module = make().to(DOUBLE)
    module.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.5,))
    module.register_forward_hook(lambda _, inputs, output: output.exp() + inputs[0].detach())
    module.register_full_backward_hook(lambda _, inputs, outputs: (only(inputs) * 3,))
    module.register_full_backward_pre_hook(lambda _, outputs: (only(outputs) * 0.5,))
    check(module, data(3, 4).requires_grad_(), data(3, 4), blocks)


def test_a_hook_on_the_credit_of_a_site_sees_it_whole_and_once() -> None:
    seen: list[Tensor] = []

    def heard(credit: Tensor) -> Tensor:
        seen.append(credit.clone())
        return 2 * credit

    class Listening(Line):
        """Three read what the hook is on."""

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.line(x)
            hidden.register_hook(heard)
            return self.head(hidden) + self.head(hidden * 2) + hidden

    module, x, target = Listening().to(DOUBLE), data(3, 4), data(3, 4)
    check(module, x, target, None, ways=(backward, recomputed))
    wanted, *others = seen
    assert len(others) == 2
    for credit in others:
        torch.testing.assert_close(credit, wanted, rtol=1e-12, atol=1e-15)


def test_a_credit_that_is_asked_for_is_kept() -> None:
    module, x, target = Remembering().to(DOUBLE), data(3, 4), data(3, 4)
    module.line.register_forward_hook(lambda _, inputs, output: None)
    module.register_forward_hook(lambda own, inputs, output: own.last.retain_grad())
    twin = copy.deepcopy(module)
    square(twin(x), target).backward()
    ws.backward(ws.Chain(module, square), x, target)
    torch.testing.assert_close(module.last.grad, twin.last.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_root_is_one_site() -> None:
    module = Deciding().to(DOUBLE)
    compiled: Any = torch.compile(module, backend="eager")
    x, target = data(3, 4), data(3, 4)
    chain = ws.Chain(compiled, square)
    (row,) = chain.sites(x)
    assert row.reads == (0,)
    twin = copy.deepcopy(module)
    value = square(twin(x), target)
    value.backward()
    assert torch.isclose(ws.backward(chain, x, target), value, rtol=1e-12)
    assert_gradients(gradients(module), gradients(twin))
    names = {f"_orig_mod.{name}": gradient for name, gradient in gradients(twin).items()}
    assert_gradients(ws.relax(chain, x, target, schedule=ws.Synchronous()).gradients(), names)


def test_a_loss_inside_of_the_model() -> None:
    class Judged(Line):
        def forward(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
            output = self.head(torch.tanh(self.line(x)))
            return {"loss": F.mse_loss(output, target), "output": output}

    x = {"x": data(3, 4), "target": data(3, 4)}
    check(Judged().to(DOUBLE), x, None, None, lambda output, _: output["loss"])
    check(Judged().to(DOUBLE), x, None, everywhere, lambda output, _: output["loss"])


def test_a_number_that_no_site_makes_is_returned_as_it_is() -> None:
    """The loss may be given whatever the module returns, and a site is what torch can differentiate."""

    class Reporting(Line):
        def forward(self, x: Tensor) -> tuple[Tensor, int, str, None, Tensor]:
            return self.head(self.line(x)), 3, "name", None, x.sum()

    def loss(output: tuple[Any, ...], target: Tensor) -> Tensor:
        value, number, name, nothing, total = output
        assert (number, name, nothing) == (3, "name", None)
        return square(value, target) * number + total

    check(Reporting().to(DOUBLE), data(3, 4), data(3, 4), None, loss)


def test_the_user_chooses_the_sites() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Around(nn.Sequential(nn.Linear(4, 4), nn.Tanh())), nn.Linear(4, 4))
    module.to(DOUBLE)
    x, target = data(3, 4), data(3, 4)
    wanted: dict[str, tuple[Any, list[str]]] = {
        "a class": (Around, ["1"]),
        "several classes": ((nn.Linear, nn.Tanh), ["0", "1.inner.0", "1.inner.1", "1.last", "2"]),
        "a function": (lambda part: part is module[1], ["1"]),
        "a name": ("1.inner", ["1.inner"]),
        "names of one level": ("*", ["0", "1", "2"]),
        "names of another": ("1.*", ["1.inner", "1.last"]),
        "a class and a name": ((nn.Tanh, "2"), ["1.inner.1", "2"]),
        "all": (everywhere, ["0", "1.inner.0", "1.inner.1", "1.last", "2"]),
    }
    for choice, (blocks, names) in wanted.items():
        chain = ws.Chain(module, square, blocks=blocks)
        assert not chain.is_path
        assert [row.name for row in chain.sites(x)] == names, choice
        check(module, x, target, blocks if choice != "a function" else (Around,))
        sol = ws.relax(chain, x, target, schedule=ws.Synchronous())
        assert ws.compare(chain, x, target, sol).relative_error < 1e-12, choice


def test_by_default_blocks_are_sites_where_lists_of_blocks_are_and_weight_layers_elsewhere() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 4)
            self.blocks = nn.ModuleList(Around(nn.Linear(4, 4)) for _ in range(2))
            self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = x + block(x)
            return self.head(self.norm(x))

    module, x = Blocks().to(DOUBLE), data(3, 4)
    names = [row.name for row in ws.Chain(module, square).sites(x)]
    assert names == ["stem", "blocks.0", "add", "blocks.1", "add#2", "head"]
    chosen = [row.name for row in ws.Chain(module, square, blocks="blocks.*").sites(x)]
    assert chosen == ["blocks.0", "blocks.1"]  # a choice of one's own makes no sites of sums
    check(module, x, data(3, 4), None)
    check(module, x, data(3, 4), "blocks.*")
    listed = [row.name for row in ws.Chain(module, square, blocks=["stem", "blocks.1"]).sites(x)]
    assert listed == ["stem", "blocks.1"]


def test_a_chain_follows_the_module() -> None:
    module = Around(nn.Linear(4, 4)).to(DOUBLE)
    chain, finer = ws.Chain(module, nn.MSELoss()), ws.Chain(module, nn.MSELoss(), blocks=everywhere)
    x, target = data(3, 4), data(3, 4)

    def same() -> None:
        twin = copy.deepcopy(module)
        twin.zero_grad()
        value = F.mse_loss(twin(x), target)
        value.backward()
        for each in (chain, finer):
            for way in WAYS:
                module.zero_grad()
                loss, found = way(each, x, target)
                torch.testing.assert_close(loss, value.detach(), rtol=1e-12, atol=0)
                assert_gradients(found, gradients(twin))

    same()
    module.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0), nn.Tanh()).to(DOUBLE)  # exchanged
    same()
    assert [row.name for row in finer.sites(x)] == ["inner.0", "inner.2", "last"]
    module.last.weight = nn.Parameter(data(4, 4))
    same()
    module.inner.append(nn.Linear(4, 4, dtype=DOUBLE))
    same()
    module.inner[0].requires_grad_(False)
    same()
    module.eval()
    same()
    del module.inner[1]
    same()
    x = data(5, 4)
    target = data(5, 4)
    same()


class Scaled(Line):
    """A number of the module's own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.line(x) * self.scale))


@any_sites
def test_a_number_that_changes_is_seen(blocks: Any) -> None:
    module, x, target = Scaled().to(DOUBLE), data(2, 4), data(2, 4)
    chain = ws.Chain(module, nn.MSELoss(), blocks=blocks)
    for scale in (2.0, 0.5, -3):
        module.scale = scale
        twin = copy.deepcopy(module)
        twin.zero_grad()
        module.zero_grad()
        F.mse_loss(twin(x), target).backward()
        ws.backward(chain, x, target)
        assert_gradients(gradients(module), gradients(twin))


@any_sites
@pytest.mark.parametrize(
    "dynamics", [ws.Dyadic(0.7), ws.Dyadic(1.3), ws.Wave(), ws.AugmentedLagrangian()], ids=lambda d: str(d)[:12]
)
def test_stop_and_dynamics_work_on_graphs_as_on_chains(dynamics: ws.dynamics.Dynamics, blocks: Any) -> None:
    module = Around(nn.Sequential(nn.Linear(4, 4), nn.Tanh())).to(DOUBLE)
    chain = ws.Chain(module, nn.MSELoss(), blocks=blocks)
    x, target = data(3, 4), data(3, 4)
    sol = ws.relax(chain, x, target, dynamics, stop=ws.Stop(tol=1e-11, max_ticks=4000))
    assert sol.outcome.converged, sol.outcome
    assert ws.compare(chain, x, target, sol).relative_error < 1e-8
    twin = copy.deepcopy(module)
    F.mse_loss(twin(x), target).backward()
    assert_gradients(sol.gradients(), gradients(twin), tol=1e-8)


@any_sites
@pytest.mark.parametrize("make", [Overwriting, Recurrent, Remembering, Reading])
def test_any_start_and_any_delay_lead_to_the_same_gradient(make: type[nn.Module], blocks: Any) -> None:
    module = make().to(DOUBLE)
    x, target = data(3, 5, 4) if make is Recurrent else data(3, 4), data(3, 4)
    twin = copy.deepcopy(module)
    torch.manual_seed(2)
    square(twin(x), target).backward()
    chain = ws.Chain(module, square, blocks=blocks)
    torch.manual_seed(2)
    start = random_fields(ws.relax(chain, x, target).fields, 1)
    torch.manual_seed(2)
    sol = ws.relax(chain, x, target, schedule=asynchronous(4, 2), initial=start)
    assert_gradients(sol.gradients(), gradients(twin))
