"""Language models in stages that never wait: what delay costs by rule, and how many tokens more it takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain as joined
from itertools import pairwise
from math import cos, inf, pi
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from gpt import Shape, cuts, layers_of, token_loss
from rules import Make, Powers, adamw, matrices_of, muon, nadam
from texts import Text, pairs, shakespeare

import worldsheet as ws
from experiments.harness import Cells, Findings, Record, Size, experiment
from worldsheet.pipeline import (
    Current,
    DelayBounded,
    DelayCompensated,
    Locked,
    PipelineSchedule,
    Plan,
    Predicted,
    StalenessAware,
    Stashed,
    Unlocked,
    Weights,
)
from worldsheet_lab.plots import CURVES


@dataclass(frozen=True)
class Course:
    """What is learnt, by what, for how long.

    Attributes:
        name: of the text and the length.
        text: makes the text.
        context: tokens of a sequence.
        width: of the residual stream.
        blocks: of the transformer.
        batch: sequences of an update.
        updates: how many.
        warm: updates over which rates grow from zero; then they fall by a cosine to a tenth.
        judged: sequences of the held-out text.
        every: after how many updates the loss is looked at.
    """

    name: str
    text: Any
    context: int
    width: int
    blocks: int
    batch: int
    updates: int
    warm: int
    judged: int
    every: int

    def rate(self, update: int) -> float:
        """A share of the largest rate."""
        if update < self.warm:
            return (update + 1) / self.warm
        return 0.1 + 0.45 * (1 + cos(pi * (update - self.warm) / max(1, self.updates - self.warm)))


@dataclass(frozen=True)
class Row:
    """An optimizer at a rate, and what stages do about delay.

    Attributes:
        name: of the rule.
        optimizer: of the parameters of a stage.
        lr: its rate, of which a stage makes what `weights` says.
        weights: what packets see, and how late credits are answered.
        order: who waits for whom.
        stages: how many.
    """

    name: str
    optimizer: str
    lr: float
    weights: Weights = field(default_factory=Stashed)
    order: PipelineSchedule = field(default_factory=partial(Locked, 1))
    stages: int = 8

    @property
    def case(self) -> str:
        if isinstance(self.order, Locked):
            return "one process"
        return f"P={self.stages} M={self.order.packets_per_update}"

    @property
    def key(self) -> str:
        return f"{self.case}, {self.optimizer} {self.lr:g}, {self.name}"


@cache
def text_of(make: Any) -> Text:
    """Read or drawn once."""
    found: Text = make()
    return found


def optimizer_of(name: str, net: torch.nn.Sequential) -> Make:
    """By name, where Muon is told which parameters are the matrices of blocks."""
    makes: dict[str, Make] = {"AdamW": adamw, "NAdam": nadam, "Muon": partial(muon, matrices=matrices_of(net))}
    return makes[name]


def trained(course: Course, row: Row, seed: int = 0) -> dict[str, Any]:
    """The held-out loss after the last update and on the way, with some packets still in flight."""
    text = text_of(course.text)
    shape = Shape(text.symbols, course.context, course.width, course.blocks)
    net = layers_of(shape, seed)
    make = optimizer_of(row.optimizer, net)
    pipeline = ws.Pipeline(
        ws.Chain(net, token_loss),
        Plan(cuts(shape, row.stages)),
        optimizer=lambda parameters: make(parameters, row.lr),
        weights=row.weights,
        schedule=row.order,
        scheduler=partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=course.rate),
    )
    generator = torch.Generator().manual_seed(1000 + seed)
    curve: list[tuple[int, float]] = []
    for done in range(0, course.updates, course.every):
        batches = [text.batch(course.batch, course.context, generator) for _ in range(course.every)]
        pipeline.train(packets_of(batches, row.order.packets_per_update), drain=done + course.every == course.updates)
        curve.append((done + course.every, held_out(course, text, net)))
    return {"loss": curve[-1][1], "curve": curve}


def packets_of(batches: Sequence[Any], many: int) -> list[Any]:
    """Every batch in M packets."""
    cut = [zip(x.tensor_split(many), target.tensor_split(many), strict=True) for x, target in batches]
    return list(joined.from_iterable(cut))


@torch.no_grad()
def held_out(course: Course, text: Text, net: torch.nn.Module) -> float:
    """In nats per symbol, on the same sequences always."""
    generator = torch.Generator().manual_seed(7)
    tokens, target = text.batch(course.judged, course.context, generator, held_out=True)
    parts = zip(tokens.split(64), target.split(64), strict=True)
    return sum(float(token_loss(net(x), y)) * len(x) for x, y in parts) / course.judged


STALEST, STALE = Unlocked(1), Unlocked(4)
MUON, ADAMW = partial(Row, optimizer="Muon", lr=0.008), partial(Row, optimizer="AdamW", lr=0.004)
SYNCHRONOUS = [ADAMW("synchronous"), MUON("synchronous")]
OWN = [
    *(MUON("bounded", weights=DelayBounded(), order=order) for order in (STALEST, STALE)),
    *(MUON("predicted", weights=Predicted(), order=order) for order in (STALEST, STALE)),
    *(MUON("divided", weights=StalenessAware(), order=order) for order in (STALEST, STALE)),
]
OTHERS = [
    MUON("stashed", weights=Stashed(), order=STALEST),
    *(MUON(f"powers {a:g}, {b:g}", weights=Powers(a, b), order=STALEST) for a, b in ((0.5, 0.5), (1.0, 1.0))),
    MUON("bounded, not grounded", weights=DelayBounded(centering_delay=inf), order=STALEST),
    ADAMW("compensated", weights=DelayCompensated(), order=STALEST),
    ADAMW("bounded", weights=DelayBounded(), order=STALEST),
    Row("Nesterov", "NAdam", 0.002, Stashed(), STALEST),
    ADAMW("PipeMare T1", weights=StalenessAware(Current(), power=1.0, over=100), order=STALEST),
]


def shortened(rows: Sequence[Row], stages: int) -> list[Row]:
    """The same with fewer stages."""
    return [replace(row, stages=stages) for row in rows]


SHAKESPEARE = Course("shakespeare", shakespeare, 64, 64, 8, batch=8, updates=500, warm=50, judged=256, every=100)
PAIRS = partial(Course, text=pairs, context=16, width=32, blocks=4, batch=16, judged=256)
PLANS: dict[Size, list[tuple[Course, list[Row]]]] = {
    Size.SMALL: [(PAIRS("pairs", updates=120, warm=10, every=20), shortened([SYNCHRONOUS[1], *OWN[:3]], 4))],
    Size.FULL: [
        (SHAKESPEARE, [*SYNCHRONOUS, *OWN]),
        (PAIRS("pairs", updates=400, warm=50, every=80), [*SYNCHRONOUS, *OWN[::2], *OTHERS]),
    ],
}


def measure(size: Size, cells: Cells) -> Findings:
    """Every row of every course beside the synchronous one of the same optimizer; Nesterov's beside AdamW."""
    figures: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    for course, rows in PLANS[size]:
        keys = {row: f"{course.name}, {row.key}" for row in rows}
        found = {row: cells.get(keys[row], partial(trained, course, row)) for row in rows}
        beside = {row.optimizer: kept for row, kept in found.items() if isinstance(row.order, Locked)}
        for row, kept in found.items():
            synchronous = beside.get(row.optimizer) or beside["AdamW"]
            gap = kept["loss"] - synchronous["loss"]
            told = {"course": course.name, "case": row.case, "optimizer": row.optimizer, "rule": row.name, "lr": row.lr}
            told |= {"gap": gap, "tokens more": tokens_more(kept, synchronous)}
            table.append({**told, **kept, "tokens an update": course.batch * course.context})
            figures[f"loss {keys[row]}"] = kept["loss"]
            if not isinstance(row.order, Locked):
                figures[f"gap {keys[row]}"] = gap
    return Findings(figures, {"rows": table})


def tokens_more(late: dict[str, Any], synchronous: dict[str, Any]) -> float | None:
    """How many times the tokens of synchronous training a rule takes to its last loss; None outside of its curve."""
    last = late["loss"]
    for (begin, above), (end, below) in pairwise(synchronous["curve"]):
        if below <= last <= above and below < above:
            return float(late["curve"][-1][0] / (begin + (end - begin) * (above - last) / (above - below)))
    return None


def draw(record: Record, path: Path) -> None:
    """The held-out loss by tokens seen: a panel per text and order, each with synchronous training."""
    rows = record.tables["rows"]
    panels = list(dict.fromkeys((row["course"], row["case"]) for row in rows if row["rule"] != "synchronous"))
    size = (4.6 * len(panels), 5.4)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    looks = dict(zip(dict.fromkeys((row["optimizer"], row["rule"]) for row in rows), _looks(), strict=False))
    for axis, (course, case) in zip(axes[0], panels, strict=True):
        own = [row for row in rows if row["course"] == course]
        for row in (each for each in own if each["case"] == case or each["rule"] == "synchronous"):
            updates, losses = zip(*row["curve"], strict=True)
            tokens = [update * row["tokens an update"] for update in updates]
            look = looks[row["optimizer"], row["rule"]]
            axis.plot(tokens, losses, ms=5, lw=1.2, label=f"{row['optimizer']}, {row['rule']}", **look)
        axis.set(title=f"{course}, {case}", xlabel="tokens", ylabel="held-out loss (nats)")
    named = {label: line for axis in axes[0] for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)


def _looks() -> Iterator[dict[str, Any]]:
    """Colours with markers; for more rules than there are, the same hollow."""
    yield from CURVES
    yield from ({**look, "fillstyle": "none"} for look in CURVES)


if __name__ == "__main__":
    experiment(__file__, measure, draw)
