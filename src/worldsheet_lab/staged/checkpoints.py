"""Checkpoints that all stages write together, whole or not at all."""

import hashlib
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from worldsheet.pipeline.transport.distributed import all_agree
from worldsheet_lab.atomic import SUFFIX

_KEPT = 2  # a torn one and the one before


@final
class Checkpoints:
    """The checkpoints of a run, by the number of segments that had been trained.

    `torch.distributed.checkpoint` writes into a folder of its own, which is put in place when all stages have written.
    A digest of each stage's tensors tells a torn or altered file; the one before is used then.

    Args:
        folder: where they are.
        stage: this process's.
    """

    def __init__(self, folder: Path, stage: int) -> None:
        self._folder = folder
        self._stage = stage

    def save(self, segment: int, tensors: Mapping[str, Tensor]) -> None:
        """Write this stage's part; returns when all stages have written theirs."""
        mine = {f"{self._begin}{name}": tensor.detach() for name, tensor in tensors.items()}
        place = self._folder / f"{segment:06d}"
        beside = place.with_name(f"{place.name}{SUFFIX}")
        if self._stage == 0:
            shutil.rmtree(beside, ignore_errors=True)
            shutil.rmtree(place, ignore_errors=True)  # a torn one
            beside.mkdir(parents=True)
        all_agree(True)
        save({**mine, f"{self._begin}digest": _digest(mine)}, checkpoint_id=beside)
        if self._stage == 0:
            beside.rename(place)
            for old in sorted(self._folder.glob("[0-9]*[0-9]"))[:-_KEPT]:
                shutil.rmtree(old)
        all_agree(True)

    def newest(self) -> tuple[int, dict[str, Tensor]] | None:
        """The segment and this stage's tensors of the newest checkpoint that is whole at every stage."""
        found = sorted(self._folder.glob("[0-9]*[0-9]"), reverse=True)
        for place in found:
            tensors = self._read(place)
            if all_agree(tensors is not None) and tensors is not None:
                return int(place.name), tensors
        return None

    @staticmethod
    def weights(folder: Path, cuts: Sequence[int]) -> dict[str, Tensor]:
        """Parameters and buffers of the newest checkpoint under the names of the whole network.

        Args:
            folder: where the checkpoints are.
            cuts: the first layer of each stage.
        """
        place = max(folder.glob("[0-9]*[0-9]"))
        found: dict[str, Tensor] = {}
        for stage, first in enumerate(cuts[:-1]):
            for name, tensor in (Checkpoints(folder, stage)._read(place) or {}).items():
                kind, _, rest = name.partition(".")
                layer, _, own = rest.partition(".")
                if kind == "model":
                    found[f"{first + int(layer)}.{own}"] = tensor
        return found

    @property
    def _begin(self) -> str:
        return f"stage{self._stage}."

    def _read(self, place: Path) -> dict[str, Tensor] | None:
        try:
            reader = FileSystemReader(place)
            known = reader.read_metadata().state_dict_metadata.items()
            tensors: dict[str, Tensor] = {
                name: torch.empty(entry.size, dtype=entry.properties.dtype)
                for name, entry in known
                if isinstance(entry, TensorStorageMetadata) and name.startswith(self._begin)
            }
            with warnings.catch_warnings():  # that each process loads by itself is meant
                warnings.simplefilter("ignore")
                load(tensors, storage_reader=reader, no_dist=True)
            digest = tensors.pop(f"{self._begin}digest")
        except (Exception, CheckpointException):  # torn ones fail in many ways; torch's own is a BaseException
            return None
        if not torch.equal(digest, _digest(tensors)):
            return None
        return {name.removeprefix(self._begin): tensor for name, tensor in tensors.items()}


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)
