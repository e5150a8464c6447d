"""`worldsheet train`: its options."""

from dataclasses import dataclass
from typing import final

from worldsheet_lab.commands import options

EXAMPLE = "Example: worldsheet train --depth 20 --epochs 5 --run runs/deep"


@final
@dataclass(frozen=True)
class Train:
    """Train a network by relaxation, and its twin by backprop on the same batches.

    Without options: the digits that scikit-learn carries, offline, in less
    than a minute. Recipe, weights, metrics and figures go to the run folder.

    Ctrl-C stops between two steps; --resume goes on to the same result.

    With --model gpt --text FILE a language model learns to continue a text,
    in stages that never wait: --stages 4. Samples are printed at the end.
    """

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
    model: options.Model = None
    text: options.Text = None
    blocks: options.Blocks = None
    heads: options.Heads = None
    context: options.Context = None
    updates: options.Updates = None
    warm_up: options.WarmUp = None
    prompt: options.Prompt = None
    sample: options.Sample = None
    dropout: options.Dropout = None
    batch_size: options.BatchSize = None
    epochs: options.Epochs = None
    optimizer: options.Optimizer = None
    lr: options.LearningRate = None
    dynamics: options.Dynamics = None
    rate: options.Rate = None
    schedule: options.Schedule = None
    compare_every: options.CompareEvery = None
    engine: options.Engine = None
    stages: options.Stages = None
    cuts: options.Cuts = None
    packets_per_update: options.PacketsPerUpdate = 8
    weights: options.Weights = None
    messages: options.Messages = "exact"
    locked: options.Locked = False
    free_running: options.FreeRunning = False
    checkpoint_every: options.Segment = None
    data_dir: options.DataDir = None
    run: options.Run = None
    resume: options.Resume = None
    tensorboard: options.TensorBoard = False
    as_json: options.Json = False
    named: frozenset[str] = frozenset()


def run(chosen: Train) -> None:
    """Train."""
    from worldsheet_lab.train_command import train  # noqa: PLC0415  torch, once it is needed

    train(chosen)
