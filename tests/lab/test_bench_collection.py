"""`python -m benchmarks collection`: what is measured, what counts as solved, what is printed and refused."""

import json
from dataclasses import replace
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.collection import Row, measured, told_of
from benchmarks.command import bench
from worldsheet_lab.control.collection import COLLECTION


def row(cost: float, *, success: bool = True, tol: float = 1e-8) -> Row:
    answer = SimpleNamespace(cost=cost, status="told", success=success, iterations=3, seconds=0.1)
    return measured(COLLECTION["minimum-fuel"], answer, tol)


def test_solved_is_as_cheap_as_ipopt_and_clean() -> None:
    assert row(1.0).solved
    assert row(2.0).solved  # IPOPT's is worse
    assert not row(1.0 - 1e-5).solved
    assert row(1.0 - 1e-5).difference == pytest.approx(1e-5, rel=0.1)
    assert row(-7.0, success=False).solved  # the reference counts where IPOPT failed
    assert not row(1.0, tol=1e-2).solved  # converged by its own measure only


def test_a_number_that_is_none_is_null() -> None:
    told = told_of(replace(row(1.0), violation=inf))
    assert told["violation"] is None
    assert told["cost"] == pytest.approx(1.0)
    assert told["solved"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_row_for_each_case_and_how_many_were_solved(as_json: bool) -> None:
    pytest.importorskip("casadi")
    words = ["collection", "--case", "minimum-fuel", "--case", "bryson-denham", *["--json"] * as_json]
    done = CliRunner().invoke(bench, words)
    assert done.exit_code == 0, done.output
    if not as_json:
        assert done.stdout.rstrip().endswith("2 of 2 solved")
        assert all(text in done.stdout for text in ("minimum-fuel", "bryson-denham", "Solve_Succeeded", "converged"))
        return
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["solved"] == 2
    first, second = told["rows"]
    assert (first["case"], second["case"]) == ("minimum-fuel", "bryson-denham")
    assert second["cost"] == pytest.approx(COLLECTION["bryson-denham"].reference.cost, rel=1e-6)
    assert second["ipopt_cost"] == pytest.approx(second["cost"], rel=1e-6)
    assert max(first["violation"], second["violation"]) < 1e-8


def test_an_unknown_case_is_refused_with_the_names_there_are() -> None:
    done = CliRunner().invoke(bench, ["collection", "--case", "zermello"])
    assert done.exit_code == 2
    assert "did you mean 'zermelo'" in done.stderr
