"""A small decoder-only transformer as a list of half-blocks, each a layer of a chain, and where to cut it."""

import torch
from torch import nn

from worldsheet_lab.text.gpt import Shape, bare, start, token_loss

__all__ = ["Shape", "cuts", "layers_of", "token_loss"]


def layers_of(shape: Shape, seed: int) -> nn.Sequential:
    """Embedding, half-blocks, head; what is added to the stream begins smaller the deeper the net."""
    torch.manual_seed(seed)
    net = nn.Sequential(*(bare(shape, index) for index in range(shape.layers)))
    for layer in net:
        start(layer, shape)
    return net


def cuts(shape: Shape, stages: int) -> tuple[int, ...]:
    """Cuts of a `Plan` between half-blocks, evenly; the embedding goes with the first stage, the head with the last.

    Raises:
        ValueError: half-blocks that cannot be divided evenly.
    """
    each, rest = divmod(2 * shape.blocks, stages)
    if rest:
        raise ValueError(f"{2 * shape.blocks} half-blocks cannot be divided among {stages} stages evenly")
    return (0, *(1 + each * stage for stage in range(1, stages)), 2 * shape.blocks + 2)
