"""A start from an earlier solution: the limits that it leaned on are equations, until a step says otherwise.

A barrier would have to fall again from far above, however near the solution is.
"""

from dataclasses import replace

import torch
from torch import Tensor

from worldsheet.control.derivatives import Expansion
from worldsheet.control.discretized import Discretised
from worldsheet.control.lqr.subproblem import Step
from worldsheet.control.methods.initial_guess import Known
from worldsheet.control.methods.iterate import Conditions, Iterate
from worldsheet.control.methods.stagewise import evaluated

_LEAST = 1e-6  # cost and size of a constraint are at least that where they are compared
_YIELD = 10.0  # √ε: by how much an active row yields, of what a unit of force counts as slack
_EVEN = 1e-10  # a row that is exceeded or pulls by less is left as it is


@torch.no_grad()
def kept(problem: Discretised, at: Iterate, known: Known) -> Iterate:
    """A start with the multipliers of an earlier solution, and an active set in the place of a barrier.

    A unit of force counts as as much slack as makes their product the cost: at constraints of their mean size, or of
    that which goes with their mean force where it is larger, since a row that is active throughout has no size.
    """
    if not at.slacks.shape[-1]:
        return replace(at, pulls=known.equality)
    values = evaluated(problem, at.points())
    cost = values[..., 0].abs().sum(-1).clamp(_LEAST, 1.0)
    extent = values[..., 1 + problem.size :].abs().mean(1, keepdim=True)
    extent = torch.maximum(extent, (cost[:, None, None] / known.inequality.mean(1, keepdim=True)).clamp(_LEAST, 1.0))
    return replace(
        at,
        forces=known.inequality,
        pulls=known.equality,
        barrier=torch.zeros_like(at.barrier),
        exchange=(extent**2 / cost[:, None, None]).nan_to_num(1.0, 1.0, 1.0),
    )


def activated(at: Iterate, stage: Expansion) -> Iterate:
    """With slacks as they are, −G or 0, and the rows that are exceeded or push: G + ρ force > 0."""
    if not at.warm:
        return at
    inequality = stage.values[..., 1 + at.states.shape[-1] :]
    slacks = torch.where(at.kept, (-inequality).clamp(min=0), at.slacks)
    return replace(at, slacks=slacks, active=inequality + at.exchange * at.forces > 0)


def response(at: Iterate, found: Conditions) -> tuple[Tensor, Tensor]:
    """How a step changes forces: by push + ratio · δG, (B, N, p) each.

    Active rows become G + δG = 0, to within what they yield; the forces of all others end.
    """
    stiff = 1 / (_YIELD * torch.finfo(at.forces.dtype).eps ** 0.5)
    ratio = torch.where(at.active, stiff / at.exchange, 0.0)
    return ratio, torch.where(at.active, ratio * found.inequality(), -at.forces)


def reactivated(at: Iterate, found: Conditions, step: Step) -> Tensor:
    """The active set that a step would lead to, (B, N, p): it loses what pulls and gains what would be exceeded."""
    moved = torch.cat((step.states[:-1], step.controls), -1).transpose(0, 1)
    change = (found.stage.jacobian[..., 1 + step.states.shape[-1] :, :] @ moved[..., None])[..., 0]
    ratio, push = response(at, found)
    even = max(_EVEN, 10 * torch.finfo(at.forces.dtype).eps)
    score = (found.inequality() + change + at.exchange * (at.forces + push + ratio * change)) / at.exchange.sqrt()
    return torch.where(at.kept, torch.where(at.active, score > -even, score > even), at.active)


def interior(at: Iterate, product: Tensor) -> Iterate:
    """With slacks above 0, s · force at most a product (B,): what a solution with a barrier of that size looks like."""
    if not at.warm:
        return at
    wanted, tiny = product[:, None, None], torch.finfo(at.slacks.dtype).tiny
    least = torch.minimum(wanted / at.forces, (at.exchange * wanted).sqrt())
    slacks = torch.where(at.exchange * at.forces > at.slacks, torch.maximum(at.slacks, least), at.slacks)
    return replace(at, slacks=torch.where(at.kept, slacks.clamp(min=tiny), at.slacks))
