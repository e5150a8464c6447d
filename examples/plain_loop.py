"""A residual network in a plain training loop: one line differs from backprop's."""

import torch
from torch import Tensor, nn

import worldsheet as ws


class Block(nn.Module):
    """Two convolutions around which the input goes, too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Relu(x + f(x))."""
        return (x + self.inner(x)).relu()


class Net(nn.Module):
    """As anybody writes it: the library reads the forward, nothing is declared."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(Block(8) for _ in range(2))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (batch, 3, height, width)."""
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def main(steps: int = 8, *, backprop: bool = False) -> list[float]:
    """Train on one batch; returns the losses."""
    torch.manual_seed(0)
    model = Net()
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
