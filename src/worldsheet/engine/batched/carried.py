"""Residuals carried along a path by the Jacobians of its layers: Newton's steps of many sites at once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState, Field
from worldsheet.engine.batched.runs import LayerGroup
from worldsheet.engine.batched.slab import Slab, Span
from worldsheet.layers import ModuleInfo, Recorded
from worldsheet.problem import BoundLayers
from worldsheet.recurrence import solve_bidiagonal, solve_transposed

_ALONE = ModuleInfo(parameters=(), buffers=False, random=False, foreign=True, watched=False, steps=None, mappable=None)
_NUMBERS = 2**24  # in the Jacobians that are held at once


def carried_up(slab: Slab, span: Span, residual: AnyState, caller: BoundLayers) -> AnyState:
    """δ_l − J_l δ_{l−1} = r_l for neighbouring sites, what is below them held."""
    pieces: list[Tensor] = []
    for first, last in _windows(slab, span):
        sources = residual[first - span.first : last + 1 - span.first].clone()
        jacobians = _jacobians(slab, first, last, caller, inner=not pieces)
        if pieces:
            sources[0] += (jacobians[0] @ pieces[-1][-1][..., None])[..., 0]
        pieces.append(solve_bidiagonal(jacobians, sources))
    return torch.cat(pieces)


def carried_down(slab: Slab, span: Span, missing: AnyState, caller: BoundLayers) -> AnyState:
    """ε_l − J_{l+1}ᵀ ε_{l+1} = g_l for neighbouring sites, what is above them held."""
    pieces: list[Tensor] = []
    above: Tensor | None = None
    for first, last in reversed(list(_windows(slab, span))):
        sources = missing[first - span.first : last + 1 - span.first].clone()
        if above is not None:
            sources[-1] += above
        jacobians = _jacobians(slab, first, last, caller, inner=first == span.first)
        found = solve_transposed(jacobians, sources)
        above = (jacobians[0].mT @ found[0][..., None])[..., 0]
        pieces.append(found)
    return torch.cat(pieces[::-1])


def check_carried(slabs: Sequence[Slab], caller: BoundLayers) -> None:
    """Refuse states that are no rows of numbers, and layers that cannot be evaluated on more rows at once.

    Raises:
        InputError: such states or layers, between neighbours of one shape.
    """
    for slab in slabs:
        first = max(slab.span.first, 1)
        if first >= slab.span.last:
            continue
        shape = tuple(slab.states.shape[1:])
        if len(shape) != 2 or slab.states.is_complex():
            raise InputError(
                f"Scan() must have states of shape (batch, n) between equal layers, got {shape}",
                "real rows of numbers",
                "use Wavefront(), or flatten the states",
            )
        for layer in range(first + 1, slab.span.last + 1):
            traits, label = caller.traits[layer - 1], caller.chain.layers[layer - 1].label
            if traits.buffers or (traits.random and not traits.foreign):
                raise InputError(
                    f"Scan() evaluates layers on more rows at once and cannot use layer {label}, which draws random "
                    "numbers or keeps statistics",
                    "layers that map each row by itself",
                    "put the module into eval mode, or use Wavefront()",
                )


def _windows(slab: Slab, span: Span) -> Iterator[tuple[int, int]]:
    """Sites whose Jacobians fit, from below."""
    batch, size = slab.states.shape[1:]
    length = max(2, _NUMBERS // max(1, batch * size * size))
    for first in range(span.first, span.last + 1, length):
        yield first, min(first + length - 1, span.last)


def _jacobians(slab: Slab, first: int, last: int, caller: BoundLayers, *, inner: bool) -> Tensor:
    """∂f_l/∂x_{l−1} for sites first..last, (site, B, n, n); zero for the first if nothing below it moves along."""
    batch, size = slab.states.shape[1:]
    found = slab.states.new_zeros(last + 1 - first, batch, size, size)
    lowest = first + 1 if inner else first
    for run in slab.runs:
        low, high = max(run.first, lowest), min(run.last, last)
        if low <= high:
            found[low - first : high + 1 - first] = _of_run(slab, run, low, high, caller)
    return found


def _of_run(slab: Slab, run: LayerGroup, low: int, high: int, caller: BoundLayers) -> Tensor:
    """All rows of the Jacobians by one pull-back of n times as many samples."""
    batch, size = slab.states.shape[1:]
    points = slab.rows(Field.STATE, Span(low - 1, high - 1)).repeat(1, size, 1)
    units = torch.eye(size, dtype=points.dtype, device=points.device).repeat_interleave(batch, 0)
    if run.alone:
        (found,) = (
            Recorded(caller.function(low), [points[0]], [True], _ALONE).pull(units, effort=False, keep=False).inputs
        )
        pulled = torch.zeros_like(points) if found is None else found[None]
    else:
        made, pulled = torch.empty_like(points), torch.empty_like(points)
        own = LayerGroup(run.first, run.last, run.steps, run.parameters)  # whose memory is for as many samples
        saved = own.forward(low, high, points, made)
        own.pull(low, high, units.expand_as(points).contiguous(), saved, pulled)
    return pulled.view(high + 1 - low, size, batch, size).transpose(1, 2)
