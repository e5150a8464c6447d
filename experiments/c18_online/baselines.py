"""The same network learned by others: BPTT over a window, real-time recurrent learning, and eligibility traces."""

from abc import ABC, abstractmethod
from typing import final

import torch
from tasks import GAIN, Task
from torch import Tensor


class Descent(ABC):
    """From gradients to steps, for S systems with one learning rate each."""

    @abstractmethod
    def step(self, gradient: Tensor) -> Tensor:
        """What is taken off the weights."""


@final
class Momentum(Descent):
    """Gradient descent with momentum, as our networks descend without memory."""

    def __init__(self, rates: Tensor, decay: float) -> None:
        self._rates, self._decay = rates[:, None, None], decay
        self._mean = torch.zeros(())

    def step(self, gradient: Tensor) -> Tensor:
        self._mean = self._decay * self._mean + (1 - self._decay) * gradient
        return self._rates * self._mean


@final
class Adam(Descent):
    """Adam with its usual averages over 10 and 1000 gradients; it waits where nothing is told."""

    def __init__(self, rates: Tensor) -> None:
        self._rates = rates[:, None, None]
        self._mean, self._square, self._count = torch.zeros(()), torch.zeros(()), 0

    def step(self, gradient: Tensor) -> Tensor:
        if not bool(gradient.any()):
            return torch.zeros(())
        self._count += 1
        self._mean = torch.lerp(self._mean.expand_as(gradient), gradient, 0.1)
        self._square = torch.lerp(self._square.expand_as(gradient), gradient.square(), 0.001)
        root = (self._square / (1 - 0.999**self._count)).sqrt() + 1e-8
        return self._rates * self._mean / (1 - 0.9**self._count) / root


class Learner(ABC):
    """S systems of n neurons, each with weights W of its own on inputs, neurons and a source; B streams each.

    x ← (1 − α) x + α tanh(W [u, x, 1]); the last neurons are the outputs. Gradients are summed over streams.

    Args:
        task: what is learned.
        reach: α, one number per neuron.
        descent: how W answers gradients.
        seeds: one seed per system.
    """

    def __init__(self, task: Task, reach: Tensor, descent: Descent, seeds: list[int]) -> None:
        self.task, self.reach, self._descent = task, reach, descent
        self.outputs = task.targets.shape[-1]
        self.neurons = len(reach)
        size = task.inputs.shape[-1] + self.neurons + 1
        drawn = [torch.randn(self.neurons, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        self.weights = torch.stack(drawn) / size**0.5
        self.state = torch.zeros(len(seeds), task.inputs.shape[1], self.neurons)

    def heard(self, u: Tensor) -> Tensor:
        """Inputs, states and the source."""
        shape = (*self.state.shape[:2], 1)
        return torch.cat([u.expand(len(self.state), *u.shape), self.state, torch.ones(shape)], -1)

    def moved(self, heard: Tensor) -> Tensor:
        """The states a step later."""
        return torch.lerp(self.state, torch.tanh(heard @ self.weights.mT), self.reach)

    def blame(self, output: Tensor, target: Tensor) -> Tensor:
        """∂V/∂output, nothing where the target is unknown."""
        error = GAIN * (torch.softmax(GAIN * output, -1) - target) if self.task.classes else output - target
        return torch.where(target.isnan(), 0.0, error)

    def descend(self, gradient: Tensor) -> None:
        """One step of the descent."""
        self.weights = (self.weights - self._descent.step(gradient)).detach()

    @abstractmethod
    def step(self, u: Tensor, target: Tensor) -> Tensor:
        """Hear, answer, learn; returns the answer (S, B, outputs)."""

    @property
    @abstractmethod
    def stored(self) -> int:
        """Numbers kept from step to step for learning, beside states, weights and momenta."""


@final
class Truncated(Learner):
    """Backpropagation through the last `window` steps, once every `window` steps."""

    window = 1
    _loss: Tensor | None = None
    _count = 0
    _kept: dict[int, int]

    def step(self, u: Tensor, target: Tensor) -> Tensor:
        def keep(saved: Tensor) -> Tensor:
            if saved.data_ptr() != self.weights.data_ptr():
                self._kept[saved.data_ptr()] = saved.numel()
            return saved

        if self._count == 0:
            self._kept = {}
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            self.weights.requires_grad_()
            self.state = self.moved(self.heard(u))
            output = self.state[..., -self.outputs :]
            blame = self.blame(output.detach(), target)
            loss = (output * blame).sum()  # has the gradient of V
            self._loss = loss if self._loss is None else self._loss + loss
        self._count += 1
        answer = output.detach()
        if self._count == self.window:
            (gradient,) = torch.autograd.grad(self._loss, self.weights)
            self.weights = self.weights.detach()
            self.descend(gradient)
            self.state, self._loss, self._count = self.state.detach(), None, 0
        return answer

    @property
    def stored(self) -> int:
        return sum(self._kept.values())


@final
class RealTime(Learner):
    """Real-time recurrent learning: the sensitivity of every state to every weight is carried along, exactly."""

    _carried: Tensor | None = None

    def step(self, u: Tensor, target: Tensor) -> Tensor:
        heard = self.heard(u)
        drive = heard @ self.weights.mT
        slope = 1 - drive.tanh().square()
        size = heard.shape[-1]
        if self._carried is None:
            self._carried = torch.zeros(*self.state.shape, self.neurons * size)
        inner = self.weights[:, None, :, -self.neurons - 1 : -1]
        pushed = (inner @ self._carried).unflatten(-1, (self.neurons, size))
        pushed.diagonal(dim1=2, dim2=3).add_(heard[..., None])  # ∂a_i/∂w_ij = heard_j
        self._carried = torch.lerp(self._carried, slope[..., None] * pushed.flatten(3), self.reach[:, None])
        self.state = torch.lerp(self.state, drive.tanh(), self.reach)
        output = self.state[..., -self.outputs :]
        credit = self.blame(output, target)
        gradient = (credit[..., None] * self._carried[:, :, -self.outputs :]).sum((1, 2))
        self.descend(gradient.unflatten(-1, (self.neurons, size)))
        return output

    @property
    def stored(self) -> int:
        return 0 if self._carried is None else self._carried.numel()


@final
class Eligibility(Learner):
    """Eligibility traces, in the manner of e-prop: each edge's own past, times the error fed straight back."""

    _trace: Tensor | None = None

    def step(self, u: Tensor, target: Tensor) -> Tensor:
        heard = self.heard(u)
        drive = heard @ self.weights.mT
        slope = 1 - drive.tanh().square()
        fresh = slope[..., None] * heard[:, :, None]
        past = torch.zeros_like(fresh) if self._trace is None else self._trace
        self._trace = torch.lerp(past, fresh, self.reach[:, None])
        self.state = torch.lerp(self.state, drive.tanh(), self.reach)
        output = self.state[..., -self.outputs :]
        error = self.blame(output, target)
        inner = self.weights[:, -self.outputs :, -self.neurons - 1 : -1]
        credit = (slope[..., -self.outputs :] * error) @ inner
        credit[..., -self.outputs :] = error
        self.descend((credit[..., None] * self._trace).sum(1))
        return output

    @property
    def stored(self) -> int:
        return 0 if self._trace is None else self._trace.numel()
