"""Start values and residuals, the same for every engine."""

from collections.abc import Callable, Sequence
from math import nan

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.fields import Fields
from worldsheet.core.types import AnyState, Field, Residuals, Table
from worldsheet.dynamics import Dynamics
from worldsheet.engine.base import Residual
from worldsheet.problem import View


def table_of(views: Sequence[View], norms: Callable[[list[Tensor]], Residuals]) -> Table:
    """‖r‖, ‖g‖ and the norms of the messages from below and above, a row per site."""
    columns = (
        [view.state_residual for view in views],
        [view.costate_residual for view in views],
        [view.prediction for view in views],
        [view.pulled for view in views],
    )
    return torch.stack([norms(column) for column in columns], 1).cpu().double()


def residual_of(dynamics: Dynamics, table: Table) -> Residual:
    """Norms of r and g at every site, and the largest, relative to its message, that the dynamics brings to zero."""
    states, costates, predictions, pulled = table.unbind(1)
    if not bool(torch.isfinite(torch.cat([states, costates])).all()):
        return Residual(states, costates, nan)
    measured = {Field.STATE: (states, predictions), Field.COSTATE: (costates, pulled)}
    ratios = [_relative(*measured[field]) for field in dynamics.character.vanishing]
    return Residual(states, costates, float(torch.cat(ratios).max()))


def _relative(sizes: Residuals, scales: Residuals) -> Residuals:
    """Sizes against their site's message, or against rounding of the largest one where the message dies away."""
    floor = torch.finfo(scales.dtype).eps * scales.max()
    return torch.where(sizes == 0, 0.0, sizes / torch.maximum(scales, floor))


def norms(tensors: list[Tensor]) -> Residuals:
    """One norm per tensor, where the tensors are."""
    return torch.stack([torch.linalg.vector_norm(tensor.detach()) for tensor in tensors])


def start_fields(dynamics: Dynamics, outputs: Sequence[AnyState], initial: Fields | None) -> Fields:
    """The dynamics' own start, or the one given.

    Raises:
        InputError: initial fields whose number or shapes are not those that the layers produce, or constants of the
            dynamics for another depth.
    """
    if initial is None:
        dynamics.fit(len(outputs))
        return dynamics.start(outputs)
    given = [tuple(state.shape) for state in initial.states]
    wanted = [tuple(output.shape) for output in outputs]
    if given != wanted:
        raise InputError(
            f"the initial fields have shapes {given}, which are not those of the layers' outputs",
            f"the shapes that the layers produce, {wanted}",
            "take them from a solution of the same chain and batch: initial=sol.fields",
        )
    return initial
