"""The source's generator: threefry-2x32 with 20 rounds, and what jax.random makes of it, with our own code.

A key is a pair of words, a draw is the cipher of a counter under it. Of the two ways in which jax reads counters, the
older one enciphers them in pairs, and the newer one, the default since its version 0.5, each by itself.

Reference:
    Salmon, Moraes, Dror & Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
"""

from enum import Enum
from itertools import cycle
from math import prod, sqrt
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words: TypeAlias = NDArray[np.uint32]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


class Counters(Enum):
    """How jax reads counters: which two words enter the cipher together, and what is made of the two that leave."""

    PAIRED = "until 0.4: the first half with the second half, both words are draws"
    SINGLE = "since 0.5: each after a word of zeros, the draw is the exclusive or of both words"


def threefry(key: Words, first: Words, second: Words) -> tuple[Words, Words]:
    """The cipher of pairs of words: five times four rounds of add, rotate and exclusive or, each four after a key."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    a, b = first + keys[0], second + keys[1]
    for block, rotations in zip(range(1, 6), cycle(_ROTATIONS), strict=False):
        for rotation in rotations:
            a = a + b
            b = a ^ (b << np.uint32(rotation) | b >> np.uint32(32 - rotation))
        a, b = a + keys[block % 3], b + keys[(block + 1) % 3] + np.uint32(block)
    return a, b


def seeded(seed: int) -> Words:
    """The key of a seed, its high and its low word."""
    return np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32)


def split(key: Words, number: int, counters: Counters = Counters.SINGLE) -> Words:
    """So many keys, in rows."""
    if counters is Counters.PAIRED:
        return _paired(key, 2 * number).reshape(number, 2)
    return np.stack(_single(key, number), axis=1)


def normal(key: Words, shape: tuple[int, ...], counters: Counters = Counters.SINGLE) -> Tensor:
    """Standard normal float32 numbers, equal to jax.random.normal's to rounding: √2 erf⁻¹ of uniform ones."""
    found: Tensor = torch.special.erfinv(uniform(key, shape, counters, low=-1.0).double())
    return found.mul_(sqrt(2)).float()


def uniform(key: Words, shape: tuple[int, ...], counters: Counters = Counters.SINGLE, *, low: float = 0.0) -> Tensor:
    """Float32 numbers from [0, 1), or from (low, 1) above a low below 0: 23 bits of each draw are the mantissa."""
    size = prod(shape)
    bits = _paired(key, size) if counters is Counters.PAIRED else np.bitwise_xor(*_single(key, size))
    unit = (bits >> np.uint32(9) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    least = np.nextafter(np.float32(low), np.float32(0))
    return torch.from_numpy(np.maximum(unit * (np.float32(1) - least) + least, least).reshape(shape))


def _single(key: Words, number: int) -> tuple[Words, Words]:
    return threefry(key, np.zeros(number, np.uint32), np.arange(number, dtype=np.uint32))


def _paired(key: Words, number: int) -> Words:
    counters = np.arange(number + number % 2, dtype=np.uint32)
    counters[number:] = 0
    return np.concatenate(threefry(key, *np.split(counters, 2)))[:number]
