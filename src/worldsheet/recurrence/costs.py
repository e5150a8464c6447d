"""What each way through a recurrence costs on a machine, as a table of constants, and the cheapest one."""

from dataclasses import dataclass
from enum import Enum
from math import log2
from typing import final

from worldsheet.recurrence.cells import Kind

_CACHED = 2e6  # products a step, beyond which a library's blocking of matrices wins


@final
class Method(Enum):
    """How the states of a recurrence are found. All give what the loop gives, to rounding."""

    LOOP = "loop"
    """The wrapped module itself; for a cell, a call a step."""

    COMPILED = "compiled loop"
    """A loop in C, on a processor, for torch's own cells."""

    SCAN = "scan"
    """Newton's method with full Jacobians, each iteration one scan."""

    DIAGONAL = "diagonal scan"
    """The same with the diagonals of the Jacobians; exact at once for a cell that is linear in its state."""


@final
@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        kind: which of torch's cells; None for another one.
        steps: T.
        batch: B.
        size: n, hidden numbers.
        backward: whether something will be pulled back.
        double: whether numbers have 64 bits.
        on_cpu: whether a processor does it, else a device that takes many small operations at once.
        can_compile: whether a compiled loop is possible.
    """

    kind: Kind | None
    steps: int
    batch: int
    size: int
    backward: bool
    double: bool
    on_cpu: bool
    can_compile: bool


@final
@dataclass(frozen=True)
class Costs:
    """Times in microseconds; those of a processor were measured on one core (experiments/c23_scan), others estimated.

    Attributes:
        launch: of a small operation of torch's.
        product: of one multiplication and addition in a large product of many small matrices.
        dense: the same in one large product.
        iterations: of Newton's that are expected.
        margin: how much cheaper another way than the wrapped module must be.
    """

    launch: float = 5.0
    product: float = 1.2e-4
    dense: float = 5e-5
    iterations: int = 4
    margin: float = 0.8

    def of(self, method: Method, work: Work) -> float:
        """Microseconds for all steps."""
        if method is Method.LOOP:
            return self._loop(work)
        return self._compiled(work) if method is Method.COMPILED else self._scan(work, method is Method.DIAGONAL)

    def best(self, work: Work) -> Method:
        """The cheapest way; the wrapped module unless another one is clearly cheaper."""
        others = [Method.SCAN] if work.kind is None else [Method.SCAN, Method.DIAGONAL]
        if work.can_compile and work.batch * work.size**2 <= _CACHED:
            others.append(Method.COMPILED)
        other = min(others, key=lambda method: self.of(method, work))
        return other if self.of(other, work) < self.margin * self.of(Method.LOOP, work) else Method.LOOP

    def _loop(self, work: Work) -> float:
        """Operations of torch's each step, or its fused LSTM, which has none."""
        numbers = work.batch * work.size
        flops = self.dense * numbers * work.size * (work.kind.blocks if work.kind else 4)
        if work.kind is Kind.LSTM and work.on_cpu and not work.double:
            fused = 0.3 + 0.11 * work.batch + 0.002 * numbers + 0.8 * flops
            return work.steps * fused * (3 if work.backward else 1) + (150 if work.backward else 60)
        calls = {Kind.TANH: 1, Kind.RELU: 1, Kind.GRU: 3, Kind.LSTM: 4}.get(work.kind, 6) if work.kind else 6
        each = calls * self.launch + 0.003 * numbers + flops
        return work.steps * each * (6 if work.backward else 1) + 40

    def _compiled(self, work: Work) -> float:
        """No calls, arithmetic on whole vectors."""
        numbers = work.batch * work.size
        blocks = work.kind.blocks if work.kind else 1
        rows = work.batch * (0.05 if work.kind in (Kind.TANH, Kind.RELU) else 0.11) + 0.002 * numbers
        flops = self.dense * numbers * work.size * blocks * (2 if work.double else 1)
        return work.steps * (0.03 + rows + flops) * (3 if work.backward else 1) + (300 if work.backward else 100)

    def _scan(self, work: Work, diagonal: bool) -> float:
        """Iterations of log T rounds; costates are one more."""
        size = work.size * (2 if work.kind is Kind.LSTM else 1)
        rows = work.steps * work.batch
        rounds = (3 * log2(work.steps + 1) + 20) * self.launch
        blocks = work.kind.blocks if work.kind else 4
        step = rows * size * (size * blocks * self.dense + 0.003 * blocks)
        if diagonal:
            iterations = 4 * self.iterations
            return (iterations * (2 if work.backward else 1)) * (rounds + step + rows * size * 0.01 + 0.1 * rows)
        jacobian = rows * size * size * (0.001 * blocks if work.kind else 20 * size * self.dense)
        passes = self.iterations + (1 if work.backward else 0)
        return passes * (rounds + step + jacobian + 0.4 * rows + 1.5 * rows * size**3 * self.product) + 2 * step
