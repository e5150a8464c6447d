"""Recurrent cells as maps of a state and a drive, with their Jacobians in closed form."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from worldsheet.recurrence.types import Diagonals, Inputs, Jacobians, Rows


class Cell(ABC):
    """h_t = f(h_{t−1}, u_t), row by row: steps and samples do not meet.

    Attributes:
        size: of the state h.
        diagonal_is_all: whether ∂f/∂h is diagonal.
    """

    size: int
    diagonal_is_all: bool = False

    @abstractmethod
    def step(self, state: Rows, drive: Inputs) -> Rows:
        """f; autograd goes through to drive and parameters."""

    @abstractmethod
    def linearized(self, state: Rows, drive: Inputs) -> tuple[Rows, Jacobians]:
        """f and ∂f/∂h, without a graph."""

    def diagonal(self, state: Rows, drive: Inputs) -> tuple[Rows, Diagonals]:
        """f and the diagonal of ∂f/∂h, without a graph."""
        value, jacobian = self.linearized(state, drive)
        return value, jacobian.diagonal(dim1=-2, dim2=-1)

    @abstractmethod
    def pulled(self, state: Rows, drive: Inputs, costate: Rows) -> Rows:
        """(∂f/∂h)ᵀ λ, without a graph and without the Jacobian."""


@final
class Kind(Enum):
    """Which cell of torch's; the numbers are those of the C source."""

    TANH = 0
    RELU = 1
    GRU = 2
    LSTM = 3

    @property
    def blocks(self) -> int:
        """Rows of the weights, in units of the hidden size."""
        return {Kind.GRU: 3, Kind.LSTM: 4}.get(self, 1)


@final
class GatedCell(Cell):
    """A cell of torch's.

        tanh, relu:  h⁺ = φ(u + W h)
        GRU:         r, z = σ(u + W h),  m = tanh(u_m + r (W_m h + b)),  h⁺ = m + z (h − m)
        LSTM:        i, f, o = σ(u + W h),  g = tanh(u_g + W_g h),  c⁺ = f c + i g,  h⁺ = o tanh c⁺;  state (h, c)

    Args:
        kind: which.
        weight: W, (blocks · width, width).
        inner_bias: b of the GRU; all other biases are in the drive.
    """

    def __init__(self, kind: Kind, weight: Tensor, inner_bias: Tensor | None = None) -> None:
        self.kind = kind
        self.weight = weight
        self.width = weight.shape[1]
        self.size = 2 * self.width if kind is Kind.LSTM else self.width
        self.kept = 4 * self.width if kind in (Kind.GRU, Kind.LSTM) else 0
        self.inner_bias = weight.new_zeros(self.width) if inner_bias is None and kind is Kind.GRU else inner_bias

    def step(self, state: Rows, drive: Inputs) -> Rows:
        """f."""
        return self._parts(state, drive)[-1]

    def linearized(self, state: Rows, drive: Inputs) -> tuple[Rows, Jacobians]:
        """f and ∂f/∂h."""
        parts = self._parts(state, drive)
        blocks = [block.expand(*state.shape[:-1], *block.shape) for block in self.weight.chunk(self.kind.blocks, 0)]
        beside, factors = self._factors(state, parts)
        if self.kind is Kind.LSTM:
            to_cell = _weighted(factors[:3], blocks[:3])
            to_hidden = _weighted([factors[3]], [blocks[3]]).addcmul_(factors[4][..., None].expand_as(to_cell), to_cell)
            below = torch.cat((torch.diag_embed(factors[4] * beside), torch.diag_embed(beside)), -2)
            return parts[-1], torch.cat((torch.cat((to_hidden, to_cell), -2), below), -1)
        jacobian = _weighted(factors, blocks)
        if self.kind is Kind.GRU:
            jacobian.diagonal(dim1=-2, dim2=-1).add_(beside)
        return parts[-1], jacobian

    @override
    def diagonal(self, state: Rows, drive: Inputs) -> tuple[Rows, Diagonals]:
        parts = self._parts(state, drive)
        blocks = [block.diagonal() for block in self.weight.chunk(self.kind.blocks, 0)]
        beside, factors = self._factors(state, parts)
        if self.kind is not Kind.LSTM:
            return parts[-1], beside + sum(map(torch.mul, factors, blocks))
        to_cell = sum(map(torch.mul, factors[:3], blocks[:3]))
        return parts[-1], torch.cat((factors[3] * blocks[3] + factors[4] * to_cell, beside), -1)

    def pulled(self, state: Rows, drive: Inputs, costate: Rows) -> Rows:
        """(∂f/∂h)ᵀ λ."""
        beside, factors = self._factors(state, self._parts(state, drive))
        if self.kind is not Kind.LSTM:
            back: Tensor = torch.cat([factor * costate for factor in factors], -1) @ self.weight
            return back + beside * costate
        hidden, cell = costate.chunk(2, -1)
        cell = cell + factors[4] * hidden
        back = torch.cat([*(factor * cell for factor in factors[:3]), factors[3] * hidden], -1) @ self.weight
        return torch.cat((back, beside * cell), -1)

    def _parts(self, state: Rows, drive: Inputs) -> tuple[Tensor, ...]:
        """What the derivatives need, and the new state."""
        product = F.linear(state[..., : self.width], self.weight)
        if self.kind is Kind.TANH:
            return (torch.tanh(drive + product),)
        if self.kind is Kind.RELU:
            return (torch.relu(drive + product),)
        if self.kind is Kind.GRU:
            assert self.inner_bias is not None
            gates = torch.sigmoid(drive[..., : -self.width] + product[..., : -self.width])
            reset, update = gates.chunk(2, -1)
            inner = product[..., -self.width :] + self.inner_bias
            made = torch.tanh(drive[..., -self.width :] + reset * inner)
            return reset, update, inner, made, torch.lerp(made, state, update)
        into, forget, made, out = (drive + product).chunk(4, -1)
        into, forget, made, out = torch.sigmoid(into), torch.sigmoid(forget), torch.tanh(made), torch.sigmoid(out)
        cell = forget * state[..., self.width :] + into * made
        shown = torch.tanh(cell)
        return into, forget, made, out, shown, torch.cat((out * shown, cell), -1)

    def _factors(self, state: Rows, parts: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        """What passes beside the weights, and the factors of their blocks; the LSTM has a last one, of c in h."""
        if self.kind is Kind.TANH:
            return torch.zeros_like(state), [1 - parts[0].square()]
        if self.kind is Kind.RELU:
            return torch.zeros_like(state), [(parts[0] > 0).to(parts[0].dtype)]
        if self.kind is Kind.GRU:
            reset, update, inner, made, _ = parts
            slope = (1 - update) * (1 - made.square())
            return update, [slope * inner * reset * (1 - reset), (state - made) * update * (1 - update), slope * reset]
        into, forget, made, out, shown, _ = parts
        past = state[..., self.width :]
        to_cell = [made * into * (1 - into), past * forget * (1 - forget), into * (1 - made.square())]
        return forget, [*to_cell, shown * out * (1 - out), out * (1 - shown.square())]


def _weighted(factors: Sequence[Tensor], blocks: Sequence[Tensor]) -> Jacobians:
    """Σ diag(f) W."""
    found = factors[0][..., None] * blocks[0]
    for factor, block in zip(factors[1:], blocks[1:], strict=True):
        found.addcmul_(factor[..., None].expand_as(found), block)
    return found
