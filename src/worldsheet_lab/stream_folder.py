"""What a stream leaves in its folder: the numbers that its picture is drawn from."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from worldsheet.streaming import Trace
from worldsheet_lab.provenance import provenance
from worldsheet_lab.run_folder import RESULT, RunFolder

ABOUT = "stream.json"
TRACE = "trace.safetensors"


def save(place: Path, trace: Trace, wanted: Sequence[float], result: Mapping[str, Any]) -> None:
    """Write a trace of one output and its result.

    - trace: `times`, `wanted`, `outputs`, `signs`, `hamiltonians`, `lagrangians`, `costate_norms`, all (rows,).

    Args:
        place: the folder; made if it is not there.
        trace: of a network with one stream and one output.
        wanted: the signal at its rows.
        result: `title`, `device` and what the run has shown.

    Raises:
        RunFolderError: a folder that cannot be written.
    """
    folder = RunFolder.at(place)
    columns = ("signs", "hamiltonians", "lagrangians", "costate_norms")
    curves = {name: getattr(trace, name)[:, 0] for name in columns}
    times = {"times": torch.tensor(trace.times, dtype=torch.float64), "wanted": torch.tensor(wanted)}
    folder.write_tensors(TRACE, {**times, "outputs": trace.outputs[:, 0, 0], **curves})
    about = {**provenance(result["device"]), "title": result["title"]}
    folder.write(ABOUT, json.dumps(about, indent=2).encode() + b"\n")
    folder.write(RESULT, json.dumps(dict(result), indent=2).encode() + b"\n")
