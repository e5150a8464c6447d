"""A step that follows the network through training."""

from math import inf
from typing import Any, final

import torch

from worldsheet.core.errors import InputError
from worldsheet.core.outcome import Outcome, Status
from worldsheet.dynamics import Dynamics
from worldsheet.dynamics.spectrum import Operator, largest_eigenvalue, normalised, power_step, probes
from worldsheet.problem import Chain, Linearised, Sites, linearise
from worldsheet.solve.checks import check_finite, check_options, inputs_of
from worldsheet.solve.positions import counting_positions

_WARM = 3  # products after a full estimate, which make a vector of one that favours nothing
_MOVES = 1.25  # a step that moves by more from product to product is followed more closely
_RECOVERY = 1.1  # by which a step that was backed off may grow towards its estimate at each product


@final
class Calibration:
    """A dynamics whose step is estimated at the first batch and followed from then on, at a small part of the cost.

    The step is 1/λ_max of the curvature of the layers, which grows as weights do: a step estimated once becomes
    unstable in training. Here the vector of the last estimate is kept, in which each sample has its own part, and every
    few calls one product with the layers' Jacobians brings vector and step up to date (power iteration; the growth of a
    part is below λ_max by what the vector lacks, and a step is stable up to twice the estimate). When a relaxation
    tells that its residuals grew or its fields diverged, the step is at most half of what it was, and is estimated in
    full at the next call. While the step moves by more than a quarter from product to product they come four times as
    often as `every` says, as in the first steps of training.

    Given to `backward` in place of a dynamics it is all there is to do: a relaxation that grew is done again from the
    start with the smaller step, before any gradient is used. By hand, ask `at` for the dynamics of a batch, and `tell`
    how it went. Belongs to one chain at a time; at another one it begins anew.

    A product costs one evaluation and four pull-backs of every layer, as much as two gradients by backpropagation: with
    every=10, 3 % of a gradient that takes 12 ticks. Generators, buffers and `.grad` are left as they were.

    Args:
        dynamics: with an automatic step: `PredictiveCoding()` or `AugmentedLagrangian()`, also on a substrate.
        every: calls between products once the step moves slowly.

    Attributes:
        products: products with the layers' Jacobians so far, those of full estimates left out.
        estimates: full estimates so far, each as `calibrate` makes it.

    Raises:
        InputError: a dynamics whose step is a number, or `every` below 1.
    """

    def __init__(self, dynamics: Dynamics, every: int = 10) -> None:
        check_options(dynamics)
        if not dynamics.automatic:
            raise InputError(
                f"Calibration: {dynamics} has no automatic constant to follow",
                "a dynamics whose step is left out",
                "leave the rate out, as in PredictiveCoding(), or give the dynamics itself",
            )
        if every < 1:
            raise InputError(f"Calibration: every must be at least 1, got {every}", "1 or more calls", "use every=10")
        self.products = self.estimates = 0
        self._dynamics = dynamics
        self._every = every
        self._chain: Chain | None = None
        self._vector: Sites | None = None
        self._left = self._interval = 0
        self._step = self._share = 1.0
        self._ceiling: float | None = None

    def __repr__(self) -> str:
        return f"Calibration({self._dynamics}, every={self._every})"

    @property
    def dynamics(self) -> Dynamics:
        """The one whose step is followed."""
        return self._dynamics

    @property
    def step(self) -> float | None:
        """The step as it is now; None before the first batch."""
        return None if self._chain is None else self._step

    def at(self, chain: Chain, x: Any, target: Any) -> Dynamics:
        """The dynamics with numbers for this batch, brought up to date if it is time to.

        Raises:
            InputError: arguments that cannot be right, or a dynamics without a step of this kind.
            LayerError: a layer or loss that fails on what it receives.
        """
        anew = chain is not self._chain or self._ceiling is not None
        dynamics = counting_positions(self._dynamics, chain, x, target)
        if anew or self._left == 0:
            check_finite(chain, *inputs_of(chain, x))
            with torch.no_grad(), linearise(chain, x, target) as linearised:
                vector = None if anew else _fitted(self._vector, linearised)
                if vector is None:
                    self._estimate(dynamics, chain, linearised)
                else:
                    self._follow(dynamics, vector, linearised)
            self._left = self._interval
        self._left -= 1
        return dynamics.with_step(self._step)

    def tell(self, outcome: Outcome) -> None:
        """How the relaxation with the last step went: one that grew or diverged halves it, and asks for an estimate."""
        if outcome.growing or outcome.status is Status.DIVERGED:
            self._ceiling = self._step / 2

    def _estimate(self, dynamics: Dynamics, chain: Chain, linearised: Linearised) -> None:
        """As `calibrate` does, and a vector to go on with."""
        operator = _operator(dynamics, linearised)
        steepest = largest_eigenvalue(operator, linearised.states) or 1.0
        vector = normalised(probes(linearised.states), linearised.samples)
        for _ in range(_WARM):
            _, vector = power_step(operator, vector, linearised.samples)
        ceiling = inf if self._ceiling is None or chain is not self._chain else self._ceiling
        self._step = min(1 / steepest, ceiling)
        self._share = self._step * steepest
        self._chain, self._vector, self._ceiling = chain, vector, None
        self._interval = self._shortest
        self.estimates += 1

    def _follow(self, dynamics: Dynamics, vector: Sites, linearised: Linearised) -> None:
        """One product."""
        steepest, self._vector = power_step(_operator(dynamics, linearised), vector, linearised.samples)
        self._share = min(1.0, _RECOVERY * self._share)
        before, self._step = self._step, self._share / (steepest or 1.0)
        slow = 1 / _MOVES < self._step / before < _MOVES
        self._interval = min(self._every, 2 * self._interval) if slow else self._shortest
        self.products += 1

    @property
    def _shortest(self) -> int:
        return max(1, self._every // 4)


def _operator(dynamics: Dynamics, linearised: Linearised) -> Operator:
    found = dynamics.stiffness(linearised)
    if found is None:
        raise InputError(
            f"Calibration: {dynamics} has other automatic constants than a step",
            "PredictiveCoding() or AugmentedLagrangian(), also on a substrate",
            "use ws.calibrate(chain, x, target, dynamics)",
        )
    return found


def _fitted(vector: Sites | None, linearised: Linearised) -> Sites | None:
    """A vector for this batch, which may have another number of samples; None where the network is another."""
    samples = linearised.samples
    if vector is None or len(vector) != len(linearised.states):
        return None
    parts = []
    for part, state in zip(vector, linearised.states, strict=True):
        if (part.dtype, part.device) != (state.dtype, state.device) or part.shape[1:] != state.shape[1:]:
            return None
        if part.shape[:1] == state.shape[:1]:
            parts.append(part)
        elif state.shape[0] == samples:
            parts.append(part[torch.arange(samples, device=part.device) % len(part)])
        else:
            return None
    return tuple(parts)
