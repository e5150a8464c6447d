"""Runs of equal sites: which layers move together, and their fields as one tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from worldsheet.problem import Step, Traits


@dataclass(frozen=True)
class Run:
    """Consecutive sites first..first + size − 1 that move together; `steps` only if there is more than one."""

    first: int
    size: int
    steps: tuple[Step, ...]
    parameters: tuple[Parameter, ...]


def runs(traits: list[Traits]) -> list[Run]:
    """Consecutive layers with equal closed forms, the last layer apart."""
    found: list[list[int]] = []
    for index, now in enumerate(traits):
        joins = index < len(traits) - 1 and found and _alike(traits[found[-1][-1]].steps, now.steps)
        if joins:
            found[-1].append(index)
        else:
            found.append([index])
    return [_gather_run(indices, traits) for indices in found]


def _alike(steps: tuple[Step, ...] | None, others: tuple[Step, ...] | None) -> bool:
    if not steps or not others or len(steps) != len(others):
        return False
    return all(step.alike(other) for step, other in zip(steps, others, strict=True))


def _gather_run(indices: list[int], traits: list[Traits]) -> Run:
    parameters = tuple({id(p): p for index in indices for p in traits[index].parameters}.values())
    steps: tuple[Step, ...] = ()
    if len(indices) > 1:
        columns = zip(*(traits[index].steps or () for index in indices), strict=True)
        steps = tuple(column[0].stacked(column[1:]) for column in columns)
    return Run(indices[0] + 1, len(indices), steps, parameters)


def gathered(fields: tuple[Tensor, ...], run: Run) -> Tensor:
    """A field of all sites, cut out for a run."""
    own = fields[run.first - 1 : run.first - 1 + run.size]
    return own[0] if run.size == 1 else torch.stack(own)


def scattered(field: Tensor, run: Run) -> tuple[Tensor, ...]:
    """A run's field, site by site."""
    return (field,) if run.size == 1 else field.unbind()
