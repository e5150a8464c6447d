"""One stage's process: join, resume, train segment by segment, save."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from worldsheet.core.bundle import single
from worldsheet.pipeline import Plan
from worldsheet.pipeline.transport.distributed import P2PTransport
from worldsheet.problem import Chain
from worldsheet_lab.data import DataSet, load
from worldsheet_lab.recipes import DTYPES
from worldsheet_lab.run_folder import Row, RunFolder
from worldsheet_lab.staged.checkpoints import Checkpoints
from worldsheet_lab.staged.meter import Meter
from worldsheet_lab.staged.reports import Report, Reports
from worldsheet_lab.staged.setup import Setup
from worldsheet_lab.streams import order, seed_of
from worldsheet_lab.tensorboard import Board

SETUP = "stages.json"
CHECKPOINTS = "checkpoints"
TIMELINE = "timeline"

_TEST_BATCH = 512


@final
@dataclass(frozen=True)
class _Segment:
    """Updates between two checkpoints.

    Attributes:
        number: counted from 1 over the whole run.
        epoch: counted from 1.
        batches: indices of images.
        closes_epoch: whether the test images follow.
    """

    number: int
    epoch: int
    batches: list[Tensor]
    closes_epoch: bool


@final
class Worker:
    """Trains one stage; its process has joined the others already.

    Args:
        folder: the run's.
        data_dir: where the data set is.
        stage: which stage this process is.
        board: whether to write for TensorBoard too.
    """

    def __init__(self, folder: RunFolder, data_dir: Path | None, stage: int, board: bool = False) -> None:
        self.setup = Setup.from_json(folder.read(SETUP).decode())
        recipe = self.setup.recipe
        self._folder, self._stage = folder, stage
        self._data: DataSet = load(recipe.data, data_dir).subset(recipe.train_size, recipe.test_size)
        self._chain: Chain = self.setup.chain(self._data)
        self._pipeline = self.setup.pipeline(self._chain)
        self._own = self._pipeline.stages[stage]
        device, messages = torch.device(recipe.device), self._pipeline.messages
        self._wires = P2PTransport(stage, self.setup.stages, device, messages=messages)
        self._checkpoints = Checkpoints(folder.path / CHECKPOINTS, stage)
        self._images = self._data.train_images.to(recipe.device, DTYPES[recipe.dtype])
        self._labels = self._data.train_labels.to(recipe.device)
        self._segments = list(self._cut())
        self._reports = Reports(folder.path)
        self._wants_board = board
        self._board: Board | None = None
        self._before = 0  # packets answered in earlier segments

    def run(self) -> None:
        """Train from the newest checkpoint to the end."""
        first = 0
        if (kept := self._checkpoints.newest()) is not None:
            first, state = kept
            self._own.load_state_dict(state)
        if self._own.last:
            self._folder.keep_rows(lambda row: row["segment"] <= first)
        self._before = sum(self._packets(segment) for segment in self._segments[:first])
        with ExitStack() as stack:
            if self._wants_board:
                name = f"stage {self._stage}"
                self._board = stack.enter_context(Board(self._folder.path, name, self._before))
            for segment in self._segments[first:]:
                self._train(segment)
                state = self._own.state_dict()
                if segment.closes_epoch:
                    self._evaluate(segment)
                self._checkpoints.save(segment.number, state)

    def _cut(self) -> Iterator[_Segment]:
        """All segments; a last batch that is not full is left out."""
        recipe, every, number = self.setup.recipe, self.setup.segment, 0
        for epoch in range(recipe.epochs):
            batches = list(torch.split(order(recipe.seed, epoch, len(self._labels)), recipe.batch_size))
            full = [batch for batch in batches if len(batch) == recipe.batch_size] or batches
            for begin in range(0, len(full), every):
                number += 1
                yield _Segment(number, epoch + 1, full[begin : begin + every], begin + every >= len(full))

    def _packets(self, segment: _Segment) -> int:
        return len(segment.batches) * self.setup.packets_per_update

    def _train(self, segment: _Segment) -> None:
        many = self.setup.packets_per_update
        indices = [i for batch in segment.batches for i in batch.tensor_split(many)]
        packets = _Packets(self._images, self._labels, indices)
        torch.manual_seed(seed_of(self.setup.recipe.seed, f"stage {self._stage}", segment.number))
        self._own.train(True)
        meter = Meter(self._own, self._progress(segment), [len(i) for i in indices], self._tell)
        begun = time.perf_counter()
        done = self._pipeline.run_stage(self._stage, self._wires, packets, meter.note)
        now = time.perf_counter()
        meter.close(now)
        rows = [[str(action), begin, end] for action, begin, end in meter.done]
        self._folder.write(f"{TIMELINE}-{self._stage}.json", json.dumps(rows).encode())
        self._before += len(packets)
        if done.losses:
            row: Row = {"kind": "segment", "segment": segment.number, "epoch": segment.epoch}
            row |= {"loss": sum(done.losses) / len(done.losses)}
            row |= {"samples_per_s": sum(map(len, indices)) / (now - begun)}
            self._folder.append(row)

    def _progress(self, segment: _Segment) -> Report:
        own = self._pipeline.plan.layers(self._stage)
        place = (self._stage, (own.start + 1, own.stop), segment.number, len(self._segments))
        return Report(*place, 0, self._packets(segment), 0.0, 0.0, 0, 0, 0.0)

    def _tell(self, report: Report) -> None:
        self._reports.write(report)
        if self._board is not None:
            values = {
                "train/loss": report.loss,
                "stage/samples per s": report.samples_per_s,
                "stage/busy": report.busy,
                "stage/packets in flight": report.in_flight,
                "stage/staleness": report.staleness,
                "stage/costate norm": report.costate_norm,
            }
            self._board.scalars(values, self._before + report.answered)

    @torch.no_grad()
    def _evaluate(self, segment: _Segment) -> None:
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
                right += int((single(output).argmax(1).cpu() == labels).sum())
            else:
                self._wires.send_state(number, output)
        self._wires.close()
        if self._own.last:
            where = {"segment": segment.number, "epoch": segment.epoch}
            self._folder.append({"kind": "epoch", **where, "test_accuracy": right / total})
            if self._board is not None:
                self._board.scalars({"test/accuracy": right / total}, self._before)


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
    """The cuts asked for, else those that measuring every layer on one packet suggests."""
    if setup.cuts:
        return Plan(setup.cuts)
    recipe = setup.recipe
    few = slice(max(recipe.batch_size // setup.packets_per_update, 1))
    images = data.train_images[few].to(recipe.device, DTYPES[recipe.dtype])
    return setup.plan(setup.chain(data), images, data.train_labels[few].to(recipe.device))
