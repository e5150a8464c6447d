"""`worldsheet compare`: its options."""

from dataclasses import dataclass
from typing import Annotated, final

import typer

from worldsheet_lab.commands import options
from worldsheet_lab.names import RULES

EXAMPLE = "Example: worldsheet compare --dynamics dyadic,pc-alm --seeds 3 --epochs 5 --run runs/rivals"

_NAMES = ",".join(RULES)

Names = Annotated[str, typer.Option(help=f"any of {_NAMES}; backprop is always beside them")]
Seeds = Annotated[int, typer.Option(help="how many seeds, counted up from --seed; 3 or more for an interval")]
Ticks = Annotated[
    int | None, typer.Option(help="budget of dynamics that do not settle at once; each its own if left out")
]


@final
@dataclass(frozen=True)
class Compare:
    """Train one network by several learning dynamics and by backprop.

    Start weights and batches are the same for all dynamics of a seed. Shows
    accuracy, the difference to backprop paired over seeds, the cosine of every
    layer's gradient with backprop's, ticks, evaluations and time per step.

    Ctrl-C stops; --resume goes on with the first network not yet finished.
    """

    dynamics: Names = _NAMES
    seeds: Seeds = 3
    ticks: Ticks = None
    data: options.Data = None
    train_size: options.TrainSize = None
    test_size: options.TestSize = None
    seed: options.Seed = None
    device: options.Device = None
    dtype: options.Dtype = None
    threads: options.Threads = None
    architecture: options.Architecture = None
    activation: options.Activation = None
    depth: options.Depth = None
    width: options.Width = None
    dropout: options.Dropout = None
    batch_size: options.BatchSize = None
    epochs: options.Epochs = None
    optimizer: options.Optimizer = None
    lr: options.LearningRate = None
    compare_every: options.CompareEvery = None
    data_dir: options.DataDir = None
    run: options.Run = None
    resume: options.Resume = None
    as_json: options.Json = False


def run(chosen: Compare) -> None:
    """Train with all of them."""
    from worldsheet_lab.compare_command import compare  # noqa: PLC0415  torch, once it is needed

    compare(chosen)
