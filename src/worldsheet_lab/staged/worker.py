"""One stage's process: join, resume, train segment by segment, save."""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import final

import torch

from worldsheet.pipeline.transport.distributed import P2PTransport
from worldsheet_lab.run_folder import Row, RunFolder
from worldsheet_lab.staged.checkpoints import Checkpoints
from worldsheet_lab.staged.job import Segment
from worldsheet_lab.staged.meter import Meter
from worldsheet_lab.staged.reports import Report, Reports
from worldsheet_lab.staged.setup import Setup
from worldsheet_lab.streams import seed_of
from worldsheet_lab.tensorboard import Board

SETUP = "stages.json"
CHECKPOINTS = "checkpoints"
TIMELINE = "timeline"


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
        self._folder, self._stage = folder, stage
        self._job = self.setup.job(data_dir)
        self._pipeline = self.setup.pipeline(self._job, stage)
        self._own = self._pipeline.stages[stage]
        device, messages = torch.device(self.setup.recipe.device), self._pipeline.messages
        self._wires = P2PTransport(stage, self.setup.stages, device, messages=messages)
        self._checkpoints = Checkpoints(folder.path / CHECKPOINTS, stage)
        self._segments = self._job.segments(self.setup.segment)
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
                if segment.judged:
                    self._evaluate(segment)
                self._checkpoints.save(segment.number, state)

    def _packets(self, segment: Segment) -> int:
        return len(segment.batches) * self.setup.packets_per_update

    def _train(self, segment: Segment) -> None:
        many = self.setup.packets_per_update
        packets, sizes = self._job.packets(segment, many), self._job.sizes(segment, many)
        torch.manual_seed(seed_of(self.setup.recipe.seed, f"stage {self._stage}", segment.number))
        self._own.train(True)
        meter = Meter(self._own, self._progress(segment), sizes, self._tell)
        begun = time.perf_counter()
        done = self._pipeline.run_stage(self._stage, self._wires, packets, meter.note)
        now = time.perf_counter()
        meter.close(now)
        rows = [[str(action), begin, end] for action, begin, end in meter.done]
        self._folder.write(f"{TIMELINE}-{self._stage}.json", json.dumps(rows).encode())
        self._before += len(packets)
        if done.losses:
            speed = sum(sizes) / (now - begun)
            row: Row = {"kind": "segment", "segment": segment.number, **segment.place}
            row |= {"loss": sum(done.losses) / len(done.losses), "samples_per_s": speed, **self._job.speed(speed)}
            self._folder.append(row)

    def _progress(self, segment: Segment) -> Report:
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

    def _evaluate(self, segment: Segment) -> None:
        verdict = self._job.examine(self._own, self._wires, segment)
        if verdict is None:
            return
        self._folder.append({**verdict, "segment": segment.number, **segment.place})
        if self._board is not None:
            self._board.scalars(
                {f"test/{name.removeprefix('test_')}": value for name, value in verdict.items() if name != "kind"},
                self._before,
            )
