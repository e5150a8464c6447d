"""Any program a user may write as a forward: one line of training is exact, and so is a relaxation."""

import copy
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, currently_in_test_context, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import worldsheet as ws
from nets import asynchronous, law, random_fields
from programs import Made, Nested, Program, Step, leaves, noted, own, programs


@dataclass(frozen=True)
class Left:
    """All that a step of training leaves behind."""

    loss: Tensor
    gradients: dict[str, Tensor | None]
    values: dict[str, Any]
    heard: dict[str, list[float]]


def modules_of(made: Made) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {"model": made.module}
    if isinstance(made.loss, nn.Module):
        found["loss"] = made.loss
    return found


def gradients_of(made: Made) -> dict[str, Tensor | None]:
    found = {
        f"{where}.{name}": p.grad for where, root in modules_of(made).items() for name, p in root.named_parameters()
    }
    return found | {f"input {n}": x.grad for n, x in enumerate(leaves(made.x)) if x.is_leaf}


def remembered(made: Made) -> dict[str, Any]:
    """Buffers, what modules keep, the input, and the state of every generator."""
    found: dict[str, Any] = {f"input {n}": x.detach().clone() for n, x in enumerate(leaves(made.x))}
    for where, root in modules_of(made).items():
        found |= {f"{where}.{name}": buffer.detach().clone() for name, buffer in root.named_buffers()}
        for name, module in root.named_modules():
            for key, value in own(module).items():
                kept = [leaf for leaf in tree_leaves(value) if isinstance(leaf, (Tensor, bool, int))]
                found |= {f"{where}.{name}.{key}.{n}": leaf for n, leaf in enumerate(kept)}
    found |= {"torch": torch.get_rng_state(), "module": made.module.generator.get_state()}
    return found | {"python": random.getstate(), "numpy": str(np.random.get_state())}


def step(program: Program, made: Made, way: Callable[[Made], Tensor]) -> Left:
    heard = program.listen(made)
    torch.manual_seed(program.seed + 1)
    np.random.seed(program.seed)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        alone = random.Random(program.seed)  # the annotation checker draws from Python's own at every call
        for name in ("random", "randint", "getstate", "setstate"):
            patch.setattr(random, name, getattr(alone, name))
        loss = way(made)
        return Left(loss.detach().reshape(()), gradients_of(made), remembered(made), by_name(heard))


def by_name(heard: list[tuple[str, Tensor]]) -> dict[str, list[float]]:
    """What each hook was told, in any order: branches side by side have none."""
    found: dict[str, list[float]] = {}
    for name, norm in heard:
        found.setdefault(name, []).append(float(norm))
    return {name: sorted(norms) for name, norms in found.items()}


def loss_of(made: Made) -> Tensor:
    args, kwargs = ((), made.x) if isinstance(made.x, dict) else (made.x if type(made.x) is tuple else (made.x,), {})
    return made.loss(made.module(*args, **kwargs), made.target)


def by_autograd(made: Made) -> Tensor:
    loss = loss_of(made)
    loss.backward()
    return loss


def only_if(condition: bool) -> None:
    """Drawn programs that are not to be judged go; those written out here are all to be judged."""
    if currently_in_test_context():
        assume(condition)
    assert condition


def accepted(program: Program, made: Made) -> tuple[Left, bool]:
    """What autograd leaves, and whether the program writes where a site's memory is held; rejected programs go."""
    try:
        with noted(made.module) as ledger:
            wanted = step(program, made, by_autograd)
    except Exception:
        only_if(False)
        raise
    only_if(bool(torch.isfinite(wanted.loss)))
    only_if(all(g is None or bool(torch.isfinite(g).all()) for g in wanted.gradients.values()))
    return wanted, ledger.may_refuse


def graphs_hold_what_is_written(program: Program) -> bool:
    """Whether autograd itself would reject the program if its loss depended on all that submodules returned."""
    made = program.made()

    def by_autograd_of_all(case: Made) -> Tensor:
        with noted(case.module) as ledger:
            loss = loss_of(case)
        sum(ledger.sums, loss.sum()).backward()
        return loss

    try:
        step(program, made, by_autograd_of_all)
    except RuntimeError as error:
        return "inplace" in str(error)
    return False


def assert_rightly_refused(program: Program, error: ws.WorldsheetError, may_refuse: bool) -> None:
    """Writes into memory that others hold or need again, and what would be called with parts of a whole."""
    told, drawn = str(error), repr(program)
    if "calls a submodule of another" in told:
        assert "caller" in drawn, error
    elif "outside of all sites" in told:
        listening = any(kind in (2, 3) for _, kind in program.hooks)
        assert listening or any(kind in drawn for kind in ("'function'", "'checkpoint'", "'write'")), error
    elif "use_reentrant=True" in told:
        assert "'checkpoint'" in drawn, error
        assert program.hooks, error
    elif "writes into its input, which then cannot be given to it again" in told:
        parts = program.made().module.modules()
        assert any(getattr(part, "inplace", False) for part in parts) or "'write'" in drawn, error
    else:
        assert "memory that a site has returned" in told, error
        assert may_refuse or graphs_hold_what_is_written(program), error


def assert_same(found: Left, wanted: Left, tol: float) -> None:
    assert_close("loss", found.loss, wanted.loss, 1e-12 if tol < 1e-6 else 1e-5, 0.0)
    assert_same_values(found.values, wanted.values, tol)
    assert_same_gradients(found.gradients, wanted.gradients, tol)
    assert {name: len(norms) for name, norms in found.heard.items()} == {
        name: len(norms) for name, norms in wanted.heard.items()
    }
    for name, norms in wanted.heard.items():
        torch.testing.assert_close(torch.tensor(found.heard[name]), torch.tensor(norms), rtol=1e3 * tol, atol=1e3 * tol)


def assert_same_gradients(found: dict[str, Tensor | None], wanted: dict[str, Tensor | None], tol: float) -> None:
    assert found.keys() == wanted.keys()
    largest = max((float(g.norm()) for g in wanted.values() if g is not None), default=0.0)
    for name, gradient in wanted.items():
        other = found[name]
        assert (other is None) == (gradient is None), f"{name}: {other} instead of {gradient}"
        if gradient is not None and other is not None:
            assert_close(name, other, gradient, tol, 1e-12 * largest + 1e-16 if tol < 1e-6 else tol * largest)


def assert_same_values(found: dict[str, Any], wanted: dict[str, Any], tol: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        other = found[name]
        if isinstance(value, Tensor) and value.is_floating_point():
            assert value.requires_grad == other.requires_grad, name
            assert value.dtype == other.dtype, name
            assert_close(name, other, value, 1e-12 if tol < 1e-6 else 1e-5, 0.0)
            if value.is_leaf and value.grad is not None:
                assert_close(f"{name}.grad", other.grad, value.grad, tol, 0.0)
        elif isinstance(value, Tensor):
            assert torch.equal(other, value), name
        else:
            assert other == value, name


def assert_close(name: str, found: Tensor, wanted: Tensor, tol: float, rounding: float) -> None:
    error, size = float((found - wanted).detach().norm()), float(wanted.detach().norm())
    assert error <= tol * size + rounding, f"{name}: error {error:.1e} of {size:.1e}"


def assert_exact(program: Program, *, recompute: bool) -> None:
    """One call of `ws.backward` leaves everything as autograd leaves it."""
    made = program.made()
    plain, cut = copy.deepcopy(made), copy.deepcopy(made)
    wanted, may_refuse = accepted(program, plain)

    def by_sites(case: Made) -> Tensor:
        chain = ws.Chain(case.module, case.loss, blocks=program.blocks(case.module))
        return ws.backward(chain, case.x, case.target, recompute=recompute)

    try:
        found = step(program, cut, by_sites)
    except ws.WorldsheetError as error:
        assert_rightly_refused(program, error, may_refuse)
        assert not any(g is not None for g in gradients_of(cut).values())
        return
    assert_same(found, wanted, 5e-2 if program.single else 1e-10)


CALL = Step("call")
BRANCHES = (CALL, Step("call", a=1), Step("join", b=1))
"""Two readers of the newest value."""

EASILY_WRONG = {
    "a view that a submodule returns is written into and its base is read": Program(
        (Step("call", c=1), CALL, Step("write", c=1), CALL, Step("join", b=2)), ("same", "linear"), sites=0
    ),
    "the same written into by a power": Program(
        (Step("call", c=1), CALL, Step("write", c=15), CALL, Step("join", b=2)), ("same", "linear"), sites=0
    ),
    "a view of new memory is written into": Program((CALL, Step("write")), ("attention",)),
    "one of two results is written into and the site has saved the other": Program(
        (Step("call"),), (Nested(("lstm",), (CALL, CALL), 4),), loss=5
    ),
    "dropout in place that does nothing, on what a site has saved": Program(
        (Step("call", c=1), CALL), ("dropout_", "twice"), training=False
    ),
    "two sites read a function whose backward is not linear": Program(
        (CALL, Step("function", c=2), *BRANCHES), ("linear",), sites=0
    ),
    "two sites read a checkpointed region with statistics": Program(
        (CALL, Step("checkpoint", body=(Step("call", c=1),)), *BRANCHES), ("linear", "batch_norm")
    ),
    "a submodule is called in a checkpointed region": Program(
        (CALL, Step("checkpoint", body=(CALL, CALL)), CALL), ("linear",)
    ),
    "a hook on a parameter that two sites and a reentrant checkpoint share": Program(
        (CALL, CALL, Step("checkpoint", c=1)), ("linear",), hooks=((1, 4),)
    ),
    "a backward hook on a module around several sites": Program((CALL,), ("linear",), loss=3, hooks=((0, 2),)),
}

WRONG_IF_COMPUTED_AGAIN = {
    "inside of the user's own checkpoint": Program((CALL, Step("checkpoint", body=(CALL,))), ("attention",)),
    "with a submodule that calls another": Program((Step("checkpoint", body=(CALL,)),), ("caller",)),
    "with a submodule that keeps what it returned": Program((CALL, CALL), ("keeper",)),
    "after more was drawn": Program((CALL, Step("chance", c=4)), ("linear",)),
    "with a buffer that each call puts anew": Program(
        (CALL, CALL), (Nested(("linear",), (CALL, Step("buffer", c=2)), 0),)
    ),
    "with a closure over another submodule that moves its buffers": Program(
        (Step("call", c=4),), ("spectral_norm", "attention", "attention", "attention", "caller")
    ),
    "where the input is overwritten": Program((CALL, Step("call", c=1), CALL), ("linear", "relu_"), sites=0),
    "with parameters that were there for one call": Program((Step("way", c=1),), ("residual",)),
    "under vmap": Program((CALL, Step("way", c=5)), ("linear",)),
}


@pytest.mark.parametrize("program", EASILY_WRONG.values(), ids=EASILY_WRONG)
def test_a_program_that_is_easily_got_wrong_is_not(program: Program) -> None:
    assert_exact(program, recompute=False)


@pytest.mark.parametrize("program", WRONG_IF_COMPUTED_AGAIN.values(), ids=WRONG_IF_COMPUTED_AGAIN)
def test_insides_are_computed_again_as_they_were(program: Program) -> None:
    assert_exact(program, recompute=True)


@law(100)
@given(programs())
def test_one_line_of_training_is_backprop_for_any_program(program: Program) -> None:
    assert_exact(program, recompute=False)


@law(50)
@given(programs(listened=True))
def test_hooks_hear_what_they_hear_from_backprop(program: Program) -> None:
    assert_exact(program, recompute=False)


@law(50)
@given(programs())
def test_nothing_changes_when_the_insides_of_sites_are_computed_again(program: Program) -> None:
    assert_exact(program, recompute=True)


def assert_relaxes(program: Program, seed: int, delay: int | None) -> None:
    """From random fields, all sites at once or in random order with old messages, to what one forward leaves."""
    made = program.made()
    plain, once, looked, cut = (copy.deepcopy(made) for _ in range(4))
    wanted, may_refuse = accepted(program, plain)
    forward = step(program, once, loss_of)
    fields: list[ws.Fields] = []

    def settled(case: Made) -> Tensor:
        solution = ws.relax(ws.Chain(case.module, case.loss, blocks=program.blocks(case.module)), case.x, case.target)
        fields.append(solution.fields)
        return solution.loss

    def relaxed(case: Made) -> Tensor:
        chain = ws.Chain(case.module, case.loss, blocks=program.blocks(case.module))
        schedule = ws.Synchronous() if delay is None else asynchronous(seed, delay)
        start = random_fields(fields[0], seed)
        solution = ws.relax(chain, case.x, case.target, schedule=schedule, initial=start)
        assert solution.outcome.status is ws.Status.CONVERGED
        solution.accumulate()
        for x, gradient in zip(tree_leaves(case.x), tree_leaves(solution.input_gradient), strict=True):
            x.grad = gradient
        return solution.loss

    try:
        step(program, looked, settled)
        only_if(delay is None or len(fields[0].states) <= 8)
        found = step(program, cut, relaxed)
    except ws.WorldsheetError as error:
        only_if("does not depend on what any site returned" not in str(error))
        assert_rightly_refused(program, error, may_refuse)
        return
    assert_close("loss", found.loss, wanted.loss, 1e-10, 0.0)
    assert_same_gradients(found.gradients, wanted.gradients, 1e-8)
    assert_same_values(found.values, forward.values, 1e-10)


UNSEEN = {
    "a detached value": Program((CALL, Step("detach"), Step("call", c=1)), ("linear", "linear")),
    "numbers made of values": Program(
        (CALL, Step("detach"), Step("map", c=6), Step("call", c=1)), ("linear", "linear")
    ),
    "an input that is written into": Program((Step("write", c=1), CALL, Step("call", c=1)), ("linear", "linear")),
    "statistics": Program((CALL, Step("call", c=1), CALL), ("linear", "batch_norm")),
    "statistics in a checkpointed region": Program(
        (CALL, Step("checkpoint", body=(Step("call", c=1),)), CALL), ("linear", "batch_norm")
    ),
    "a site that nobody reads": Program((CALL, Step("call", a=1, c=1)), ("linear", "linear")),
    "a site that nobody reads and whose input is overwritten": Program(
        (CALL, CALL, Step("call", a=1, rebinds=True), Step("write")), ("attention",)
    ),
}


@pytest.mark.parametrize("program", UNSEEN.values(), ids=UNSEEN)
def test_a_relaxation_sees_what_derivatives_do_not(program: Program) -> None:
    assert_relaxes(program, 0, None)


@law(50)
@given(programs(longest=6, steady=True), st.integers(0, 2**16), st.none() | st.integers(0, 2))
def test_a_relaxation_from_any_start_ends_at_backprop(program: Program, seed: int, delay: int | None) -> None:
    assert_relaxes(program, seed, delay)
