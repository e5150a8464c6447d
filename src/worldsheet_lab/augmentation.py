"""What is done to images in training."""

import torch
from torch import Tensor, nn


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to four pixels and mirrored or not, the usual augmentation.

    Args:
        images: (count, channels, height, width), on any device.
        generator: on the CPU, so that every device sees the same.
    """
    count, _, height, breadth = images.shape
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    down, right = (torch.randint(9, (count, 1), generator=generator).to(images.device) for _ in range(2))
    mirrored = torch.randint(2, (count, 1), generator=generator).bool().to(images.device)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, breadth))
    across = torch.where(mirrored, columns.flip(0), columns) + right
    samples = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[samples, (rows + down)[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)
