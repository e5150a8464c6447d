"""Randomness as a function of (seed, purpose, number), so that a run can be picked up anywhere."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def seed_of(seed: int, purpose: str, number: int = 0) -> int:
    """A seed of its own for each purpose and number; it does not change between versions or machines."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The order in which an epoch goes through `count` images."""
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


@contextmanager
def drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Layers inside draw from `seed`; afterwards the process's generators are as they were."""
    forked = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=forked, device_type=device.type if forked else "cuda"):
        torch.manual_seed(seed)
        yield
