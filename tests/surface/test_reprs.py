"""What a person sees at a prompt: a line or a few, with the numbers that matter, and never a dump of tensors."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import worldsheet as ws


def path() -> tuple[ws.Chain, torch.Tensor, torch.Tensor]:
    layers = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2)]
    chain = ws.Chain([*layers, nn.Linear(4, 2)], nn.MSELoss())
    return chain, torch.randn(8, 4), torch.randn(8, 2)


def relaxed(record: ws.Record | None = None) -> ws.Solution:
    return ws.relax(*path(), ws.Dyadic(0.5), stop=ws.Stop(max_ticks=7), record=record)


def recorded() -> ws.Record:
    relaxed(record := ws.Record(fields=True))
    return record


def compared() -> object:
    chain, x, target = path()
    return ws.compare(chain, x, target, ws.relax(chain, x, target))


def held() -> object:
    chain, x, target = path()
    return ws.unlocked(chain, x, target, ws.ports.Resistive(chain.parameters(), lr=0.1), ticks=5)


def pipeline() -> ws.Pipeline:
    return ws.Pipeline(path()[0], 2, optimizer=partial(torch.optim.SGD, lr=0.1), packets_per_update=2)


def trained() -> object:
    return pipeline().train([(torch.randn(8, 4), torch.randn(8, 2)) for _ in range(4)])


def steered() -> Any:
    problem = ws.control.Problem(
        dynamics=lambda x, u, t: -x + u,
        running_cost=lambda x, u, t: x.square().sum(-1) + u.square().sum(-1),
        terminal_cost=lambda x: x.square().sum(-1),
        initial_state=torch.ones(3, 1, dtype=torch.float64),
        control_size=1,
        steps=10,
        dt=0.1,
    )
    return ws.control.solve(problem)


def network() -> ws.streaming.HamiltonianNetwork:
    return ws.streaming.HamiltonianNetwork(ws.streaming.Dense(3), [0])


SEEN: dict[str, tuple[Callable[[], object], list[str]]] = {
    "solution": (relaxed, ["Solution at 3 sites: budget spent after 7 ticks, residual", "loss ", "pull-backs"]),
    "fields": (lambda: relaxed().fields, ["Fields of 3 sites", "(8, 4) x 2, (8, 2)"]),
    "empty record": (ws.Record, ["Record(every=1), empty", "record="]),
    "record": (recorded, ["Record of 8 rows, ticks 0 to 7, 3 sites, with all fields", "residuals in the last row"]),
    "comparison": (compared, ["parameter", "1 - cosine", "0.0.weight", "SNR"]),
    "centred": (
        lambda: ws.centred(*path(), ws.PredictiveCoding(nudge=0.1), stop=ws.Stop(max_ticks=3)),
        ["Centred, loss", "pulled: budget spent after 3 ticks", "pushed: budget spent after 3 ticks"],
    ),
    "unlocked": (held, ["UnlockedResult at 3 sites: budget spent after 5 ticks", "loss "]),
    "pipeline": (pipeline, ["Pipeline of 2 stages", "Unlocked(", "stage 0: 1 layer", "stage 1: 2 layers"]),
    "training": (trained, ["TrainingResult of 4 packets: loss", "at the last", "updates of each stage: 2, 2"]),
    "staged": (
        lambda: ws.pipeline.relax(path()[0], 2, *path()[1:]),
        ["StagedResult at sites 1 to 3: converged after", "loss "],
    ),
    "trajectory": (steered, ["Trajectory of 3 problems over 10 steps: converged", "cost ", "states (3, 11, 1)"]),
    "multipliers": (lambda: steered().multipliers, ["Multipliers of inequalities (3, 10,"]),
    "network": (network, ["HamiltonianNetwork of 4 neurons, 1 stream: 0 steps to 0 s"]),
    "step": (lambda: network().step(None, torch.zeros(1, 1), 0.01), ["StepResult at 0 s: output", "loss "]),
    "point": (lambda: network().point, ["PhasePoint: states (1, 4), weights ("]),
    "trace": (ws.streaming.Trace, ["Trace(every=1), empty"]),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_repr_says_what_matters_in_a_few_lines(name: str) -> None:
    make, fragments = SEEN[name]
    text = repr(make())
    assert "tensor(" not in text
    assert len(text.splitlines()) <= 8
    assert all(len(line) <= 200 for line in text.splitlines())
    assert [fragment for fragment in fragments if fragment not in text] == [], text


def test_a_comparison_is_a_table_in_a_notebook() -> None:
    chain, x, target = path()
    table = ws.compare(chain, x, target, ws.relax(chain, x, target))._repr_html_()
    assert table.count("<tr>") == 1 + len(list(chain.parameters()))
    assert "<td>0.0.weight</td>" in table
