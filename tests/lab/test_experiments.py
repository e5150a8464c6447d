"""Experiments: what is computed is kept, and figures that stray are told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from experiments.harness import Cells, Findings, Record, Size
from experiments.harness.claim import Claim, Expectation, Verdict, claims_in, find
from experiments.harness.command import experiments
from worldsheet.core.errors import InputError
from worldsheet_lab.errors import RunFolderError

SCRIPT = """
from pathlib import Path

from experiments.harness import Cells, Findings, Record, Size, experiment


def measure(size: Size, cells: Cells) -> Findings:
    value = cells.get("the cell", lambda: {"root": 2 ** 0.5})
    return Findings({"root": value["root"]}, {"rows": [value]})


def draw(record: Record, path: Path) -> None:
    path.write_text(str(record.figures["root"]))


if __name__ == "__main__":
    experiment(__file__, measure, draw)
"""


def claim_in(folder: Path, **figure: Any) -> Claim:
    plain = {"claim": "C99", "title": "a root", "source": "Euclid", "figures": {"small": {"root": figure}}}
    folder.mkdir(parents=True)
    (folder / "expected.json").write_text(json.dumps(plain))
    (folder / "run.py").write_text(SCRIPT)
    return Claim(folder)


def run(claim: Claim, cwd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(claim.folder / "run.py"), *options]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_script_records_draws_and_judges(tmp_path: Path) -> None:
    claim = claim_in(tmp_path / "experiments" / "c99_root", value=1.41421356, tolerance=1e-8, source=1.414)
    assert claim.verdict(Size.SMALL) is Verdict.NOT_RUN
    done = run(claim, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"] == {"root": 2**0.5}
    assert claim.verdict(Size.SMALL) is Verdict.REPRODUCED
    assert (claim.folder / "figure.png").read_text() == str(2**0.5)
    assert "the cell" not in run(claim, tmp_path).stderr.replace("c99", ""), "a known cell is not computed again"


def test_a_figure_out_of_bounds_ends_with_a_status_of_its_own(tmp_path: Path) -> None:
    claim = claim_in(tmp_path / "c99_root", at_least=1.5)
    done = run(claim, tmp_path)
    assert done.returncode == 3
    assert "root is 1.41421, expected 1.5 to inf" in done.stderr
    assert claim.verdict(Size.SMALL) is Verdict.CHANGED


def test_cells_survive_and_are_computed_once(tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "cells.json"
    first = Cells(path, torch.device("cpu"), told.append)
    assert first.get("a", lambda: (1, 2)) == [1, 2]
    again = Cells(path, torch.device("cpu"), told.append)
    assert again.get("a", lambda: pytest.fail("computed twice")) == [1, 2]
    assert told == ["a"]
    assert again.seconds == first.seconds


def test_torn_cells_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.json").write_text('{"a": ')
    with pytest.raises(RunFolderError, match="delete it"):
        Cells(tmp_path / "cells.json", torch.device("cpu"), print)


@pytest.mark.parametrize(
    ("plain", "inside", "outside"),
    [({"value": 2, "tolerance": 0.5}, 2.5, 2.51), ({"at_most": 1}, -5.0, 1.1), ({"at_least": 1}, 1.0, float("nan"))],
)
def test_an_expectation_is_an_interval(plain: dict[str, float], inside: float, outside: float) -> None:
    assert Expectation.of(plain).holds(inside)
    assert not Expectation.of(plain).holds(outside)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    record = Record({"a": 0.1}, {"rows": [{"b": 1}]}, Size.FULL, "python run.py", "a machine", 1.5)
    record.save(tmp_path / "r.json")
    assert Record.load(tmp_path / "r.json") == record


def test_claims_are_found_by_claim_and_by_folder(tmp_path: Path) -> None:
    claim_in(tmp_path / "c99_root", at_least=0)
    claims = claims_in(tmp_path)
    assert [claim.folder.name for name in ("C99", "c99", "c99_root") for claim in find(name, claims)] == [
        "c99_root"
    ] * 3
    with pytest.raises(InputError, match="did you mean 'c99_root'"):
        find("c9", claims)
    with pytest.raises(InputError, match="no experiments"):
        claims_in(tmp_path / "c99_root")


def test_the_table_tells_source_figure_and_verdict(tmp_path: Path) -> None:
    claim = claim_in(tmp_path / "c99_root", value=1.414, tolerance=0.1, source=1.4)
    Record({"root": 1.4142}, {}, Size.SMALL, "python run.py", "a machine", 1.0).save(claim.record_path(Size.SMALL))
    shown = CliRunner().invoke(experiments, ["table", "--folder", str(tmp_path), "--markdown"])
    assert shown.stdout.splitlines()[-1] == "| C99 | a root | root 1.414 (1.4) | reproduced | small, 1 s |"


def test_running_all_tells_how_each_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # cells go to runs/
    folder = tmp_path / "experiments"
    claim_in(folder / "c97_fine", at_least=1.0)
    claim_in(folder / "c98_stray", at_least=1.5)
    no_data = claim_in(folder / "c99_data", at_least=1.0)
    raising = 'raise DataMissingError("no such data", "data", "fetch them")'
    script = SCRIPT.replace("value = cells.get", f"{raising}\n    value = cells.get")
    script = "from worldsheet_lab.errors import DataMissingError\n" + script
    (no_data.folder / "run.py").write_text(script)

    def run_them(*words: str) -> tuple[int, dict[str, str]]:
        command = ["run", *words, "--folder", str(folder), "--out", str(tmp_path / "out"), "--json"]
        done = CliRunner().invoke(experiments, command)
        return done.exit_code, json.loads(done.stdout)

    ends = {"c97_fine": "as_expected", "c98_stray": "not_as_expected", "c99_data": "no_data"}
    assert run_them("--jobs", "2") == (1, ends)
    assert run_them("c97_fine", "--jobs", "2") == (0, {"c97_fine": "as_expected"})
    assert run_them("c99_data", "--jobs", "2")[0] == 2
    (no_data.folder / "run.py").write_text("import nothing")
    assert run_them("--jobs", "3") == (2, ends | {"c99_data": "failed"})
    assert Record.load(tmp_path / "out" / "c97_fine" / "results" / "small.json").figures == {"root": 2**0.5}


def test_the_table_beside_the_experiments_is_the_one_of_their_records() -> None:
    folder = Path(__file__).parents[2] / "experiments"
    shown = CliRunner().invoke(experiments, ["table", "--folder", str(folder), "--markdown"])
    assert shown.stdout.strip() in (folder / "README.md").read_text(encoding="utf-8")


def test_findings_default_to_no_tables() -> None:
    assert Findings({"a": 1.0}).tables == {}
