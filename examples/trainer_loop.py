"""A Trainer in the manner of Hugging Face's: `training_step` is the one method that is overridden."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import worldsheet as ws


class Model(nn.Module):
    """A small language model: embeddings, causal blocks, a head."""

    def __init__(self, vocabulary: int = 13, context: int = 12, width: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        make = partial(nn.TransformerEncoderLayer, width, 2, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList(make() for _ in range(depth))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, position, token) of the next token."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.tokens(tokens) + self.positions
        for block in self.blocks:
            x = block(x, src_mask=mask)
        return self.head(x)


class Trainer:
    """What such trainers have in common: batches are dicts, gradients are accumulated and clipped."""

    def __init__(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]], accumulate: int = 2) -> None:
        self.model = model
        self.batches = batches
        self.accumulate = accumulate
        self.optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        self.losses: list[float] = []

    def training_step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss of a batch, with its gradients added to `.grad`."""
        loss = self.compute_loss(self.model(batch["input_ids"]), batch["labels"]) / self.accumulate
        loss.backward()
        return loss.detach()

    def compute_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the next token."""
        return nn.functional.cross_entropy(output.flatten(0, 1), labels.flatten())

    def train(self) -> list[float]:
        """One pass over the batches."""
        for number, batch in enumerate(self.batches, start=1):
            self.losses.append(float(self.training_step(batch)) * self.accumulate)
            if number % self.accumulate == 0:
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
        return self.losses


class WorldsheetTrainer(Trainer):
    """The same trainer with local waves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chain = ws.Chain(self.model, lambda out, labels: self.compute_loss(out, labels) / self.accumulate)

    def training_step(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Loss of a batch, with its gradients added to `.grad`."""
        return ws.backward(self.chain, batch["input_ids"], batch["labels"])


def main(kind: type[Trainer] = WorldsheetTrainer, steps: int = 8) -> list[float]:
    """Train a small language model to repeat; returns the losses."""
    torch.manual_seed(0)
    model = Model()
    tokens = torch.randint(13, (8, 13))
    batch = {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}
    return kind(model, [batch] * steps).train()


if __name__ == "__main__":
    print(" ".join(f"{loss:.3f}" for loss in main()))
