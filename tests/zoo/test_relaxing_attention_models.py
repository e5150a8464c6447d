"""Models of `transformers` relax like any other: from anywhere to backprop's gradients, in twice their depth."""

from functools import partial

import pytest

pytest.importorskip("transformers")

import worldsheet as ws
from nets import asynchronous, random_fields, topology_of
from zoo.answers import SEED, assert_same, autograd, everywhere, generators, left_by, made, relaxed, seed_all
from zoo.attention_models import ONE_KIND, TWO_KINDS, loss_of_everything, problem

pytestmark = pytest.mark.usefixtures("full_precision")

models = pytest.mark.parametrize("name", [*(f"{name}-eager" for name in TWO_KINDS), *ONE_KIND])


@models
def test_random_fields_become_those_of_backprop(name: str) -> None:
    make = partial(problem, name, train=True)
    like, _ = relaxed(make)
    sol, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert sol.outcome.converged
    assert sol.ticks == 2 * topology_of(sol).depth
    assert_same(ours, autograd(make), 1e-9)


def test_old_messages_survive_a_forward_that_writes_into_its_input() -> None:
    make = partial(problem, "whisper-eager", train=True)
    like, _ = relaxed(make)
    sol, ours = relaxed(make, schedule=asynchronous(1, 1), initial=random_fields(like.fields, 1))
    assert sol.outcome.converged
    assert_same(ours, autograd(make), 1e-9)


def test_a_forward_that_divides_its_weights_the_first_time_is_refused_and_fine_afterwards() -> None:
    plain = made(partial(problem, "rwkv", train=False))
    chain = ws.Chain(plain.module, plain.loss)
    with pytest.raises(ws.errors.LayerError, match="writes into its parameters"):
        ws.relax(chain, plain.x, None)
    sol = ws.relax(chain, plain.x, None, schedule=ws.Synchronous())  # the refused call was the first
    assert sol.outcome.converged
    plain.called().backward()
    for name, parameter in plain.module.named_parameters():
        if parameter.grad is not None:
            assert float((sol.gradients()[name] - parameter.grad).norm()) <= 1e-9 * float(parameter.grad.norm()), name


@pytest.mark.parametrize("name", ["gpt2-eager", "t5-eager", "clip-sdpa"])
def test_hidden_states_that_a_forward_collects_with_hooks_are_collected_once(name: str) -> None:
    make = partial(problem, name, train=True, loss=loss_of_everything, output_hidden_states=True)
    like, _ = relaxed(make)
    sol, ours = relaxed(make, schedule=ws.Synchronous(), initial=random_fields(like.fields, 1))
    assert sol.outcome.converged
    assert_same(ours, autograd(make), 1e-9)


@models
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_a_model_whose_sites_were_looked_at_behaves_as_if_they_were_not(name: str, train: bool) -> None:
    make = partial(problem, name, train=train, loss=loss_of_everything, output_hidden_states=True)
    looked = made(make)
    before = generators()
    if name == "rwkv" and not train:
        with pytest.raises(ws.errors.LayerError, match="writes into its parameters"):
            ws.Chain(looked.module, looked.loss).sites(looked.x)
        return
    ws.Chain(looked.module, looked.loss).sites(looked.x)
    assert generators() == before
    seed_all(SEED)
    loss = looked.called()
    loss.backward()
    assert_same(left_by(looked, loss), autograd(make))


def test_routing_that_changes_with_the_states_is_told_in_the_outcome() -> None:
    make = partial(problem, "mixtral-eager", train=False, output_router_logits=False)
    plain = made(make)
    chain = ws.Chain(plain.module, plain.loss, blocks=everywhere)
    like = ws.relax(chain, plain.x, None).fields
    sol = ws.relax(chain, plain.x, None, schedule=ws.Synchronous(), initial=random_fields(like, 1))
    assert sol.outcome.status is ws.Status.SITES_CHANGED
    with pytest.raises(ws.errors.RelaxationError, match="sites"):
        sol.gradients()


def test_credit_starts_at_every_output_of_a_model_with_two_towers() -> None:
    make = partial(problem, "clip-eager", train=True)
    dynamics, stop = ws.PredictiveCoding(rate=0.001), ws.Stop(max_ticks=9)
    front, _ = relaxed(make, dynamics=dynamics, stop=stop)
    whole, _ = relaxed(make, dynamics=dynamics, schedule=ws.Leapfrog(), stop=stop)
    assert all(one.equal(other) for one, other in zip(front.states, whole.states, strict=True))
    assert all(one.equal(other) for one, other in zip(front.costates, whole.costates, strict=True))
    assert sum(bool(costate.any()) for costate in whole.costates) == len(whole.costates)
