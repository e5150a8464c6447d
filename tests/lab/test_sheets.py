"""A recorded relaxation, against relaxations and reports made by hand."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from worldsheet_lab import sheets
from worldsheet_lab.contest.rivals import LEARNING_RULES, LearningRule
from worldsheet_lab.sheets import by_layer, recorded

DEPTH, WIDTHS = 3, (6, 5, 5, 3)


@pytest.fixture(autouse=True)
def _few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "PROBES", 3)


@pytest.fixture
def problem() -> tuple[ws.Chain, Tensor, Tensor]:
    torch.manual_seed(3)
    sizes = list(pairwise(WIDTHS))
    model = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in sizes[:-1]), nn.Linear(*sizes[-1]))
    chain = ws.Chain(model.double().eval(), nn.CrossEntropyLoss())
    return chain, torch.randn(9, WIDTHS[0], dtype=torch.float64), torch.randint(0, 3, (9,))


Problem = tuple[ws.Chain, Tensor, Tensor]


def test_a_dyadic_sheet_ends_at_backprop(problem: Problem) -> None:
    chain, x, target = problem
    sheet = recorded(LEARNING_RULES["dyadic"](DEPTH), chain, x, target)
    rest = ws.relax(chain, x, target)
    assert sheet["ticks"].tolist() == sheet["moments"].tolist() == list(range(2 * DEPTH + 1))
    for site, (states, costates) in enumerate(
        zip(sheet["state_distances"].T, sheet["costate_distances"].T, strict=True)
    ):
        arrival, back = site + 1, 2 * DEPTH - site
        assert states[arrival - 1] > 0 == states[arrival:].max()
        assert costates[back - 1] > 0 == costates[back:].max()
        torch.testing.assert_close(states[0], rest.states[site].norm())  # it starts at zero
    torch.testing.assert_close(sheet["cost"][-1], rest.loss)
    assert sheet["cosines"].shape == (len(sheet["probes"]), DEPTH)
    torch.testing.assert_close(sheet["cosines"][-1], torch.ones(DEPTH, dtype=torch.float64))
    assert "energy" not in sheet


def test_the_sample_is_the_one_with_the_largest_credit(problem: Problem) -> None:
    chain, x, target = problem
    sheet = recorded(LEARNING_RULES["dyadic"](DEPTH), chain, x, target)
    rest = ws.relax(chain, x, target)
    sample = int(rest.costates[-1].norm(dim=1).argmax())
    for name, fields in (("states", rest.states), ("costates", rest.costates)):
        for row, field in zip(sheet[name][-1], fields, strict=True):
            size = field.shape[1]
            torch.testing.assert_close(row[:size], field[sample].float())
            assert row[size:].isnan().all()


@pytest.mark.parametrize("name", ["wave", "pc", "epc", "ep", "pc-alm"])
def test_fidelity_by_tick_is_that_of_relaxations_that_end_there(name: str, problem: Problem) -> None:
    chain, x, target = problem
    rival = LEARNING_RULES[name](DEPTH).calibrated(chain, x, target)
    sheet = recorded(rival, chain, x, target)
    for probe, cosines in zip(sheet["probes"].tolist(), sheet["cosines"], strict=True):
        solution = replace(rival, stop=ws.Stop(max_ticks=probe)).solution(chain, x, target)
        assert solution is not None
        found = by_layer(ws.compare(chain, x, target, solution))
        assert cosines.tolist() == pytest.approx([found[str(layer)] for layer in range(DEPTH)], abs=1e-12)
    assert sheet["probes"][-1] == sheet["ticks"][-1]


def test_a_wave_is_reported_as_wave_report_does(problem: Problem) -> None:
    chain, x, target = problem
    rival = LEARNING_RULES["wave"](DEPTH).calibrated(chain, x, target)
    sheet = recorded(rival, chain, x, target)
    assert isinstance(rival.dynamics, ws.Wave)
    record = ws.Record(fields=True)
    ws.relax(chain, x, target, rival.dynamics, stop=rival.stop, record=record)
    report = ws.diagnostics.wave_report(chain, x, target, rival.dynamics, record, ws.relax(chain, x, target).fields)
    for name in ("energy", "at_output", "absorbed", "reflected", "state_front", "costate_front"):
        assert torch.equal(sheet[name], getattr(report, name)), name
    assert torch.equal(sheet["state_residuals"], record.state_residuals)


def test_long_relaxations_of_large_layers_keep_fewer_samples_and_ticks(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, x, target = problem
    rival = LearningRule(ws.Dyadic(0.5), ws.Stop(max_ticks=20))
    numbers = 2 * 21 * sum(WIDTHS[1:])
    monkeypatch.setattr(sheets, "_NUMBERS", 3 * numbers + 1)
    few = recorded(rival, chain, x, target)
    rest = ws.relax(chain, x[:3], target[:3])
    torch.testing.assert_close(few["state_distances"][0, 0], rest.states[0].norm())
    monkeypatch.setattr(sheets, "_NUMBERS", numbers // 4 + 1)
    fewer = recorded(rival, chain, x, target)
    assert fewer["moments"].tolist() == [0, 4, 8, 12, 16, 20]
    assert len(fewer["ticks"]) == 21


def test_a_relaxation_that_diverges_has_no_cosine(problem: Problem) -> None:
    chain, x, target = problem
    rival = LearningRule(ws.PredictiveCoding(rate=30.0), ws.Stop(max_ticks=40))
    sheet = recorded(rival, chain, x, target)
    assert sheet["cosines"][-1].isnan().all()


def test_backprop_has_no_sheet(problem: Problem) -> None:
    with pytest.raises(ws.errors.InputError, match="backprop has no relaxation to record"):
        recorded(LEARNING_RULES["backprop"](DEPTH), *problem)
