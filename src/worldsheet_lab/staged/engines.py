"""`--engine`: one process, or a process for each stage."""

from collections.abc import Mapping
from itertools import pairwise

from worldsheet.core.errors import InputError
from worldsheet_lab.choices import choose
from worldsheet_lab.staged.command import wrong_size
from worldsheet_lab.staged.elastic import Torchrun

PIPELINE = "pipeline"

ENGINES: Mapping[str, bool] = {"block": False, PIPELINE: True}
"""Whether an engine is spread over processes."""


def stages_of(engine: str | None, stages: int | None) -> int | None:
    """How many stages a run has, from what was asked for and who started it; None for one process without stages.

    Raises:
        InputError: an unknown engine, or one that contradicts the stages or torchrun.
    """
    spread = None if engine is None else choose("engine", engine, ENGINES)
    torchrun = Torchrun.around()
    if spread is False and stages is not None:
        raise InputError(
            f"--engine {engine} has no stages, got --stages {stages}",
            "--stages together with --engine pipeline",
            "leave out one of them",
        )
    if torchrun is not None:
        return _under_torchrun(torchrun, spread, stages)
    if spread and stages is None:
        raise InputError(
            "--engine pipeline needs --stages, unless torchrun starts it",
            "a number of stages, or as many processes as torchrun starts",
            "add --stages 4, or run torchrun --nproc-per-node 4 -m worldsheet train --engine pipeline",
        )
    return stages


def cuts_of(text: str | None, stages: int, layers: int) -> tuple[int, ...]:
    """The plan that `--cuts` asks for; empty if it was left out.

    Raises:
        InputError: no numbers, or not those of so many stages.
    """
    if text is None:
        return ()
    inner = [int(word) if word.strip().isdigit() else -1 for word in text.split(",")] if text else []
    cuts = (0, *inner, layers)
    if len(cuts) != stages + 1 or any(b <= a for a, b in pairwise(cuts)):
        raise InputError(
            f"--cuts must be rising numbers, {stages - 1} for {stages} stages of {layers} layers, got {text}",
            f"numbers from 1 to {layers - 1}, separated by commas",
            "leave it out: layers are then timed",
        )
    return cuts


def _under_torchrun(torchrun: Torchrun, spread: bool | None, stages: int | None) -> int | None:
    if stages is not None and stages != torchrun.size:
        raise wrong_size(torchrun.size, stages)
    if spread or stages is not None or torchrun.size == 1:
        return torchrun.size if spread or stages is not None else None
    raise InputError(
        f"torchrun has started {torchrun.size} processes, but the engine is not the pipeline",
        "processes that are stages of one network",
        f"torchrun --nproc-per-node {torchrun.size} -m worldsheet train --engine pipeline",
    )
