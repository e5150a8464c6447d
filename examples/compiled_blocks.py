"""Compiled blocks: each is one site, and its own backward is the compiled one."""

from functools import partial

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


def main(backend: str = "inductor", steps: int = 4) -> list[float]:
    """Train on one batch; returns the losses."""
    torch.manual_seed(0)
    model = Model()
    for number, block in enumerate(model.blocks):
        model.blocks[number] = torch.compile(block, backend=backend)
    chain = ws.Chain(model, lambda out, labels: nn.functional.cross_entropy(out.flatten(0, 1), labels.flatten()))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    tokens = torch.randint(13, (8, 13))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(float(ws.backward(chain, tokens[:, :-1], tokens[:, 1:])))
        optimizer.step()
    return losses


if __name__ == "__main__":
    print(" ".join(f"{loss:.3f}" for loss in main()))
