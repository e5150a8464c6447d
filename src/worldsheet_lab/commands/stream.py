"""`worldsheet stream`: its options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, final

import typer

from worldsheet_lab.names import SIGNALS, SIGNS

EXAMPLE = "Example: worldsheet stream --signal patched --speed 200 --figure stream.png"


@final
@dataclass(frozen=True)
class Stream:
    """Let a few neurons learn to track a signal while it happens, forward in time only.

    Nothing is unrolled and no past is kept: neurons, weights and costates
    move together, each reading its neighbours at this instant.
    """

    signal: Annotated[str, typer.Option(help=", ".join(SIGNALS))] = "sine"
    csv: Annotated[
        Path | None, typer.Option(help="track the first column of this file instead, scaled; - is standard input")
    ] = None
    spacing: Annotated[float, typer.Option(help="seconds from row to row of --csv")] = 0.1
    forecast: Annotated[
        Path | None,
        typer.Option(
            help="say each next value of this WAV or CSV file before it is heard, with a network that remembers"
        ),
    ] = None
    column: Annotated[
        str | None, typer.Option(help="column of --forecast by its name in the first row; the last if left out")
    ] = None
    times: Annotated[
        str | None, typer.Option(help="column of --forecast that says when, in seconds; rows may be apart as they like")
    ] = None
    seconds: Annotated[float, typer.Option(help="how long the stream lasts, in its own time; at most all of --csv")] = (
        30.0
    )
    neurons: Annotated[
        int | None,
        typer.Option(help="fully connected; 5 if left out, of which the first is the output, 24 to forecast"),
    ] = None
    speed: Annotated[float, typer.Option(help="speed c of the neurons, in 1/seconds")] = 50.0
    dissipation: Annotated[float, typer.Option(help="dissipation θ, in 1/seconds: how fast the past loses weight")] = (
        20.0
    )
    mass: Annotated[float, typer.Option(help="mass m, the inertia of a weight")] = 0.005
    weight: Annotated[float, typer.Option(help="weight q of the error in q/2 (output − signal)²")] = 1.0
    sign: Annotated[str, typer.Option(help=f"sign of time for the costates: {', '.join(SIGNS)}")] = "flip"
    dt: Annotated[float, typer.Option(help="seconds of the stream per step")] = 0.004
    seed: Annotated[int, typer.Option(help="initial weights and states")] = 0
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cpu"
    figure: Annotated[Path, typer.Option(help="where the picture of the run is saved")] = Path("stream.png")
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="folder for the run's numbers")] = None
    as_json: Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")] = False


def run(chosen: Stream) -> None:
    """Track a signal."""
    from worldsheet_lab.stream_command import stream  # noqa: PLC0415  torch, once it is needed

    stream(chosen)
