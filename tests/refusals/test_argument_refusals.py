"""What the verbs and their options refuse before anything moves; `.grad` is never half-filled."""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import Order, assert_tells, asynchronous, every_order, grad, tanh_net


@pytest.mark.parametrize(
    ("make", "fragments"),
    [
        pytest.param(
            lambda: ws.Dyadic(0.0), ["Dyadic: rate must be strictly between 0 and 2, got 0.0", "rate=1"], id="rate-0"
        ),
        pytest.param(lambda: ws.Dyadic(2.0), ["strictly between 0 and 2, got 2.0"], id="rate-2"),
        pytest.param(lambda: ws.Dyadic(-1.0), ["strictly between 0 and 2, got -1.0"], id="rate-negative"),
        pytest.param(lambda: ws.Dyadic(nan), ["strictly between 0 and 2, got nan"], id="rate-nan"),
        pytest.param(lambda: ws.Dyadic(inf), ["strictly between 0 and 2, got inf"], id="rate-inf"),
        pytest.param(
            lambda: ws.Stop(max_ticks=-1), ["Stop: max_ticks must not be negative, got -1"], id="negative-ticks"
        ),
        pytest.param(
            lambda: ws.Stop(tol=-1e-3), ["Stop: tol must not be negative, got -0.001", "1e-6"], id="negative-tol"
        ),
        pytest.param(lambda: ws.Stop(tol=nan), ["Stop: tol must not be negative, got nan"], id="nan-tol"),
        pytest.param(lambda: ws.Stop(every=0), ["Stop: every must be at least 1, got 0"], id="stop-every-0"),
        pytest.param(
            lambda: ws.Record(every=0), ["Record: every must be at least 1, got 0", "every=1"], id="record-every-0"
        ),
        pytest.param(lambda: asynchronous(0, -1), ["max_delay must not be negative, got -1"], id="future-messages"),
        pytest.param(
            lambda: ws.Sweep(0), ["Sweep: count must be at least 1, got 0", "or None", "Sweep()"], id="no-sweep"
        ),
        pytest.param(lambda: ws.Sweep(-2), ["Sweep: count must be at least 1, got -2"], id="negative-sweep"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(make: Callable[[], Any], fragments: list[str]) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        make()
    assert_tells(refusal.value, *fragments)


@pytest.mark.parametrize("verb", [ws.relax, ws.backward])
@pytest.mark.parametrize("schedule", [ws.Wavefront(), ws.Sweep()], ids=["wavefront", "sweep"])
def test_a_schedule_that_moves_once_is_refused_at_a_slow_rate(
    schedule: ws.schedules.Schedule, verb: Callable[..., Any]
) -> None:
    net = tanh_net(2)
    with pytest.raises(ws.errors.InputError) as refusal:
        verb(net.chain, net.x, net.target, ws.Dyadic(0.5), schedule=schedule)
    assert_tells(refusal.value, type(schedule).__name__, "Dyadic(rate=0.5)", "Synchronous()", "Sweep(count=None)")


@pytest.mark.parametrize("verb", [ws.relax, ws.backward])
def test_inputs_that_cannot_be_relaxed_are_refused(verb: Callable[..., Any]) -> None:
    net = tanh_net(2)
    with pytest.raises(ws.errors.InputError) as refusal:
        verb(net.chain, net.x.requires_grad_() * 2, net.target)
    assert_tells(
        refusal.value,
        "requires grad and is the output of another computation",
        "a leaf tensor",
        "x.detach().requires_grad_()",
    )
    with torch.inference_mode():
        with pytest.raises(ws.errors.InputError) as refusal:
            verb(net.chain, net.x, net.target)
        assert_tells(refusal.value, "inference_mode", "no_grad")
        made = net.x.detach().clone()
    with pytest.raises(ws.errors.InputError, match="its input was made there"):
        verb(net.chain, made, net.target)


def test_the_remedy_for_an_input_inside_a_computation_works() -> None:
    net = tanh_net(2)
    below = nn.Linear(4, 4, dtype=torch.float64)
    wanted = torch.autograd.grad(net.loss(net.module(below(net.x)), net.target), list(below.parameters()))
    x = below(net.x)
    h = x.detach().requires_grad_()
    ws.backward(net.chain, h, net.target)
    x.backward(h.grad)
    torch.testing.assert_close([p.grad for p in below.parameters()], list(wanted), rtol=1e-12, atol=1e-15)


@every_order
@pytest.mark.parametrize("verb", [ws.relax, ws.backward])
@pytest.mark.parametrize(
    ("place", "name", "bad"),
    [
        ("input", "the input", nan),
        ("input", "the input", -inf),
        ("0.0.weight", "parameter 0.0.weight", nan),
        ("2.weight", "parameter 2.weight", inf),
        ("2.bias", "parameter 2.bias", nan),
        ("2.bias", "parameter 2.bias", -inf),
    ],
)
def test_what_is_not_finite_is_named_and_no_grad_is_touched(
    place: str, name: str, bad: float, verb: Callable[..., Any], order: Order
) -> None:
    net = tanh_net(3)
    for parameter in net.chain.parameters():
        parameter.grad = torch.ones_like(parameter)
    victim = net.x if place == "input" else net.module.get_parameter(place).data
    victim.view(-1)[1] = bad
    with pytest.raises(ws.errors.InputError) as refusal:
        verb(net.chain, net.x, net.target, schedule=order())
    assert_tells(refusal.value, f"{name} is not finite: 1 of {victim.numel()} entries", "finite numbers")
    assert all(grad(p).equal(torch.ones_like(p)) for p in net.chain.parameters())


@every_order
def test_a_loss_that_overflows_is_refused_and_no_grad_is_touched(order: Order) -> None:
    def overflowing(output: Tensor, target: Tensor) -> Tensor:
        return (output * 1e200).square().sum()

    net = tanh_net(2)
    with pytest.raises(ws.errors.RelaxationError) as refusal:
        ws.backward(ws.Chain(net.module, overflowing), net.x, net.target, schedule=order())
    assert_tells(
        refusal.value, "the loss is inf, though the input and all parameters are finite", "lower the learning rate"
    )
    assert all(p.grad is None for p in net.chain.parameters())


def test_an_empty_batch_is_refused_before_its_mean_is_nan() -> None:
    net = tanh_net(2)
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.backward(net.chain, net.x[:0], net.target[:0])
    assert_tells(refusal.value, "the batch is empty: the input has shape (0, 4)", "drop_last=True")


@pytest.mark.parametrize("schedule", [ws.Synchronous(), ws.Wavefront()], ids=["synchronous", "wavefront"])
def test_initial_fields_of_other_shapes_are_refused(schedule: ws.schedules.Schedule) -> None:
    net = tanh_net(3)
    fields = ws.relax(net.chain, net.x[:2], net.target[:2]).fields
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.relax(net.chain, net.x, net.target, schedule=schedule, initial=fields)
    assert_tells(refusal.value, "initial fields have shapes [(2, 4), (2, 4), (2, 4)]", "(3, 4)", "initial=sol.fields")
    with pytest.raises(ws.errors.InputError, match="initial fields have shapes"):
        ws.relax(
            net.chain,
            net.x[:2],
            net.target[:2],
            schedule=schedule,
            initial=ws.Fields(fields.states[:2], fields.costates[:2]),
        )


def test_fields_that_do_not_pair_are_refused() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 4)
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.Fields((a, b), (a,))
    assert_tells(refusal.value, "one costate per state, got 2 states and 1 costates", "leave out the input")
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.Fields((a, b), (a, a))
    assert_tells(refusal.value, "the costate of site 2 has shape (2, 3), its state has (2, 4)")


def test_comparing_with_another_chain_or_target_is_refused() -> None:
    net, other = tanh_net(2), tanh_net(2, seed=1)
    sol = ws.relax(net.chain, net.x, net.target)
    for chain, target in ((other.chain, net.target), (net.chain, net.target.clone())):
        with pytest.raises(ws.errors.InputError) as refusal:
            ws.compare(chain, net.x, target, sol)
        assert_tells(refusal.value, "the solution belongs to another chain or target", "the very objects")
