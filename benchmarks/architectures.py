"""Networks that are no plain chain, written as their users write them: nothing here knows of sites."""

from itertools import pairwise
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class BasicBlock(nn.Module):
    """Two convolutions with a skip connection, projected where the shape changes."""

    expansion = 1

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, wide, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        """Relu(f(x) + x)."""
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += self.shortcut(x)
        return cast(Tensor, self.relu(out))


@final
class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, at a quarter of the channels, with a skip connection around them."""

    expansion = 4

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        narrow = wide // self.expansion
        self.conv1 = nn.Conv2d(channels, narrow, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(narrow)
        self.conv2 = nn.Conv2d(narrow, narrow, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(narrow)
        self.conv3 = nn.Conv2d(narrow, wide, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(wide)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        """Relu(f(x) + x)."""
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(out))
        out += self.shortcut(x)
        return cast(Tensor, self.relu(out))


@final
class ResNet(nn.Module):
    """A residual network with the stem for small images: ResNet-18 at its defaults, ResNet-50 by `resnet50`.

    Args:
        classes: outputs.
        width: channels of the stem.
        blocks: blocks of each stage.
        block: their class.
    """

    def __init__(
        self,
        classes: int = 10,
        width: int = 64,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        stages: list[nn.Module] = []
        channels = width
        for number, count in enumerate(blocks):
            wide = width * 2**number * block.expansion
            strides = [1 if number == 0 else 2] + [1] * (count - 1)
            stage = [block(channels if k == 0 else wide, wide, stride) for k, stride in enumerate(strides)]
            stages.append(nn.Sequential(*stage))
            channels = wide
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (batch, 3, height, width)."""
        x = F.relu(self.norm1(self.conv1(x)))
        x = self.stages(x)
        out: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def resnet50(classes: int = 10, width: int = 64) -> ResNet:
    """Fifty weight layers, in stages of 3, 4, 6 and 3 bottlenecks."""
    return ResNet(classes, width, (3, 4, 6, 3), Bottleneck)


@final
class DenseBlock(nn.Module):
    """Layers that each read all before them, joined by channels, then a linear head.

    Args:
        channels: of the input.
        growth: channels that a layer adds.
        depth: number of layers.
        classes: outputs.
    """

    def __init__(self, channels: int = 4, growth: int = 4, depth: int = 6, classes: int = 5) -> None:
        super().__init__()
        widths = [channels + growth * number for number in range(depth)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(w), nn.ReLU(inplace=True), nn.Conv2d(w, growth, 3, padding=1)) for w in widths
        )
        self.head = nn.Linear(channels + growth * depth, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (batch, channels, height, width)."""
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        out: Tensor = self.head(torch.cat(features, 1).mean((2, 3)))
        return out


@final
class UNet(nn.Module):
    """Down and up again, with every scale joined to its like.

    Args:
        channels: of the input and the output.
        width: channels of the finest scale.
        scales: how often the image is halved.
    """

    def __init__(self, channels: int = 2, width: int = 4, scales: int = 3) -> None:
        super().__init__()
        widths = [width * 2**scale for scale in range(scales + 1)]
        self.stem = self._pair(channels, width)
        self.down = nn.ModuleList(self._pair(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in reversed(list(pairwise(widths))))
        self.join = nn.ModuleList(self._pair(2 * a, a) for a in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, channels, 1)

    @staticmethod
    def _pair(channels: int, wide: int) -> nn.Sequential:
        norms = [nn.GroupNorm(2, wide), nn.GroupNorm(2, wide)]
        return nn.Sequential(
            nn.Conv2d(channels, wide, 3, padding=1),
            norms[0],
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            norms[1],
            nn.SiLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """An image like the input."""
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(F.max_pool2d(x, 2))
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], 1))
        out: Tensor = self.head(x)
        return out


@final
class Attention(nn.Module):
    """Causal self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes positions (batch, position, width)."""
        batch, length, width = x.size()
        query, key, value = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.project(x).split(width, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).contiguous().view(batch, length, width))
        return out


@final
class Block(nn.Module):
    """One block of a transformer, normalised first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Two residual steps."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


@final
class GPT(nn.Module):
    """A small language model with its input and output embedding tied.

    Args:
        vocabulary: number of tokens.
        context: most positions.
        width: of the residual stream.
        depth: number of blocks.
        heads: of the attention.
        dropout: probability.
    """

    def __init__(
        self,
        vocabulary: int = 65,
        context: int = 64,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, position, token) of the next token."""
        _, length = tokens.size()
        assert length <= self.context, f"{length} positions, at most {self.context}"
        x = self.tokens(tokens) + self.positions(torch.arange(length, device=tokens.device))
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


@final
class Recurrent(nn.Module):
    """A recurrent cell unrolled in time, with a linear head on the mean of its outputs.

    Args:
        cell: `nn.LSTMCell` or `nn.GRUCell`.
        size: of an input.
        width: of the cell's state.
        classes: outputs.
    """

    def __init__(
        self, cell: type[nn.LSTMCell] | type[nn.GRUCell], size: int = 3, width: int = 6, classes: int = 4
    ) -> None:
        super().__init__()
        self.width = width
        self.cell = cell(size, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of sequences (batch, time, size)."""
        hidden = torch.zeros(x.shape[0], self.width, dtype=x.dtype, device=x.device)
        memory = torch.zeros_like(hidden)
        outputs = []
        for now in x.unbind(1):
            if isinstance(self.cell, nn.LSTMCell):
                hidden, memory = self.cell(now, (hidden, memory))
            else:
                hidden = self.cell(now, hidden)
            outputs.append(hidden)
        out: Tensor = self.head(torch.stack(outputs, 1).mean(1))
        return out


@final
class Mixed(nn.Module):
    """Convolution, batch norm, dropout and linear layers, with the activations written as functions."""

    def __init__(self, channels: int = 2, width: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.hidden = nn.Linear(width * 4, 10)
        self.head = nn.Linear(10, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (batch, channels, 2n, 2n)."""
        x = F.adaptive_max_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2)
        x = F.dropout(torch.flatten(x, 1), 0.2, self.training)
        out: Tensor = self.head(torch.tanh(self.hidden(x)))
        return out


@final
class Unrolled(nn.Module):
    """An LSTM cell called once for each row of its input, and a linear layer on its last state.

    Args:
        features: of a row.
        width: of the state.
        classes: outputs.
    """

    def __init__(self, features: int, width: int, classes: int) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(features, width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of sequences (batch, time, features)."""
        hidden = cell = x.new_zeros(len(x), self.cell.hidden_size)
        for row in x.unbind(1):
            hidden, cell = self.cell(row, (hidden, cell))
        logits: Tensor = self.head(hidden)
        return logits


@final
class SkipMLP(nn.Module):
    """A deep narrow network whose every layer is added to what came two layers before, written out in its forward.

    Args:
        width: of every layer.
        depth: number of layers.
        classes: outputs.
    """

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(width, width) for _ in range(depth)), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of rows (batch, width)."""
        now = before = x
        for layer in self.layers:
            now, before = torch.tanh(layer(now)) + before, now
        logits: Tensor = self.head(now)
        return logits
