"""Equal sites moved as one give the numbers of sites moved one by one."""

from collections.abc import Callable, Sequence
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from benchmarks.forgetful import Uncached
from nets import law
from worldsheet.engine import Engine, StackedBlock, engine_for
from worldsheet.solve.gradients import sum_uses

DYNAMICS = [ws.Dyadic(0.7), ws.Dyadic(), ws.Wave(0.5), ws.PredictiveCoding(), ws.AugmentedLagrangian()]


def squares(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(1).mean()


def networks() -> dict[str, nn.Sequential]:
    torch.manual_seed(0)

    def turn(width: int, bias: bool = True) -> nn.Linear:
        linear = nn.Linear(width, width, bias=bias)  # norm-keeping, so that no dynamics is unstable behind a layer norm
        nn.init.orthogonal_(linear.weight)
        return linear

    shared = nn.Sequential(nn.Linear(5, 5), nn.Sigmoid())
    return {
        "mlp": nn.Sequential(
            nn.Linear(6, 5), nn.Tanh(), *[nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(5)], nn.Linear(5, 3)
        ),
        "residual": nn.Sequential(nn.Linear(6, 5), *[ws.nn.ResidualLinear(5, 0.3) for _ in range(4)], nn.Linear(5, 3)),
        "tied": nn.Sequential(nn.Linear(6, 5), shared, shared, shared, nn.Linear(5, 3)),
        "two runs": nn.Sequential(
            *[turn(6, bias=False) for _ in range(3)],
            nn.LayerNorm(6),
            *[nn.Sequential(turn(6), nn.ReLU()) for _ in range(3)],
            nn.Linear(6, 3),
        ),
    }


@pytest.mark.parametrize("name", list(networks()))
@pytest.mark.parametrize("dynamics", DYNAMICS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("ticks", [1, 6, 25])
def test_stacked_equals_unstacked(name: str, dynamics: ws.dynamics.Dynamics, ticks: int) -> None:
    chain = ws.Chain(networks()[name].double(), squares)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    target = torch.randn(4, 3, dtype=torch.float64)
    schedule = None if dynamics.character.leads else ws.Synchronous()
    one, many = (
        ws.relax(
            chain,
            x,
            target,
            dynamics,
            schedule=schedule,
            stop=ws.Stop(max_ticks=ticks),
            record=ws.Record(),
            stack=stack,
        )
        for stack in (True, False)
    )
    assert one.record is not None and many.record is not None
    pairs = [*zip(one.states + one.costates, many.states + many.costates, strict=True)]
    pairs += [(gradient, many.gradients()[name]) for name, gradient in one.gradients().items()]
    pairs += [(one.input_gradient, many.input_gradient)]
    pairs += [(one.record.state_residuals, many.record.state_residuals)]
    pairs += [(one.record.costate_residuals, many.record.costate_residuals)]
    for ours, theirs in pairs:
        assert float((ours - theirs).norm()) <= 1e-9 * float(theirs.norm()) + 1e-14


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[nn.Module], int]:
    """Runs of equal sites with lone ones between, tied and frozen parameters, and every activation that stacks."""
    inputs = width = draw(st.integers(1, 4))
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        kind, count = draw(st.sampled_from(["linear", "site", "residual", "norm", "wider"])), draw(st.integers(1, 4))
        if kind == "norm":
            layers.append(nn.LayerNorm(width))
        elif kind == "wider":
            wide = draw(st.integers(1, 4))
            layers.append(nn.Linear(width, wide))
            width = wide
        elif kind == "linear":
            bias = draw(st.booleans())
            layers += [nn.Linear(width, width, bias=bias) for _ in range(count)]
        elif kind == "site":
            curve = draw(st.sampled_from([nn.Tanh, nn.ReLU, nn.Sigmoid]))
            inner = draw(st.integers(1, 4))
            made = [nn.Sequential(nn.Linear(width, inner), curve(), nn.Linear(inner, width)) for _ in range(count)]
            layers += made[:1] * count if draw(st.booleans()) else made
        else:
            phi = draw(st.sampled_from(list(ws.nn.Nonlinearity)))
            layers += [ws.nn.ResidualLinear(width, 0.3, phi) for _ in range(count)]
    for parameter in nn.ModuleList(layers).parameters():
        parameter.requires_grad_(draw(st.sampled_from([True, True, False])))
    return [*layers, nn.Linear(width, 2)], inputs


RUNNING = [
    (ws.Dyadic(0.7), ws.Synchronous()),
    (ws.PredictiveCoding(0.2), ws.Leapfrog()),
    (ws.PredictiveCoding(0.2), ws.CreditFront(ws.extend.Field.STATE)),
    (ws.PredictiveCoding(0.7, prediction=ws.dynamics.Prediction.FIXED), ws.Synchronous()),
    (ws.PredictiveCoding(0.2, nudge=0.5), ws.Leapfrog()),
    (ws.AugmentedLagrangian(0.2), ws.Leapfrog(ws.extend.Field.COSTATE)),
    (ws.AugmentedLagrangian(0.2, dual_rate=0.7, penalty=1.3, averaged=False), ws.CreditFront()),
]


@pytest.mark.parametrize(("dynamics", "schedule"), RUNNING)
@law(12)
@given(data=st.data())
def test_any_chain_gives_the_same_numbers_stacked_moved_by_coefficients_and_asked_by_views(
    dynamics: ws.dynamics.Dynamics, schedule: ws.schedules.Schedule, data: st.DataObject
) -> None:
    torch.manual_seed(data.draw(st.integers(0, 99)))
    modules, inputs = data.draw(chains())
    rows_only = any(isinstance(module, ws.nn.ResidualLinear) for module in modules)
    shape = (3,) if rows_only else data.draw(st.sampled_from([(3,), (2, 2)]))
    chain = ws.Chain(nn.Sequential(*modules).double(), nn.MSELoss())
    x = torch.randn(*shape, inputs, dtype=torch.float64, requires_grad=data.draw(st.booleans()))
    target = torch.randn(*shape, 2, dtype=torch.float64)
    stop = ws.Stop(max_ticks=data.draw(st.integers(1, 7)))
    alone, moved, asked = (
        ws.relax(chain, x, target, law_of_motion, schedule=schedule, stop=stop, stack=stack)
        for law_of_motion, stack in ((dynamics, False), (dynamics, True), (Uncached(dynamics), True))
    )
    for other in (moved, asked):
        pairs = [*zip(other.states + other.costates, alone.states + alone.costates, strict=True)]
        assert other.gradients().keys() == alone.gradients().keys()
        pairs += [(other.gradients()[name], gradient) for name, gradient in alone.gradients().items()]
        if x.requires_grad:
            pairs.append((other.input_gradient, alone.input_gradient))
        largest = max(float(theirs.norm()) for _, theirs in pairs)
        for ours, theirs in pairs:
            assert float((ours - theirs).norm()) <= 1e-9 * float(theirs.norm()) + 1e-13 * largest


@pytest.mark.parametrize(("dynamics", "schedule"), RUNNING)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("below", [0, 1])
def test_equal_layers_without_a_closed_form_at_the_bottom(
    dynamics: ws.dynamics.Dynamics, schedule: ws.schedules.Schedule, count: int, below: int
) -> None:
    """Of two the lower one is the input's, whose prediction never changes, and the other stands alone."""
    torch.manual_seed(0)
    modules = [*(nn.Linear(3, 3) for _ in range(below)), *(nn.LayerNorm(3) for _ in range(count)), nn.Linear(3, 2)]
    chain = ws.Chain(nn.Sequential(*modules).double(), nn.MSELoss())
    x, target = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    for ticks in (1, 2, 5):
        alone, stacked = (
            ws.relax(chain, x, target, dynamics, schedule=schedule, stop=ws.Stop(max_ticks=ticks), stack=stack)
            for stack in (False, True)
        )
        for ours, theirs in zip(stacked.states + stacked.costates, alone.states + alone.costates, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


class Seen(ws.extend.View):
    """A site below the output with given fields and messages."""

    state = costate = prediction = pulled = torch.empty(0)
    samples, at_output = 3, False

    def __init__(self, dynamics: ws.dynamics.Dynamics, *tensors: Tensor) -> None:
        self.dynamics = dynamics
        self.state, self.costate, self.prediction, self.pulled = tensors

    @property
    def credit(self) -> Tensor:
        return self.dynamics.credit(self)

    @property
    def state_residual(self) -> Tensor:
        return self.prediction - self.state

    def own(self, values: Sequence[float]) -> float:
        return values[0]

    def absorbed(self, point: Tensor, step: float) -> Tensor:
        return point / (1 + step)


@pytest.mark.parametrize(("dynamics", "_"), RUNNING)
def test_coefficients_are_the_moves_of_a_site(dynamics: ws.dynamics.Dynamics, _: ws.schedules.Schedule) -> None:
    view = Seen(dynamics, *torch.randn(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    table = dynamics.coefficients(view.samples)
    assert table is not None
    assert table.credit.credit == table.credit.pulled == 0
    zero = torch.zeros_like(view.state)
    sources = torch.stack([view.state_residual, view.costate, view.credit, view.pulled])
    for mix, before, after in (
        (table.state, view.state, dynamics.state(view)),
        (table.costate, view.costate, dynamics.costate(view)),
        (table.credit, zero, view.credit),
    ):
        torch.testing.assert_close(before + torch.tensordot(torch.tensor(mix).double(), sources, 1), after)


@pytest.mark.parametrize("activation", ws.nn.Nonlinearity)
def test_a_residual_layers_closed_form_is_autograds(activation: ws.nn.Nonlinearity) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(*[ws.nn.ResidualLinear(4, 0.4, activation) for _ in range(3)]).double()
    chain = ws.Chain(model, squares)
    x, target = torch.randn(2, 6, 4, dtype=torch.float64)
    for schedule in (ws.Wavefront(), ws.Synchronous()):
        sol = ws.relax(chain, x, target, schedule=schedule)
        assert ws.compare(chain, x, target, sol).relative_error < 1e-13


@pytest.mark.parametrize("activation", ws.nn.Nonlinearity)
def test_the_residual_mlp_is_the_network_of_its_formula(activation: ws.nn.Nonlinearity) -> None:
    torch.manual_seed(1)
    model = ws.nn.residual_mlp(4, 6, activation, inputs=9, classes=3).double()
    phi = {"LINEAR": lambda z: z, "TANH": torch.tanh, "RELU": torch.relu}[activation.name]
    x, target = torch.randn(5, 9, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    first, one, two, last = (layer.get_parameter("weight") for layer in model)
    z = x @ first.t() / 9**0.5
    for weight in (one, two):
        z = z + phi(z) @ weight.t() / (6 * 4) ** 0.5
    torch.testing.assert_close(model(x), phi(z) @ last.t() / 6, rtol=1e-13, atol=1e-13)
    chain = ws.Chain(model, squares)
    assert ws.compare(chain, x, target, ws.relax(chain, x, target)).relative_error < 1e-13


LOOKS: dict[str, Callable[[Engine], Sequence[Tensor]]] = {
    "fields": lambda engine: [*engine.fields.states, *engine.fields.costates],
    "loss": lambda engine: [engine.loss],
    "residual": lambda engine: [engine.residual().states, engine.residual().costates],
    "ends": lambda engine: [torch.tensor(engine.credit_at_ends())],
    "efforts": lambda engine: [
        effort for _, effort in sorted(sum_uses(engine.efforts()), key=lambda pair: id(pair[0]))
    ],
}


@pytest.mark.parametrize(("dynamics", "schedule"), RUNNING)
@pytest.mark.parametrize("looks", [["fields"], ["residual", "loss"], ["loss", "ends", "efforts"]])
def test_whoever_looks_between_planned_ticks_sees_this_moment_and_changes_nothing(
    dynamics: ws.dynamics.Dynamics, schedule: ws.schedules.Schedule, looks: list[str]
) -> None:
    torch.manual_seed(2)
    chain = ws.Chain(networks()["mlp"].double(), nn.MSELoss())
    x, target = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    looked, left_alone, one_by_one = (
        engine_for(chain, x, target, dynamics, schedule, keep=True, stack=stack) for stack in (True, True, False)
    )
    with torch.no_grad():
        for engine in (looked, left_alone, one_by_one):
            engine.start(None)
        for index, tick in enumerate(islice(schedule.ticks(looked.topology), 9)):
            for engine in (looked, left_alone, one_by_one):
                engine.move(tick)
            for look in looks if index % 3 else ():  # sometimes two planned ticks follow each other
                for ours, theirs in zip(LOOKS[look](looked), LOOKS[look](one_by_one), strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)
        for ours, theirs in zip(LOOKS["fields"](looked), LOOKS["fields"](left_alone), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("look", LOOKS)
def test_a_block_without_fields_refuses_to_be_looked_at(look: str) -> None:
    chain = ws.Chain(networks()["mlp"].double(), nn.MSELoss())
    x, target = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(ws.errors.InputError, match="before it was started"):
        LOOKS[look](StackedBlock(chain, x, target, ws.PredictiveCoding(0.2)))
