"""How good are the gradients, layer by layer."""

from dataclasses import dataclass
from html import escape
from math import inf
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.diagnostics.autograd import autograd_gradients
from worldsheet.problem import Chain
from worldsheet.solve.solution import Solution


@final
@dataclass(frozen=True)
class Fidelity:
    """One parameter's relaxed gradient ĝ against backprop's g.

    Attributes:
        name: parameter name.
        cosine: ĝ·g / ‖ĝ‖‖g‖; 1 where both vanish, 0 where one does.
        relative_error: ‖ĝ − g‖ / ‖g‖.
        snr: ‖g‖² / ‖ĝ − g‖², signal over noise power; infinite if they are equal to the last bit.
    """

    name: str
    cosine: float
    relative_error: float
    snr: float


@final
@dataclass(frozen=True)
class Comparison:
    """Gradients of a relaxation beside autograd's; printing it gives a table.

    Attributes:
        rows: one per parameter, from the input side to the output side.
    """

    rows: tuple[Fidelity, ...]

    @property
    def cosine(self) -> float:
        """The smallest cosine of any parameter: a global cosine would hide a dead layer."""
        return min((row.cosine for row in self.rows), default=1.0)

    @property
    def relative_error(self) -> float:
        """The largest relative error of any parameter."""
        return max((row.relative_error for row in self.rows), default=0.0)

    @property
    def snr(self) -> float:
        """The smallest signal-to-noise ratio of any parameter."""
        return min((row.snr for row in self.rows), default=inf)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("parameter", "1 − cosine", "relative error", "SNR"))
        rows = [
            f"<tr><td>{escape(r.name)}</td><td>{1 - r.cosine:.1e}</td><td>{r.relative_error:.1e}</td>"
            f"<td>{'∞' if r.snr == inf else f'{r.snr:.1e}'}</td></tr>"
            for r in self.rows
        ]
        return f"<table><tr>{head}</tr>{''.join(rows)}</table>"

    def __str__(self) -> str:
        width = max([len(row.name) for row in self.rows] + [9])
        lines = [f"{'parameter':<{width}}  {'1 - cosine':>10}  {'rel. error':>10}  {'SNR':>8}"]
        lines += [
            f"{r.name:<{width}}  {1 - r.cosine:>10.1e}  {r.relative_error:>10.1e}  {r.snr:>8.1e}" for r in self.rows
        ]
        return "\n".join(lines)


def compare(chain: Chain, x: Any, target: Any, solution: Solution) -> Comparison:
    """Compare a relaxation's gradients with autograd's through the whole chain, parameter by parameter.

    Autograd sees the same dropout masks and the same batch-norm statistics as the relaxation did. Costs one ordinary
    forward and backward pass.

    Args:
        chain: the chain that was relaxed.
        x: the same input.
        target: the same target.
        solution: what `relax` returned, before any parameter was changed.

    Raises:
        InputError: a solution of another chain or target.
        RelaxationError: the relaxation diverged.
    """
    if solution.chain is not chain or solution.problem.target is not target:
        raise InputError(
            "the solution belongs to another chain or target",
            "the chain and target that were relaxed",
            "call compare with the very objects that were given to relax",
        )
    relaxed = solution.gradients()
    names = {id(parameter): name for name, parameter in chain.named_parameters()}
    exact = {
        names[id(leaf)]: gradient for leaf, gradient in autograd_gradients(solution.problem, x) if id(leaf) in names
    }
    rows = [
        _fidelity(name, relaxed.get(name, torch.zeros_like(exact[name])), exact[name])
        for name in names.values()
        if name in exact
    ]
    return Comparison(tuple(rows))


def _fidelity(name: str, relaxed: Tensor, exact: Tensor) -> Fidelity:
    ours, theirs = relaxed.to_dense().double().flatten(), exact.to_dense().double().flatten()
    mine, full = float(ours.norm()), float(theirs.norm())
    error = float((ours - theirs).norm())
    if error == 0:
        return Fidelity(name, 1.0, 0.0, inf)
    cosine = float((ours / mine) @ (theirs / full)) if mine and full else 0.0
    return Fidelity(name, cosine, error / full if full else inf, (full / error) ** 2)
