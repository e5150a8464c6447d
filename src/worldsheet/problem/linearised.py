"""The layers' Jacobians at a forward pass, as products with one layer at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite, sqrt
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from worldsheet.core.shapes import Elsewhere
from worldsheet.problem.caller import Caller
from worldsheet.problem.chain import Chain
from worldsheet.problem.slope import Slope
from worldsheet.problem.topology import Topology

Sites: TypeAlias = tuple[Elsewhere, ...]
"""One tensor per site 1..L, of the shape of its state."""


@final
class Linearised:
    """The shift N, which carries a tangent one layer up, and its transpose, which carries a covector one layer down.

        (N v)_l = Σ_{parents p} J_l v_p,     (Nᵀ c)_l = Σ_{children m} J_mᵀ c_m

    The input is clamped, v_0 = 0, and the cost above the output is left out; it has `curved`. A product costs one
    pull-back, or two for N, of every layer by itself. Made by `linearise`, and of use only inside its `with`.

    Args:
        caller: the layers and the loss.
        x: the input.

    Attributes:
        states: the forward pass, f_l at site l = 1..L.
        topology: which site feeds which.

    Raises:
        LayerError: a layer that fails on what it receives.
    """

    def __init__(self, caller: Caller, x: Tensor) -> None:
        self.topology: Topology = caller.chain.topology
        self._local: list[_Local] = []
        outputs = [x.detach()]
        for layer in self.topology.sites:
            points = [(outputs[parent], parent > 0) for parent in caller.parents[layer]]
            self._local.append(_Local(caller.function(layer), points))
            outputs.append(self._local[-1].output)
        self.states: Sites = tuple(outputs[1:])
        self._cost = partial(Slope, caller.function(caller.head))
        self._slope: Slope | None = None

    def ahead(self, tangents: Sequence[Elsewhere]) -> Sites:
        """N v: at each site what its own layer makes of the tangents at its parents."""
        found = []
        for layer, local in enumerate(self._local, start=1):
            below = [tangents[parent - 1] if parent else None for parent in self.topology.parents_of(layer)]
            found.append(local.push(below))
        return tuple(found)

    def back(self, covectors: Sequence[Elsewhere]) -> Sites:
        """Nᵀ c: at each site what the layers that read it pull back, without the cost."""
        found = [torch.zeros_like(state) for state in self.states]
        for layer, (local, covector) in enumerate(zip(self._local, covectors, strict=True), start=1):
            for parent, part in zip(self.topology.parents_of(layer), local.pull(covector), strict=True):
                if parent and part is not None:
                    found[parent - 1] = found[parent - 1] + part
        return tuple(found)

    def curved(self, tangent: Elsewhere) -> Elsewhere:
        """∇²C v at the output, which carries the cost's 1/B where it is a batch mean."""
        if self._slope is None:
            self._slope = self._cost(self.states[-1])
        return self._slope.turned(tangent)


@contextmanager
def linearise(chain: Chain, x: Tensor, target: Any) -> Iterator[Linearised]:
    """Evaluate every layer once and give its Jacobians; generators and buffers are left as they were found.

    Raises:
        LayerError: a layer that fails on what it receives.
    """
    caller = Caller(chain, target)
    with caller.replay.rehearsed(x.device):
        yield Linearised(caller, x)


@final
class _Local:
    """One layer's graph. J v is the transpose of Jᵀ u, which is linear in u, so one more pull-back gives it."""

    def __init__(self, function: Callable[..., Tensor], points: Sequence[tuple[Tensor, bool]]) -> None:
        self._function = function
        with torch.enable_grad():
            self._leaves = [point.detach().requires_grad_(moves) for point, moves in points]
            self._graph = function(*self._leaves)
        self._moving = [leaf for leaf in self._leaves if leaf.requires_grad]
        self.output = self._graph.detach()
        self._dual: tuple[Tensor, tuple[Tensor, ...]] | None = None
        self._twice: bool | None = None  # whether J v can be had by differentiating twice; None before the first

    def pull(self, covector: Tensor) -> list[Tensor | None]:
        """Jᵀ c for each input, None where the layer does not depend on it."""
        if not self._moving or not self._graph.requires_grad:
            return [None] * len(self._leaves)
        parts = torch.autograd.grad(self._graph, self._moving, covector, retain_graph=True, allow_unused=True)
        found = iter(parts)
        return [next(found) if leaf.requires_grad else None for leaf in self._leaves]

    def push(self, tangents: Sequence[Tensor | None]) -> Tensor:
        """The sum of J v over the inputs; tangents at inputs that do not move are left out."""
        moving = [v for leaf, v in zip(self._leaves, tangents, strict=True) if leaf.requires_grad and v is not None]
        if not moving or not self._graph.requires_grad:
            return torch.zeros_like(self.output)
        if self._twice is None:
            found = self._transposed(moving)
            self._twice = found is not None and self._is_transpose(found, moving)
        else:
            found = self._transposed(moving) if self._twice else None
        return found if self._twice and found is not None else self._secant(moving)

    def _transposed(self, tangents: Sequence[Tensor]) -> Tensor | None:
        """J v, or None where torch cannot differentiate twice: compiled layers and some users' functions."""
        try:
            if self._dual is None:
                with torch.enable_grad():
                    dual = torch.zeros_like(self._graph).requires_grad_()
                    pulled = torch.autograd.grad(
                        self._graph, self._moving, dual, create_graph=True, allow_unused=True, materialize_grads=True
                    )
                self._dual = dual, pulled
            dual, pulled = self._dual
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                pulled, dual, tangents, retain_graph=True, allow_unused=True
            )
            return found[0]
        except RuntimeError:
            return None

    def _is_transpose(self, found: Tensor, tangents: Sequence[Tensor]) -> bool:
        """⟨J v, J v⟩ = ⟨Jᵀ J v, v⟩, which a function fails that hides a part of its derivative from torch."""
        pulled = [part for leaf, part in zip(self._leaves, self.pull(found), strict=True) if leaf.requires_grad]
        pairs = [(part, v) for part, v in zip(pulled, tangents, strict=True) if part is not None]
        other = sum(float(torch.vdot(part.flatten(), v.flatten()).real) for part, v in pairs)
        size = float(found.norm()) ** 2
        return abs(other - size) <= 0.02 * abs(size)

    @torch.no_grad()
    def _secant(self, tangents: Sequence[Tensor]) -> Tensor:
        """Central difference with a step of the cube root of rounding, in units of the point."""
        size = sqrt(sum(float(v.norm()) ** 2 for v in tangents))
        if not (isfinite(size) and size > 0):
            return torch.zeros_like(self.output)
        scale = sqrt(sum(float(leaf.norm()) ** 2 for leaf in self._moving)) or 1.0
        step = torch.finfo(self.output.dtype).eps ** (1 / 3) * scale / size

        def moved(sign: float) -> Tensor:
            shift = iter(tangents)
            return self._function(
                *(leaf + sign * step * next(shift) if leaf.requires_grad else leaf for leaf in self._leaves)
            )

        secant: Tensor = (moved(1.0) - moved(-1.0)) / (2 * step)
        return secant
