"""GPT-2 with dropout, relaxed by every dynamics, against a few lines of autograd."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("transformers")

import worldsheet as ws
from nets import DOUBLE, assert_gradients, distance, random_fields, topology_of
from zoo.answers import SEED, Make, Problem, assert_same, autograd, everywhere, found, made, relaxed, seed_all
from zoo.attention_models import gpt2, problem
from zoo.by_hand import ByHand

SAMPLES = 2
NAMES = ("transformer.wte", "transformer.wpe", "transformer.h.0", "transformer.h.1", "transformer.ln_f", "lm_head")

dropout = partial(problem, "gpt2-eager", train=True)

choices = pytest.mark.parametrize("blocks", [None, "transformer.h.*", NAMES], ids=["default", "blocks", "named"])


def next_words(output: Any, words: Tensor) -> Tensor:
    """The model's own loss turns its logits into float32 first."""
    return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())


def small() -> Problem:
    """So few states that their energy has a dense Hessian."""
    model, x = gpt2(n_embd=8, vocab_size=11)
    words = x["input_ids"][:, :3] % 11
    return Problem(model.to(DOUBLE), {"input_ids": words}, words, next_words)


def exact(make: Make) -> dict[str, Tensor]:
    return found(autograd(make).gradients)


@choices
def test_random_fields_are_exact_after_twice_the_depth_and_not_one_tick_before(blocks: Any) -> None:
    like, _ = relaxed(dropout, blocks=blocks)
    last = 2 * topology_of(like).depth
    start = {"blocks": blocks, "schedule": ws.Synchronous(), "initial": random_fields(like.fields, 1)}
    early, _ = relaxed(dropout, **start, stop=ws.Stop(max_ticks=last - 1))
    late, ours = relaxed(dropout, **start)
    assert late.outcome.converged
    assert late.ticks == last
    assert_same(ours, autograd(dropout), 1e-9)
    assert distance(early.gradients(), exact(dropout)) > 1e-3


def test_random_fields_of_every_submodule_are_exact_after_twice_the_depth() -> None:
    like, _ = relaxed(dropout, blocks=everywhere)
    start = random_fields(like.fields, 1)
    sol, ours = relaxed(dropout, blocks=everywhere, schedule=ws.Synchronous(), initial=start)
    assert sol.ticks == 2 * topology_of(sol).depth
    assert_same(ours, autograd(dropout), 1e-9)


@choices
def test_a_smaller_rate_converges_to_the_same(blocks: Any) -> None:
    sol, ours = relaxed(dropout, blocks=blocks, dynamics=ws.Dyadic(0.7))
    assert sol.outcome.converged
    assert_same(ours, autograd(dropout), 1e-9)


def assert_fields(ours: tuple[Tensor, ...], wanted: list[Tensor]) -> None:
    """Of as many sites as are given."""
    assert len(ours) == len(wanted)
    assert_gradients(dict(zip(NAMES, ours, strict=False)), dict(zip(NAMES, wanted, strict=False)), 1e-9)


def test_predictive_coding_descends_its_energy() -> None:
    rate, ticks = 0.1, 4
    dynamics = ws.PredictiveCoding(rate=rate)
    sol, ours = relaxed(small, blocks=NAMES, dynamics=dynamics, stop=ws.Stop(max_ticks=ticks))
    model = made(small)
    hand = ByHand(model, NAMES)
    states = hand.forward_pass()[:-1]
    for _ in range(ticks):
        output = hand.at(states).predictions[-1].detach()  # moves with the others: it reads them as they were
        steps = hand.slopes(states, 1.0, SAMPLES)
        states = [x - rate * SAMPLES * step for x, step in zip(states, steps, strict=True)]
    assert_fields(sol.states, [*states, output])
    hand.energy(states, 1.0, SAMPLES).backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters() if p.grad is not None}
    assert_gradients(found(ours.gradients), gradients, 1e-9)
    assert distance(gradients, exact(small)) > 0.1


def test_multipliers_rise_and_states_descend() -> None:
    rate, ticks = 0.1, 4
    dynamics = ws.AugmentedLagrangian(rate=rate)
    sol, _ = relaxed(small, blocks=NAMES, dynamics=dynamics, stop=ws.Stop(max_ticks=ticks))
    hand = ByHand(made(small), NAMES)
    states = hand.forward_pass()[:-1]
    costates = [torch.zeros_like(x) for x in states]
    for _ in range(ticks):
        predictions, _ = hand.messages(states, [])
        errors = [(p - x) / SAMPLES for p, x in zip(predictions, states, strict=False)]
        costates = [c + error for c, error in zip(costates, errors, strict=True)]
        credits = [c + error for c, error in zip(costates, errors, strict=True)]
        _, pulled = hand.messages(states, credits)
        moves = zip(states, credits, pulled, strict=True)
        states = [x + rate * SAMPLES * (credit - back) for x, credit, back in moves]
    assert_fields(sol.states, [*states, predictions[-1]])
    assert_fields(sol.costates[:-1], costates)


def test_waves_cross_couple_states_and_costates() -> None:
    ticks = 5
    model = made(small)
    chain = ws.Chain(model.module, model.loss, blocks=NAMES)
    seed_all(SEED)
    wave = ws.calibrate(chain, model.x, model.target, ws.Wave())
    sol, _ = relaxed(small, blocks=NAMES, dynamics=wave, stop=ws.Stop(max_ticks=ticks))
    assert isinstance(wave, ws.Wave)
    assert isinstance(wave.impedance, tuple)
    angle = torch.tensor((1 - wave.matching) * torch.pi / 2, dtype=DOUBLE)
    direct, cross = wave.speed * angle.cos(), wave.speed * angle.sin()
    scaled = [SAMPLES * z for z in wave.impedance]
    hand = ByHand(made(small), NAMES)
    states = costates = [torch.zeros_like(x) for x in hand.forward_pass()]
    for _ in range(ticks):
        predictions, pulled = hand.messages(states, costates)
        moved = []
        for x, p, c, back, z in zip(states, predictions, costates, pulled, scaled, strict=True):
            bound = wave.limit * (direct * (p - x)).abs()
            moved.append(x + direct * (p - x) - (cross * z * (back - c)).clamp(-bound, bound))
        predictions, pulled = hand.messages(moved, costates)
        rows = zip(moved, predictions, costates, pulled, scaled, strict=True)
        costates = [c + direct * (back - c) + cross / z * (p - x) for x, p, c, back, z in rows]
        states = moved
    assert_fields(sol.states, states)
    assert_fields(sol.costates, costates)


@pytest.mark.parametrize("precision", [1.0, 3.0])
def test_the_estimated_rate_is_one_over_the_largest_curvature_of_the_energy(precision: float) -> None:
    model = made(small)
    chain = ws.Chain(model.module, model.loss, blocks=NAMES)
    seed_all(SEED)
    estimated = ws.calibrate(chain, model.x, model.target, ws.PredictiveCoding(precision=precision))
    hand = ByHand(made(small), NAMES)
    states = hand.forward_pass()[:-1]
    sizes = [state.numel() for state in states]

    def energy(flat: Tensor) -> Tensor:
        parts = [part.reshape(x.shape) for part, x in zip(flat.split(sizes), states, strict=True)]
        return SAMPLES * hand.energy(parts, precision, SAMPLES)

    hessian = torch.autograd.functional.hessian(energy, torch.cat([state.flatten() for state in states]))
    assert isinstance(estimated, ws.PredictiveCoding)
    assert estimated.rate == pytest.approx(1 / float(torch.linalg.eigvalsh(hessian)[-1]), rel=0.02)


def test_the_estimated_impedance_of_the_output_is_one_over_the_curvature_of_the_cost() -> None:
    model = made(small)
    chain = ws.Chain(model.module, model.loss, blocks=NAMES)
    seed_all(SEED)
    wave = ws.calibrate(chain, model.x, model.target, ws.Wave())
    logits = ByHand(made(small), NAMES).forward_pass()[-1]

    def cost(flat: Tensor) -> Tensor:
        output = flat.reshape(logits.shape)
        return F.cross_entropy(output[:, :-1].flatten(0, 1), model.target[:, 1:].flatten())

    hessian = torch.autograd.functional.hessian(cost, logits.flatten())
    assert isinstance(wave, ws.Wave)
    assert isinstance(wave.impedance, tuple)
    steepest = float(torch.linalg.eigvalsh(hessian)[-1])
    assert wave.impedance[-1] == pytest.approx(1 / steepest / SAMPLES, rel=0.02)
