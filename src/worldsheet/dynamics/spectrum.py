"""The largest eigenvalue of an operator on the sites, from products with single layers: what step sizes are made of."""

from collections.abc import Callable, Sequence
from math import isfinite, sqrt
from typing import TypeAlias

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState
from worldsheet.problem import Linearised, Sites

Operator: TypeAlias = Callable[[Sites], Sequence[AnyState]]
"""A linear map of one tensor per site to the same."""

SAFETY = 1.05
"""Factor on an estimate that must not fall short: Lanczos' values come from below, and stop within a hundredth."""

_GOLDEN = 0.6180339887498949


def largest_eigenvalue(
    operator: Operator,
    like: Sequence[AnyState],
    *,
    tolerance: float = 0.01,
    products: int = 60,
) -> float:
    """The largest eigenvalue of a symmetric operator without negative eigenvalues, from below.

    Power iteration, with the best vector among all powers instead of the last one (Lanczos). The start is a fixed
    sequence without period, so that the same layers always give the same number.

    Args:
        operator: the product with it; one tensor per site, in and out.
        like: tensors of the shapes, dtypes and devices of its vectors.
        tolerance: relative change of the estimate over three products at which it stops.
        products: it stops after so many in any case.

    Raises:
        InputError: a product that is not finite.
    """
    vector = _start(like)
    before: Sites | None = None
    diagonal: list[float] = []
    beside: list[float] = []
    estimates: list[float] = []
    for _ in range(products):
        image = tuple(operator(vector))
        diagonal.append(_inner(vector, image))
        if not isfinite(diagonal[-1]):
            raise InputError("the Jacobian of a layer is not finite", "finite derivatives", "scale the layers down")
        rest = _plus(image, vector, -diagonal[-1])
        if before is not None:
            rest = _plus(rest, before, -beside[-1])
        estimates.append(_top(diagonal, beside))
        size = sqrt(max(_inner(rest, rest), 0.0))
        still = len(estimates) > 3 and estimates[-1] - estimates[-4] <= tolerance * estimates[-1]
        if still or not size > 1e-6 * max(abs(estimates[-1]), 1e-30):
            break
        beside.append(size)
        before, vector = vector, tuple(part / size for part in rest)
    return estimates[-1]


def power_step(operator: Operator, vector: Sites, samples: int) -> tuple[float, Sites]:
    """One product: the largest growth of a sample's part of a vector, and all parts as they are then, of length 1.

    Samples do not meet in a network, but for batch statistics: the operator has a block for each, its largest
    eigenvalue is that of the worst, and one product is a step of power iteration in all of them. From below for parts
    of length 1.

    Args:
        operator: the product with it, symmetric and without negative eigenvalues.
        vector: a part for each sample where the first dimension of all sites has that size, else one for all.
        samples: batch size.

    Raises:
        InputError: a product that is not finite.
    """
    image = tuple(operator(vector))
    sizes = _sizes(image, samples)
    largest = float(sizes.max())
    if not isfinite(largest):
        raise InputError("the Jacobian of a layer is not finite", "finite derivatives", "scale the layers down")
    return largest, _scaled(image, sizes, samples)


def normalised(vector: Sites, samples: int) -> Sites:
    """Of length 1 for each sample, or altogether where the first dimension is not the samples'."""
    return _scaled(vector, _sizes(vector, samples), samples)


def residual_gain(linearised: Linearised, impedances: Sequence[float] | None = None) -> float:
    """‖Z^{-½}(1 − N)Z^{½}‖, the largest factor from a small change of all states to the state residuals that follow.

    Args:
        linearised: the layers' Jacobians.
        impedances: z_l, in whose units residual and state are measured; without, all are 1.
    """
    roots = [sqrt(z) for z in impedances or [1.0] * len(linearised.states)]
    inverse = [1 / root for root in roots]

    def operator(tangents: Sites) -> Sites:
        residuals = _plus(tangents, _times(inverse, linearised.ahead(_times(roots, tangents))), -1.0)
        return _plus(residuals, _times(roots, linearised.back(_times(inverse, residuals))), -1.0)

    return sqrt(largest_eigenvalue(operator, linearised.states))


def probes(like: Sequence[AnyState], number: int = 0) -> Sites:
    """Fixed sequences without period, of mean square near 1/12: vectors that favour nothing."""
    parts = []
    for site, tensor in enumerate(like, start=1 + 1000 * number):
        numbers = torch.arange(1, tensor.numel() + 1, dtype=torch.float64) * _GOLDEN + site * _GOLDEN**2
        parts.append((numbers % 1 - 0.5).to(tensor).reshape(tensor.shape))
    return tuple(parts)


def _start(like: Sequence[AnyState]) -> Sites:
    parts = probes(like)
    size = sqrt(_inner(parts, parts))
    return tuple(part / size for part in parts)


def _sizes(vector: Sites, samples: int) -> Tensor:
    if _by_sample(vector, samples):
        squares = [part.detach().abs().double().square().reshape(samples, -1).sum(1) for part in vector]
        return torch.stack(squares).sum(0).sqrt()
    sizes: Tensor = torch.stack([part.detach().norm().double() for part in vector])
    return sizes.square().sum().sqrt().reshape(1)


def _scaled(vector: Sites, sizes: Tensor, samples: int) -> Sites:
    inverse = torch.where(sizes > 0, 1 / sizes, 0.0)
    if not _by_sample(vector, samples):
        return tuple(part * inverse.to(part.real.dtype) for part in vector)
    return tuple(part * inverse.to(part.real.dtype).reshape(samples, *[1] * (part.dim() - 1)) for part in vector)


def _by_sample(vector: Sites, samples: int) -> bool:
    return all(part.dim() > 0 and part.shape[0] == samples for part in vector)


def _inner(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    products = [torch.vdot(a.flatten(), b.flatten()).real for a, b in zip(one, other, strict=True)]
    return float(torch.stack([product.double() for product in products]).sum())


def _times(factors: Sequence[float], fields: Sequence[Tensor]) -> Sites:
    return tuple(factor * field for factor, field in zip(factors, fields, strict=True))


def _plus(one: Sequence[Tensor], other: Sequence[Tensor], factor: float) -> Sites:
    return tuple(torch.add(a, b, alpha=factor) for a, b in zip(one, other, strict=True))


def _top(diagonal: Sequence[float], beside: Sequence[float]) -> float:
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        side = torch.tensor(beside, dtype=torch.float64)
        matrix = matrix + torch.diag(side, 1) + torch.diag(side, -1)
    return float(torch.linalg.eigvalsh(matrix)[-1])
