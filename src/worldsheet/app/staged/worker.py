"""One stage's process: join, resume, train segment by segment, save."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.app.data import DataSet, load
from worldsheet.app.recipes import DTYPES
from worldsheet.app.run_folder import Row, RunFolder
from worldsheet.app.staged.checkpoints import Checkpoints
from worldsheet.app.staged.setup import Setup
from worldsheet.app.streams import order, seed_of
from worldsheet.pipeline import Deed, Plan
from worldsheet.pipeline.distributed import Wires
from worldsheet.problem import Chain

SETUP = "stages.json"
CHECKPOINTS = "checkpoints"
TIMELINE = "timeline"

_TEST_BATCH = 512


@final
class Worker:
    """Trains one stage; its process has joined the others already.

    Args:
        folder: the run's.
        data_dir: where the data set is.
        stage: which stage this process is.
    """

    def __init__(self, folder: RunFolder, data_dir: Path | None, stage: int) -> None:
        self.setup = Setup.from_json(folder.read(SETUP).decode())
        recipe = self.setup.recipe
        self._folder, self._stage = folder, stage
        self._data: DataSet = load(recipe.data, data_dir).subset(recipe.train_size, recipe.test_size)
        self._chain: Chain = self.setup.chain(self._data)
        self._pipeline = self.setup.pipeline(self._chain)
        self._own = self._pipeline.stages[stage]
        self._wires = Wires(stage, self.setup.stages, torch.device(recipe.device))
        self._checkpoints = Checkpoints(folder.path / CHECKPOINTS, stage)
        self._images = self._data.train_images.to(recipe.device, DTYPES[recipe.dtype])
        self._labels = self._data.train_labels.to(recipe.device)
        self._done: list[tuple[str, float]] = []

    def run(self) -> None:
        """Train from the newest checkpoint to the end."""
        first = 0
        if (kept := self._checkpoints.newest()) is not None:
            first, tensors = kept
            self._own.restore(tensors, int(tensors.pop("updates")))
        segments = list(self._segments())
        for number, (epoch, batches, last) in enumerate(segments[first:], start=first + 1):
            self._train(number, epoch, batches)
            state = {**self._own.tensors(), "updates": torch.tensor(self._own.updates)}
            if last:
                self._evaluate(epoch)
            self._checkpoints.save(number, state)

    def _segments(self) -> Iterator[tuple[int, list[Tensor], bool]]:
        """Epoch, batches of indices, and whether it ends the epoch; a last batch that is not full is left out."""
        recipe, every = self.setup.recipe, self.setup.segment
        for epoch in range(recipe.epochs):
            batches = list(torch.split(order(recipe.seed, epoch, len(self._labels)), recipe.batch_size))
            full = [batch for batch in batches if len(batch) == recipe.batch_size] or batches
            for begin in range(0, len(full), every):
                yield epoch, full[begin : begin + every], begin + every >= len(full)

    def _train(self, number: int, epoch: int, batches: list[Tensor]) -> None:
        many = self.setup.packets_per_update
        packets = _Packets(self._images, self._labels, [i for batch in batches for i in batch.tensor_split(many)])
        torch.manual_seed(seed_of(self.setup.recipe.seed, f"stage {self._stage}", number))
        self._own.train(True)
        begun, self._done = time.perf_counter(), []
        done = self._pipeline.run_stage(self._stage, self._wires, packets, self._note)
        seconds = time.perf_counter() - begun
        self._folder.write(f"{TIMELINE}-{self._stage}.json", json.dumps([begun, *self._done]).encode())
        if done.losses:
            samples = sum(len(batch) for batch in batches)
            row: Row = {"kind": "segment", "segment": number, "epoch": epoch + 1}
            row |= {"loss": sum(done.losses) / len(done.losses), "samples_per_s": samples / seconds}
            self._folder.append(row)

    def _note(self, deed: Deed, moment: float) -> None:
        self._done.append((str(deed), moment))

    @torch.no_grad()
    def _evaluate(self, epoch: int) -> None:
        """Carry the test images up, without coming back."""
        recipe = self.setup.recipe
        self._own.train(False)
        right, total = 0, len(self._data.test_labels)
        both = self._data.test_images, self._data.test_labels
        splits = zip(*(torch.split(part, _TEST_BATCH) for part in both), strict=True)
        for number, (images, labels) in enumerate(splits):
            x = images.to(recipe.device, DTYPES[recipe.dtype]) if self._own.first else self._wires.take_state(number)
            output = self._own.infer(x)
            if self._own.last:
                right += int((output.argmax(1).cpu() == labels).sum())
            else:
                self._wires.send_state(number, output)
        self._wires.close()
        if self._own.last:
            self._folder.append({"kind": "epoch", "epoch": epoch + 1, "test_accuracy": right / total})


@final
class _Packets(Sequence[tuple[Tensor, Tensor]]):
    """Packets of a data set, gathered when a stage asks for them: those in the middle never do."""

    def __init__(self, images: Tensor, labels: Tensor, indices: list[Tensor]) -> None:
        self._images, self._labels, self._indices = images, labels, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: Any) -> Any:
        index = self._indices[number]
        return self._images[index], self._labels[index]


def plan_of(setup: Setup, data: DataSet) -> Plan:
    """Measure every layer on one packet and cut the network."""
    recipe = setup.recipe
    few = slice(max(recipe.batch_size // setup.packets_per_update, 1))
    images = data.train_images[few].to(recipe.device, DTYPES[recipe.dtype])
    return setup.plan(setup.chain(data), images, data.train_labels[few].to(recipe.device))
