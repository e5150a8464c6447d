"""A small decoder-only transformer as a list of half-blocks, each a layer of a chain, and its loss."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsheet_lab.streams import drawing, seed_of


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

    @property
    def layers(self) -> int:
        """Embedding, half-blocks, head."""
        return 2 * self.blocks + 2


class Embedding(nn.Module):
    """Symbols and positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.symbols, self.positions = (nn.Embedding(n, shape.width) for n in (shape.symbols, shape.context))

    def forward(self, tokens: Tensor) -> Tensor:
        """The residual stream at its beginning, of no more tokens than the context has."""
        out: Tensor = self.symbols(tokens) + self.positions.weight[: tokens.shape[1]]
        return out


class Attention(nn.Module):
    """x + causal attention of LayerNorm(x)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.heads = nn.LayerNorm(shape.width), shape.heads
        self.mixed, self.out = nn.Linear(shape.width, 3 * shape.width), nn.Linear(shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """The stream, with what each token has read of those before it."""
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
        """The stream, with what each token makes of itself."""
        out: Tensor = x + self.out(F.gelu(self.up(self.norm(x))))
        return out


class Head(nn.Module):
    """Logits of the next symbol."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(shape.width), nn.Linear(shape.width, shape.symbols, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of each token."""
        out: Tensor = self.out(self.norm(x))
        return out


def token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of the next symbols, in nats."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def bare(shape: Shape, index: int) -> nn.Module:
    """One layer, counted from 0, with torch's own start weights."""
    if index == 0:
        return Embedding(shape)
    if index == shape.layers - 1:
        return Head(shape)
    return Attention(shape) if index % 2 else Perceptron(shape)


def start(layer: nn.Module, shape: Shape) -> None:
    """Draw its matrices; what is added to the stream begins smaller the deeper the net."""
    for name, parameter in layer.named_parameters():
        if parameter.ndim == 2:
            adds = name.endswith("out.weight") and parameter.shape[0] == shape.width and not isinstance(layer, Head)
            nn.init.normal_(parameter, std=0.08 / (sqrt(2 * shape.blocks) if adds else 1))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def started(shape: Shape, index: int, seed: int) -> nn.Module:
    """One layer with the start weights that the seed decides, whoever makes the others."""
    with drawing(seed_of(seed, "layer", index), torch.device("cpu")):
        made = bare(shape, index)
        start(made, shape)
    return made


def matrices_of(layer: nn.Module) -> list[Tensor]:
    """Weights of the linear layers of a half-block, which Muon moves; none of the embedding and the head."""
    if not isinstance(layer, Attention | Perceptron):
        return []
    return [module.weight for module in layer.modules() if isinstance(module, nn.Linear)]
