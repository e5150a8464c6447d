"""One of two processes that train a model on halves of a batch, and write down what is in `.grad` afterwards."""

import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

import worldsheet as ws


class Model(nn.Module):
    """Blocks, a shared layer and a weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 4) to (batch, 3)."""
        h = torch.tanh(self.stem(x))
        h = h + torch.tanh(self.shared(h))
        out: Tensor = self.head(torch.tanh(self.shared(h)))
        return out


def made() -> tuple[Model, Tensor, Tensor]:
    """The same model and batch in every process."""
    generator = torch.Generator().manual_seed(0)
    model = Model().double()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5, generator=generator)
    x, target = (torch.randn(8, width, dtype=torch.float64, generator=generator) for width in (4, 3))
    return model, x, target


def main(folder: str, rank: int) -> None:
    """Gradients of this half, averaged by the wrapper's buckets."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model, x, target = made()
    wrapped = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1e-4)
    chain = ws.Chain(wrapped, nn.MSELoss())
    mine = slice(4 * rank, 4 * rank + 4)
    for _ in range(2):  # buckets are arranged anew after the first pass
        wrapped.zero_grad()
        ws.backward(chain, x[mine], target[mine])
    torch.save([parameter.grad for parameter in model.parameters()], Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]))
