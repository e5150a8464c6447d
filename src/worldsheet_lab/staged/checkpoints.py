"""Checkpoints that all stages write together, whole or not at all."""

import hashlib
import io
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from worldsheet.pipeline.stage import StageState
from worldsheet.pipeline.transport.distributed import all_agree
from worldsheet_lab.atomic import SUFFIX

_KEPT = 2  # a torn one and the one before


@final
class Checkpoints:
    """The checkpoints of a run, by the number of segments that had been trained.

    `torch.distributed.checkpoint` writes into a folder of its own, which is put in place when all stages have written.
    The weights lie there under the names of the whole network, `model.<name>`, so that
    `torch.distributed.checkpoint.load({"model": net.state_dict()}, checkpoint_id=folder)` reads them; what else a stage
    has learned is one more tensor of bytes. A digest tells a torn or altered file; the one before is used then.

    Args:
        folder: where they are.
        stage: this process's.
    """

    def __init__(self, folder: Path, stage: int) -> None:
        self._folder = folder
        self._stage = stage

    def save(self, segment: int, state: StageState) -> None:
        """Write this stage's part; returns when all stages have written theirs."""
        model: dict[str, Any] = {f"{_MODEL}{name}": tensor.detach() for name, tensor in state["model"].items()}
        others = {kind: part for kind, part in state.items() if kind != "model"}
        mine = {**model, self._name: _bytes_of({**others, "model": dict.fromkeys(state["model"])})}
        place = self._folder / f"{segment:06d}"
        beside = place.with_name(f"{place.name}{SUFFIX}")
        if self._stage == 0:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)  # a torn one
            beside.mkdir(parents=True)
        all_agree(True)
        save({**mine, f"{self._name}.digest": _digest(mine)}, checkpoint_id=beside)
        if self._stage == 0:
            beside.rename(place)
            for old in sorted(self._folder.glob("[0-9]*[0-9]"))[:-_KEPT]:
                shutil.rmtree(old)
        all_agree(True)

    def newest(self) -> tuple[int, StageState] | None:
        """The segment and this stage's state of the newest checkpoint that is whole at every stage."""
        found = sorted(self._folder.glob("[0-9]*[0-9]"), reverse=True)
        for place in found:
            state = self._read(place)
            if all_agree(state is not None) and state is not None:
                return int(place.name), state
            older = found[found.index(place) + 1 :]
            self._say(
                f"checkpoint {place} is not whole at every stage: "
                + (f"trying the one before, {older[0].name}" if older else "there is none before, the run begins anew")
            )
        return None

    def _say(self, text: str) -> None:
        """Once, by the first stage."""
        if self._stage == 0:
            print(text, file=sys.stderr, flush=True)

    @staticmethod
    def weights(folder: Path, stages: int) -> dict[str, Tensor]:
        """Parameters and buffers of the newest checkpoint under the names of the whole network.

        Args:
            folder: where the checkpoints are.
            stages: how many stages have written them.
        """
        place = max(folder.glob("[0-9]*[0-9]"))
        parts = [Checkpoints(folder, stage)._read(place) or {"model": {}} for stage in range(stages)]
        return {name: tensor for part in parts for name, tensor in part["model"].items()}

    @property
    def _name(self) -> str:
        return f"stage{self._stage}"

    def _read(self, place: Path) -> StageState | None:
        try:
            own = _tensors(place, [self._name, f"{self._name}.digest"])
            written = io.BytesIO(own[self._name].numpy().tobytes())
            state: StageState = torch.load(written, map_location="cpu", weights_only=True)
            model = _tensors(place, [f"{_MODEL}{name}" for name in state["model"]])
            digest = own.pop(f"{self._name}.digest")
        except (Exception, CheckpointException):  # torn ones fail in many ways; torch's own is a BaseException
            return None
        if not torch.equal(digest, _digest({**model, **own})):
            return None
        return {**state, "model": {name.removeprefix(_MODEL): tensor for name, tensor in model.items()}}


_MODEL = "model."


def _tensors(place: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Some of the tensors of a checkpoint."""
    reader = FileSystemReader(place)
    known = reader.read_metadata().state_dict_metadata
    tensors: dict[str, Tensor] = {}
    for name in names:
        entry = known[name]
        assert isinstance(entry, TensorStorageMetadata)
        tensors[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    with warnings.catch_warnings():  # that each process loads by itself is meant
        warnings.simplefilter("ignore")
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _bytes_of(state: StageState) -> Tensor:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
