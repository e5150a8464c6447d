"""Constants of a dynamics: one number for all sites, or one for each."""

from collections.abc import Callable, Iterable
from math import isfinite
from typing import TypeAlias

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState
from worldsheet.problem import View

PerSite: TypeAlias = float | tuple[float, ...]
"""One number for all sites, or one for each of the sites 1..L."""


def kept(constant: float | Iterable[float] | Tensor) -> PerSite:
    """A constant as it is kept: a list, or a tensor of several numbers, as a tuple."""
    given: float | Iterable[float] = constant.tolist() if isinstance(constant, Tensor) else constant
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else given


def numbers(constant: PerSite | None) -> tuple[float, ...]:
    """All of its numbers; none where it is automatic."""
    if constant is None:
        return ()
    return constant if isinstance(constant, tuple) else (constant,)


def at(constant: PerSite, site: int) -> float:
    """The number of a site, counted from 1."""
    return constant[site - 1] if isinstance(constant, tuple) else constant


def own(constant: PerSite, view: View) -> float | Tensor:
    """The number of a view's site, or of several, shaped to multiply their fields."""
    return view.own(constant) if isinstance(constant, tuple) else constant


def moved(field: AnyState, by: AnyState, step: float | Tensor) -> AnyState:
    """field + step · by."""
    return torch.addcmul(field, step, by) if isinstance(step, Tensor) else field.add(by, alpha=step)


def paired(combine: Callable[[float, float], float], one: PerSite, other: PerSite) -> tuple[float, ...]:
    """A function of two constants, site by site; one number where both are."""
    count = max(len(numbers(one)), len(numbers(other)))
    return tuple(combine(at(one, site), at(other, site)) for site in range(1, count + 1))


def refuse_other_depth(name: str, depth: int, **constants: PerSite | None) -> None:
    """Refuse constants that are given site by site, for another number of sites.

    Raises:
        InputError: the first of them.
    """
    for argument, constant in constants.items():
        if isinstance(constant, tuple) and len(constant) != depth:
            raise InputError(
                f"{name}: {argument} has {len(constant)} numbers, and the chain has {depth} sites",
                f"one number for all sites, or {depth}, from the site that reads the input to the output",
                "chain.sites(x) shows the sites",
            )


def refuse_unequal(name: str, **constants: PerSite | None) -> None:
    """Refuse constants that are given site by site, for numbers of sites that differ from each other.

    Raises:
        InputError: there are such.
    """
    counts = {argument: len(c) for argument, c in constants.items() if isinstance(c, tuple)}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{argument} {count}" for argument, count in counts.items())
        raise InputError(
            f"{name}: constants are given for different numbers of sites: {told}",
            "for each constant one number, or as many as there are sites",
            "make them equally long",
        )


def refuse_not_positive(name: str, **values: PerSite | None) -> None:
    """Refuse constants that are given and not positive.

    Raises:
        InputError: the first of them.
    """
    for argument, value in ((argument, value) for argument, given in values.items() for value in numbers(given)):
        if not (isfinite(value) and value > 0):
            raise InputError(
                f"{name}: {argument} must be a positive finite number, got {value}",
                "a number above 0",
                f"leave {argument} out",
            )
