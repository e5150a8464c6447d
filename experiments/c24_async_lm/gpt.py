"""A small decoder-only transformer as a list of half-blocks, each a layer of a chain, and its loss."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """How large the transformer is.

    Attributes:
        symbols: size of the alphabet.
        context: tokens of a sequence.
        width: of the residual stream.
        blocks: attention and perceptron are a block.
        heads: of attention.
    """

    symbols: int
    context: int
    width: int
    blocks: int
    heads: int = 4


class Embedding(nn.Module):
    """Symbols and positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.symbols, self.positions = (nn.Embedding(n, shape.width) for n in (shape.symbols, shape.context))

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.symbols(tokens) + self.positions.weight
        return out


class Attention(nn.Module):
    """x + causal attention of LayerNorm(x)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(shape.width), shape.heads
        self.mixed, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        mixed = self.mixed(self.norm(x)).view(samples, length, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = x + self.out(read.transpose(1, 2).reshape(samples, length, width))
        return out


class Perceptron(nn.Module):
    """x + W gelu(V LayerNorm(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.up, self.out = nn.Linear(shape.width, 4 * shape.width), nn.Linear(4 * shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.out(F.gelu(self.up(self.norm(x))))
        return out


class Head(nn.Module):
    """Logits of the next symbol."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.symbols, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.norm(x))
        return out


def token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of the next symbols, in nats."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def layers_of(shape: Shape, seed: int) -> nn.Sequential:
    """Embedding, half-blocks, head; what is added to the stream begins smaller the deeper the net."""
    torch.manual_seed(seed)
    blocks = [half(shape) for _ in range(shape.blocks) for half in (Attention, Perceptron)]
    net = nn.Sequential(Embedding(shape), *blocks, Head(shape))
    for name, parameter in net.named_parameters():
        if parameter.ndim == 2:
            adds = name.endswith("out.weight") and parameter.shape[0] == shape.width
            nn.init.normal_(parameter, std=0.08 / (sqrt(2 * shape.blocks) if adds else 1))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
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
