"""Torch's recurrent layers and cells taken apart: a cell, and the drive that inputs and biases make."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsheet.recurrence.cells import GatedCell, Kind
from worldsheet.recurrence.types import Drive, States

Layered = nn.RNN | nn.GRU | nn.LSTM
"""Torch's recurrent layers."""

Single = nn.RNNCell | nn.GRUCell | nn.LSTMCell
"""Torch's recurrent cells."""


def kind_of(module: nn.Module) -> Kind | None:
    """Which of torch's cells, if its forward is torch's own."""
    forward = type(module).forward
    if isinstance(module, (nn.RNN, nn.RNNCell)) and forward in (nn.RNN.forward, nn.RNNCell.forward):
        return Kind.TANH if module.nonlinearity == "tanh" else Kind.RELU
    if isinstance(module, (nn.GRU, nn.GRUCell)) and forward in (nn.GRU.forward, nn.GRUCell.forward):
        return Kind.GRU
    if isinstance(module, (nn.LSTM, nn.LSTMCell)) and forward in (nn.LSTM.forward, nn.LSTMCell.forward):
        return Kind.LSTM
    return None


@final
class Weights:
    """The parameters of one layer in one direction, read from a module at the moment of a call.

    Args:
        module: one of torch's.
        suffix: "_l0", "_l0_reverse", …; empty for a cell.
    """

    def __init__(self, module: nn.Module, suffix: str) -> None:
        self.kind = kind_of(module)
        self._into: Tensor = getattr(module, "weight_ih" + suffix)
        self.weight: Tensor = getattr(module, "weight_hh" + suffix)
        biased = bool(module.bias)
        self._outer: Tensor | None = getattr(module, "bias_ih" + suffix) if biased else None
        self._inner: Tensor | None = getattr(module, "bias_hh" + suffix) if biased else None

    @property
    def cell(self) -> GatedCell:
        """The cell; only the GRU keeps a bias of its own, that of its candidate."""
        assert self.kind is not None
        if self.kind is not Kind.GRU or self._inner is None:
            return GatedCell(self.kind, self.weight)
        return GatedCell(self.kind, self.weight, self._inner[2 * self.weight.shape[1] :])

    def drive(self, x: States) -> Drive:
        """W x + b for all steps, with the other biases in it."""
        bias = self._outer
        if bias is not None and self._inner is not None:
            inner = self._inner
            if self.kind is Kind.GRU:
                width = self.weight.shape[1]
                inner = torch.cat((inner[: 2 * width], inner.new_zeros(width)))
            bias = bias + inner
        return F.linear(x, self._into, bias)
