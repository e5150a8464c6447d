"""Products of scatterers: associative, equal to the recursion, and a solution of Newton's equations."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nets import law
from plants import DOUBLE, close
from worldsheet.control.lqr.parallel_scan import ScanElement, combine, matched_by_scattering, rollout_by_scattering
from worldsheet.control.lqr.riccati import matched_by_recursion, rollout_of
from worldsheet.control.lqr.subproblem import Quadratic

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**16))


def drawn(sizes: tuple[int, int, int, int, int]) -> tuple[Quadratic, Tensor]:
    n, m, stages, batch, seed = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=DOUBLE, generator=generator)

    root, end = draw(stages, batch, n + m, n + m), draw(batch, n, n)
    local = Quadratic(
        root @ root.mT + 0.3 * torch.eye(n + m, dtype=DOUBLE),
        draw(stages, batch, n + m),
        draw(stages, batch, n, n + m),
        draw(stages, batch, n),
        end @ end.mT,
        draw(batch, n),
        torch.zeros(batch, n + m, dtype=DOUBLE),
        torch.zeros(batch, 0, dtype=DOUBLE),
    )
    return local, draw(batch, n)


@law(30)
@given(SIZES)
def test_products_and_recursion_find_the_same_impedance(sizes: tuple[int, int, int, int, int]) -> None:
    local, _ = drawn(sizes)
    one, other = matched_by_recursion(local), matched_by_scattering(local)
    for field in ("impedance", "source", "gains", "push"):
        close(getattr(other, field), getattr(one, field), 1e-9)
    assert one.convex.all()
    assert other.convex.all()


@law(30)
@given(SIZES)
def test_a_matched_wave_leaves_no_residual(sizes: tuple[int, int, int, int, int]) -> None:
    local, start = drawn(sizes)
    step = rollout_of(local, matched_by_scattering(local), start)
    moved = torch.cat((step.states[:-1], step.controls), -1)
    size = local.state_size
    ahead = (local.hessian @ moved[..., None] + local.transition.mT @ step.costates[1:, ..., None])[..., 0]
    ahead = ahead + local.slope
    reached = (local.transition @ moved[..., None])[..., 0] + local.gap
    close(step.states[1:], reached, 1e-9)
    close(step.costates[:-1], ahead[..., :size], 1e-8)
    close(ahead[..., size:], torch.zeros_like(ahead[..., size:]), 1e-8)
    close(step.states[0], start, 0.0)


@law(30)
@given(st.integers(1, 4), st.integers(0, 2**16))
def test_joining_is_associative(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(columns: int) -> Tensor:
        return torch.randn(3, size, columns, dtype=DOUBLE, generator=generator)

    def passive() -> Tensor:
        root = draw(size)
        return root @ root.mT

    a, b, c = (ScanElement.of(draw(size), passive(), draw(1), passive(), draw(1)) for _ in range(3))
    left, right = combine(combine(a, b), c), combine(a, combine(b, c))
    close(left.packed, right.packed, 1e-8)


@law(20)
@given(st.integers(1, 4), st.integers(1, 17), st.integers(0, 2**16))
def test_affine_maps_compose_to_the_rollout(size: int, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(steps, 2, size, size, dtype=DOUBLE, generator=generator)
    drift = torch.randn(steps, 2, size, dtype=DOUBLE, generator=generator)
    state = torch.randn(2, size, dtype=DOUBLE, generator=generator)
    found = rollout_by_scattering(maps, drift, state)
    for k in range(steps):
        close(found[k], state, 1e-8)
        state = (maps[k] @ state[..., None])[..., 0] + drift[k]
    close(found[steps], state, 1e-8)
