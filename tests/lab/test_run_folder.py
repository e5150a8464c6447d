"""What is refused about run folders, and that nothing is ever half written."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from worldsheet_lab.errors import RunFolderError
from worldsheet_lab.recipes import Recipe, recipe_for
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.training import Training


def test_the_default_folder_is_named_after_data_and_time(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder.create(tiny), RunFolder.create(tiny)
    assert first.path.parent == second.path.parent == Path("runs")
    assert first.path.name.startswith("digits-2")
    assert first.path != second.path
    assert first.recipe() == tiny


def test_a_place_that_cannot_be_written(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunFolderError, match="Not a directory") as refusal:
        RunFolder.create(tiny, tmp_path / "file" / "run")
    assert refusal.value.remedy == "choose another folder with --run, or change its permissions"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_write_permission(tiny: Recipe, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="Permission denied"):
        RunFolder.create(tiny, tmp_path / "run")


def test_a_foreign_folder_is_left_alone(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RunFolderError, match="holds files that do not belong to a run"):
        RunFolder.create(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunFolderError, match="no config"):
        RunFolder.open(tmp_path)


def test_a_folder_of_another_run_says_how_to_continue_that(tiny: Recipe, tmp_path: Path) -> None:
    RunFolder.create(tiny, tmp_path / "run")
    with pytest.raises(RunFolderError, match="holds a run already") as refusal:
        RunFolder.create(tiny, tmp_path / "run")
    assert f"--resume {tmp_path / 'run'}" in refusal.value.remedy


def test_a_file_in_place_of_a_folder(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder.create(tiny, tmp_path / "run")
    with pytest.raises(RunFolderError, match="there is no folder"):
        RunFolder.open(tmp_path / "nowhere")


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _foreign(content: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, buffer)
    return buffer.getvalue()


def _malicious(content: bytes) -> bytes:
    buffer = io.BytesIO()
    torch.save({"metrics_length": 0, "contenders": os.system}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("spoil", [_cut, _flip, _foreign, _malicious, lambda content: b""])
def test_a_torn_checkpoint(start: Callable[..., Training], tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    training = start()
    training.save()
    path = tmp_path / "run" / "checkpoint.pt"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(RunFolderError, match=r"checkpoint\.pt is damaged or belongs to another run"):
        training.restore()


def test_a_checkpoint_of_another_network(start: Callable[..., Training], tmp_path: Path) -> None:
    training, other = start("run"), start("other", width=7)
    other.save()
    (tmp_path / "other" / "checkpoint.pt").rename(tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(RunFolderError, match=r"checkpoint\.pt is damaged or belongs to another run \(RuntimeError"):
        training.restore()


def test_a_missing_checkpoint(start: Callable[..., Training]) -> None:
    with pytest.raises(RunFolderError, match=r"checkpoint\.pt cannot be read or written: No such file"):
        start().restore()


def test_metrics_shorter_than_the_checkpoint_says(start: Callable[..., Training], tmp_path: Path) -> None:
    training = start()
    training.run()
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is damaged"):
        training.restore()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "is damaged"),
        ("{}", "is damaged"),
        ('{"recipe": {"data": "digits"}}', "train_size is missing"),
    ],
)
def test_a_damaged_config(tiny: Recipe, tmp_path: Path, text: str, found: str) -> None:
    folder = RunFolder.create(tiny, tmp_path / "run")
    (folder.path / "config.json").write_text(text)
    with pytest.raises(RunFolderError, match=found) as refusal:
        RunFolder.open(folder.path).recipe()
    assert str(folder.path / "config.json") in refusal.value.problem


def test_a_write_that_fails_leaves_the_old_file(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tiny, tmp_path / "run")
    folder.write("result.json", b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        folder.write("result.json", b"new")
    assert folder.read("result.json") == b"old"
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "metrics.jsonl", "result.json"]


def test_litter_of_a_killed_process_is_swept_up(tiny: Recipe, tmp_path: Path) -> None:
    folder = RunFolder.create(tiny, tmp_path / "run")
    (folder.path / ".checkpoint.pt.abc.partial").write_bytes(b"half")
    RunFolder.open(folder.path)
    assert sorted(path.name for path in folder.path.iterdir()) == ["config.json", "metrics.jsonl"]


def test_tensors_come_back_as_they_were(tiny: Recipe, tmp_path: Path) -> None:
    folder = RunFolder.create(tiny, tmp_path / "run")
    tensors: dict[str, Any] = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.rand(3, dtype=torch.float64)}
    folder.write_tensors("x.safetensors", tensors)
    found = folder.read_tensors("x.safetensors")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    (folder.path / "x.safetensors").write_bytes(b"torn")
    with pytest.raises(RunFolderError, match=r"x\.safetensors is damaged"):
        folder.read_tensors("x.safetensors")


def test_the_recipe_survives_the_folder(tmp_path: Path) -> None:
    recipe = recipe_for("cifar10", {"lr": 3e-4, "seed": 5, "train_size": 1000})
    assert RunFolder.create(recipe, tmp_path / "run").recipe() == recipe
