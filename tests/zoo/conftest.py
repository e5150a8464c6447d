"""Models from other packages run offline, if asked to in float64 throughout, and timm without torchvision."""

import os
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

TORCHVISION = ("", ".datasets", ".models.feature_extraction", ".ops.misc", ".transforms", ".transforms.functional")


class _AnyClass(type):
    """A class that has every attribute, each another such class: some stand in isinstance or as keys."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyClass(name, (), {})


class _AnyModule(ModuleType):
    """A module that has every name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyClass(name, (), {})


@pytest.fixture(scope="session")
def timm() -> Any:
    """The package. What it wants of torchvision at import time, names for transforms and data sets, no test uses.

    The stand-in is there during the import only: other packages look for torchvision too, and must not find it.
    """
    if sys.modules.get("timm"):
        return sys.modules["timm"]
    stand_ins = {f"torchvision{part}": _AnyModule(f"torchvision{part}") for part in TORCHVISION}
    for name, module in stand_ins.items():
        parent, _, child = name.rpartition(".")
        if parent in stand_ins:
            setattr(stand_ins[parent], child, module)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        return pytest.importorskip("timm")


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model computes in float32 whatever its weights are, norms and routers for example, is in float64 too.

    Sums that float32 has rounded before are else compared with sums that it rounds afterwards.
    """
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
