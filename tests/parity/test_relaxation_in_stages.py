"""A relaxation spread over stages against one process: fields, gradients, outcomes and records, bit for bit."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import worldsheet as ws
from nets import grads, law
from relax_process import DYNAMICS, STOP, batch, chain_of
from worldsheet.core.errors import InputError
from worldsheet.pipeline import Plan, relax
from worldsheet.pipeline.relaxation import StagedResult

SCRIPT = Path(__file__).resolve().parents[1] / "relax_process.py"
SOURCE = Path(ws.__file__).resolve().parents[1]
SCHEDULES = {
    "synchronous": ws.Synchronous(),
    "states first": ws.Leapfrog(),
    "costates first": ws.Leapfrog(ws.extend.Field.COSTATE),
    "its own": None,
}


def assert_same(share: StagedResult, whole: ws.Solution) -> None:
    assert share.outcome == whole.outcome
    assert share.loss == whole.loss
    inner = slice(share.sites.start - 1, share.sites.stop - 1)
    fields = (whole.states[inner], share.fields.states), (whole.costates[inner], share.fields.costates)
    for wanted, found in fields:
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    gradients = whole.gradients()
    for name, gradient in share.gradients().items():
        assert torch.equal(gradient, gradients[name]), name


@pytest.mark.parametrize("name", DYNAMICS)
@given(
    schedule=st.sampled_from(list(SCHEDULES)), stages=st.integers(1, 6), ticks=st.integers(0, 9), seed=st.integers(0, 9)
)
@law(5)
def test_a_number_of_ticks_ends_with_the_bits_of_one_process(
    name: str, schedule: str, stages: int, ticks: int, seed: int
) -> None:
    chain, (x, target) = chain_of(seed), batch(seed)
    dynamics = DYNAMICS[name](chain, x, target)
    stop, when = ws.Stop(max_ticks=ticks), SCHEDULES[schedule]
    whole = ws.relax(chain, x, target, dynamics, schedule=when, stop=stop, stack=False)
    share = relax(chain, stages, x, target, dynamics, schedule=when, stop=stop)
    assert_same(share, whole)
    assert share.gradients().keys() == whole.gradients().keys()


@pytest.mark.parametrize("name", DYNAMICS)
def test_a_tolerance_stops_all_stages_at_the_tick_of_one_process(name: str) -> None:
    chain, (x, target) = chain_of(3), batch(3)
    dynamics = DYNAMICS[name](chain, x, target)
    plan, when, records = Plan((0, 1, 4, 6)), ws.Synchronous(), (ws.Record(8), ws.Record(8))
    whole = ws.relax(chain, x, target, dynamics, schedule=when, stop=STOP, record=records[0], stack=False)
    share = relax(chain, plan, x, target, dynamics, schedule=when, stop=STOP, record=records[1])
    assert_same(share, whole)
    assert torch.equal(records[0].state_residuals, records[1].state_residuals)
    assert torch.equal(records[0].costate_residuals, records[1].costate_residuals)


def test_processes_that_own_a_stage_each_end_with_the_bits_of_one(tmp_path: Path) -> None:
    where = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    words = [[sys.executable, str(SCRIPT), str(rank), "2", str(tmp_path / "store"), str(tmp_path)] for rank in range(2)]
    started = [subprocess.Popen(w, env=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for w in words]
    outputs = [process.communicate(timeout=200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    shares = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, make in DYNAMICS.items():
        chain, (x, target) = chain_of(0), batch(0)
        whole = ws.relax(chain, x, target, make(chain, x, target), schedule=ws.Synchronous(), stop=STOP, stack=False)
        for share in (part[name] for part in shares):
            assert share["ticks"] == whole.ticks
            assert share["loss"] == whole.loss
            sites = slice(share["first"] - 1, share["first"] - 1 + len(share["states"]))
            assert all(torch.equal(a, b) for a, b in zip(share["states"], whole.states[sites], strict=True))
            assert all(torch.equal(a, b) for a, b in zip(share["costates"], whole.costates[sites], strict=True))
            gradients = whole.gradients()
            assert all(torch.equal(gradient, gradients[key]) for key, gradient in share["gradients"].items())
        assert sum(len(part[name]["gradients"]) for part in shares) == len(gradients)


def test_every_layer_is_evaluated_and_pulled_through_as_often_as_in_one_process() -> None:
    chain, (x, target) = chain_of(0), batch(0)
    counts = []
    for layer in chain.layers:
        layer.module.register_forward_hook(lambda *_: counts.append(1))
    for when in (ws.Synchronous(), ws.Leapfrog()):
        stop = ws.Stop(max_ticks=5)
        counts.clear()
        ws.relax(chain, x, target, ws.Dyadic(0.7), schedule=when, stop=stop, stack=False)
        alone = len(counts)
        counts.clear()
        relax(chain, 3, x, target, ws.Dyadic(0.7), schedule=when, stop=stop)
        assert len(counts) == alone


def test_arrival_ends_all_stages_where_it_ends_one_process() -> None:
    torch.manual_seed(0)
    chain = ws.Chain(ws.nn.residual_mlp(8, 6, inputs=5, classes=3), ws.nn.HalfSquares())
    x, target = torch.randn(4, 5), torch.eye(3)[[0, 1, 2, 0]]
    dynamics = ws.calibrate(chain, x, target, ws.AugmentedLagrangian())
    stop = ws.Stop(max_ticks=60, arrival=True)
    whole = ws.relax(chain, x, target, dynamics, schedule=ws.Synchronous(), stop=stop, stack=False)
    assert whole.outcome.status is ws.Status.ARRIVED
    assert_same(relax(chain, 3, x, target, dynamics, schedule=ws.Synchronous(), stop=stop), whole)


def test_the_input_s_gradient_and_those_of_complex_layers_come_along() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(3, 3, dtype=torch.complex128) for _ in range(4)))
    chain = ws.Chain(net, lambda output, target: (output - target).abs().square().sum())
    x = torch.randn(2, 3, dtype=torch.complex128, requires_grad=True)
    target = torch.randn(2, 3, dtype=torch.complex128)
    whole = ws.relax(chain, x, target)
    share = relax(chain, 2, x, target)
    assert_same(share, whole)
    assert share.input_gradient is not None
    assert torch.equal(share.input_gradient, whole.input_gradient)


def test_gradients_are_added_like_those_of_backward() -> None:
    chain, (x, target) = chain_of(1), batch(1)
    relax(chain, 2, x, target).accumulate()
    mine = {name: gradient.clone() for name, gradient in grads(chain).items()}
    for parameter in chain.parameters():
        parameter.grad = None
    ws.backward(chain, x, target)
    assert all(torch.equal(mine[name], gradient) for name, gradient in grads(chain).items())


REFUSED: dict[str, dict[str, Any]] = {
    "ws.calibrate": {"dynamics": ws.Wave()},
    "messages are fresh": {"dynamics": ws.Dyadic(), "schedule": ws.schedules.Late(ws.Synchronous(), 1)},
    "one number for each": {"dynamics": ws.Wave(impedance=(1.0, 1.0))},
    "1 to 6 stages": {"stages": 7},
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_cannot_be_spread_is_refused(told: str) -> None:
    chain, (x, target) = chain_of(0), batch(0)
    call: Callable[..., object] = partial(relax, chain, x=x, target=target)
    with pytest.raises(InputError, match=told):
        call(**{"stages": 2, **REFUSED[told]})


def test_a_bad_parameter_is_named_by_its_stage() -> None:
    chain, (x, target) = chain_of(0), batch(0)
    weight: Tensor = next(chain.parameters())
    weight.data[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"0\.weight"):
        relax(chain, 2, x, target)
