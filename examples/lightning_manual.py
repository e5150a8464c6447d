"""Lightning with manual optimisation. Needs `pip install lightning`."""

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import worldsheet as ws


class Net(nn.Module):
    """Two branches whose channels are joined, then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 5, padding=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (batch, 2, height, width)."""
        joined = torch.cat([self.near(x).relu(), self.far(x).tanh()], 1)
        return self.head(joined.mean((2, 3)))


class Module(lightning.LightningModule):
    """A module that makes its gradients itself."""

    def __init__(self, *, backprop: bool) -> None:
        super().__init__()
        self.backprop = backprop
        self.automatic_optimization = False
        self.net = Net()
        self.chain = ws.Chain(self.net, nn.CrossEntropyLoss())
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """One step."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        if self.backprop:
            inputs, labels = batch
            loss = self.chain.loss(self.net(inputs), labels)
            self.manual_backward(loss)
        else:
            loss = ws.backward(self.chain, *batch)
        optimizer.step()
        self.losses.append(float(loss.detach()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), 1e-2)


def main(steps: int = 8, *, backprop: bool = False) -> list[float]:
    """Train on one batch; returns the losses."""
    torch.manual_seed(0)
    images, labels = torch.randn(16, 2, 8, 8), torch.randint(4, (16,))
    batches = DataLoader(TensorDataset(images, labels), batch_size=len(images))
    module = Module(backprop=backprop)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=steps, log_every_n_steps=1, enable_model_summary=False, **options).fit(module, batches)
    return module.losses


if __name__ == "__main__":
    print(" ".join(f"{loss:.3f}" for loss in main()))
