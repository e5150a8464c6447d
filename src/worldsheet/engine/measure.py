"""Start values and residuals, the same for every engine."""

from collections.abc import Callable, Sequence
from math import nan

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.field import Field
from worldsheet.core.shapes import Elsewhere, Residuals
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import Residual
from worldsheet.problem import Fields, View


def residual_of(dynamics: Dynamics, views: Sequence[View], norms: Callable[[list[Tensor]], Residuals]) -> Residual:
    """Norms of r and g at every site, and the largest, relative to its message, that the dynamics brings to zero."""
    states, costates = norms([view.state_residual for view in views]), norms([view.costate_residual for view in views])
    measured = {
        Field.STATE: (states, norms([view.prediction for view in views])),
        Field.COSTATE: (costates, norms([view.pulled for view in views])),
    }
    if not bool(torch.isfinite(torch.cat([states, costates])).all()):
        return Residual(states, costates, nan)
    ratios = [_relative(*measured[field]) for field in dynamics.character.vanishing]
    return Residual(states, costates, float(torch.cat(ratios).max()))


def _relative(sizes: Residuals, scales: Residuals) -> Residuals:
    """Sizes against their site's message, or against rounding of the largest one where the message dies away."""
    floor = torch.finfo(scales.dtype).eps * scales.max()
    return torch.where(sizes == 0, 0.0, sizes / torch.maximum(scales, floor))


def norms(tensors: list[Tensor]) -> Residuals:
    """One norm per tensor."""
    return torch.stack([torch.linalg.vector_norm(tensor.detach()) for tensor in tensors]).double().cpu()


def start_fields(dynamics: Dynamics, outputs: Sequence[Elsewhere], initial: Fields | None) -> Fields:
    """The dynamics' own start, or the one given.

    Raises:
        InputError: initial fields whose number or shapes are not those that the layers produce.
    """
    if initial is None:
        return dynamics.start(outputs)
    given = [tuple(state.shape) for state in initial.states]
    wanted = [tuple(output.shape) for output in outputs]
    if given != wanted:
        raise InputError(
            f"initial fields of shapes {given}",
            f"the shapes that the layers produce, {wanted}",
            "take them from a solution of the same chain and batch: initial=sol.fields",
        )
    return initial
