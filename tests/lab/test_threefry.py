"""The source's generator in C13, against the cipher's published answers and values in jax's documentation."""

import numpy as np
import pytest
import torch

from experiments.c13_heat_map.threefry import Counters, Words, normal, seeded, split, threefry, uniform


def words(*values: int) -> Words:
    return np.array(values, dtype=np.uint32)


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_cipher_gives_the_known_answers(
    key: tuple[int, int], counter: tuple[int, int], answer: tuple[int, int]
) -> None:
    """The vectors that come with Random123, threefry-2x32 with 20 rounds."""
    first, second = threefry(words(*key), words(counter[0]), words(counter[1]))
    assert (int(first[0]), int(second[0])) == answer


@pytest.mark.parametrize(
    ("counters", "whole", "part"), [(Counters.SINGLE, 0.947667, 0.00729382), (Counters.PAIRED, 0.41845703, 0.10536897)]
)
def test_key_0_and_its_second_part_give_the_documented_numbers(counters: Counters, whole: float, part: float) -> None:
    """jax.random's page: random.uniform(key(0)), and of the second of two keys that it is split into."""
    key = seeded(0)
    assert float(uniform(key, (), counters)) == pytest.approx(whole, rel=1e-6)
    assert float(uniform(split(key, 2, counters)[1], (), counters)) == pytest.approx(part, rel=1e-6)


def test_normal_numbers_are_the_documented_ones() -> None:
    """Of key 123 and the one key that it is split into, by jax before 0.5."""
    key, paired = seeded(123), Counters.PAIRED
    found = [*normal(key, (3,), paired), *normal(split(key, 1, paired)[0], (3,), paired)]
    expected = [-0.1470326, 0.5524756, 1.648498, 0.5362355, -1.1920372, 2.450225]
    assert torch.stack(found).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("counters", Counters)
def test_many_numbers_are_normal(counters: Counters) -> None:
    drawn = normal(seeded(5), (301, 333), counters).double()
    moments = [float((drawn**power).mean()) for power in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.06)
    assert float(drawn[:-1].flatten() @ drawn[1:].flatten()) / drawn.numel() == pytest.approx(0, abs=0.02)
