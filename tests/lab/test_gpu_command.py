"""`python -m benchmarks.gpu`: what is found is kept, what fails ends nothing else, and wrong is called wrong.

`make gpu` runs all of it.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.gpu.__main__ import PARTS, main
from benchmarks.gpu.images import found
from benchmarks.gpu.ledger import FAILED, FOUND, NOT_HERE, STARTED, UNFINISHED, Ledger
from benchmarks.gpu.parity import distance
from benchmarks.gpu.plan import Figures, Item, NotHereError, Part, Plan, UnfinishedError, with_loss
from benchmarks.gpu.worker import BROKEN, verdict, work


def plan(out: Path, seconds: float = 60.0, **changes: Any) -> Plan:
    values: dict[str, Any] = {"device": torch.device("cpu"), "toy": True, "data": (), "out": out}
    return Plan(**{**values, "deadline": time.monotonic() + seconds, **changes})


class Planned(Part):
    """Items that somebody has prepared."""

    name = "planned"
    seconds = 1.0

    def __init__(self, **measures: Callable[[], Figures]) -> None:
        self.measures = measures

    def items(self, plan: Plan) -> Sequence[Item]:
        return [Item(name, measure) for name, measure in self.measures.items()]


def fails(error: Exception) -> Callable[[], Figures]:
    def measure() -> Figures:
        raise error

    return measure


def states(out: Path) -> dict[str, str]:
    return {name: row["state"] for name, row in Ledger(out / "planned.jsonl").rows.items()}


def test_each_item_is_kept_and_only_what_is_open_is_measured_again(tmp_path: Path) -> None:
    calls = []

    def good() -> Figures:
        calls.append("good")
        return with_loss(1e-12, 1e-9)

    part = Planned(
        good=good,
        missing=fails(NotHereError("no NCCL")),
        open=fails(UnfinishedError("1 of 2 epochs")),
        bad=fails(ValueError("shapes")),
    )
    assert work(part, plan(tmp_path), once=False) == 0
    assert states(tmp_path) == {"good": FOUND, "missing": NOT_HERE, "open": UNFINISHED, "bad": FAILED}
    part.measures.update(open=good, bad=good)
    assert work(part, plan(tmp_path), once=True) == 0
    assert calls == ["good"]
    assert work(part, plan(tmp_path), once=False) == 0
    assert calls == ["good"] * 3
    assert set(states(tmp_path).values()) == {FOUND, NOT_HERE}


def test_a_device_that_answers_no_more_ends_the_process_only(tmp_path: Path) -> None:
    part = Planned(
        bad=fails(RuntimeError("CUDA error: device-side assert triggered")), good=lambda: with_loss(0.0, 1.0)
    )
    assert work(part, plan(tmp_path), once=False) == BROKEN
    assert states(tmp_path) == {"bad": FAILED}
    assert work(part, plan(tmp_path), once=True) == 0
    assert states(tmp_path) == {"bad": FAILED, "good": FOUND}


def test_what_a_killed_process_was_at_is_measured_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "planned.jsonl")
    ledger.note("slow", STARTED, 0.0, {})
    with (tmp_path / "planned.jsonl").open("a") as file:
        file.write('{"item": "cut o')
    assert states(tmp_path) == {"slow": STARTED}
    assert work(Planned(slow=lambda: {"ms": 1.0}), plan(tmp_path), once=False) == 0
    assert states(tmp_path) == {"slow": FOUND}


def test_nothing_begins_after_the_deadline(tmp_path: Path) -> None:
    assert work(Planned(late=lambda: {}), plan(tmp_path, -1.0), once=False) == 0
    assert states(tmp_path) == {}


@pytest.mark.parametrize(("error", "word"), [(1e-10, "right"), (1e-8, "WRONG"), (float("inf"), "WRONG")])
def test_wrong_is_called_wrong(error: float, word: str) -> None:
    assert verdict(FOUND, with_loss(error, 1e-9)) == word


def test_a_nan_is_infinitely_far() -> None:
    assert distance([torch.tensor([1.0])], [torch.tensor([2.0])]) == 0.5
    assert distance([torch.tensor([1.0]), torch.tensor([torch.nan])], [torch.ones(1)] * 2) == float("inf")


def test_one_part_runs_here_and_goes_on_where_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["training", "--device", "cpu", "--out", str(tmp_path)]
    assert main(words) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["parts"]["training"]
    assert [row["state"] for row in rows] == [FOUND] * 3
    assert rows[2]["figures"] == {"accuracy": 0.0, "loss": 0.0}
    assert rows[0]["figures"]["smallest cosine"] > 1 - 1e-5
    capfd.readouterr()
    assert main(words) == 0
    assert "training: dyadic" not in capfd.readouterr().out
    with pytest.raises(SystemExit, match="name another --out"):
        main([*words, "--device", "meta"])


def test_every_part_has_its_time_and_all_fit_into_eight_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) <= 500
    assert list(PARTS) == ["parity", "cost", "batches", "scan", "training"]


def test_batches_of_images_are_taken_as_they_are_found(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    assert "drawn" in found([tmp_path], toy=True).source
    folder = tmp_path / "cifar10"
    folder.mkdir()
    table = draw.integers(0, 10, (3000, 3073), dtype=np.uint8)
    table.tofile(folder / "data_batch_2.bin")
    images = found([tmp_path], toy=False)
    assert images.source == "CIFAR-10, 2000 images; tested on 1000 training images held out"
    assert torch.equal(images.test_labels, torch.from_numpy(table[2000:, 0]).long())
    assert torch.equal(images.train.flatten(1), torch.from_numpy(table[:2000, 1:]))
    table.tofile(folder / "test_batch.bin")
    assert found([tmp_path], toy=False).source == "CIFAR-10, 3000 images; tested on the test batch"


def test_pictures_of_a_hundred_by_a_hundred_images_are_taken_apart(tmp_path: Path) -> None:
    pictures = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    mosaic = draw.integers(0, 256, (3200, 3200, 3), dtype=np.uint8)
    pictures.fromarray(mosaic).save(tmp_path / "data_batch_1.webp", lossless=True, method=0)
    np.savez(tmp_path / "labels.npz", train=np.arange(50_000) % 10, test=np.arange(10_000) % 10)
    images = found([tmp_path], toy=False)
    assert torch.equal(images.train[101], torch.from_numpy(mosaic[32:64, 32:64].transpose(2, 0, 1)))
    assert images.train_labels[:3].tolist() == [0, 1, 2]
