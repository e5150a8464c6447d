"""Loops in C for functions of whole arrays, against the same functions in torch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

import worldsheet as ws
from nets import assert_tells, law
from plants import DOUBLE, close, pendulum
from worldsheet.control.compiled import compiling
from worldsheet.control.compiled.codegen import Straight
from worldsheet.control.compiled.loops import BASIC, Loops
from worldsheet.control.compiled.recording import Recorder, UnknownError, ValueAskedError, record
from worldsheet.control.compiled.repeated import Repeated

C = ws.control
pytestmark = pytest.mark.skipif(
    all(shutil.which(name) is None for name in ("cc", "gcc", "clang")), reason="no C compiler"
)
Function = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def same(function: Callable[..., tuple[Tensor, ...]], *arrays: Tensor, within: float = 1e-13) -> None:
    """Code made of some arrays, run on others, is the function."""
    code = Loops(lambda *given: list(function(*given)), [torch.rand_like(array) + 0.1 for array in arrays])
    for mine, theirs in zip(code(list(arrays)), function(*arrays), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert torch.allclose(mine.double(), theirs.double(), within, within, equal_nan=True)


def written(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """What is read before a tensor is written into, and what is a view of it, know their places."""
    whole = x.clone()
    before = whole + 1
    part = whole[..., 1:]
    part -= y[..., 1:]
    whole[:, 0] = y[:, 1]
    return whole, before, part * 2, whole.mT


def derived(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Derivatives that the function asks for itself, twice."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((leaf.sin() * y * leaf[..., :1]).sum(), leaf, create_graph=True)
        (bend,) = torch.autograd.grad(slope.square().sum(), leaf)
    return slope.detach(), bend


FUNCTIONS: dict[str, Function] = {
    "entries": lambda x, y: (x * y - x / (2 + y.square()), (-x).exp() + y.abs().sqrt(), 3 - x, 1 / (x.abs() + 1)),
    "powers": lambda x, y: (x**2, x**3, x.abs() ** 0.5, (1 + x.abs()) ** -2, x.abs() ** 1.7, (1 + x.abs()) ** y),
    "choices": lambda x, y: (torch.where(x > y, x, 2.0), x.clamp(-0.3, 0.4), x.clamp(min=y), torch.maximum(x, y)),
    "truths": lambda x, y: ((x > 0) & ~(y > 0) | (x == y), (x > 0).all(-1), (x > 2).any(), (x > y).sum(0)),
    "totals": lambda x, y: (x.sum(), x.mean(0), (x * y).sum((0, 2)), x.abs().amax(1, keepdim=True), y.amin((1, 2))),
    "products": lambda x, y: (x @ y.mT, (x[..., None, :] @ y[..., None])[..., 0, 0], x.mT @ (2 * y)),
    "places": lambda x, y: (
        x.permute(2, 0, 1).reshape(-1),
        x.mT.flatten(1),
        torch.cat((x[:, ::2], y), 1),
        x[..., [2, 0]],
    ),
    "margins": lambda x, y: (pad(x, (1, 0, 0, 2)), torch.stack((x, y), 1), x[:, 1:2].expand(-1, 4, -1) * y[:, :1]),
    "orders": lambda x, y: (x.sort(1).values, y.argmax(1), (x * y).sort(0).values, x.mT.argmax(-1, keepdim=True)),
    "turns": lambda x, y: (torch.atan2(x, y), x.sigmoid(), x.tanh(), x.sin() + x.cos()),
    "no numbers": lambda x, y: ((x / (y > 0)).isinf(), (x.abs().sqrt() * x.sqrt()).isnan(), (1 / x.relu()).isfinite()),
    "written": written,
    "derived": derived,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shape", [(2, 4, 3), (1, 5, 3), (3, 2, 4)])
def test_loops_are_torchs_operations(name: str, shape: tuple[int, int, int]) -> None:
    same(FUNCTIONS[name], drawn(*shape), drawn(*shape, seed=1))


@law(25)
@given(
    st.permutations(range(4)), st.lists(st.integers(1, 4), min_size=4, max_size=4), st.integers(0, 3), st.integers(0, 3)
)
def test_views_of_views_know_their_places(order: list[int], shape: list[int], over: int, at: int) -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        turned = (x * 2).permute(order)
        chosen = turned.select(over, at % turned.shape[over])
        return chosen.sum(-1), chosen[..., None, :].expand(*chosen.shape[:-1], 3, -1).mean(-2), turned.flatten(1) + 1

    same(function, drawn(*shape), within=1e-12)


def test_what_is_not_finite_is_torchs() -> None:
    x = torch.tensor([[1.0, torch.nan, -torch.inf], [torch.inf, 0.0, -0.0]], dtype=DOUBLE)
    y = torch.tensor([[torch.nan, 1.0, 2.0], [0.0, torch.nan, 1.0]], dtype=DOUBLE)
    same(lambda x, y: (torch.maximum(x, y), torch.minimum(x, y), x.amax(0), x.amin(1), x.clamp(-1, 1)), x, y)
    same(lambda x: (x.nan_to_num(7.0, 8.0, 9.0), x.isfinite(), x.sort(1).values, x.argmax(1), x.abs()), x)


def test_what_comes_in_goes_out_as_it_is() -> None:
    code = Loops(lambda x, y: [y, x + 1, x.clone(), y[0:1]], [drawn(2, 3), drawn(1, 3)])
    x, y = drawn(2, 3, seed=3), drawn(1, 3, seed=4)
    same_, more, copied, part = code([x, y])
    assert same_ is y
    assert more.data_ptr() != x.data_ptr()
    close(copied, x, 0.0)
    close(part, y, 0.0)


def test_a_constant_is_what_it_was_when_it_was_used() -> None:
    def function(x: Tensor) -> list[Tensor]:
        weight = torch.ones(3, dtype=DOUBLE)
        first = x * weight
        weight[1] = 5.0
        return [first, x * weight, weight]

    code = Loops(function, [drawn(2, 3)])
    x = drawn(2, 3, seed=1)
    for mine, theirs in zip(code([x]), function(x), strict=True):
        close(mine, theirs, 0.0)


def test_a_tensor_that_is_closed_over_is_compared() -> None:
    factor = torch.tensor([2.0, 3.0], dtype=DOUBLE)
    code = Loops(lambda x: [x * factor + torch.ones(2, dtype=DOUBLE)], [drawn(4, 2)])
    code.constants.check()
    factor[0] = 1.0
    with pytest.raises(ws.errors.InputError) as refusal:
        code.constants.check()
    assert_tells(refusal.value, "a tensor of shape (2,)", "changed since they were compiled", "Problem.parameters")


def test_an_argument_that_is_closed_over_as_well_is_two_things() -> None:
    x = drawn(3)
    code = Loops(lambda y: [y * x], [x])
    close(code([2 * x])[0], 2 * x * x, 0.0)


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (lambda x: [x if x.sum() > 0 else -x], ValueAskedError, "a branch"),
        (lambda x: [x * float(x[0])], ValueAskedError, "a number made of it"),
        (lambda x: [x.cumsum(0)], UnknownError, "cumsum"),
        (lambda x: [x[x > 0]], UnknownError, "depend on values"),
        (lambda x: [x.add_(1)], UnknownError, "from outside"),
        (lambda x: [torch.zeros_like(x).copy_(x)], UnknownError, "constant"),
        (lambda x: [x.float() * 2], UnknownError, "several kinds"),
    ],
)
def test_what_has_no_loop_is_refused(
    function: Callable[[Tensor], list[Tensor]], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        Loops(function, [drawn(4).abs()])


def test_an_operation_of_several_is_recorded_as_those() -> None:
    basic = frozenset({torch.ops.aten.mul, torch.ops.aten.add})
    recording = record(lambda x: [torch.addcmul(x, x, x)], [drawn(2)], basic)
    assert {call.packet for call in recording.calls} <= basic


def test_single_precision_stays_single() -> None:
    x = drawn(3, 4).float()
    (found,) = Loops(lambda x: [x.sin() * 0.1 + x.mean(1, keepdim=True)], [x])([x])
    assert found.dtype is torch.float32
    assert float((found - (x.sin() * 0.1 + x.mean(1, keepdim=True))).abs().max()) < 1e-6


@pytest.mark.parametrize("needed", [True, False])
def test_a_branch_is_taken_where_it_is_needed(needed: bool) -> None:
    """What is first asked for within is known behind, whichever way was taken."""
    recorder = Recorder(BASIC)

    def within(longer: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return longer.mT @ x, (longer * 2).amax(0)

    def function(x: Tensor, flag: Tensor) -> list[Tensor]:
        longer = (x.sin() + 1) * x  # no more than an expression, before it is asked for
        product, largest = recorder.branch(flag, within, (longer, x), (x.mT @ x, x[0]))
        return [product + 1, largest, longer.sum(0), longer]

    x, flag = drawn(4, 3), torch.tensor([needed])
    code = Loops(function, [x + 1, ~flag], recorder)
    longer = (x.sin() + 1) * x
    product, largest = within(longer, x) if needed else (x.mT @ x, x[0])
    for mine, theirs in zip(code([x, flag]), (product + 1, largest, longer.sum(0), longer), strict=True):
        close(mine, theirs, 1e-14)


def test_a_branch_writes_into_nothing_from_outside() -> None:
    recorder = Recorder(BASIC)

    def function(x: Tensor, flag: Tensor) -> list[Tensor]:
        whole = x.clone()
        return list(recorder.branch(flag, lambda part: (part.add_(1),), (whole,), (x,)))

    with pytest.raises(UnknownError, match="outside of a branch"):
        Loops(function, [drawn(3), torch.tensor([True])], recorder)


def test_code_calls_other_code() -> None:
    """Fields go in as they lie, where their last entries follow each other, and else in order."""
    factor, recorder = torch.tensor([2.0, 3.0], dtype=DOUBLE), Recorder(BASIC)
    stage = Straight(lambda x, y: (x.sin() * y, factor * y), [drawn(1, 1, 2), drawn(1, 1, 2)])

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        first, second = recorder.call(stage, (x[:, 1:].transpose(0, 1), y.mT.expand(4, 3, 2)))
        return [first + 1, second.sum(1), x * 2]

    x, y = drawn(3, 5, 2, seed=1), drawn(2, 3, seed=2)
    code = Loops(function, [drawn(3, 5, 2), drawn(2, 3)], recorder)
    wide = y.mT.expand(4, 3, 2)
    wanted = (x[:, 1:].transpose(0, 1).sin() * wide + 1, (factor * wide).sum(1), x * 2)
    for mine, theirs in zip(code([x, y]), wanted, strict=True):
        close(mine, theirs, 1e-14)
    factor[1] = 0.0
    with pytest.raises(ws.errors.InputError, match="changed since they were compiled"):
        code.constants.check()


def test_each_of_a_batch_goes_on_as_long_as_it_has_to() -> None:
    """Newton's method for a root, in step with nobody; a field is shared, another one is not moved."""
    recorder = Recorder(BASIC)

    def function(x: Tensor, count: Tensor, power: Tensor, wanted: Tensor) -> list[Tensor]:
        after = x - (x**power - wanted) / (power * x ** (power - 1))
        return [after, count + 1, power, ((after - x).abs() > 1e-12).any(-1)]

    wanted, power = drawn(6, 2, seed=3).exp(), torch.tensor([[2.0], [3.0], [5.0], [2.0], [7.0], [1.0]], dtype=DOUBLE)
    x, count = torch.ones(6, 2, dtype=DOUBLE), torch.zeros(6, dtype=torch.long)
    code = Repeated(function, [x[:1], count[:1], power[:1] + 1, wanted[:1]], 3, recorder)
    state = [x.clone(), count.clone(), power.clone()]
    code([*state, wanted], [True] * 4)
    close(state[0] ** power, wanted, 1e-12)
    assert torch.equal(state[2], power)
    for k in range(6):
        one, ticks, moved = x[k : k + 1], count[k : k + 1], True
        while moved:
            after, more, _, flag = function(one, ticks, power[k : k + 1], wanted[k : k + 1])
            moved = bool(flag)
            one, ticks = (after, more) if moved else (one, ticks)
        close(state[0][k : k + 1], one, 1e-13)
        assert int(state[1][k]) == int(ticks)
    assert len(set(state[1].tolist())) > 2


def test_a_state_whose_parts_change_places_has_no_such_code() -> None:
    with pytest.raises(UnknownError, match="change places"):
        Repeated(lambda x, y: [y, x, x.sum(-1) > 0], [drawn(1, 2), drawn(1, 2)], 2, Recorder(BASIC))


def test_a_solve_by_loops_is_that_of_torch() -> None:
    starts = torch.tensor([[0.8, 0.0], [-1.0, 0.5], [2.0, -1.0]], dtype=DOUBLE)
    plain = pendulum(starts, 12, C.RK4(), (-3.0, 2.0))
    mine, theirs = C.solve(C.Problem(**{**vars(plain), "execution": C.Compiled()})), C.solve(plain)
    assert mine.converged.all()
    assert mine.ticks.tolist() == theirs.ticks.tolist()
    close(mine.states, theirs.states, 1e-7)
    close(mine.costates, theirs.costates, 1e-6)


def test_making_code_asks_for_no_part_of_torch_that_takes_seconds() -> None:
    text = (
        "import sys, torch; from worldsheet.control.compiled.loops import Loops;"
        "Loops(lambda x: [x.sin() * 2], [torch.rand(3)]); assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True
    )


def test_code_that_returns_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in what writes loops costs time, and no wrong number."""
    made = Loops.__call__
    generated: list[int] = []

    def by_torch(function: Callable[..., list[Tensor]], leaves: list[Tensor]) -> object:
        generated.append(len(leaves))
        return (lambda given: function(*given)), record(function, leaves, frozenset()).constants

    monkeypatch.setattr(Loops, "__call__", lambda self, leaves: [part + 1e-3 for part in made(self, leaves)])
    monkeypatch.setattr(compiling, "_generated", by_torch)
    x = drawn(4, 3)
    assert torch.equal(C.Compiled().run(torch.sin, x), x.sin())
    assert generated == [1]


def test_code_may_differ_from_its_function_by_rounding_alone() -> None:
    given, nothing = torch.full((3,), 5.0, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)
    assert compiling.agrees([nothing + 4e-16], [nothing], [given])  # what is left of large numbers that cancel
    assert not compiling.agrees([nothing + 1e-9], [nothing], [given])
    assert compiling.agrees([given + 1e-9], [given], [])
    assert not compiling.agrees([given + 1e-6], [given], [])
    assert not compiling.agrees([given * torch.nan], [given], [given])
    assert not compiling.agrees([given > 4], [given > 5], [given])
