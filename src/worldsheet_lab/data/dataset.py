"""A data set ready for training, and the step from raw bytes to it."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet_lab.data.raw import Raw


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images and labels, standardised by the mean and deviation of the training images.

    Args:
        name: the name it was loaded by.
        train_images: float32 (N, C, H, W); mean 0 and deviation 1 in each channel.
        train_labels: int64 (N,), indices into `classes`.
        test_images: float32 (M, C, H, W), moved and scaled by the figures of the training images.
        test_labels: int64 (M,).
        classes: what each label stands for.
        source: where the files came from, for display.
    """

    name: str
    train_images: Tensor = field(repr=False)
    train_labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    source: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of one image."""
        return tuple(self.train_images.shape[1:])

    def subset(self, train: int | None = None, test: int | None = None) -> "DataSet":
        """The first `train` and `test` images, or all where None; still standardised by the whole training set.

        The tensors are copies where they are shorter, so that the whole set can be freed.

        Raises:
            InputError: for a count below 1 or above what there is.
        """
        return replace(
            self,
            train_images=_first(self.train_images, train, "train"),
            train_labels=_first(self.train_labels, train, "train"),
            test_images=_first(self.test_images, test, "test"),
            test_labels=_first(self.test_labels, test, "test"),
        )


def _first(tensor: Tensor, count: int | None, part: str) -> Tensor:
    if count is None or count == len(tensor):
        return tensor
    if not 1 <= count <= len(tensor):
        raise InputError(
            problem=f"the {part} set has {len(tensor)} images, and {count} were asked for",
            accepted=f"1 to {len(tensor)}, or None for all of them",
            remedy=f"choose a count within what the {part} set holds",
        )
    return tensor[:count].clone()


def statistics(images: Tensor, levels: int) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of uint8 images (N, C, H, W), on the scale where `levels` is 1.

    Counting grey levels gives both without rounding and without a floating-point copy of the images.
    """
    means, deviations = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=levels + 1).double()
        share = counts / counts.sum()
        level = torch.arange(len(counts), dtype=torch.float64) / levels
        mean = share @ level
        means.append(mean.item())
        deviations.append((share @ (level - mean).square()).sqrt().item())
    return means, deviations


def standardised(name: str, raw: Raw, levels: int, classes: tuple[str, ...], source: str) -> DataSet:
    """Scale to [0, 1], where `levels` is the brightest pixel value, then standardise by the training images.

    Raises:
        InputError: if a channel of the training images is constant.
    """
    means, deviations = statistics(raw.train_images, levels)
    if min(deviations) == 0.0:
        raise InputError(
            problem=f"the images of {name} from {source} are damaged: a channel has one value in all of them",
            accepted="images that differ from pixel to pixel",
            remedy="put the published files in their place",
        )

    shift = torch.tensor(means, dtype=torch.float32).view(-1, 1, 1)
    scale = torch.tensor(deviations, dtype=torch.float32).view(-1, 1, 1)
    return DataSet(
        name=name,
        train_images=raw.train_images.to(torch.float32).div_(levels).sub_(shift).div_(scale),
        train_labels=raw.train_labels.long(),
        test_images=raw.test_images.to(torch.float32).div_(levels).sub_(shift).div_(scale),
        test_labels=raw.test_labels.long(),
        classes=classes,
        source=source,
    )
