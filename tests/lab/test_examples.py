"""The examples run, and train as backprop does."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_plain_loop_trains_as_with_backprop() -> None:
    loop = example("plain_loop")
    ours, theirs = loop.main(), loop.main(backprop=True)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-3, atol=0)
    assert ours[-1] < ours[0]


def test_a_trainer_trains_as_with_backprop() -> None:
    trainers = example("trainer_loop")
    ours, theirs = trainers.main(trainers.WorldsheetTrainer), trainers.main(trainers.Trainer)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=0)
    assert ours[-1] < ours[0]


def test_compiled_blocks_train_as_others_do() -> None:
    # in a process of its own: the annotation checker of these tests cannot be compiled
    code = "import compiled_blocks, json; print(json.dumps(compiled_blocks.main(backend='aot_eager')))"
    path = os.pathsep.join([str(FOLDER), str(FOLDER.parent / "src")])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path}
    )
    compiled = json.loads(done.stdout)
    assert compiled[0] == pytest.approx(example("trainer_loop").main(steps=2)[0], rel=1e-5)
    assert compiled[-1] < compiled[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Lightning's own use of torch's private trees
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_trains_as_with_backprop() -> None:
    pytest.importorskip("lightning", reason="lightning is not installed")
    example_ = example("lightning_manual")
    ours, theirs = example_.main(), example_.main(backprop=True)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-3, atol=0)
    assert ours[-1] < ours[0]
