"""What can be named on the command line, and the defaults shown there, without importing what the names stand for."""

from collections.abc import Mapping
from typing import Any

DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10")
ARCHITECTURES = ("mlp", "cnn")
ACTIVATIONS = ("tanh", "relu")
MODELS = ("gpt",)
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("wavefront", "synchronous", "sweep")
DTYPES = ("float32", "float64")
RULES = ("dyadic", "wave", "pc", "epc", "ep", "pc-alm")
SIGNALS = ("sine", "patched")
SIGNS = ("flip", "plain", "periodic", "track")
PROBLEMS = ("pendulum", "cartpole", "bangbang", "vanderpol", "rocket", "quadrotor", "obstacle")
METHODS = ("matched", "wave", "sweep")

DIGITS: Mapping[str, Any] = {
    "data": "digits",
    "train_size": None,
    "test_size": None,
    "architecture": "mlp",
    "activation": "tanh",
    "depth": 10,
    "width": 128,
    "dropout": 0.1,
    "batch_size": 64,
    "epochs": 30,
    "optimizer": "adam",
    "lr": 1e-3,
    "rate": 1.0,
    "schedule": "wavefront",
    "seed": 0,
    "device": "cpu",
    "dtype": "float32",
    "compare_every": 100,
    "threads": 1,  # on matrices of 64 x 128 a second thread costs more than it brings
}
"""The recipe for the digits, field by field."""
