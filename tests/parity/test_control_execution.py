"""Machine code, places in a batch and second starts: each against what plain torch finds without them."""

import shutil
from dataclasses import replace
from math import nan

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import worldsheet as ws
from nets import assert_tells, law
from plants import DOUBLE, bounded, close, double_integrator, pendulum
from worldsheet.control.compiled.execution import put_together, taken_apart
from worldsheet.control.compiled.native import Recursion, RegularizationSchedule
from worldsheet.control.compiled.repeated import Repeated
from worldsheet.control.lqr.riccati import matched_by_recursion, rollout_of
from worldsheet.control.lqr.subproblem import Quadratic
from worldsheet.control.methods import batch
from worldsheet_lab.control.problems import KNOWN

C = ws.control
STARTS = torch.tensor(
    [[0.8, 0.0], [-1.0, 0.5], [2.0, -1.0], [0.1, 0.2], [-2.2, 0.0], [1.5, 1.5], [3.0, 0.0]], dtype=DOUBLE
)
SIZES = st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**16))
needs_c = pytest.mark.skipif(all(shutil.which(name) is None for name in ("cc", "gcc", "clang")), reason="no C compiler")


def drawn(sizes: tuple[int, int, int, int, int], dent: float = 0.0) -> tuple[Quadratic, Tensor]:
    """Newton's equations of convex stages, less a dent, and a costate at the start."""
    n, m, stages, batch, seed = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=DOUBLE, generator=generator)

    root, end = draw(stages, batch, n + m, n + m), draw(batch, n, n)
    eye = torch.eye(n + m, dtype=DOUBLE)
    local = Quadratic(
        root @ root.mT + (0.3 - dent) * eye,
        draw(stages, batch, n + m),
        draw(stages, batch, n, n + m),
        draw(stages, batch, n),
        end @ end.mT + 0.1 * eye[:n, :n],
        draw(batch, n),
        draw(batch, n + m).square() + 0.1,
        draw(batch, n).square() + 0.1,
    )
    return local, draw(batch, n)


@pytest.fixture(scope="module")
def recursion() -> Recursion:
    return Recursion(DOUBLE)


@needs_c
@law(30)
@given(SIZES)
def test_the_recursion_in_c_is_the_recursion(recursion: Recursion, sizes: tuple[int, int, int, int, int]) -> None:
    local, first = drawn(sizes)
    zero = first.new_zeros(len(first))
    everyone = torch.ones_like(zero, dtype=torch.bool)
    step, shift, fine = recursion.direction(local, RegularizationSchedule(first, zero, everyone, 1e-4, 8.0, 9), free=0)
    wanted = rollout_of(local, matched_by_recursion(local), torch.zeros_like(first))
    for name in ("states", "costates", "controls", "gains")[: 2 if sizes[1] == 0 else 4]:
        close(getattr(step, name), getattr(wanted, name), 1e-9)
    assert fine.all()
    assert not shift.any()


@needs_c
@law(20)
@given(SIZES, st.floats(0.5, 6.0))
def test_the_ladder_in_c_stops_at_the_lowest_rung_that_is_convex(
    recursion: Recursion, sizes: tuple[int, int, int, int, int], dent: float
) -> None:
    local, first = drawn(sizes, dent)
    zero = first.new_zeros(len(first))
    asked = torch.arange(len(first)) % 2 == 0
    _, shift, fine = recursion.direction(local, RegularizationSchedule(first, zero, asked, 1e-2, 8.0, 9), free=0)
    rungs = [0.0, *(1e-2 * 8.0**i for i in range(9))]
    for k in range(len(first)):
        one = local.select(torch.tensor([k]))
        convex = [bool(matched_by_recursion(one.lifted(zero[:1] + rung)).convex) for rung in rungs]
        tried = convex if asked[k] else convex[:1]
        assert bool(fine[k]) is any(tried)
        assert float(shift[k]) == pytest.approx(rungs[tried.index(True)] if any(tried) else rungs[len(tried) - 1])


@needs_c
@pytest.mark.parametrize("sizes", [(2, 1), (3, 2), (1, 0)])
def test_a_recursion_for_known_sizes_is_that_for_any(recursion: Recursion, sizes: tuple[int, int]) -> None:
    local, first = drawn((*sizes, 6, 3, 1), 2.0)
    climb = RegularizationSchedule(first, first.new_zeros(3), torch.ones(3, dtype=torch.bool), 1e-2, 8.0, 9)
    mine, shift, fine = Recursion(DOUBLE, sizes).direction(local, climb, free=0)
    step, wanted, well = recursion.direction(local, climb, free=0)
    close(mine.states, step.states, 1e-9)
    close(mine.costates, step.costates, 1e-9)
    assert torch.equal(shift, wanted)
    assert torch.equal(fine, well)


@needs_c
@pytest.mark.parametrize("free", [1, 2, 3])
@pytest.mark.parametrize("last", [0.0, 0.3])
def test_free_entries_of_the_start_move_to_where_their_costates_vanish(
    recursion: Recursion, free: int, last: float
) -> None:
    local, first = drawn((3, 2, 5, 2, 7))
    climb = RegularizationSchedule(first, first.new_full((2,), last), torch.ones(2, dtype=torch.bool), 1e-4, 8.0, 9)
    step, shift, fine = recursion.direction(local, climb, free=free)
    assert fine.all()
    given = 3 - free
    close(shift, torch.full_like(shift, last / 3), 1e-15)
    close(step.costates[0, :, given:], -first[:, given:], 1e-10)
    assert float(step.states[0, :, given:].abs().min()) > 1e-3
    assert not bool(step.states[0, :, :given].any())
    opening = local.opening
    for opened in (opening, 0 * opening):  # what is added to the first Hessian counts where a shift is
        lifted = replace(local, opening=opened).lifted(shift)
        same = matched_by_recursion(lifted).impedance[0]
        predicted = (same @ step.states[0, ..., None])[..., 0] + matched_by_recursion(lifted).source[0]
        agrees_here = bool((predicted - step.costates[0]).abs().max() < 1e-10)
        assert agrees_here == (last == 0.0 or opened is opening)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's code generator, of torch
@needs_c
@pytest.mark.parametrize("integrator", [C.ExplicitEuler(), C.RK4()], ids=["euler", "rk4"])
def test_machine_code_finds_what_torch_finds(integrator: C.Integrator) -> None:
    plain = pendulum(STARTS, 8, integrator, (-3.0, 2.0))
    compiled = C.Compiled()
    quick = C.Problem(**{**vars(plain), "execution": compiled})
    mine, theirs = C.solve(quick), C.solve(plain)
    assert mine.converged.all()
    close(mine.states, theirs.states, 1e-7)
    close(mine.costates, theirs.costates, 1e-6)
    made = compiled.seconds
    later = C.solve(quick.at(0.9 * STARTS, 0.3))  # other numbers, the same code
    close(later.cost, C.solve(plain.at(0.9 * STARTS, 0.3)).cost, 1e-8)
    assert compiled.seconds == made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's code generator, of torch
@needs_c
def test_machine_code_of_tensors_that_have_changed_is_refused() -> None:
    pull = torch.tensor(2.0, dtype=DOUBLE)

    def dynamics(x: Tensor, u: Tensor, t: Tensor) -> Tensor:
        return torch.stack((x[..., 1], u[..., 0] - pull * x[..., 0].sin()), -1)

    problem = C.Problem(**{**vars(pendulum(STARTS, 8)), "dynamics": dynamics, "execution": C.Compiled()})
    before = C.solve(problem).cost
    pull.data.fill_(-1.0)
    with pytest.raises(ws.errors.InputError) as refusal:
        C.solve(problem)
    assert_tells(refusal.value, "a tensor of shape ()", "changed since they were compiled", "Problem.parameters")
    pull.fill_(2.0)
    close(C.solve(problem).cost, before, 0.0)


@needs_c
def test_straight_code_is_checked_once_in_a_solve() -> None:
    points, factors = torch.randn(2, 3, 2, dtype=DOUBLE), torch.tensor([2.0, nan], dtype=DOUBLE)
    compiled = C.Compiled()

    def code() -> list[Tensor]:
        compiled.begin()
        found = compiled.straight("key", lambda x: (factors * x,), [points[:1, :1]])
        assert found is not None
        return found(points)

    close(code()[0][..., 0], code()[0][..., 0], 0.0)
    factors[0] = 3.0
    with pytest.raises(ws.errors.InputError, match=r"a tensor of shape \(2,\), which has changed"):
        code()


def test_few_places_and_a_queue_solve_what_all_at_once_do(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = pendulum(STARTS, bounds=(-8.0, 8.0))
    whole = C.solve(problem)
    monkeypatch.setattr(batch, "_NUMBERS", 2 * 20 * 9)  # two places
    queued = C.solve(problem)
    assert queued.ticks.tolist() == whole.ticks.tolist()
    assert len(set(queued.ticks.tolist())) > 1  # they leave at different times
    close(queued.states, whole.states, 1e-8)
    close(queued.costates, whole.costates, 1e-7)
    assert queued.gains is not None
    assert whole.gains is not None
    close(queued.gains, whole.gains, 1e-6)


def test_parameters_go_with_their_problem_to_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    masses = torch.linspace(0.5, 2.0, len(STARTS), dtype=DOUBLE)[:, None]
    problem = C.Problem(
        dynamics=lambda x, u, t, p: torch.stack((x[..., 1], u[..., 0] / p[..., 0]), -1),
        running_cost=lambda x, u, t, p: x.square().sum(-1) + u.square().sum(-1),
        initial_state=STARTS,
        control_size=1,
        steps=10,
        dt=0.1,
        parameters=masses,
    )
    whole = C.solve(problem)
    monkeypatch.setattr(batch, "_NUMBERS", 3 * 10 * 9)
    close(C.solve(problem).states, whole.states, 1e-10)


def test_a_rocket_that_gets_lost_starts_a_second_time() -> None:
    """Full thrust for a whole unit of time burns more than there is: the first start leads nowhere."""
    known = KNOWN["rocket"]
    problem = known.problem()
    burnt = torch.full((80, 1), 3.5, dtype=DOUBLE)
    sol = C.solve(problem, initial_guess=C.Guess(controls=burnt, duration=torch.tensor(1.0, dtype=DOUBLE)), tol=1e-6)
    assert sol.outcome.converged
    assert float(sol.states[-1, 0]) == pytest.approx(1.01283, abs=1e-5)


@needs_c
@pytest.mark.parametrize("name", ["pendulum", "obstacle", "rocket"])
def test_ticks_that_are_done_ahead_are_those_that_can_be_watched(name: str) -> None:
    """A history asks for one tick after the other. Lengths are shortened, limits met, starts made anew."""
    known = KNOWN[name]
    compiled = C.Compiled()
    problem = replace(known.batch(4, torch.Generator().manual_seed(3)), execution=compiled)
    guess = known.guess(problem)
    ahead, history = C.solve(problem, initial_guess=guess, tol=1e-7), C.History()
    watched = C.solve(problem, initial_guess=guess, tol=1e-7, history=history)
    assert [code is not None for code in compiled._repeated.values()] == [True]
    assert ahead.ticks.tolist() == watched.ticks.tolist()
    assert [outcome.status for outcome in ahead.outcomes] == [outcome.status for outcome in watched.outcomes]
    close(ahead.states, watched.states, 1e-9)
    close(ahead.costates, watched.costates, 1e-7)
    alone = C.solve(problem.at(problem.initial_state[1]), tol=1e-7)
    assert alone.outcome.converged
    assert len(compiled._repeated) == 1  # code for one problem is that for any number


@needs_c
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_a_budget_holds_for_ticks_that_are_done_ahead(budget: int) -> None:
    plain = pendulum(STARTS, 8, bounds=(-3.0, 2.0))
    mine = C.solve(replace(plain, execution=C.Compiled()), max_ticks=budget)
    theirs = C.solve(plain, max_ticks=budget)
    assert mine.ticks.tolist() == theirs.ticks.tolist() == [budget] * len(STARTS)
    close(mine.states, theirs.states, 1e-9)


@needs_c
def test_ticks_ahead_that_do_something_else_are_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in what repeats code costs time, and no wrong number."""
    once = Repeated.once
    monkeypatch.setattr(Repeated, "once", lambda self, leaves: [part + 1 for part in once(self, leaves)])
    plain, compiled = pendulum(STARTS, 8), C.Compiled()
    found = C.solve(replace(plain, execution=compiled))
    assert list(compiled._repeated.values()) == [None]
    close(found.states, C.solve(plain).states, 1e-7)


def test_records_come_apart_and_together() -> None:
    local, first = drawn((2, 1, 3, 2, 0))
    leaves: list[Tensor] = []
    kept: list[object] = []
    form = taken_apart((local, first, 0.5, None), leaves, kept)
    assert len(leaves) == 9
    assert kept == [0.5, None]
    again, last, number, nothing = put_together(form, iter(leaves), iter(kept))
    assert again.slope is local.slope
    assert last is first
    assert (number, nothing) == (0.5, None)
    assert form == taken_apart((local, first, 0.5, None), [], [])
    assert form != taken_apart((local, first, 0.6, None), [], [])


def test_code_is_shared_by_problems_that_differ_in_tensors_only() -> None:
    one = bounded(double_integrator(5))
    assert one.signature() == one.at(one.initial_state + 1, 3.0).signature()
    other = C.Problem(**{**vars(one), "running_cost": lambda x, u, t: x.square().sum(-1)})
    assert one.signature() != other.signature()
