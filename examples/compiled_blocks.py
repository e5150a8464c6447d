"""Compiled blocks: each is one site, and its own backward is the compiled one."""

import torch
from torch import nn

import worldsheet as ws
from worldsheet.app.architectures import GPT


def main(backend: str = "inductor", steps: int = 4) -> list[float]:
    """Train on one batch; returns the losses."""
    torch.manual_seed(0)
    model = GPT(vocabulary=13, context=12, width=16, depth=2, heads=2)
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
