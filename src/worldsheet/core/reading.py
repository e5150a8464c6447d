"""Numbers that decide something: what the host must wait for a device to know."""

from collections.abc import Sequence

import torch
from torch import Tensor


def read(numbers: Sequence[Tensor]) -> list[float]:
    """Scalars on any devices as numbers of Python; each device is read once, whatever it holds of them."""
    found: dict[int, float] = {}
    for device in dict.fromkeys(number.device for number in numbers):
        here = [index for index, number in enumerate(numbers) if number.device == device]
        found.update(zip(here, torch.stack([numbers[index] for index in here]).tolist(), strict=True))
    return [found[index] for index in range(len(numbers))]
