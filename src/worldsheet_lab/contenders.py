"""One of the two networks that are trained side by side."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from worldsheet.problem import Chain

GradientFunction: TypeAlias = Callable[[Chain, Tensor, Tensor], Tensor]
"""Adds the gradients of one batch to `.grad` and returns the loss: (chain, images, labels) -> loss."""

_EVALUATION_BATCH = 512


class Score(NamedTuple):
    """Mean loss and share of right answers on the test images."""

    loss: float
    accuracy: float


@dataclass
class Tally:
    """What has been summed up since the epoch began.

    Attributes:
        loss: losses of the batches, each times its number of images.
        images: how many images those were.
        seconds: duration of each step.
    """

    loss: float = 0.0
    images: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """Mean loss per image, as it was when the image was seen."""
        return self.loss / self.images

    @property
    def seconds_per_step(self) -> float:
        """The median, which the odd interruption by other programs does not move."""
        return median(self.seconds)


@final
class Contender:
    """A network, its optimizer and its way to gradients.

    Args:
        name: how it is called in tables and files.
        model: trained in place.
        optimizer: of the model's parameters.
        gradient: how gradients are made.

    Attributes:
        chain: the model and the cross-entropy loss.
        tally: sums of the running epoch.
        gradient: how gradients are made.
        score: the latest evaluation, None before the first.
    """

    def __init__(self, name: str, model: nn.Sequential, optimizer: Optimizer, gradient: GradientFunction) -> None:
        self.name = name
        self.model = model
        self.optimizer = optimizer
        self.chain = Chain(model, nn.CrossEntropyLoss())
        self.tally = Tally()
        self.score: Score | None = None
        self.gradient = gradient

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One step of training, timed."""
        self.model.train()
        _wait_for(images.device)
        begun = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.gradient(self.chain, images, labels)
        self.optimizer.step()
        _wait_for(images.device)
        self.tally.seconds.append(time.perf_counter() - begun)
        self.tally.loss += loss.item() * len(images)
        self.tally.images += len(images)

    @torch.no_grad()
    def evaluate(self, images: Tensor, labels: Tensor) -> Score:
        """Measure the network on images it does not train on."""
        self.model.eval()
        total, right = 0.0, 0
        for some, answers in zip(*(torch.split(part, _EVALUATION_BATCH) for part in (images, labels)), strict=True):
            output = self.model(some)
            total += nn.functional.cross_entropy(output, answers, reduction="sum").item()
            right += int((output.argmax(1) == answers).sum())
        self.score = Score(total / len(images), right / len(images))
        return self.score

    def state_dict(self) -> dict[str, Any]:
        """Everything that moves in training, in the types that a safe loader takes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "tally": asdict(self.tally),
            "score": None if self.score is None else list(self.score),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.tally = Tally(**state["tally"])
        self.score = None if state["score"] is None else Score(*state["score"])


def _wait_for(device: torch.device) -> None:
    """A device works through its queue in its own time; the clock must wait for it."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)
