"""Hundreds of stages over slow links, on paper: from the measured time of a stage and of a message.

A stage takes T = f + p + e for a packet: up, credit, efforts. A message takes τ = latency + bytes / rate. Without a
flush and with `slack` packets more on each edge a stage answers a packet every max(T, R / (1 + (P − 1) (1 + slack))) s,
R = P (f + p) + e + 2 (P − 1) τ the way of a packet from the first stage to the last and back; credits are
(P − 1) (1 + slack) / M updates late at the first stage. M is taken as large as makes that `DELAY`; the flushed orders
are given the same M, and no more than what they cannot do without: for 1F1B M T + (P − 1) (f + p + 2 τ), for an order
without any bubble M T + 2 (P − 1) τ. Neither waits for a link that is full.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from time import perf_counter, thread_time
from typing import Annotated, NamedTuple, final

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.pipeline_processes import in_processes
from worldsheet.core.errors import InputError
from worldsheet.pipeline.carriage import Carriage
from worldsheet.pipeline.packets import Counted
from worldsheet.pipeline.transport.distributed import P2PTransport, joined
from worldsheet.problem import Chain
from worldsheet_lab.atomic import replace_file
from worldsheet_lab.machine import this_machine
from worldsheet_lab.plots_stages import over_links
from worldsheet_lab.text.gpt import Shape, bare

DELAY = 1.75
"""Updates: eight stages with four packets per update, where c24 finds a gap of .01 nats."""

STAGES = (64, 256, 1024)
GBITS = (1.0, 3.0, 10.0, 30.0, 100.0)
LATENCIES = (0.001, 0.01, 0.05)
_SYMBOLS, _TRIES, _PATIENCE = 65, 5, 60.0


class Times(NamedTuple):
    """Measured, of one stage and one packet.

    Attributes:
        up: seconds to carry it up.
        pull: until its credit leaves.
        efforts: after that.
        host: seconds that a message takes without a link, packing included.
        bytes: of a state, or a credit.
        tokens: of the packet.
    """

    up: float
    pull: float
    efforts: float
    host: float
    bytes: int
    tokens: int

    @property
    def work(self) -> float:
        """T, with the four messages that a stage handles for a packet."""
        return self.up + self.pull + self.efforts + 4 * self.host


@final
@dataclass(frozen=True)
class Point:
    """One pipeline on one kind of link.

    Attributes:
        stages: P.
        gbit: of a link, per second and direction.
        latency: seconds.
        slack: packets more on each edge.
        packets: M.
        tokens: of an update.
        unlocked: tokens per second.
        over_1f1b: times those of 1F1B.
        over_no_bubble: times those of an order that has no bubble but waits for messages.
        limit: what holds the unlocked stages up: work, latency or link.
    """

    stages: int
    gbit: float
    latency: float
    slack: int
    packets: int
    tokens: int
    unlocked: float
    over_1f1b: float
    over_no_bubble: float
    limit: str


def way(times: Times, stages: int, travel: float) -> float:
    """Seconds of a packet from the first stage to the last and back."""
    return stages * (times.up + times.pull) + times.efforts + 2 * (stages - 1) * travel


def cycle(times: Times, stages: int, travel: float, slack: int) -> float:
    """Seconds from packet to packet of unlocked stages."""
    return max(times.work, way(times, stages, travel) / (1 + (stages - 1) * (1 + slack)))


def point(times: Times, stages: int, gbit: float, latency: float) -> Point:
    """With the slack that is fastest, of those that hide the journey as far as the link allows."""
    wire = times.bytes * 8 / (gbit * 1e9)
    travel = latency + wire
    under_way = way(times, stages, travel) / max(times.work, wire)
    slack = max(0, ceil((under_way - 1) / (stages - 1)) - 1)
    packets = max(1, ceil((stages - 1) * (1 + slack) / DELAY))
    period = max(cycle(times, stages, travel, slack), wire)
    work = packets * max(times.work, wire)
    flushed = work + (stages - 1) * (times.up + times.pull + 2 * travel)
    no_bubble = work + 2 * (stages - 1) * travel
    limit = "link" if wire > times.work else "work" if period <= times.work else "latency"
    tokens = packets * times.tokens
    ours = packets * period
    return Point(stages, gbit, latency, slack, packets, tokens, tokens / ours, flushed / ours, no_bubble / ours, limit)


def points(times: Times) -> Iterator[Point]:
    """All pipelines on all links."""
    for stages in STAGES:
        for latency in LATENCIES:
            for gbit in GBITS:
                yield point(times, stages, gbit, latency)


def measured(width: int, samples: int, context: int, brief: bool) -> Times:
    """A block of a GPT on this machine, a thread, and messages between two processes over the loopback interface."""
    shape = Shape(_SYMBOLS, context, width, 1)
    block = Chain([bare(shape, 1), bare(shape, 2), nn.Identity()], nn.MSELoss())
    x, credit = torch.randn(samples, context, width), torch.randn(samples, context, width)
    tries = [_once(block, x, credit) for _ in range(_TRIES)]
    up, pull, efforts = (min(column) for column in zip(*tries[1:], strict=True))
    sent = x.to(torch.bfloat16) if brief else x
    with tempfile.TemporaryDirectory() as folder:
        in_processes(_exchange, (tuple(x.shape), brief, Path(folder)), 2)
        host = json.loads((Path(folder) / "host.json").read_text())
    return Times(up, pull, efforts, host, sent.nbytes, samples * context)


@torch.no_grad()
def _once(block: Chain, x: Tensor, credit: Tensor) -> tuple[float, float, float]:
    carriage = Carriage(block, torch.zeros_like(x), x, to_input=True)
    begun = thread_time()
    for layer in (1, 2):
        carriage.evaluate(layer)
    up = thread_time()
    owed = []
    for layer in (2, 1):
        pulled = carriage.pull(layer, credit)
        assert isinstance(pulled.credit, Tensor)
        credit = pulled.credit
        owed.append(pulled.efforts)
    pull = thread_time()
    for efforts in owed:
        efforts()
    return up - begun, pull - up, thread_time() - pull


def _exchange(rank: int, shape: tuple[int, ...], brief: bool, where: Path) -> None:
    torch.set_num_threads(1)
    state, many = torch.randn(shape), 24
    with joined(rank, 2, f"file://{where}/store", _PATIENCE):
        wires = P2PTransport(rank, 2, torch.device("cpu"), messages=torch.bfloat16 if brief else None)
        wires.open(Counted(many))
        taken: list[float] = []
        for packet in range(many):
            begun = perf_counter()
            if rank == 0:
                wires.send_state(packet, state)
                wires.take_credit(packet)
            else:
                wires.take_state(packet)
                wires.send_credit(packet, state)
            taken.append((perf_counter() - begun) / 2)
        wires.close()
        if rank == 0:
            replace_file(where / "host.json", json.dumps(sorted(taken)[many // 4]).encode())


def scale(
    width: Annotated[int, typer.Option(help="of the residual stream; a stage is one block")] = 256,
    samples: Annotated[int, typer.Option(help="sequences of a packet")] = 8,
    context: Annotated[int, typer.Option(help="tokens of a sequence")] = 128,
    exact: Annotated[bool, typer.Option("--exact", help="messages of float32 and not of bfloat16")] = False,
    figure: Annotated[Path | None, typer.Option(metavar="FILE", help="draw it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False,
) -> None:
    """Work out how fast 64 to 1,024 stages are over slow links, from the measured time of a stage and of a message."""
    if min(width // 4, samples, context) < 1 or width % 4:
        raise InputError(
            f"--width must be a multiple of 4, --samples and --context at least 1, got {width}, {samples}, {context}",
            "sizes of a packet",
            "leave them out",
        )
    torch.set_num_threads(1)
    times = measured(width, samples, context, not exact)
    found = list(points(times))
    if figure is not None:
        _draw(times, found, figure)
    if as_json:
        typer.echo(json.dumps({"times": times._asdict(), "points": [asdict(each) for each in found]}))
        return
    console = Console() if Console().is_terminal else Console(width=130)
    console.print(_table(times, found))
    console.print(f"{this_machine(torch.device('cpu'), (1,))}", highlight=False, soft_wrap=True)


def _table(times: Times, found: Sequence[Point]) -> Table:
    ms = ", ".join(f"{1e3 * value:.2f}" for value in (times.up, times.pull, times.efforts, times.host))
    title = f"A stage: up, pull, efforts, message {ms} ms for {times.tokens} tokens; "
    title += (
        f"{2 * times.bytes / times.tokens:.0f} bytes per token and edge, both ways; M for {DELAY:g} updates of delay"
    )
    table = Table(title=title, title_justify="left")
    for name in ("stages", "Gbit/s", "ms", "slack", "M", "tokens/update", "tokens/s", "x 1F1B", "x no bubble", "limit"):
        table.add_column(name, justify="right")
    for each in found:
        sizes = (f"{each.gbit:g}", f"{1e3 * each.latency:g}", str(each.slack), f"{each.packets:,}", f"{each.tokens:,}")
        speeds = (f"{each.unlocked:,.0f}", f"{each.over_1f1b:.2f}", f"{each.over_no_bubble:.2f}", each.limit)
        table.add_row(str(each.stages), *sizes, *speeds)
    return table


def _draw(times: Times, found: Sequence[Point], path: Path) -> None:
    """Times the tokens a second of flushed orders, by the rate of the links: a panel a latency."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for each in found:
        curves = panels.setdefault(f"{1e3 * each.latency:g} ms", {})
        for order, over in (("1F1B", each.over_1f1b), ("no bubble", each.over_no_bubble)):
            curves.setdefault(f"{each.stages:,} stages, over {order}", []).append((each.gbit, over))
    title = f"A stage takes {1e3 * times.work:.0f} ms for {times.tokens:,} tokens; delay {DELAY:g} updates"
    replace_file(path, over_links(panels, title, "tokens a second, unlocked / flushed"))
