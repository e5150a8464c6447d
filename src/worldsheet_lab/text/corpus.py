"""A text file as a sequence of symbols, of which a tenth is held out."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.words import plural
from worldsheet_lab.errors import DataMissingError

Batch = tuple[Tensor, Tensor]
"""Symbols, and those that follow them."""

_JUDGED = 256
"""Sequences at most that a network is judged by."""

_REMEDY = "name a plain text file, in UTF-8: --text book.txt"


@dataclass(frozen=True)
class Corpus:
    """Symbols to learn from, and others to be judged by.

    Attributes:
        alphabet: the characters, by their numbers.
        train: symbols as numbers.
        held_out: those that nothing is learnt from.
        digest: of the file.
    """

    alphabet: str
    train: Tensor
    held_out: Tensor
    digest: str

    @property
    def symbols(self) -> int:
        """Size of the alphabet."""
        return len(self.alphabet)

    @property
    def length(self) -> int:
        """Characters of the text."""
        return len(self.train) + len(self.held_out)

    def drawn(self, count: int, length: int, generator: torch.Generator) -> Batch:
        """Sequences from anywhere in what is learnt from, and the same a symbol later."""
        return _windows(self.train, torch.randint(len(self.train) - length, (count,), generator=generator), length)

    def judged(self, count: int, length: int) -> Batch:
        """So many sequences of what is held out, evenly spaced, always the same."""
        places = len(self.held_out) - length
        return _windows(self.held_out, torch.arange(count) * (places - 1) // max(count - 1, 1), length)

    def numbers(self, text: str) -> Tensor:
        """A text by the numbers of its characters.

        Raises:
            InputError: characters that are not in the alphabet, or none.
        """
        known = {character: number for number, character in enumerate(self.alphabet)}
        strange = sorted(set(text) - known.keys())
        if strange or not text:
            shown = f"{text!r} with {strange[0]!r}, which the text does not have" if strange else "nothing"
            raise InputError(
                f"--prompt must be made of characters of the text, got {shown}",
                "one or more characters of the text",
                "leave it out, or write it with characters of the text",
            )
        return torch.tensor([known[character] for character in text])


def judged_of(characters: int, context: int) -> int:
    """How many sequences a text of so many characters is judged by: those that its held-out tenth has room for."""
    return min(_JUDGED, (characters - _cut(characters) - 1) // context)


def read_text(path: Path, context: int) -> Corpus:
    """Read a file; the last tenth is held out.

    Args:
        path: of a text in UTF-8.
        context: symbols of a sequence.

    Raises:
        DataMissingError: no file, or one that cannot be read.
        InputError: no text, or one that is too short for such sequences.
    """
    content = _content(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_text(path, f"byte {error.start} begins no character of UTF-8") from error
    if "\0" in text:
        raise _no_text(path, "it holds characters of number 0, as binary files do")
    cut, least = _cut(len(text)), context + 2
    if len(text) - cut < least:
        raise InputError(
            f"{path} has {plural(len(text), 'character')}, and the tenth that is held out is shorter than a sequence "
            f"of {context} and the character after it",
            f"at least {10 * least} characters for --context {context}",
            "take a longer text, or lower --context",
        )
    alphabet = "".join(sorted(set(text)))
    known = {character: number for number, character in enumerate(alphabet)}
    numbers = torch.tensor([known[character] for character in text], dtype=torch.int32)
    return Corpus(alphabet, numbers[:cut], numbers[cut:], hashlib.sha256(content).hexdigest())


def _cut(characters: int) -> int:
    """How many of them are learnt from."""
    return characters * 9 // 10


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataMissingError(
            f"--text {path} cannot be read: {error.strerror or error}", "a text file that is there", _REMEDY
        ) from error


def _no_text(path: Path, why: str) -> InputError:
    return InputError(f"--text {path} is no text in UTF-8: {why}", "a plain text file", _REMEDY)


def _windows(source: Tensor, begins: Tensor, length: int) -> Batch:
    """Gathered, and as the numbers that losses ask for."""
    found = source.unfold(0, length + 1, 1)[begins].long()
    return found[:, :-1].contiguous(), found[:, 1:].contiguous()
