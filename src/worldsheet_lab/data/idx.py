"""The idx format of MNIST and Fashion-MNIST."""

import hashlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from worldsheet_lab.data.raw import Raw, check_labels, damaged, read_bytes
from worldsheet_lab.errors import DataMissingError

# Two zero bytes, the code of the element type (8: unsigned byte), the number of dimensions.
_MAGIC = 0x0800
_WORD = 4

# The two data sets use the same file names, so a misplaced copy would load without complaint.
# SHA-256 of the label bytes, without the header.
_TEST_LABELS = {
    "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5": "mnist",
    "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9": "fashion-mnist",
}


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read one idx file of unsigned bytes, gzip or plain, as a uint8 tensor of the shape it states."""
    content = read_bytes(path)
    header = _WORD * (1 + dimensions)
    if len(content) < header:
        raise damaged(path, f"has {len(content)} bytes", f"an idx header of {header} bytes, then the data")
    magic, *shape = (int.from_bytes(content[at : at + _WORD], "big") for at in range(0, header, _WORD))
    if magic != _MAGIC + dimensions:
        expected = f"magic number {_MAGIC + dimensions}: unsigned bytes in {dimensions} dimension(s)"
        raise damaged(path, f"has the magic number {magic}", expected)
    size = " x ".join(str(length) for length in shape)
    if prod(shape) == 0:
        raise damaged(path, f"has no entries: its header states a count of {size}", "at least one entry")
    if len(content) != header + prod(shape):
        expected = f"{header + prod(shape)} bytes, since its header states a count of {size}"
        raise damaged(path, f"has {len(content)} bytes after unpacking", expected)
    return torch.frombuffer(content, dtype=torch.uint8, offset=header).reshape(shape)


def read_set(name: str, classes: int, files: Sequence[Path]) -> Raw:
    """Read the four files of a data set: training images and labels, then test images and labels."""
    train_images_file, train_labels_file, test_images_file, test_labels_file = files
    test_images, test_labels = _read_pair(test_images_file, test_labels_file, classes)
    _check_owner(name, test_labels_file, test_labels)
    train_images, train_labels = _read_pair(train_images_file, train_labels_file, classes)
    if train_images.shape[1:] != test_images.shape[1:]:
        expected = f"images of {_size(train_images)} pixels, as in {train_images_file.name}"
        raise damaged(test_images_file, f"has images of {_size(test_images)} pixels", expected)
    return Raw(train_images.unsqueeze(1), train_labels, test_images.unsqueeze(1), test_labels)


def _read_pair(images_file: Path, labels_file: Path, classes: int) -> tuple[Tensor, Tensor]:
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if len(images) != len(labels):
        expected = f"{len(images)} labels, one for each image of {images_file.name}"
        raise damaged(labels_file, f"has {len(labels)} labels", expected)
    check_labels(labels_file, labels, classes)
    return images, labels


def _check_owner(name: str, file: Path, labels: Tensor) -> None:
    owner = _TEST_LABELS.get(hashlib.sha256(labels.numpy().tobytes()).hexdigest(), name)
    if owner != name:
        raise DataMissingError(
            problem=f"{file} holds the labels of {owner}, whose files carry the same names as those of {name}",
            accepted=f"the files of {name}",
            remedy=f"keep each set in a sub-folder of its own, {name}/ and {owner}/, and name the folder above them",
        )


def _size(images: Tensor) -> str:
    return " x ".join(str(length) for length in images.shape[1:])
