"""Recurrent layers relaxed in time, against the loops they replace and autograd through these."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, law
from worldsheet.nn import LinearCell, Method, Recurrent
from worldsheet.recurrence import Costs, Work, growth_exponent, solve_bidiagonal, solve_transposed
from worldsheet.recurrence.cells import Kind
from worldsheet.recurrence.compiled import can_compile

TOLERANCE = {torch.float32: 1e-5, DOUBLE: 1e-10}
NO_C = not can_compile(DOUBLE, torch.device("cpu"))
WAYS = [Method.SCAN, Method.DIAGONAL, *([] if NO_C else [Method.COMPILED])]
needs_c = pytest.mark.skipif(NO_C, reason="no C compiler")
LAYERS: dict[str, Callable[..., Any]] = {
    "tanh": nn.RNN,
    "relu": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class Foreign(nn.Module):
    """A cell that torch does not have."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.hidden_size = size
        self.gate = nn.Linear(inputs + size, size)
        self.inner = nn.Linear(inputs + size, size)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        both = torch.cat((x, h), -1)
        return h + 0.5 * torch.sigmoid(self.gate(both)) * (torch.tanh(self.inner(both)) - h)


class MinGated(nn.Module, LinearCell):
    """minGRU: gate and candidate see the input alone."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, size)
        self.inner = nn.Linear(inputs, size)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = torch.sigmoid(self.gate(x))
        return 1 - gate, gate * self.inner(x)


class Rotating(nn.Module, LinearCell):
    """A linear recurrent unit: complex, constant eigenvalues inside the unit circle."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.log_radius = nn.Parameter(torch.rand(size) * 0.1 - 0.15)
        self.angle = nn.Parameter(torch.rand(size) * 3)
        self.inner = nn.Linear(inputs, size)

    def coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.polar(self.log_radius.exp(), self.angle), self.inner(x).to(torch.complex128)


def joined(state: Any) -> Tensor:
    return torch.cat(state) if isinstance(state, tuple) else state


def gradients(made: tuple[Tensor, Any], leaves: list[Tensor], seed: int = 0) -> list[Tensor]:
    """Of a random linear function of outputs and last state."""
    generator = torch.Generator().manual_seed(seed)
    parts = (made[0], joined(made[1]))
    loss = torch.stack(
        [(part * torch.randn(part.shape, dtype=part.dtype, generator=generator)).sum().real for part in parts]
    ).sum()
    return list(torch.autograd.grad(loss, leaves, retain_graph=True))


def assert_near(found: list[Tensor], wanted: list[Tensor], tol: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).norm()) <= tol * max(1e-3, float(other.norm()))


def assert_is_the_loop(layer: Any, recurrent: Recurrent, x: Tensor, state: Any, leaves: list[Tensor]) -> None:
    tol = TOLERANCE[x.dtype]
    wanted, found = layer(x, state), recurrent(x, state)
    torch.testing.assert_close(found[0], wanted[0], rtol=tol, atol=tol)
    torch.testing.assert_close(joined(found[1]), joined(wanted[1]), rtol=tol, atol=tol)
    assert_near(gradients(found, leaves), gradients(wanted, leaves), tol)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, Tensor, Any, int | None]:
    """A layer of torch's with inputs, a state to begin with and a window."""
    torch.manual_seed(draw(st.integers(0, 10_000)))
    kind, dtype = draw(st.sampled_from(sorted(LAYERS))), draw(st.sampled_from([torch.float32, DOUBLE]))
    options = {"num_layers": draw(st.integers(1, 2)), "bidirectional": draw(st.booleans()), "bias": draw(st.booleans())}
    inputs, size = draw(st.integers(1, 4)), draw(st.integers(1, 19))
    steps, batch = draw(st.integers(1, 90)), draw(st.integers(1, 6))
    layer = LAYERS[kind](inputs, size, batch_first=draw(st.booleans()), **options).to(dtype)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "weight_hh" in name:
                parameter.mul_(draw(st.sampled_from([0.3, 1.0, 1.3])))
    sizes = (batch, steps, inputs) if layer.batch_first else (steps, batch, inputs)
    x = torch.randn(sizes, dtype=dtype, requires_grad=True)
    start = torch.randn(layer.num_layers * (2 if layer.bidirectional else 1), batch, size, dtype=dtype)
    start.requires_grad_(draw(st.booleans()))
    state = None if draw(st.booleans()) else (start, 0.5 * start.sin()) if kind == "lstm" else start
    return layer, x, state, draw(st.sampled_from([None, 20]))


@pytest.mark.parametrize("method", [*WAYS, None], ids=str)
@law(40)
@given(case=layers())
def test_a_layer_of_torchs_is_what_it_is(method: Method | None, case: tuple[Any, Tensor, Any, int | None]) -> None:
    layer, x, state, window = case
    starts = [] if state is None else [part for part in state if part.requires_grad][:1]
    if isinstance(state, Tensor):
        starts = [state] if state.requires_grad else []
    leaves = [x, *(start for start in starts if start.is_leaf), *layer.parameters()]
    assert_is_the_loop(layer, Recurrent(layer, method=method, window=window), x, state, leaves)


def unrolled(cell: Any, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    outputs = []
    for now in x:
        state = cell(now, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(outputs), state


@pytest.mark.parametrize("method", [Method.LOOP, Method.SCAN, Method.DIAGONAL, None], ids=str)
@pytest.mark.parametrize("make", [nn.RNNCell, nn.GRUCell, nn.LSTMCell, Foreign])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_cell_is_called_for_all_steps(make: Callable[..., Any], method: Method | None, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    cell = make(3, 6).to(dtype)
    x = torch.randn(70, 4, 3, dtype=dtype, requires_grad=True)
    start = torch.randn(4, 6, dtype=dtype, requires_grad=True)
    state = (start, start.cos()) if make is nn.LSTMCell else start
    wanted, found = unrolled(cell, x, state), Recurrent(cell, method=method)(x, state)
    leaves, tol = [x, start, *cell.parameters()], TOLERANCE[dtype]
    torch.testing.assert_close(found[0], wanted[0], rtol=tol, atol=tol)
    assert_near(gradients(found, leaves), gradients(wanted, leaves), tol)


@pytest.mark.parametrize("make", [MinGated, Rotating])
def test_a_cell_that_is_linear_in_its_state_is_one_scan(make: Callable[..., Any]) -> None:
    torch.manual_seed(2)
    cell = make(3, 5).to(DOUBLE)
    x = torch.randn(200, 4, 3, dtype=DOUBLE, requires_grad=True)
    kept, added = cell.coefficients(x)
    state, states = torch.zeros_like(added[0]), []
    for now in range(len(x)):
        state = (kept[now] if kept.dim() == 3 else kept) * state + added[now]
        states.append(state)
    wanted, recurrent = (torch.stack(states), state), Recurrent(cell)
    found = recurrent(x)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-12, atol=1e-12)
    leaves = [x, *cell.parameters()]
    assert_near(gradients(found, leaves), gradients(wanted, leaves), 1e-10)
    assert recurrent.outcome is not None
    assert recurrent.outcome.method is Method.DIAGONAL
    assert recurrent.outcome.iterations <= 1
    radius = kept.detach().abs().log().broadcast_to(added.shape)[-200:].mean(0).max()
    assert recurrent.outcome.exponent == pytest.approx(float(radius), rel=1e-6)


def test_a_long_sequence_is_relaxed_in_few_iterations_and_bounded_windows() -> None:
    torch.manual_seed(3)
    layer = nn.GRU(4, 8).to(DOUBLE)
    recurrent = Recurrent(layer, method=Method.SCAN, window=300)
    x = torch.randn(1500, 1, 4, dtype=DOUBLE)
    assert_is_the_loop(layer, recurrent, x, None, list(layer.parameters()))
    outcome = recurrent.outcome
    assert outcome is not None
    assert (outcome.method, outcome.windows) == (Method.SCAN, 5)
    assert outcome.iterations <= 6
    assert outcome.residual is not None
    assert outcome.residual <= 64 * torch.finfo(DOUBLE).eps
    assert outcome.exponent is not None
    assert outcome.exponent < 0
    assert repr(outcome).startswith("scan over 1500 steps, ")


@pytest.mark.parametrize("method", [Method.SCAN, Method.DIAGONAL], ids=str)
@pytest.mark.parametrize("layer", [nn.RNN(4, 32), nn.RNNCell(4, 32)])
def test_a_chaotic_cell_falls_back_to_the_loop_and_says_why(layer: Any, method: Method) -> None:
    torch.manual_seed(4)
    layer = copy.deepcopy(layer).to(DOUBLE)
    with torch.no_grad():
        next(p for name, p in layer.named_parameters() if "weight_hh" in name).normal_(std=2.5 / 32**0.5)
    recurrent, x = Recurrent(layer, method=method), torch.randn(300, 2, 4, dtype=DOUBLE)
    for _ in range(2):  # the second time it is not tried at all
        found = recurrent(x)[0]
        short = layer(x)[0] if isinstance(layer, nn.RNN) else unrolled(layer, x, torch.zeros(2, 32, dtype=DOUBLE))[0]
        torch.testing.assert_close(found[:20], short[:20], rtol=1e-9, atol=1e-9)  # rounding grows, too
        assert recurrent.outcome is not None
        assert recurrent.outcome.method in (Method.COMPILED, Method.LOOP)
        assert "deviations grow by" in recurrent.outcome.reason
    assert recurrent.outcome is not None
    assert recurrent.outcome.windows == 0


def test_the_exponent_is_that_of_a_known_map() -> None:
    angle = torch.tensor(0.7, dtype=DOUBLE)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    assert growth_exponent((1.1 * turn).expand(333, 2, 2, 2)) == pytest.approx(0.0953102, abs=2e-3)
    assert growth_exponent((0.5 * turn).expand(333, 2, 2, 2)) == pytest.approx(-0.693147, abs=2e-3)


@law(40)
@given(seed=st.integers(0, 1000), steps=st.integers(1, 70), size=st.integers(1, 5), diagonal=st.booleans())
def test_a_block_bidiagonal_system_is_solved_and_its_transpose_too(
    seed: int, steps: int, size: int, diagonal: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(steps, 2, size, *(() if diagonal else (size,)), dtype=DOUBLE, generator=generator) / size
    sources = torch.randn(steps, 2, size, dtype=DOUBLE, generator=generator)
    whole = torch.eye(steps * size, dtype=DOUBLE).repeat(2, 1, 1)
    full = torch.diag_embed(matrices) if diagonal else matrices
    for at in range(1, steps):
        whole[:, at * size : (at + 1) * size, (at - 1) * size : at * size] = -full[at]
    flat = sources.transpose(0, 1).reshape(2, -1)
    for solved, system in ((solve_bidiagonal, whole), (solve_transposed, whole.mT)):
        wanted = torch.linalg.solve(system, flat).reshape(2, steps, size).transpose(0, 1)
        torch.testing.assert_close(solved(matrices, sources), wanted, rtol=1e-9, atol=1e-9)


def test_the_state_dict_is_the_wrapped_modules() -> None:
    layer = nn.LSTM(3, 4, num_layers=2)
    model, plain = nn.Sequential(Recurrent(layer)), nn.Sequential(layer)
    assert list(model.state_dict()) == list(plain.state_dict())
    other = nn.Sequential(Recurrent(nn.LSTM(3, 4, num_layers=2)))
    other.load_state_dict(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    copied = copy.deepcopy(other)
    assert list(copied.state_dict()) == list(plain.state_dict())


@pytest.mark.parametrize("method", [*WAYS, Method.LOOP, None], ids=str)
def test_a_step_of_training_is_the_loops(method: Method | None) -> None:
    torch.manual_seed(5)
    plain = nn.GRU(2, 6).to(DOUBLE)
    layer = copy.deepcopy(plain)
    recurrent = Recurrent(layer, method=method)
    optimizers = [torch.optim.Adam(part.parameters(), lr=1e-2) for part in (plain, recurrent)]
    for step in range(4):
        x = torch.randn(60, 3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(step // 2))
        for optimizer, module in zip(optimizers, (plain, recurrent), strict=True):
            optimizer.zero_grad()
            module(x)[0].square().mean().backward()
            optimizer.step()
    for one, other in zip(plain.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_last_states_are_where_the_next_ones_begin() -> None:
    torch.manual_seed(6)
    layer = nn.RNN(2, 6).to(DOUBLE)
    warm, cold = Recurrent(layer, method=Method.SCAN), Recurrent(layer, method=Method.SCAN, warm=False)
    x = torch.randn(400, 1, 2, dtype=DOUBLE)
    for recurrent in (warm, cold):
        recurrent(x)
    with torch.no_grad():
        layer.get_parameter("weight_hh_l0").add_(1e-6)
    for recurrent in (warm, cold):
        recurrent(x)
    assert warm.outcome is not None
    assert cold.outcome is not None
    assert warm.outcome.iterations < cold.outcome.iterations
    warm(torch.randn(400, 1, 2, dtype=DOUBLE))  # another sequence: the guess is worse than none, and not used
    assert warm.outcome.iterations <= cold.outcome.iterations + 1


def test_dropout_between_layers_is_torchs() -> None:
    torch.manual_seed(7)
    layer = nn.GRU(3, 4, num_layers=2, dropout=0.5).to(DOUBLE)
    x, made = torch.randn(50, 2, 3, dtype=DOUBLE), []
    for module in (layer, Recurrent(layer, method=Method.SCAN)):
        torch.manual_seed(8)
        made.append(module(x)[0])
    torch.testing.assert_close(*made, rtol=1e-10, atol=1e-10)
    recurrent = Recurrent(layer, method=Method.SCAN).eval()
    torch.testing.assert_close(recurrent(x)[0], layer(x)[0], rtol=1e-10, atol=1e-10)


def test_inputs_without_a_batch_are_torchs() -> None:
    layer = nn.LSTM(3, 4).to(DOUBLE)
    x = torch.randn(30, 3, dtype=DOUBLE)
    for method in WAYS:
        found, wanted = Recurrent(layer, method=method)(x), layer(x)
        assert joined(found[1]).shape == joined(wanted[1]).shape
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-10, atol=1e-10)


def test_hooks_and_autocast_reach_the_wrapped_module_itself() -> None:
    layer, seen = nn.GRU(3, 4), []
    recurrent = Recurrent(layer, method=Method.SCAN)
    layer.register_forward_hook(lambda *_: seen.append(1))
    recurrent(torch.randn(20, 2, 3))
    assert seen == [1]
    assert recurrent.outcome is not None
    assert "hooks" in recurrent.outcome.reason
    other = Recurrent(nn.GRU(3, 4), method=Method.SCAN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        other(torch.randn(20, 2, 3))
    assert other.outcome is not None
    assert "autocast" in other.outcome.reason


def test_what_is_not_finite_stays_so() -> None:
    layer = nn.GRU(3, 4)
    x = torch.randn(40, 2, 3)
    x[20, 0, 1] = torch.nan
    for method in [*WAYS, None]:
        found = Recurrent(layer, method=method)(x)[0]
        assert torch.equal(found.isnan(), layer(x)[0].isnan())


def work(kind: Kind | None, steps: int, batch: int, size: int, *, c: bool = True, double: bool = False) -> Work:
    return Work(kind, steps, batch, size, backward=True, double=double, on_cpu=True, can_compile=c)


def test_the_cheapest_way_is_what_was_measured() -> None:
    best = Costs().best
    assert best(work(Kind.GRU, 10_000, 1, 16)) is Method.COMPILED
    assert best(work(Kind.LSTM, 10_000, 64, 128)) is Method.LOOP  # torch's own is fused
    assert best(work(Kind.GRU, 10_000, 1, 16, c=False)) is Method.SCAN
    assert best(work(Kind.GRU, 10_000, 1, 64, c=False)) is Method.DIAGONAL
    assert best(work(Kind.GRU, 1000, 64, 128, c=False)) is Method.LOOP
    assert best(work(None, 2, 1, 8, c=False)) is Method.LOOP
    assert best(work(None, 10_000, 1, 8, c=False)) is Method.SCAN


class Mixing(Foreign):
    """Rows that see the batch."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return super().forward(x, h - 0.02 * h.mean(0))


class Noisy(Foreign):
    """Another answer each time."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(x, h), 0.5)


def test_a_cell_whose_rows_depend_on_each_other_is_refused() -> None:
    torch.manual_seed(10)
    with pytest.raises(ws.errors.InputError, match="must give the same state"):
        Recurrent(Mixing(3, 6), method=Method.SCAN)(torch.randn(50, 4, 3))
    assert Recurrent(Mixing(3, 6), method=Method.LOOP)(torch.randn(50, 4, 3))[0].isfinite().all()


def test_a_cell_that_draws_random_numbers_is_looped() -> None:
    torch.manual_seed(11)
    recurrent = Recurrent(Noisy(3, 6), method=Method.SCAN)
    recurrent(torch.randn(50, 4, 3))
    assert recurrent.outcome is not None
    assert recurrent.outcome.method is Method.LOOP
    assert recurrent.outcome.reason


@pytest.mark.parametrize("method", WAYS, ids=str)
def test_second_derivatives_and_transforms_are_refused(method: Method) -> None:
    recurrent, x = Recurrent(nn.GRU(3, 4), method=method), torch.randn(20, 2, 3, requires_grad=True)
    with pytest.raises(ws.errors.InputError, match="cannot be differentiated twice"):
        torch.autograd.grad(recurrent(x)[0].sum(), x, create_graph=True)
    with pytest.raises(ws.errors.InputError, match=r"torch\.func"):
        torch.func.vmap(lambda row: recurrent(row)[0])(x[None])


def test_inside_a_chain_it_is_a_site_as_any_other() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Recurrent(nn.GRU(3, 5, batch_first=True).to(DOUBLE), method=Method.SCAN)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.layer(x)[0][:, -1]
            return made

    torch.manual_seed(9)
    module = nn.Sequential(nn.Linear(2, 3).to(DOUBLE), Last(), nn.Linear(5, 2).to(DOUBLE))
    x, target = torch.randn(4, 30, 2, dtype=DOUBLE), torch.randn(4, 2, dtype=DOUBLE)
    wanted = torch.autograd.grad(nn.functional.mse_loss(module(x), target), list(module.parameters()))
    ws.backward(ws.Chain(module, nn.MSELoss()), x, target)
    for parameter, gradient in zip(module.parameters(), wanted, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-11)
