"""Data sets against files whose bytes the tests write themselves, and against the published figures."""

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from real_data import find
from worldsheet_lab.data import NAMES, DataSet, load
from worldsheet_lab.data.cifar import read_batch, read_set
from worldsheet_lab.data.dataset import standardised, statistics
from worldsheet_lab.data.download import Download, cache, fetch
from worldsheet_lab.data.idx import read_idx
from worldsheet_lab.data.raw import Raw
from worldsheet_lab.data.sources import Files, locate
from worldsheet_lab.errors import DataMissingError

STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape) + content


def write_set(folder: Path, labels: bytes, packed: bool = False, separator: str = "-") -> None:
    """Two training images of 1 x 2 pixels, black and white, and one test image that is half grey (51 of 255)."""
    contents = (
        idx((2, 1, 2), bytes([0, 0, 255, 255])),
        idx((2,), labels[:2]),
        idx((1, 1, 2), bytes([51, 51])),
        idx((1,), labels[2:]),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in zip(STEMS, contents, strict=True):
        name = stem.replace("-idx", f"{separator}idx")
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("WORLDSHEET_DATA", raising=False)
    return monkeypatch


@settings(deadline=None, max_examples=40)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), packed=st.booleans(), seed=st.integers(0))
def test_idx_round_trip(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], packed: bool, seed: int
) -> None:
    values = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed % 2**63))
    content = idx(shape, values.numpy().tobytes())
    path = tmp_path_factory.mktemp("idx") / "values"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert torch.equal(read_idx(path, len(shape)), values)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("separator", ["-", "."])
@pytest.mark.parametrize("sub_folder", ["", "mnist", "MNIST/raw"])
def test_black_and_white_standardise_to_minus_one_and_one(
    tmp_path: Path, bare: pytest.MonkeyPatch, packed: bool, separator: str, sub_folder: str
) -> None:
    write_set(tmp_path / sub_folder, bytes([3, 9, 4]), packed, separator)
    data = load("mnist", tmp_path, download=False)
    # Mean 1/2, deviation 1/2; the test image is (51/255 - 1/2) / (1/2) = -3/5.
    assert torch.equal(data.train_images, torch.tensor([-1.0, -1.0, 1.0, 1.0]).view(2, 1, 1, 2))
    torch.testing.assert_close(data.test_images, torch.full((1, 1, 1, 2), -0.6))
    assert data.train_labels.tolist() == [3, 9]
    assert data.test_labels.tolist() == [4]
    assert (data.train_images.dtype, data.train_labels.dtype) == (torch.float32, torch.int64)
    assert (data.name, data.input_shape, data.source) == ("mnist", (1, 1, 2), str(tmp_path / sub_folder))
    assert data.classes == tuple("0123456789")


def test_a_file_unpacked_under_its_packed_name_is_read(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, bytes([3, 9, 4]))
    for stem in STEMS:
        (tmp_path / stem).rename(tmp_path / f"{stem}.gz")
    assert load("mnist", tmp_path, download=False).train_labels.tolist() == [3, 9]


def test_places_are_searched_in_order(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    given_folder, named = tmp_path / "given", tmp_path / "named"
    bare.setenv("WORLDSHEET_DATA", str(named))
    for folder, labels in ((given_folder, [1, 1, 1]), (named, [2, 2, 2]), (cache() / "mnist", [3, 3, 3])):
        write_set(folder, bytes(labels))
    assert load("mnist", given_folder).train_labels.tolist() == [1, 1]
    assert load("mnist").train_labels.tolist() == [2, 2]
    bare.delenv("WORLDSHEET_DATA")
    assert load("mnist").train_labels.tolist() == [3, 3]
    (tmp_path / "empty").mkdir()
    assert load("mnist", tmp_path / "empty").source == str(cache() / "mnist")


def test_the_sub_folder_of_the_name_comes_before_the_folder_itself(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, bytes([1, 1, 1]))
    write_set(tmp_path / "fashion-mnist", bytes([2, 2, 2]))
    assert load("fashion-mnist", tmp_path).train_labels.tolist() == [2, 2]
    assert load("mnist", tmp_path).train_labels.tolist() == [1, 1]


def cifar_batch(first: int) -> bytes:
    """Three records with labels `first`, +1, +2; red, green and blue hold `first`, +10 and +20 throughout."""
    planes = b"".join(bytes([first + 10 * channel]) * 1024 for channel in range(3))
    return b"".join(bytes([first + record]) + planes for record in range(3))


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_round_trip(tmp_path: Path, packed: bool) -> None:
    files = []
    for first in (0, 5, 7):
        files.append(tmp_path / f"batch-{first}.bin")
        files[-1].write_bytes(gzip.compress(cifar_batch(first)) if packed else cifar_batch(first))
    raw = read_set(files, records=3)
    assert raw.train_labels.tolist() == [0, 1, 2, 5, 6, 7]
    assert raw.test_labels.tolist() == [7, 8, 9]
    colours = torch.tensor([[0, 10, 20]] * 3 + [[5, 15, 25]] * 3, dtype=torch.uint8)
    assert torch.equal(raw.train_images, colours.view(6, 3, 1, 1).expand(6, 3, 32, 32))


def test_cifar_pixels_are_row_by_row(tmp_path: Path) -> None:
    pixels = torch.arange(3072).remainder(251).to(torch.uint8)
    (tmp_path / "batch.bin").write_bytes(bytes([6]) + pixels.numpy().tobytes())
    images, labels = read_batch(tmp_path / "batch.bin", records=1)
    assert labels.tolist() == [6]
    assert images[0, 2, 5, 7] == (2 * 1024 + 5 * 32 + 7) % 251


def test_statistics_are_those_of_each_channel() -> None:
    images = torch.randint(256, (40, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    means, deviations = statistics(images, 255)
    expected = images.double() / 255
    torch.testing.assert_close(torch.tensor(means).double(), expected.mean((0, 2, 3)))
    torch.testing.assert_close(torch.tensor(deviations).double(), expected.std((0, 2, 3), correction=0))


def test_each_channel_is_standardised_by_itself() -> None:
    # Red is 0 or 2 (mean 1, deviation 1), green 0 or 4 (mean 2, deviation 2), of 4 levels.
    train = torch.tensor([[0, 0], [2, 4]], dtype=torch.uint8).view(2, 2, 1, 1)
    test = torch.tensor([[1, 4]], dtype=torch.uint8).view(1, 2, 1, 1)
    data = standardised("colours", Raw(train, torch.tensor([0, 1]), test, torch.tensor([0])), 4, ("a", "b"), "here")
    assert data.train_images.flatten().tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert data.test_images.flatten().tolist() == [0.0, 1.0]


def test_digits_are_the_whole_collection_once() -> None:
    data = load("digits")
    assert (len(data.train_labels), len(data.test_labels)) == (1437, 360)
    counts = (data.train_labels.bincount() + data.test_labels.bincount()).tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.train_labels[:5].tolist() == [2, 8, 2, 6, 6]
    assert_standard(data, [0.0])
    # The grey levels 0 and 16 of 16, moved by the mean 4.88 and divided by the deviation 6.01 of the pixels.
    assert data.train_images.min().item() == pytest.approx(-0.8125, abs=1e-3)
    assert data.train_images.max().item() == pytest.approx(1.8480, abs=1e-3)
    assert data.input_shape == (1, 8, 8)
    assert torch.equal(load("digits").test_images, data.test_images)


def test_subset_takes_the_first() -> None:
    data = load("digits")
    part = data.subset(train=100, test=None)
    assert torch.equal(part.train_images, data.train_images[:100])
    assert torch.equal(part.train_labels, data.train_labels[:100])
    assert part.test_images is data.test_images
    assert part.train_images.untyped_storage().nbytes() == 100 * 64 * 4
    assert data.subset(1437, 1).test_labels.tolist() == data.test_labels[:1].tolist()


def test_names() -> None:
    assert NAMES == ("digits", "mnist", "fashion-mnist", "cifar10")


@pytest.fixture
def server(tmp_path: Path, bare: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which it is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    bare.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def publish(folder: Path, address: str, name: str, content: bytes, members: tuple[str, ...] = ()) -> Download:
    (folder / name).write_bytes(content)
    return Download(f"{address}/{name}", hashlib.sha256(content).hexdigest(), members)


def test_a_download_is_kept_and_found_again(server: tuple[Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    contents = {"a.bin": b"a" * 100_000, "b.bin": b"bb"}
    downloads = tuple(publish(*server, name, content) for name, content in contents.items())
    files = Files("two", tuple((name,) for name in contents), ("two",), downloads)
    found = locate(files, None, download=True)
    assert [path.read_bytes() for path in found.paths] == list(contents.values())
    assert found.source == f"downloaded from {server[1]} to {cache() / 'two'}"
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a.bin" in captured.err
    assert "100.0/100.0 kB" in captured.err
    again = locate(files, None, download=False)
    assert (again.paths, again.source) == (found.paths, str(cache() / "two"))


def test_half_a_cache_is_completed(server: tuple[Path, str]) -> None:
    downloads = tuple(publish(*server, name, name.encode()) for name in ("a.bin", "b.bin"))
    files = Files("two", (("a.bin",), ("b.bin",)), ("two",), downloads)
    fetch(downloads[0], cache() / "two")
    assert [path.read_bytes() for path in locate(files, None, download=True).paths] == [b"a.bin", b"b.bin"]


def test_an_archive_cut_short_is_unpacked_again(server: tuple[Path, str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ("inner/a.bin", "inner/b.bin"):
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    item = publish(*server, "both.tar.gz", buffer.getvalue(), members=("inner/a.bin", "inner/b.bin"))
    files = Files("both", (("a.bin",), ("b.bin",)), ("inner", "both/inner"), (item,))
    first = locate(files, None, download=True)
    assert [path.read_bytes() for path in first.paths] == [b"inner/a.bin", b"inner/b.bin"]
    first.paths[1].unlink()
    (server[0] / "both.tar.gz").unlink()
    assert locate(files, None, download=True).paths[1].read_bytes() == b"inner/b.bin"


def test_a_download_with_another_checksum_is_refused_and_not_kept(server: tuple[Path, str]) -> None:
    good = publish(*server, "a.bin", b"as published")
    (server[0] / "a.bin").write_bytes(b"changed since")
    with pytest.raises(DataMissingError, match=r"the download of http.*a\.bin failed \(ValueError: SHA256 hash"):
        locate(Files("one", (("a.bin",),), ("one",), (good,)), None, download=True)
    assert list((cache() / "one").iterdir()) == []


def test_a_file_gone_from_the_server_is_refused(server: tuple[Path, str]) -> None:
    gone = Download(f"{server[1]}/gone.bin", "0" * 64)
    with pytest.raises(DataMissingError, match=r"gone\.bin failed \(HTTPError: 404"):
        locate(Files("one", (("gone.bin",),), ("one",), (gone,)), None, download=True)


def assert_standard(data: DataSet, means: list[float]) -> None:
    """Mean 0 and deviation 1 in each channel, up to float32, image by image so as not to copy the set as float64."""
    mean = torch.stack([image.double().mean((1, 2)) for image in data.train_images]).mean(0)
    square = torch.stack([image.double().square().mean((1, 2)) for image in data.train_images]).mean(0)
    torch.testing.assert_close(mean, torch.tensor(means).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(square, torch.ones(len(means)).double(), atol=1e-5, rtol=0)


def real(name: str) -> DataSet:
    folder = find(name)
    if folder is None:
        pytest.skip(f"no copy of {name} in $WORLDSHEET_DATA")
    return load(name, folder, download=False)


@pytest.mark.data
def test_mnist() -> None:
    data = real("mnist")
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train_labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert len(data.test_labels) == 10_000
    assert_standard(data, [0.0])
    # Mean 0.1307 and deviation 0.3081 are the figures everyone uses: black is -0.1307 / 0.3081, white 0.8693 / 0.3081.
    assert data.train_images.min().item() == pytest.approx(-0.4242, abs=2e-4)
    assert data.train_images.max().item() == pytest.approx(2.8215, abs=1e-3)
    assert data.input_shape == (1, 28, 28)


@pytest.mark.data
def test_fashion_mnist() -> None:
    data = real("fashion-mnist")
    assert data.train_labels.bincount().tolist() == [6000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.classes[data.train_labels[0]] == "Ankle boot"
    assert_standard(data, [0.0])
    assert data.train_images.min().item() == pytest.approx(-0.2860 / 0.3530, abs=1e-3)
    assert data.input_shape == (1, 28, 28)


@pytest.mark.data
def test_cifar10() -> None:
    data = real("cifar10")
    assert data.train_labels.bincount().tolist() == [5000] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.classes[data.train_labels[0]] == "frog"
    assert_standard(data, [0.0, 0.0, 0.0])
    black = -torch.tensor([0.4914, 0.4822, 0.4465]) / torch.tensor([0.2470, 0.2435, 0.2616])
    torch.testing.assert_close(data.train_images.amin((0, 2, 3)), black, atol=1e-3, rtol=0)
    assert data.input_shape == (3, 32, 32)
