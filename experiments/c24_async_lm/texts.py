"""Texts as sequences of symbols: Tiny Shakespeare by characters, or one that needs no file."""

from bisect import bisect
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from worldsheet_lab.data.download import Download
from worldsheet_lab.data.sources import Files, locate

SHAKESPEARE = Files(
    name="tiny-shakespeare",
    spellings=(("tiny-shakespeare.txt", "input.txt"),),
    folders=("text", "tiny-shakespeare"),
    downloads=(
        Download(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
)


@dataclass(frozen=True)
class Text:
    """Symbols to learn from, and others to be judged by.

    Attributes:
        symbols: size of the alphabet.
        train: symbols as numbers.
        held_out: those that nothing is learnt from.
    """

    symbols: int
    train: Tensor
    held_out: Tensor

    def batch(self, count: int, length: int, generator: torch.Generator, *, held_out: bool = False) -> "Batch":
        """Sequences from anywhere, and the same a symbol later."""
        source = self.held_out if held_out else self.train
        begins = torch.randint(len(source) - length, (count,), generator=generator)
        windows = source.unfold(0, length + 1, 1)[begins]
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


Batch = tuple[Tensor, Tensor]


def shakespeare() -> Text:
    """Tiny Shakespeare, a symbol per character; the last tenth is held out."""
    (path,) = locate(SHAKESPEARE, None, download=True).paths
    text = path.read_text(encoding="utf-8")
    numbers = {character: number for number, character in enumerate(sorted(set(text)))}
    return _divided(len(numbers), torch.tensor([numbers[character] for character in text]))


def pairs(symbols: int = 12, length: int = 40_000) -> Text:
    """Each symbol is drawn by the two before it, from a table that is drawn once: attention has to look one back."""
    generator = torch.Generator().manual_seed(0)
    odds = torch.softmax(2 * torch.randn(symbols * symbols, symbols, generator=generator), -1).tolist()
    sums = [list(accumulate(row)) for row in odds]
    found = [0, 1]
    for chance in torch.rand(length - 2, generator=generator).tolist():
        found.append(min(bisect(sums[found[-2] * symbols + found[-1]], chance), symbols - 1))
    return _divided(symbols, torch.tensor(found))


def _divided(symbols: int, numbers: Tensor) -> Text:
    cut = len(numbers) * 9 // 10
    return Text(symbols, numbers[:cut], numbers[cut:])
