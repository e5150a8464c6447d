"""The handwritten digits that scikit-learn carries: 8 x 8 pixels of 17 grey levels, 0 to 16."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from worldsheet_lab.data.raw import Raw

TRAIN = 1437
_SEED = 0


def read_digits() -> Raw:
    """Read the 1797 digits, in an order fixed once, as 1437 for training and 360 for testing."""
    bunch = load_digits()
    # The file is sorted by writer, hence the shuffle; RandomState is the one generator whose stream numpy froze.
    order = np.random.RandomState(_SEED).permutation(len(bunch.target))
    images = torch.from_numpy(bunch.images[order].astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target[order])
    return Raw(images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:])
