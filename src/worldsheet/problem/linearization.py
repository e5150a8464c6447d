"""The layers' Jacobians at a forward pass, as products with one layer at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import isfinite, sqrt
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.topology import Topology
from worldsheet.core.types import AnyState
from worldsheet.cut import Replayed
from worldsheet.layers.proximal import Slope
from worldsheet.problem.calls import BoundLayers
from worldsheet.problem.chain import Chain

Sites: TypeAlias = tuple[AnyState, ...]
"""One tensor per site 1..L, of the shape of its state."""


class Linearised(ABC):
    """The shift N, which carries a tangent one layer up, and its transpose, which carries a covector one layer down.

        (N v)_l = Σ_{parents p} J_l v_p,     (Nᵀ c)_l = Σ_{children m} J_mᵀ c_m

    The input is clamped, v_0 = 0, and the cost above the outputs is left out; it has `curved`. Made by `linearise`, and
    of use only inside its `with`.

    Attributes:
        states: the forward pass, f_l at site l = 1..L.
        topology: which site feeds which.
        samples: batch size.
    """

    states: Sites
    topology: Topology
    samples: int

    @abstractmethod
    def ahead(self, tangents: Sequence[AnyState]) -> Sites:
        """N v: at each site what its own layer makes of the tangents at its parents."""

    @abstractmethod
    def back(self, covectors: Sequence[AnyState]) -> Sites:
        """Nᵀ c: at each site what the layers that read it pull back, without the cost."""

    @abstractmethod
    def through(self, tangents: Sequence[AnyState]) -> Sites:
        """(1 − N)⁻¹ v: at each site its own tangent, and what all layers below have made of theirs."""

    @abstractmethod
    def through_back(self, covectors: Sequence[AnyState]) -> Sites:
        """(1 − Nᵀ)⁻¹ c: at each site its own covector, and what all layers above have pulled back of theirs."""

    @abstractmethod
    def curved(self, tangents: Sequence[AnyState]) -> Sites:
        """∇²C v at the outputs, from one tangent each; it carries the cost's 1/B where that is a batch mean."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """Indices into `states` of what the cost reads."""
        return tuple(site - 1 for site in self.topology.ends)

    @property
    def at_outputs(self) -> Sites:
        """The states that the cost reads."""
        return tuple(self.states[index] for index in self.outputs)


@final
class LinearisedPath(Linearised):
    """Of a path, layer by layer: a product costs one pull-back of every layer by itself, or two for N.

    Args:
        caller: the layers and the loss.
        x: the input.

    Raises:
        LayerError: a layer that fails on what it receives.
    """

    def __init__(self, caller: BoundLayers, x: Tensor) -> None:
        self.topology = caller.chain.topology
        self._local: list[_Local] = []
        output = x.detach()
        found = []
        for layer in self.topology.sites:
            self._local.append(_Local(caller.function(layer), output, moves=layer > 1))
            output = self._local[-1].output
            found.append(output)
        self.states = tuple(found)
        self.samples = int(output.shape[0]) if output.dim() else 1
        self._cost = partial(Slope, caller.function(caller.head))
        self._slope: Slope | None = None

    @override
    def ahead(self, tangents: Sequence[AnyState]) -> Sites:
        below = (None, *tangents[:-1])
        return tuple(local.push(tangent) for local, tangent in zip(self._local, below, strict=True))

    @override
    def back(self, covectors: Sequence[AnyState]) -> Sites:
        pairs = list(zip(self._local, covectors, strict=True))[1:]
        found = [local.pull(covector) for local, covector in pairs]
        kept = [
            torch.zeros_like(state) if part is None else part for state, part in zip(self.states, found, strict=False)
        ]
        return (*kept, torch.zeros_like(self.states[-1]))

    @override
    def through(self, tangents: Sequence[AnyState]) -> Sites:
        moved: list[Tensor] = []
        for local, tangent in zip(self._local, tangents, strict=True):
            moved.append(tangent + local.push(moved[-1] if moved else None))
        return tuple(moved)

    @override
    def through_back(self, covectors: Sequence[AnyState]) -> Sites:
        arrived = [covectors[-1]]
        for local, covector in zip(reversed(self._local[1:]), reversed(covectors[:-1]), strict=True):
            pulled = local.pull(arrived[-1])
            arrived.append(covector if pulled is None else covector + pulled)
        return tuple(reversed(arrived))

    @override
    def curved(self, tangents: Sequence[AnyState]) -> Sites:
        if self._slope is None:
            self._slope = self._cost(self.states[-1])
        return (self._slope.turned(tangents[-1]),)


@final
class LinearisedProgram(Linearised):
    """Of a module of any kind, all sites at once: N by forward mode, Nᵀ by one call of torch's engine.

    Where an operation has no forward mode, N is a central difference of two runs.

    Args:
        problem: the forward pass and its repetitions.
        samples: batch size.
    """

    def __init__(self, problem: Replayed, samples: int) -> None:
        self.topology = problem.topology
        self.states = tuple(problem.first.predictions)
        self.samples = samples
        self._problem = problem
        self._forward: bool | None = None  # whether forward mode works here; None before the first product

    @override
    def ahead(self, tangents: Sequence[AnyState]) -> Sites:
        if self._forward is not False:
            found = self._problem.pushed(self.states, tangents)
            if self._forward is None:
                self._forward = found is not None and self._is_transpose(tuple(found), tangents)
            if found is not None and self._forward:
                return tuple(found)
        return self._secant(tangents)

    @override
    def back(self, covectors: Sequence[AnyState]) -> Sites:
        found, _ = self._problem.first.pull(covectors, priced=False)
        return tuple(torch.zeros_like(x) if part is None else part for x, part in zip(self.states, found, strict=True))

    @override
    def through(self, tangents: Sequence[AnyState]) -> Sites:
        if self._forward is None:
            self.ahead(tangents)
        found = self._problem.pushed(self.states, tangents, through=True) if self._forward else None
        return self._secant_through(tangents) if found is None else tuple(found)

    @override
    def through_back(self, covectors: Sequence[AnyState]) -> Sites:
        found = self._problem.first.through(covectors, priced=False)
        return tuple(torch.zeros_like(x) if part is None else part for x, part in zip(self.states, found, strict=True))

    @override
    def curved(self, tangents: Sequence[AnyState]) -> Sites:
        found = self._problem.first.bent(self.outputs, tangents)
        if found is not None:
            return tuple(found)
        step = _step(self.at_outputs, tangents)
        slopes = []
        for sign in (step, -step):
            states: list[Tensor | None] = list(self.states)
            for index, tangent in zip(self.outputs, tangents, strict=True):
                states[index] = self.states[index] + sign * tangent
            slope, _ = self._problem.at(states).pull([None] * len(states))
            slopes.append([slope[index] for index in self.outputs])
        pairs = zip(*slopes, tangents, strict=True)
        return tuple(
            torch.zeros_like(tangent) if up is None or down is None else (up - down) / (2 * step)
            for up, down, tangent in pairs
        )

    def _secant(self, tangents: Sequence[AnyState]) -> Sites:
        step = _step(self.states, tangents)
        if step == 0:
            return tuple(torch.zeros_like(state) for state in self.states)
        pairs = list(zip(self.states, tangents, strict=True))
        up, down = (self._problem.at([x + sign * v for x, v in pairs]).predictions for sign in (step, -step))
        return tuple((a - b) / (2 * step) for a, b in zip(up, down, strict=True))

    def _secant_through(self, tangents: Sequence[AnyState]) -> Sites:
        step = _step(self.states, tangents)
        if step == 0:
            return tuple(torch.zeros_like(state) for state in self.states)

        def moved(step: float) -> Sequence[Tensor | None]:
            return self._problem.along(lambda site, made: made + step * tangents[site - 1]).states

        pairs = zip(moved(step), moved(-step), strict=True)
        return tuple((up - down) / (2 * step) for up, down in pairs if up is not None and down is not None)

    def _is_transpose(self, found: Sites, tangents: Sequence[AnyState]) -> bool:
        """⟨N v, N v⟩ = ⟨Nᵀ N v, v⟩, which an operation fails whose forward mode is not its backward's."""
        size, other = _inner(found, found), _inner(self.back(found), tangents)
        return abs(other - size) <= 0.02 * abs(size)


def _inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float(torch.vdot(a.flatten(), b.flatten()).real) for a, b in zip(one, other, strict=True))


def _step(points: Sequence[Tensor], tangents: Sequence[Tensor]) -> float:
    """For central differences: the cube root of rounding, in units of the point; 0 for no tangent."""
    size = sqrt(sum(float(v.norm()) ** 2 for v in tangents))
    if not (isfinite(size) and size > 0):
        return 0.0
    scale = sqrt(sum(float(point.norm()) ** 2 for point in points)) or 1.0
    return float(max(torch.finfo(point.dtype).eps for point in points) ** (1 / 3) * scale / size)


@contextmanager
def linearise(chain: Chain, x: Any, target: Any) -> Iterator[Linearised]:
    """Evaluate every layer once and give its Jacobians; generators and buffers are left as they were found.

    Raises:
        LayerError: a layer that fails on what it receives.
    """
    if chain.is_path:
        caller = BoundLayers(chain, target)
        with caller.replay.rehearsed(x.device):
            yield LinearisedPath(caller, x)
    else:
        problem = Replayed(chain.program, x, target)
        try:
            yield LinearisedProgram(problem, problem.samples)
        finally:
            problem.undo()


@final
class _Local:
    """One layer's graph. J v is the transpose of Jᵀ u, which is linear in u, so one more pull-back gives it."""

    def __init__(self, function: Callable[..., Tensor], point: Tensor, *, moves: bool) -> None:
        self._function = function
        with torch.enable_grad():
            self._leaf = point.detach().requires_grad_(moves)
            self._graph = function(self._leaf)
        self._moves = moves and self._graph.requires_grad
        self.output = self._graph.detach()
        self._dual: tuple[Tensor, Tensor] | None = None
        self._twice: bool | None = None  # whether J v can be had by differentiating twice; None before the first

    def pull(self, covector: Tensor) -> Tensor | None:
        """Jᵀ c; None where the layer does not depend on its input."""
        if not self._moves:
            return None
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            self._graph, self._leaf, covector, retain_graph=True, allow_unused=True
        )
        return found[0]

    def push(self, tangent: Tensor | None) -> Tensor:
        """J v; zero for an input that does not move."""
        if not self._moves or tangent is None:
            return torch.zeros_like(self.output)
        if self._twice is None:
            found = self._transposed(tangent)
            self._twice = found is not None and self._is_transpose(found, tangent)
        else:
            found = self._transposed(tangent) if self._twice else None
        return found if self._twice and found is not None else self._secant(tangent)

    def _transposed(self, tangent: Tensor) -> Tensor | None:
        """J v, or None where torch cannot differentiate twice: compiled layers and some users' functions."""
        try:
            if self._dual is None:
                with torch.enable_grad():
                    dual = torch.zeros_like(self._graph).requires_grad_()
                    (pulled,) = torch.autograd.grad(
                        self._graph, self._leaf, dual, create_graph=True, allow_unused=True, materialize_grads=True
                    )
                self._dual = dual, pulled
            dual, pulled = self._dual
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                pulled, dual, tangent, retain_graph=True, allow_unused=True
            )
            return found[0]
        except RuntimeError:
            return None

    def _is_transpose(self, found: Tensor, tangent: Tensor) -> bool:
        """⟨J v, J v⟩ = ⟨Jᵀ J v, v⟩, which a function fails that hides a part of its derivative from torch."""
        pulled = self.pull(found)
        size, other = _inner([found], [found]), 0.0 if pulled is None else _inner([pulled], [tangent])
        return abs(other - size) <= 0.02 * abs(size)

    @torch.no_grad()
    def _secant(self, tangent: Tensor) -> Tensor:
        step = _step([self._leaf], [tangent])
        if step == 0:
            return torch.zeros_like(self.output)
        secant: Tensor = (self._function(self._leaf + step * tangent) - self._function(self._leaf - step * tangent)) / (
            2 * step
        )
        return secant
