"""The options of the command line, each with its help."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from worldsheet_lab.names import ACTIVATIONS, ARCHITECTURES, DATA_SETS, DIGITS, DTYPES, OPTIMIZERS, SCHEDULES

_RECIPE, _NETWORK, _OPTIMISATION, _STAGES = "The run", "The network", "Optimisation", "Training in stages"
_TEXT = "A language model"


def _help(text: str, name: str) -> str:
    return f"{text} [dim]({DIGITS[name]} for digits)[/dim]"


Data: TypeAlias = Annotated[
    str | None, typer.Option(help=f"{', '.join(DATA_SETS)} [dim](default: digits)[/dim]", rich_help_panel=_RECIPE)
]
TrainSize: TypeAlias = Annotated[
    int | None, typer.Option(help="training images used; all if left out", rich_help_panel=_RECIPE)
]
TestSize: TypeAlias = Annotated[
    int | None, typer.Option(help="test images used; all if left out", rich_help_panel=_RECIPE)
]
Seed: TypeAlias = Annotated[
    int | None, typer.Option(help=_help("start weights, order of images, dropout", "seed"), rich_help_panel=_RECIPE)
]
Device: TypeAlias = Annotated[
    str | None, typer.Option(help=_help("cpu, cuda, cuda:1, mps", "device"), rich_help_panel=_RECIPE)
]
Dtype: TypeAlias = Annotated[str | None, typer.Option(help=_help(", ".join(DTYPES), "dtype"), rich_help_panel=_RECIPE)]
Threads: TypeAlias = Annotated[
    int | None, typer.Option(help=_help("CPU threads; 0 leaves it to torch", "threads"), rich_help_panel=_RECIPE)
]

Dynamics: TypeAlias = Annotated[str | None, typer.Option(hidden=True, help="an option of compare, which is told here")]

Architecture: TypeAlias = Annotated[
    str | None, typer.Option(help=_help(", ".join(ARCHITECTURES), "architecture"), rich_help_panel=_NETWORK)
]
Activation: TypeAlias = Annotated[
    str | None, typer.Option(help=_help(", ".join(ACTIVATIONS), "activation"), rich_help_panel=_NETWORK)
]
Depth: TypeAlias = Annotated[
    int | None, typer.Option(help=_help("number of layers", "depth"), rich_help_panel=_NETWORK)
]
Width: TypeAlias = Annotated[
    int | None, typer.Option(help=_help("units of a layer, or first channels", "width"), rich_help_panel=_NETWORK)
]
Dropout: TypeAlias = Annotated[
    float | None, typer.Option(help=_help("probability of dropping a unit", "dropout"), rich_help_panel=_NETWORK)
]

BatchSize: TypeAlias = Annotated[
    int | None, typer.Option(help=_help("images or sequences per step", "batch_size"), rich_help_panel=_OPTIMISATION)
]
Epochs: TypeAlias = Annotated[
    int | None, typer.Option(help=_help("passes over the training images", "epochs"), rich_help_panel=_OPTIMISATION)
]
Optimizer: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help=_help(f"{', '.join(OPTIMIZERS)}; of a text muon, adamw", "optimizer"), rich_help_panel=_OPTIMISATION
    ),
]
LearningRate: TypeAlias = Annotated[
    float | None, typer.Option("--lr", help=_help("learning rate", "lr"), rich_help_panel=_OPTIMISATION)
]
Rate: TypeAlias = Annotated[
    float | None,
    typer.Option(
        help=_help("rate of the relaxation, between 0 and 2; 1 is exact", "rate"), rich_help_panel=_OPTIMISATION
    ),
]
Schedule: TypeAlias = Annotated[
    str | None, typer.Option(help=_help(", ".join(SCHEDULES), "schedule"), rich_help_panel=_OPTIMISATION)
]
CompareEvery: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help=_help("steps between comparisons with autograd's gradients; 0 for none", "compare_every"),
        rich_help_panel=_OPTIMISATION,
    ),
]

Engine: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="block for one process, pipeline for a process per stage: --stages starts them, or torchrun has",
        rich_help_panel=_STAGES,
    ),
]
Stages: TypeAlias = Annotated[
    int | None, typer.Option(help="train in that many processes, one per stage of layers", rich_help_panel=_STAGES)
]
Cuts: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,…",
        help="last layer of each stage but the topmost; by default layers are timed, so that stages take equally long",
        rich_help_panel=_STAGES,
    ),
]
PacketsPerUpdate: TypeAlias = Annotated[
    int,
    typer.Option(
        help="packets into which a batch is cut; the fewer, the older the weights that are answered",
        rich_help_panel=_STAGES,
    ),
]
Weights: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="the rule for late credits: passive, predicted, stashed, current, bounded "
        "[dim](passive; bounded for a text)[/dim]",
        rich_help_panel=_STAGES,
    ),
]
Messages: TypeAlias = Annotated[
    str, typer.Option(help="how stages round what they send: exact, bfloat16, float16", rich_help_panel=_STAGES)
]
Locked: TypeAlias = Annotated[
    bool, typer.Option("--locked", help="flush before every update, as one process would", rich_help_panel=_STAGES)
]
FreeRunning: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--free-running",
        help="each stage takes messages as they come; no two runs are then the same",
        rich_help_panel=_STAGES,
    ),
]
Segment: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--checkpoint-every",
        help="updates between checkpoints of all stages, and, of a text, between looks at the held-out loss "
        "[dim](500; 100 for a text)[/dim]",
        rich_help_panel=_STAGES,
    ),
]

Model: TypeAlias = Annotated[
    str | None, typer.Option(help="gpt, a language model of the characters of --text", rich_help_panel=_TEXT)
]
Text: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="learn to continue this text; its last tenth is held out", rich_help_panel=_TEXT),
]
Blocks: TypeAlias = Annotated[
    int | None, typer.Option(help="blocks of the transformer [dim](4)[/dim]", rich_help_panel=_TEXT)
]
Heads: TypeAlias = Annotated[int | None, typer.Option(help="heads of attention [dim](4)[/dim]", rich_help_panel=_TEXT)]
Context: TypeAlias = Annotated[
    int | None, typer.Option(help="characters of a sequence [dim](64)[/dim]", rich_help_panel=_TEXT)
]
Updates: TypeAlias = Annotated[
    int | None, typer.Option(help="of every stage, in the whole run [dim](1000)[/dim]", rich_help_panel=_TEXT)
]
WarmUp: TypeAlias = Annotated[
    int | None,
    typer.Option(
        help="updates over which the rate grows, before it falls by a cosine [dim](a tenth)[/dim]",
        rich_help_panel=_TEXT,
    ),
]
Prompt: TypeAlias = Annotated[
    str | None, typer.Option(help="what the sample at the end begins with", rich_help_panel=_TEXT)
]
Sample: TypeAlias = Annotated[
    int | None, typer.Option(help="characters written at the end [dim](400)[/dim]", rich_help_panel=_TEXT)
]

DataDir: TypeAlias = Annotated[Path | None, typer.Option(metavar="DIR", help="where the files of the data set are")]
Run: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--run",
        "--run-dir",  # torchrun reads options of the program too, and takes --run for an abbreviation of its own
        metavar="DIR",
        help="folder of the run; runs/<data>-<date-time> if left out. Under torchrun write --run-dir",
    ),
]
Resume: TypeAlias = Annotated[Path | None, typer.Option(metavar="DIR", help="continue the run of this folder")]
TensorBoard: TypeAlias = Annotated[
    bool, typer.Option("--tensorboard", help="write for TensorBoard into the folder of the run too")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="print the result as one JSON object on stdout")]
