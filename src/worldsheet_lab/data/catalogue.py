"""The table of data sets, and the one place where their names are read."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from worldsheet.core.errors import InputError
from worldsheet_lab.data import cifar, idx
from worldsheet_lab.data.dataset import DataSet, standardised
from worldsheet_lab.data.digits import read_digits
from worldsheet_lab.data.download import Download
from worldsheet_lab.data.raw import Raw
from worldsheet_lab.data.sources import Files, locate


@dataclass(frozen=True)
class _Embedded:
    """A data set that an installed package carries."""

    read: Callable[[], Raw]
    source: str

    def open(self, data_dir: str | Path | None, download: bool) -> tuple[Raw, str]:
        return self.read(), self.source


@dataclass(frozen=True)
class _OnFile:
    """A data set that is read from files, found or downloaded."""

    files: Files
    read: Callable[[Sequence[Path]], Raw]

    def open(self, data_dir: str | Path | None, download: bool) -> tuple[Raw, str]:
        found = locate(self.files, data_dir, download)
        return self.read(found.paths), found.source


@dataclass(frozen=True)
class _Entry:
    """A data set by name: how to open it, the value of its brightest pixel, and its classes."""

    origin: _Embedded | _OnFile
    levels: int
    classes: tuple[str, ...]


_DIGITS = tuple("0123456789")
_GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_IDX_FILES = (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1))
_IDX_SPELLINGS = tuple(
    tuple(f"{part}{separator}idx{dimensions}-ubyte{suffix}" for separator in "-." for suffix in (".gz", ""))
    for part, dimensions in _IDX_FILES
)
_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")


def _idx_downloads(base: str, *sums: str) -> tuple[Download, ...]:
    names = (spelling[0] for spelling in _IDX_SPELLINGS)
    return tuple(Download(f"{base}/{name}", sha256) for name, sha256 in zip(names, sums, strict=True))


_MNIST = Files(
    name="mnist",
    spellings=_IDX_SPELLINGS,
    folders=("mnist", "MNIST/raw"),
    downloads=_idx_downloads(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
)
_FASHION = Files(
    name="fashion-mnist",
    spellings=_IDX_SPELLINGS,
    folders=("fashion-mnist", "FashionMNIST/raw"),
    downloads=_idx_downloads(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    system=(Path("/usr/share/datasets/fashion-mnist"),),
)
_CIFAR = Files(
    name="cifar10",
    spellings=tuple((name,) for name in _CIFAR_FILES),
    folders=(_CIFAR_FOLDER, f"cifar10/{_CIFAR_FOLDER}", "cifar10"),
    downloads=(
        Download(
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            members=tuple(f"{_CIFAR_FOLDER}/{name}" for name in _CIFAR_FILES),
        ),
    ),
)

_CATALOGUE: Mapping[str, _Entry] = {
    "digits": _Entry(_Embedded(read_digits, "carried by scikit-learn"), 16, _DIGITS),
    "mnist": _Entry(_OnFile(_MNIST, partial(idx.read_set, "mnist", 10)), 255, _DIGITS),
    "fashion-mnist": _Entry(_OnFile(_FASHION, partial(idx.read_set, "fashion-mnist", 10)), 255, _GARMENTS),
    "cifar10": _Entry(_OnFile(_CIFAR, cifar.read_set), 255, _OBJECTS),
}

NAMES: tuple[str, ...] = tuple(_CATALOGUE)


def load(name: str, data_dir: str | Path | None = None, download: bool = True) -> DataSet:
    """Load a data set by name, standardised, from the first place that holds its files.

    The places, in order: `data_dir`; the folder that the environment variable WORLDSHEET_DATA names; for Fashion-MNIST
    the folder of Debian's package; the cache of earlier downloads. CIFAR-10 takes about 740 MB as float32.

    Args:
        name: one of `NAMES`.
        data_dir: a folder with the files, or with a sub-folder that carries the name of the data set.
        download: whether to fetch the files into the cache if they are nowhere.

    Raises:
        InputError: for an unknown name.
        DataMissingError: if the files are nowhere to be had, incomplete or damaged.
    """
    if name not in _CATALOGUE:
        close = difflib.get_close_matches(name.lower(), NAMES, n=1)
        raise InputError(
            problem=f"no data set is called {name!r}",
            accepted=", ".join(NAMES),
            remedy=f"did you mean {close[0]!r}?" if close else "choose one of these names",
        )
    entry = _CATALOGUE[name]
    raw, source = entry.origin.open(data_dir, download)
    return standardised(name, raw, entry.levels, entry.classes, source)
