"""`worldsheet train --model gpt --text FILE`: the bits of one process, a run that goes on, a sample, and refusals."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from math import log
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import worldsheet
from worldsheet_lab.cli import app
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.staged.setup import Setup
from worldsheet_lab.staged.texts import Texts
from worldsheet_lab.text.corpus import judged_of, read_text
from worldsheet_lab.text.gpt import matrices_of, started, token_loss
from worldsheet_lab.text.recipe import TextRecipe

SIZE = ["--width", "16", "--blocks", "2", "--heads", "2", "--context", "8", "--batch-size", "6"]
LENGTH = ["--updates", "12", "--checkpoint-every", "4", "--packets-per-update", "3", "--sample", "30"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words, random = ["to be", "or not", "that is", "the question\n"], Random(0)
    path = tmp_path_factory.mktemp("text") / "play.txt"
    path.write_text(" ".join(random.choice(words) for _ in range(300)), encoding="utf-8")
    return path


def train(*words: str, status: int = 0) -> str:
    """In a process of its own, which starts others."""
    source = str(Path(worldsheet.__file__).resolve().parents[1])
    where = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "worldsheet", "train", *words]
    done = subprocess.run(line, env=where, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def recipe_of(folder: Path) -> TextRecipe:
    recipe = Setup.from_json((folder / "stages.json").read_text()).recipe
    assert isinstance(recipe, TextRecipe)
    return recipe


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def locked(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "locked"
    train("--model", "gpt", "--text", str(text), *SIZE, *LENGTH, "--stages", "3", "--locked", "--run", str(folder))
    return folder


def by_autograd(recipe: TextRecipe, many: int) -> nn.Sequential:
    """The same training in one process, without anything of the pipeline's."""
    net = nn.Sequential(*(started(recipe.shape, index, recipe.seed) for index in range(recipe.depth)))
    inside = {id(matrix) for layer in net for matrix in matrices_of(layer)}
    assert len(inside) == 4 * recipe.blocks
    given = [[p for p in net.parameters() if (id(p) in inside) is inner] for inner in (True, False)]
    muon = torch.optim.Muon(given[0], lr=recipe.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(given[1], lr=recipe.lr, weight_decay=0.01)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, recipe.rate) for each in (muon, adamw)]
    job = Texts(recipe)
    packets = [packet for segment in job.segments(4) for packet in job.packets(segment, many)]
    for number, (x, target) in enumerate(packets, start=1):
        (token_loss(net(x), target) * (1 / many)).backward()
        if number % many == 0:
            muon.step()
            adamw.step()
            for schedule in schedules:
                schedule.step()
            net.zero_grad()
    return net


def test_locked_stages_are_what_autograd_makes_of_the_same_sequences(locked: Path) -> None:
    net = by_autograd(recipe_of(locked), 3)
    mine = weights_of(locked)
    for name, tensor in net.state_dict().items():
        assert torch.equal(mine[name], tensor), name
    rows = [row for row in RunFolder(locked).rows() if row["kind"] == "validation"]
    corpus, recipe = read_text(Path(recipe_of(locked).text), 8), recipe_of(locked)
    x, target = corpus.judged(judged_of(recipe.length, 8), 8)
    assert [row["update"] for row in rows] == [4, 8, 12]
    assert rows[-1]["validation_loss"] == pytest.approx(token_loss(net(x), target).item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_unlocked_runs_go_on_with_the_cuts_that_were_measured(text: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    shown = train("--text", str(text), *SIZE, *LENGTH, "--stages", "3", "--run", str(whole))
    shutil.copytree(whole, broken)
    (broken / "result.json").unlink()
    shutil.rmtree(max(broken.glob("checkpoints/[0-9]*[0-9]")))
    result = json.loads(train("--resume", str(broken), "--json"))
    first, second = (weights_of(folder) for folder in (whole, broken))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    cuts = json.loads((whole / "result.json").read_text())["cuts"]
    assert result["cuts"] == cuts
    again = tmp_path / "again"
    inner = ",".join(map(str, cuts[1:-1]))
    train("--text", str(text), *SIZE, *LENGTH, "--stages", "3", "--cuts", inner, "--run", str(again))
    third = weights_of(again)
    assert all(torch.equal(first[name], third[name]) for name in first)
    assert (whole / "sample.txt").read_text(encoding="utf-8") in shown
    assert result["sample"] == (whole / "sample.txt").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_starts_the_stages_of_a_language_model(text: Path, locked: Path, tmp_path: Path) -> None:
    source = str(Path(worldsheet.__file__).resolve().parents[1])
    where = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "worldsheet"]
    line = [*agent, "train", "--model", "gpt", "--text", str(text), *SIZE, *LENGTH, "--locked", "--json"]
    folder = tmp_path / "run"
    done = subprocess.run(
        [*line, "--run-dir", str(folder)], env=where, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["stages"] == 2
    mine, others = weights_of(folder), weights_of(locked)  # of three stages
    assert all(torch.equal(mine[name], others[name]) for name in others)


def test_a_sample_is_drawn_from_the_weights_with_a_prompt(locked: Path) -> None:
    result = json.loads((locked / "result.json").read_text())
    assert len(result["sample"]) == 31
    assert result["sample"][0] == "\n"
    assert set(result["sample"]) <= set(read_text(Path(recipe_of(locked).text), 8).alphabet)


def test_sequences_are_followed_by_themselves_and_none_is_learnt_from_that_judges(text: Path) -> None:
    corpus = read_text(text, 8)
    content = text.read_text(encoding="utf-8")
    assert "".join(corpus.alphabet[n] for n in torch.cat([corpus.train, corpus.held_out])) == content
    assert len(corpus.held_out) == len(content) - len(content) * 9 // 10
    for x, target in (corpus.drawn(5, 8, torch.Generator()), corpus.judged(20, 8)):
        assert torch.equal(x[:, 1:], target[:, :-1])
    x, target = corpus.judged(judged_of(corpus.length, 8), 8)
    rows = ["".join(corpus.alphabet[n] for n in [*a, b[-1]]) for a, b in zip(x.tolist(), target.tolist(), strict=True)]
    held_out = content[len(content) * 9 // 10 :]
    assert held_out.startswith(rows[0])
    assert all(row in held_out for row in rows)
    assert held_out.endswith(rows[-1])
    assert len(rows) == min(256, (len(held_out) - 1) // 8)


def test_no_layer_needs_the_others_for_its_start_weights_and_the_loss_begins_at_a_guess(text: Path) -> None:
    corpus = read_text(text, 8)
    recipe = TextRecipe(str(text), corpus.digest, corpus.symbols, corpus.length, width=16, blocks=2, heads=2, context=8)
    whole, part = Texts(recipe).chain(), Texts(recipe).chain(range(2, 4))
    for index, (one, other) in enumerate(zip(whole.layers, part.layers, strict=True)):
        for mine, theirs in zip(one.module.parameters(), other.module.parameters(), strict=True):
            assert theirs.is_meta is (index not in (2, 3))
            assert theirs.is_meta or torch.equal(mine, theirs)
    x, target = corpus.judged(9, 8)
    loss = token_loss(nn.Sequential(*(layer.module for layer in whole.layers))(x), target)
    assert loss.item() == pytest.approx(log(corpus.symbols), abs=0.3)
    rates = [recipe.rate(update) for update in range(recipe.updates)]
    assert max(rates) == rates[99] == 1.0
    assert rates[0] == 0.01
    assert rates[-1] == pytest.approx(0.1, abs=1e-4)
    assert all(b < a for a, b in pairwise(rates[100:]))


def refused(*words: str) -> str:
    shown = CliRunner().invoke(app, ["train", *words])
    assert shown.exit_code == 2, shown.output
    return " ".join(shown.output.split())


@pytest.mark.parametrize(
    ("content", "words", "told"),
    [
        (b"a book " * 9, [], "has 63 characters, and the tenth that is held out is shorter than a sequence of 64"),
        (b"a\xffb" * 900, [], "is no text in UTF-8: byte 1 begins no character"),
        (b"ab\0" * 900, [], "is no text in UTF-8: it holds characters of number 0, as binary files do"),
        (b"a book " * 900, ["--prompt", "Z"], "--prompt must be made of characters of the text, got 'Z' with 'Z'"),
        (b"a book " * 900, ["--width", "66"], "--width 66 cannot be divided among --heads 4"),
        (b"a book " * 900, ["--stages", "11"], "--stages must be between 1 and the 10 layers of the network, got 11"),
        (b"a book " * 900, ["--updates", "10", "--warm-up", "10"], "--warm-up must be below --updates 10, got 10"),
        (b"a book " * 900, ["--optimizer", "sgd"], "no optimizer for texts is called 'sgd' accepted: muon, adamw"),
        (b"a book " * 900, ["--depth", "4"], "--depth cannot be used with a language model"),
        (b"a book " * 900, ["--model", "gtp"], "no model is called 'gtp'"),
        (b"a book " * 900, ["--context", "0"], "--context must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_learnt_is_refused_by_its_cause(
    tmp_path: Path, content: bytes, words: list[str], told: str
) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(content)
    assert told in refused("--text", str(path), "--run", str(tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_missing_or_left_out_is_told(tmp_path: Path) -> None:
    assert "cannot be read: No such file or directory" in refused("--text", str(tmp_path / "none.txt"))
    assert "cannot be read: Is a directory" in refused("--text", str(tmp_path))
    assert "--model gpt has nothing to learn from" in refused("--model", "gpt")
    assert "--blocks, --warm-up can be used with a language model only" in refused("--blocks", "3", "--warm-up", "2")


def test_a_run_does_not_go_on_with_another_text(text: Path, locked: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(locked, other)
    (other / "result.json").unlink()
    changed = tmp_path / "changed.txt"
    changed.write_text(text.read_text(encoding="utf-8") + "!", encoding="utf-8")
    about: dict[str, Any] = json.loads((other / "stages.json").read_text())
    about["recipe"]["text"] = str(changed)
    (other / "stages.json").write_text(json.dumps(about))
    assert "has been changed since the run began" in refused("--resume", str(other))
