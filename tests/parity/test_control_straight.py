"""Straight-line code of a stage against the same stage in torch: values, derivatives, and what goes in as a field."""

import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from plants import DOUBLE, close, pendulum
from worldsheet.control.compiled.codegen import Straight, straight
from worldsheet.control.compiled.recording import UnknownError
from worldsheet.control.compiled.scalar_ir import scalars
from worldsheet.control.discretized import Discretised
from worldsheet.control.elastic import Elastic
from worldsheet.control.expansion import expand_stages
from worldsheet.control.methods.initial_guess import rollout
from worldsheet.control.methods.stagewise import expanded, valued

C = ws.control
pytestmark = pytest.mark.skipif(
    all(shutil.which(name) is None for name in ("cc", "gcc", "clang")), reason="no C compiler"
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


MIXING = drawn(3, 3, seed=5)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "waves": lambda x: x.sin() * x.cos() + x.tanh(),
    "powers": lambda x: x**2 - 3 * x**3 + (1 + x.abs()) ** 0.7,
    "exponentials": lambda x: (x / 4).exp() + (2 + x.square()).log() - (1 + x.square()).sqrt().reciprocal(),
    "choices": lambda x: torch.where(x > 0.2, x, -x / 2) + x.clamp(-0.5, 0.7),
    "extremes": lambda x: torch.maximum(x, x.flip(-1)) + torch.minimum(x, 0.1 * x) + x.abs(),
    "products": lambda x: x @ MIXING + x.sum(-1, keepdim=True) * x.mean(-1, keepdim=True),
    "zeros": lambda x: torch.nn.functional.pad(0 * x[..., :1] + x[..., 1:2] * 1 - 0 / (1 + x[..., :1] ** 2), (0, 2)),
    "turns": lambda x: torch.stack((torch.atan2(x[..., 0], x[..., 1]), x[..., 2].sigmoid(), x[..., 1] * 0 + 2), -1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_scalar_operations_are_torchs(name: str) -> None:
    function, points = FUNCTIONS[name], drawn(5, 7, 3)  # 35 points: the last lanes are not full
    code = Straight(lambda x: (function(x),), [points[:1, :1]])
    close(code(points)[0], function(points), 1e-14)


def test_fields_may_be_views() -> None:
    points, by = drawn(3, 8, 2, seed=1)[:, ::2], drawn(4, 1, seed=2).expand(3, 4, 1)
    code = Straight(lambda x, y: (x * y,), [points[:1, :1], by[:1, :1]])
    close(code(points, by)[0], points * by, 0.0)


def _turned(state: Tensor, by: Tensor, push: Tensor) -> tuple[Tensor, Tensor]:
    """The next state, and what the stage tells."""
    return 0.5 * state.sin() * by + push.flip(-1), state.sum(-1, keepdim=True) * by


def test_stages_in_turn_begin_with_what_the_one_before_has_made() -> None:
    first, by, push = drawn(5, 1, 2), drawn(6, 1, seed=1).expand(5, 6, 1), drawn(5, 6, 4, seed=2)[..., :2]
    code = Straight(_turned, [first[:1], by[:1, :1], push[:1, :1]], in_turn=True)
    state, told = first[:, 0], list[Tensor]()
    found = code(first, by, push)
    for k in range(6):
        state, tells = _turned(state, by[:, k], push[:, k])
        told.append(tells)
        close(found[0][:, k], state, 1e-14)
    close(found[1], torch.stack(told, 1), 1e-14)


@pytest.mark.parametrize("free", [False, True])
def test_controls_lead_where_torch_says(free: bool) -> None:
    def build(execution: ws.control.Execution) -> Discretised:
        return Discretised.of(
            C.Problem(
                dynamics=_swing,
                running_cost=lambda x, u, t, p: x.square().sum(-1),
                initial_state=drawn(3, 2),
                control_size=1,
                steps=9,
                dt=0.1,
                duration=C.FreeDuration(1.3) if free else None,
                initial_time=0.4,
                parameters=drawn(3, 1, seed=4),
                execution=execution,
            )
        )

    problem, controls = build(C.Eager()), drawn(3, 9, 1, seed=5)
    first = torch.nn.functional.pad(drawn(3, 2, seed=6), (0, problem.free), value=0.2)
    found = rollout(build(C.Compiled()), first, controls)
    close(found, rollout(problem, first, controls), 1e-13)
    points = torch.cat((found[:, :-1], controls), -1)
    close(problem.stages(points)[..., 1 : 1 + problem.size], found[:, 1:], 1e-13)


def test_code_of_single_precision() -> None:
    points = drawn(3, 5, 3).float()
    code = Straight(lambda x: (x.sin() / 3,), [points[:1, :1]])
    assert code(points)[0].dtype is torch.float32
    assert float((code(points)[0] - points.sin() / 3).abs().max()) < 1e-7


def test_nothing_is_written_twice_and_nothing_void() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        eye = torch.eye(2, dtype=DOUBLE)
        return ((x.sin() @ eye) * 1 + 0 * x.exp() + (x.sin() - x.sin()) * 0,)

    found, outputs, _ = scalars(function, [drawn(1, 1, 2)])
    assert [found.table[number][0] for number in outputs[0].flatten().tolist()] == ["sin", "sin"]


def test_an_operation_without_a_scalar_form_has_no_code() -> None:
    one = drawn(1, 1, 3)
    with pytest.raises(UnknownError, match="cumsum"):
        scalars(lambda x: (x.cumsum(-1),), [one])
    assert straight(lambda x: (x.cumsum(-1),), [one]) is None


def _swing(x: Tensor, u: Tensor, t: Tensor, p: Tensor) -> Tensor:
    return torch.stack((x[..., 1] * t, u[..., 0] - p[..., 0] * x[..., 0].sin()), -1)


def test_a_stage_of_time_parameters_and_bounds() -> None:
    seed = 11

    def build(top: float, execution: C.Execution) -> C.Problem:
        return C.Problem(
            dynamics=_swing,
            running_cost=lambda x, u, t, p: x.square().sum(-1) * (1 + t) + p[..., 1] * u.square().sum(-1),
            initial_state=drawn(15, 2, seed=seed),
            initial_time=0.3,
            control_size=1,
            steps=6,
            dt=0.1,
            bounds=(-1.0, top),
            parameters=1 + drawn(15, 2, seed=seed + 1).abs(),
            integrator=C.RK4(),
            path_constraint=lambda x, u, t, p: x[..., :1] * u - t[..., None],
            execution=execution,
        )

    compiled = C.Compiled()
    for top in (0.5, 2.0):  # another bound, the same code
        plain = Discretised.of(build(top, C.Eager()))
        points, weights = drawn(15, 6, 3, seed=seed + 2), drawn(15, 6, 6, seed=seed + 3)
        mine = expanded(Discretised.of(build(top, compiled)), points, weights)
        theirs = expand_stages(plain, points, weights)
        assert mine is not None
        for name in ("values", "jacobian", "gradient", "hessian"):
            close(getattr(mine, name), getattr(theirs, name).expand_as(getattr(mine, name)), 1e-12)
        shorter = torch.stack((points, points / 2))
        found = valued(Discretised.of(build(top, compiled)), shorter)
        assert found is not None
        close(found, plain.stages(shorter), 1e-12)


def test_a_stage_of_limits_that_are_asked_later_at_a_price_and_in_the_end() -> None:
    seed = 21

    def build(execution: C.Execution) -> Discretised:
        return Discretised.of(
            Elastic.of(
                C.Problem(
                    dynamics=_swing,
                    running_cost=lambda x, u, t, p: x.square().sum(-1) + p[..., 1] * u.square().sum(-1),
                    initial_state=drawn(15, 2, seed=seed),
                    control_size=1,
                    steps=6,
                    dt=0.1,
                    parameters=1 + drawn(15, 2, seed=seed + 1).abs(),
                    path_constraint=C.PathLimits(
                        C.PathLimit(lambda x, u, t, p: x[..., :1] * p[..., :1] - t[..., None], first=2),
                        C.PathLimit(lambda x, u, t, p: x * u, price=C.Price(2.0, 3.0), first=(0, 1)),
                    ),
                    terminal_inequality=lambda x, p: x[..., 1:] - p[..., 1:],
                    execution=execution,
                )
            ).problem
        )

    points, weights = drawn(15, 6, 5, seed=seed + 2), drawn(15, 6, 9, seed=seed + 3)
    plain = build(C.Eager())
    mine, theirs = expanded(build(C.Compiled()), points, weights), expand_stages(plain, points, weights)
    for name in ("values", "jacobian", "gradient", "hessian"):
        close(getattr(mine, name), getattr(theirs, name).expand_as(getattr(mine, name)), 1e-12)
    asked = mine.values[..., 3:7]  # after the cost and two states
    assert (asked[0] == -1).tolist() == [[k < 2, False, k < 1, k < 5] for k in range(6)]
    excess = points[..., 3:].clone()
    close(mine.values[..., 7:], -excess, 0.0)


def test_the_pendulum_has_such_code() -> None:
    compiled = C.Compiled()
    problem = C.Problem(**{**vars(pendulum(drawn(4, 2))), "execution": compiled})
    flat = Discretised.of(problem)
    expanded(flat, drawn(4, problem.steps, 3), drawn(4, problem.steps, 3))
    made = compiled.seconds
    assert made > 0
    assert [code is not None for code in compiled._straight.values()] == [True]
