"""The network of `worldsheet.streaming` as anybody writes it in torch, learned by backpropagation through time."""

from typing import final

import torch
from torch import Tensor

from worldsheet.diagnostics.autograd import autograd_gradient
from worldsheet.streaming import Connectivity


@final
class Unrolled:
    """x ← x + α (tanh(W x) − x) for `window` steps, then one gradient through all of them and one step of descent.

    Args:
        graph: who listens to whom; a matrix if `dense`, else a list of edges.
        weights: one number per edge, in the graph's own shape.
        window: steps per gradient.
        streams: rows of the state.
        outputs: how many neurons at the end are compared.
        inputs: how many neurons at the beginning are held.
    """

    def __init__(
        self, graph: Connectivity, weights: Tensor, window: int, streams: int, inputs: int, outputs: int
    ) -> None:
        self._graph = graph
        self._weights = weights.clone().requires_grad_()
        self._window = window
        self._state = torch.zeros(streams, graph.neurons, dtype=weights.dtype, device=weights.device)
        self._inputs, self._outputs = inputs, outputs

    def run(self, input: Tensor, target: Tensor) -> None:
        """One window of steps, at the same input and target."""
        loss = self._state.new_zeros(())
        rest = self._state[:, self._inputs :]
        for _ in range(self._window):
            state = torch.cat([input, rest], 1)
            rest = torch.lerp(rest, self._drive(state)[:, self._inputs :].tanh(), 0.1)
            loss = loss + (rest[:, -self._outputs :] - target).square().sum() / 2
        gradient = autograd_gradient(loss, self._weights)
        with torch.no_grad():
            self._weights -= 1e-4 * gradient
        self._state = torch.cat([input, rest], 1).detach()

    def _drive(self, state: Tensor) -> Tensor:
        if self._weights.dim() == 2:
            return state @ self._weights.T
        messages = state.index_select(1, self._graph.sources) * self._weights
        return torch.zeros_like(state).index_add(1, self._graph.targets, messages)
