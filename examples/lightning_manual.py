"""Lightning with manual optimisation. Needs `pip install lightning`."""

import lightning
import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet.app.architectures import Mixed


class Module(lightning.LightningModule):
    """A module that makes its gradients itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = Mixed()
        self.chain = ws.Chain(self.net, nn.CrossEntropyLoss())
        self.losses: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """One step."""
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = ws.backward(self.chain, *batch)  # instead of self.manual_backward(loss)
        optimizer.step()
        self.losses.append(float(loss))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), 1e-2)


def main(steps: int = 8) -> list[float]:
    """Train on one batch; returns the losses."""
    torch.manual_seed(0)
    batch = (torch.randn(16, 2, 8, 8), torch.randint(4, (16,)))
    module = Module()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=1, **options).fit(module, [batch] * steps)
    return module.losses


if __name__ == "__main__":
    print(" ".join(f"{loss:.3f}" for loss in main()))
