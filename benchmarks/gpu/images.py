"""CIFAR-10 in whatever parts are there, else images that are drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST = "test_batch"
_COUNT, _RECORD, _SIDE = 10_000, 3073, 100


class Images(NamedTuple):
    """Training and test images (count, 3, 32, 32) in uint8 with their labels, and where they are from."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    source: str


def found(folders: Sequence[Path], *, toy: bool) -> Images:
    """The batches of the first folder that has any, or drawn images if none has."""
    for folder in (each for top in folders for each in (top, top / "cifar10", top / "cifar-10-batches-bin")):
        batches = {name: batch for name in (*TRAINING, TEST) if (batch := _batch(folder, name)) is not None}
        training = [batches[name] for name in TRAINING if name in batches]
        if training:
            return _split(training, batches.get(TEST), toy)
    return _drawn(toy)


def _batch(folder: Path, name: str) -> tuple[Tensor, Tensor] | None:
    """A batch in the data set's own binary form, or as a picture of 100 x 100 images with the labels beside."""
    binary, picture = folder / f"{name}.bin", folder / f"{name}.webp"
    if binary.is_file():
        table = torch.from_numpy(np.fromfile(binary, np.uint8).reshape(-1, _RECORD))
        return table[:, 1:].reshape(-1, 3, 32, 32), table[:, 0].long()
    if picture.is_file() and (folder / "labels.npz").is_file():
        return _from_picture(picture), _labels(folder / "labels.npz", name)
    return None


def _from_picture(path: Path) -> Tensor:
    from PIL import Image  # noqa: PLC0415  only where there are pictures

    mosaic = np.array(Image.open(path).convert("RGB"))
    tiles = mosaic.reshape(_SIDE, 32, _SIDE, 32, 3).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(np.ascontiguousarray(tiles.reshape(_COUNT, 3, 32, 32)))


def _labels(path: Path, name: str) -> Tensor:
    labels = np.load(path)
    if name == TEST:
        return torch.from_numpy(labels["test"]).long()
    first = TRAINING.index(name) * _COUNT
    return torch.from_numpy(labels["train"][first : first + _COUNT]).long()


def _split(training: list[tuple[Tensor, Tensor]], test: tuple[Tensor, Tensor] | None, toy: bool) -> Images:
    """Without the test batch the last thousand of the training images are held out."""
    images, labels = (torch.cat(parts) for parts in zip(*training, strict=True))
    held = "the test batch"
    if test is None:
        held, test = "1000 training images held out", (images[-1000:], labels[-1000:])
        images, labels = images[:-1000], labels[:-1000]
    if toy:
        images, labels, test = images[:256], labels[:256], (test[0][:100], test[1][:100])
    return Images(images, labels, *test, f"CIFAR-10, {len(images)} images; tested on {held}")


def _drawn(toy: bool) -> Images:
    """Ten random patterns with noise: nothing that an accuracy could be compared with."""
    draw = torch.Generator().manual_seed(0)
    patterns = torch.rand(10, 3, 8, 8, generator=draw).repeat_interleave(4, 2).repeat_interleave(4, 3)
    train, test = (_noisy(patterns, count, draw) for count in ((256, 100) if toy else (20_000, 2_000)))
    return Images(*train, *test, f"drawn images, {len(train[0])} of them; CIFAR-10 was not found")


def _noisy(patterns: Tensor, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.randint(len(patterns), (count,), generator=draw)
    noise = torch.rand(count, *patterns.shape[1:], generator=draw)
    return (255 * (patterns[labels] + 2 * noise) / 3).byte(), labels
