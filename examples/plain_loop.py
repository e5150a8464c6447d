"""A residual network in a plain training loop: one line differs from backprop's."""

import torch
from torch import nn

import worldsheet as ws
from worldsheet.app.architectures import ResNet


def main(steps: int = 8, *, backprop: bool = False) -> list[float]:
    """Train on one batch; returns the losses."""
    torch.manual_seed(0)
    model = ResNet(classes=10, width=8, blocks=(1, 1))
    chain = ws.Chain(model, nn.CrossEntropyLoss())
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    images, labels = torch.randn(16, 3, 16, 16), torch.randint(10, (16,))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        if backprop:
            loss = chain.loss(model(images), labels)
            loss.backward()
        else:
            loss = ws.backward(chain, images, labels)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


if __name__ == "__main__":
    print(" ".join(f"{loss:.3f}" for loss in main()))
