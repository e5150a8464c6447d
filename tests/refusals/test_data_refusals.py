"""Refusals of the data sets: each names the file or argument, what was expected, and what to do."""

import gzip
from pathlib import Path

import pytest
import torch

from real_data import find
from worldsheet.core.errors import InputError
from worldsheet_lab.data import load
from worldsheet_lab.data.cifar import read_batch
from worldsheet_lab.data.dataset import standardised
from worldsheet_lab.data.download import Download, cache
from worldsheet_lab.data.idx import read_idx
from worldsheet_lab.data.raw import Raw
from worldsheet_lab.data.sources import Files, locate
from worldsheet_lab.errors import DataMissingError

IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 255, 255, 0])
LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 9])
PACKED = gzip.compress(IMAGES, mtime=0)
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def _nothing_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    monkeypatch.delenv("WORLDSHEET_DATA", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete set of two images and labels each."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in zip(NAMES, (IMAGES, LABELS, IMAGES, LABELS), strict=True):
        (folder / name).write_bytes(content)
    return folder


def test_the_set_that_the_others_spoil_is_accepted(folder: Path) -> None:
    assert load("mnist", folder, download=False).train_labels.tolist() == [3, 9]


@pytest.mark.parametrize(
    ("name", "close"), [("minst", "mnist"), ("FASHION_MNIST", "fashion-mnist"), ("cifar", "cifar10")]
)
def test_unknown_name_suggests_the_closest(name: str, close: str) -> None:
    with pytest.raises(InputError) as refusal:
        load(name)
    assert refusal.value.problem == f"no data set is called '{name}'"
    assert refusal.value.accepted == "digits, mnist, fashion-mnist, cifar10"
    assert refusal.value.remedy == f"did you mean '{close}'?"


def test_unknown_name_far_from_all_suggests_none() -> None:
    with pytest.raises(InputError) as refusal:
        load("wikipedia")
    assert refusal.value.remedy == "choose one of these names"


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("mnist", tuple(f"{name}.gz" for name in NAMES)),
        ("cifar10", ("data_batch_1.bin", "data_batch_5.bin", "test_batch.bin")),
    ],
)
def test_nothing_anywhere_says_what_to_put_where(name: str, files: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(DataMissingError) as refusal:
        load(name, tmp_path, download=False)
    text = str(refusal.value)
    for part in (*files, str(tmp_path), str(cache() / name), "--data-dir", "$WORLDSHEET_DATA"):
        assert part in text
    assert "downloading is switched off" in refusal.value.problem
    assert isinstance(refusal.value, FileNotFoundError)


def test_no_network_ends_in_the_same_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Port 1 refuses at once, which stands in for a machine without a network.
    url = "http://127.0.0.1:1/small.bin"
    files = Files("small", (("small.bin",),), ("small",), (Download(url, "0" * 64),))
    with pytest.raises(DataMissingError) as refusal:
        locate(files, None, download=True)
    assert f"the download of {url} failed (ConnectionRefusedError" in refusal.value.problem
    assert "$WORLDSHEET_DATA" in refusal.value.remedy
    assert not (cache() / "small" / "small.bin").exists()


def test_a_named_folder_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataMissingError, match=r"--data-dir .*mispelt does not exist\n"):
        load("mnist", tmp_path / "mispelt")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataMissingError, match=r"--data-dir .*file is not a folder\n"):
        load("mnist", tmp_path / "file")
    monkeypatch.setenv("WORLDSHEET_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataMissingError, match=r"\$WORLDSHEET_DATA .*gone does not exist\n"):
        load("mnist")


@pytest.mark.parametrize("absent", NAMES)
def test_half_a_set_says_which_file_is_missing(folder: Path, absent: str) -> None:
    (folder / absent).unlink()
    with pytest.raises(DataMissingError) as refusal:
        load("mnist", folder)
    assert refusal.value.problem.endswith(f"missing: {absent}.gz")
    assert refusal.value.remedy == f"add to {folder}: {absent}.gz"


def test_half_a_set_in_the_cache_is_named_when_it_cannot_be_completed() -> None:
    kept = cache() / "mnist"
    kept.mkdir(parents=True)
    (kept / NAMES[0]).write_bytes(IMAGES)
    with pytest.raises(DataMissingError) as refusal:
        load("mnist", download=False)
    assert f"{kept} (which lacks {NAMES[1]}.gz, {NAMES[2]}.gz, {NAMES[3]}.gz)" in refusal.value.problem


@pytest.mark.parametrize(
    ("content", "found", "expected"),
    [
        (b"", "0 bytes", "an idx header of 16 bytes"),
        (IMAGES[:10], "10 bytes", "an idx header of 16 bytes"),
        (IMAGES[:-1], "19 bytes after unpacking", "20 bytes, since its header states a count of 2 x 1 x 2"),
        (IMAGES + b"!", "21 bytes after unpacking", "20 bytes, since its header states a count of 2 x 1 x 2"),
        (LABELS + bytes(10), "magic number 2049", "magic number 2051: unsigned bytes in 3 dimension(s)"),
        (b"<!DOCTYPE html><html>", "magic number 1008813135", "magic number 2051"),
        (bytes([0, 0, 8, 3, *[0] * 12]), "a count of 0 x 0 x 0", "at least one entry"),
        (PACKED[:-12], "cannot be read (Compressed file ended", "plain or gzip-compressed"),
        (PACKED[:10] + b"\xff" * 20, "cannot be read (Error -3", "plain or gzip-compressed"),
        (PACKED[:-8] + bytes(8), "cannot be read (CRC check failed", "plain or gzip-compressed"),
    ],
    ids=[
        *("empty", "header-cut", "short", "long", "labels", "web-page", "no-entry"),
        *("packed-and-cut", "packed-and-overwritten", "packed-and-altered"),
    ],
)
def test_damaged_idx_file(tmp_path: Path, content: bytes, found: str, expected: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataMissingError) as refusal:
        read_idx(path, 3)
    assert refusal.value.problem.startswith(f"{path} cannot be used: it ")
    assert found in refusal.value.problem
    assert expected in refusal.value.accepted


@pytest.mark.parametrize(
    ("spoilt", "content", "found", "expected"),
    [
        (1, bytes([0, 0, 8, 1, 0, 0, 0, 1, 3]), "has 1 labels", f"2 labels, one for each image of {NAMES[0]}"),
        (3, bytes([0, 0, 8, 1, 0, 0, 0, 2, 3, 10]), "has the label 10", "labels from 0 to 9"),
        (
            2,
            bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 1, 7, 8]),
            "has images of 1 x 1 pixels",
            f"images of 1 x 2 pixels, as in {NAMES[0]}",
        ),
    ],
    ids=["fewer-labels", "eleventh-class", "other-size"],
)
def test_files_that_do_not_fit_together(folder: Path, spoilt: int, content: bytes, found: str, expected: str) -> None:
    (folder / NAMES[spoilt]).write_bytes(content)
    with pytest.raises(DataMissingError) as refusal:
        load("mnist", folder)
    assert refusal.value.problem == f"{folder / NAMES[spoilt]} cannot be used: it {found}"
    assert refusal.value.accepted == expected


@pytest.mark.parametrize(
    ("content", "found", "expected"),
    [
        (bytes(3073 * 2 - 1), "has 6145 bytes", "6146 bytes: 2 records of 3073 bytes"),
        (bytes(3073), "has 3073 bytes", "6146 bytes: 2 records of 3073 bytes"),
        (bytes(3073) + bytes([11]) + bytes(3072), "has the label 11", "labels from 0 to 9"),
    ],
    ids=["a-byte-short", "a-record-short", "twelfth-class"],
)
def test_damaged_cifar_batch(tmp_path: Path, content: bytes, found: str, expected: str) -> None:
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(DataMissingError) as refusal:
        read_batch(path, records=2)
    assert refusal.value.problem == f"{path} cannot be used: it {found}"
    assert refusal.value.accepted == expected


def test_a_short_cifar_batch_is_refused_through_load(tmp_path: Path) -> None:
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(bytes(3073))
    with pytest.raises(
        DataMissingError, match=r"data_batch_1\.bin cannot be used: it has 3073 bytes\n.*30730000 bytes: 10000 records"
    ):
        load("cifar10", tmp_path)


def test_images_of_one_grey_level(folder: Path) -> None:
    (folder / NAMES[0]).write_bytes(IMAGES[:16] + bytes([7] * 4))
    with pytest.raises(
        InputError, match=r"the images of mnist from .* are damaged: a channel has one value in all of them"
    ):
        load("mnist", folder)


def test_one_constant_channel_among_others() -> None:
    images = torch.tensor([[0, 5], [1, 5]], dtype=torch.uint8).view(2, 2, 1, 1)
    labels = torch.tensor([0, 0])
    with pytest.raises(InputError, match="a channel has one value in all"):
        standardised("pair", Raw(images, labels, images, labels), 255, ("only",), "here")


@pytest.mark.parametrize(
    ("train", "test", "text"),
    [
        (0, None, "the train set has 1437 images, and 0 were asked for\n  accepted: 1 to 1437"),
        (-1, None, "the train set has 1437 images, and -1 were asked for"),
        (1438, 5, "the train set has 1437 images, and 1438 were asked for"),
        (None, 361, "the test set has 360 images, and 361 were asked for\n  accepted: 1 to 360"),
    ],
)
def test_subset_out_of_range(train: int | None, test: int | None, text: str) -> None:
    with pytest.raises(InputError) as refusal:
        load("digits").subset(train, test)
    assert text in str(refusal.value)


@pytest.mark.data
def test_the_other_data_set_under_the_same_file_names() -> None:
    folder = find("fashion-mnist")
    if folder is None:
        pytest.skip("no copy of fashion-mnist in $WORLDSHEET_DATA")
    with pytest.raises(DataMissingError, match="holds the labels of fashion-mnist, whose files carry the same names"):
        load("mnist", folder / "fashion-mnist")
