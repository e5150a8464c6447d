"""The binary format of CIFAR-10: records of one label byte and 3 x 32 x 32 pixel bytes, channel first."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from worldsheet_lab.data.raw import Raw, check_labels, damaged, read_bytes

RECORDS = 10_000
_CLASSES = 10
_IMAGE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32


def read_batch(path: Path, records: int = RECORDS) -> tuple[Tensor, Tensor]:
    """Read the images (records, 3, 32, 32) and labels (records,) of one batch, both uint8 and views of one buffer."""
    content = read_bytes(path)
    expected = records * _RECORD_BYTES
    if len(content) != expected:
        wanted = f"{expected} bytes: {records} records of {_RECORD_BYTES} bytes"
        raise damaged(path, f"has {len(content)} bytes", wanted)
    table = torch.frombuffer(content, dtype=torch.uint8).reshape(records, _RECORD_BYTES)
    labels = table[:, 0]
    check_labels(path, labels, _CLASSES)
    return table[:, 1:].view(records, *_IMAGE), labels


def read_set(files: Sequence[Path], records: int = RECORDS) -> Raw:
    """Read the training batches in order, then the test batch, which comes last."""
    *train_files, test_file = files
    batches = [read_batch(file, records) for file in train_files]
    test_images, test_labels = read_batch(test_file, records)
    return Raw(
        torch.cat([images for images, _ in batches]),
        torch.cat([labels for _, labels in batches]),
        test_images,
        test_labels,
    )
