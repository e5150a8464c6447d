"""What a control run leaves in its folder beside its pictures: the numbers that they are drawn from."""

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from worldsheet.control import History, Trajectory
from worldsheet_lab.control.problems import Known
from worldsheet_lab.provenance import provenance
from worldsheet_lab.run_folder import RunFolder
from worldsheet_lab.subsample import subsample

ABOUT = "control.json"
TRAJECTORY = "trajectory.safetensors"
SEARCH = "search.safetensors"
WAVES = "waves.safetensors"

_ROWS = 200


def save(folder: RunFolder, known: Known, solution: Trajectory, search: History, waves: History | None) -> None:
    """Write trajectories, the search and, where there was one, the waves of a kick; last what the names are.

    Rows of long records are left out evenly: at most some 200 remain, the last one among them.

    - trajectory: `times` (N + 1,), `states`, `costates` (N + 1, n), `controls` (N, m).
    - search: `ticks` (K,), `states`, `costates` (K, N + 1, n), `controls` (K, N, m), and the norms of (2), (3) as
      `state_residuals`, `costate_residuals` (K, N).
    - waves: `ticks` and the two norms.
    """
    size = solution.problem.state_size
    fields = {"states": solution.states, "costates": solution.costates, "controls": solution.controls}
    folder.write_tensors(TRAJECTORY, {"times": solution.times, **fields})
    moving = {
        "states": search.states[..., :size],
        "costates": search.costates[..., :size],
        "controls": search.controls,
    }
    folder.write_tensors(SEARCH, _thinned({**_residuals(search), **moving}))
    if waves is not None:
        folder.write_tensors(WAVES, _thinned(_residuals(waves)))
    names = {"title": known.title, "states": known.states, "controls": known.controls}
    about = {**provenance(str(solution.states.device)), **names, "goal": known.goal, "time": known.time}
    folder.write(ABOUT, json.dumps(about, indent=2).encode() + b"\n")


def _residuals(history: History) -> dict[str, Tensor]:
    return {
        "ticks": torch.tensor(history.ticks),
        "state_residuals": history.state_residuals.norm(dim=-1),
        "costate_residuals": history.costate_residuals.norm(dim=-1),
    }


def _thinned(rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    kept = subsample(len(rows["ticks"]), _ROWS)
    return {name: tensor[kept] for name, tensor in rows.items()}
