"""Where the published data sets lie on this machine, for the tests that read them."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

_FIRST_FILE = {
    "mnist": "mnist/train-images?idx3-ubyte*",
    "fashion-mnist": "fashion-mnist/train-images?idx3-ubyte*",
    "cifar10": "cifar-10-batches-bin/data_batch_1.bin",
}


def find(name: str) -> Path | None:
    """The folder to give to `load` as `data_dir`, or None where this machine has no copy."""
    variable = os.environ.get("WORLDSHEET_DATA")
    folders = [Path(variable)] if variable else []
    folders.append(ROOT.parent / "shared" / "data")
    return next((folder for folder in folders if any(folder.glob(_FIRST_FILE[name]))), None)
