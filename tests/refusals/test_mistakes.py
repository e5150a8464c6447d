"""The mistakes of a first hour: each is refused in one sentence with a remedy for its cause, and nothing has changed.

The calls are made in a fresh interpreter, where no annotations are checked but by the library itself, once with an
`nn.Sequential` and once with a module that has a forward of its own.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

SAID = {
    "verb(model, x, y)": ["needs a Chain, got an object of type", "chain = ws.Chain(model, loss)"],
    "ws.Chain(model, nn.CrossEntropyLoss)": ["the class CrossEntropyLoss itself", "write CrossEntropyLoss()"],
    "ws.Chain(nn.Sequential, loss)": ["the class Sequential itself", "write Sequential()"],
    "verb(chain, x, y, ws.PredictiveCoding)": ["dynamics", "the class PredictiveCoding", "write PredictiveCoding()"],
    "verb(chain, x, y, 'pc')": ["dynamics must be of another type, got 'pc'", "ws.PredictiveCoding()"],
    "verb(chain, x, y, ws.Synchronous())": ["dynamics", "schedule=Synchronous("],
    "verb(chain, x, y, schedule=ws.Synchronous)": ["schedule", "the class Synchronous", "write Synchronous()"],
    "verb(chain, x, y, slow, stop=ws.Stop)": ["stop", "the class Stop", "write Stop()"],
    "verb(chain, x, y, slow, stop='1e-3')": ["stop must be of another type, got '1e-3'", "ws.Stop(tol=1e-6)"],
    "verb(chain, x, y, slow, stop=20)": ["stop must be of another type, got 20", "use ws.Stop(max_ticks=20)"],
    "verb(chain, x, y, slow, stop=1e-3)": ["stop must be of another type", "use ws.Stop(tol=0.001)"],
    "ws.Stop(1e-3)": ["max_ticks must be a whole number, got 0.001", "write tol=0.001"],
    "ws.Stop(tol='1e-3')": ["tol must be a number, got '1e-3'"],
    "ws.Stop(max_ticks=2.5)": ["max_ticks must be a whole number, got 2.5"],
    "ws.relax(chain, x, y, slow, record=True)": ["record must be of another type", "record=ws.Record()"],
    "verb(chain, [x, y], None)": ["list", "x, target = batch"],
    "verb(chain, loader, y)": ["a tensor, got", "DataLoader", "for x, target in loader"],
    "verb(chain, x.numpy(), y)": ["a tensor, got", "ndarray", "torch.as_tensor(x)"],
    "verb(chain, x.tolist(), y)": ["list", "torch.as_tensor(x)"],
    "verb(chain, x[:0], y[:0])": ["the batch is empty: the input has shape (0, 20)", "leave the empty batch out"],
    "verb(chain, x.to('meta'), y)": ["is on cpu, got a tensor on meta", 'x.to("cpu")'],
    "verb(chain, x.double(), y)": ["parameters of dtype float32, got dtype float64", "x.float()"],
    "verb(double, x, y)": ["parameters of dtype float64, got dtype float32", "x.double()"],
    "verb(chain, (x * 255).to(torch.uint8), y)": ["got dtype uint8", "x.float() / 255"],
    "verb(chain, x.reshape(8, 1, 4, 5), y)": ["reads 20 features", "shape (8, 1, 4, 5)", "put nn.Flatten() before it"],
    "verb(chain, x[:, :7], y)": ["reads 20 features", "got shape (8, 7)", "nn.Linear(7, 16)"],
    "verb(images, torch.randn(2, 8, 8, 3), y)": ["reads 3 channels", "(2, 8, 8, 3)", "x.permute(0, 3, 1, 2)"],
    "verb(tokens, x, y)": ["reads indices, got dtype float32", "x.long()"],
    "verb(tokens, torch.full((8,), 9), y)": ["5 indices, and 9 is none of them", "0 to 4"],
    "verb(chain, x, y + 3)": ["3 classes, and 5 is none of them", "0 to 2", "number the classes from 0"],
    "verb(chain, x, y - 1)": ["3 classes, and -1 is none of them"],
    "verb(chain, x, y[:, None])": ["target of shape (8, 1)", "target.squeeze(1)"],
    "verb(chain, x, y[:4])": ["target of shape (4,)", "the targets of the very samples"],
    "verb(chain, x, y.float())": ["class indices", "dtype float32", "target.long()"],
    "verb(chain, x, y.numpy())": ["the target has type ndarray", "torch.as_tensor(target)"],
    "verb(chain, x, None)": ["the target has type None", "third argument"],
    "verb(squares, x, y)": ["the output's shape (8, 3), got (8,)", "nn.CrossEntropyLoss()"],
    "verb(squares, x, torch.randn(8, 1))": ["the output's shape (8, 3), got (8, 1)", "expand_as"],
    "verb(squares, x, torch.randn(4, 3))": ["got (4, 3)", "the very samples"],
    "verb(one, x, torch.randn(8))": ["the output's shape (8, 1), got (8,)", "target.reshape(output.shape)"],
    "verb(chain.with_loss(as_number), x, y)": ["returned an object of type float", "without .item()"],
    "verb(chain.with_loss(nothing), x, y)": ["returned an object of type NoneType", "return"],
    "verb(chain.with_loss(nn.CrossEntropyLoss(reduction='none')), x, y)": ["shape (8,)", "reduction='mean'"],
    "verb(chain.with_loss(cut_off), x, y)": ["does not depend on", "without .detach()"],
    "verb(chain, x, y, Own(state=lambda view: view.state.sum(-1)))": ["Own.state must return", "got shape (", "entry"],
    "verb(chain, x, y, Own(state=lambda view: None))": ["Own.state must return", "NoneType", "with return"],
    "verb(chain, x, y, Own(costate=lambda view: view.pulled[..., :1]))": ["Own.costate must return", "got shape ("],
    "verb(chain, x, y, Own(credit=lambda view: None))": ["Own.credit must return", "NoneType"],
    "verb(chain, x, y, slow, schedule=Elsewhere(9), stop=few)": ["moves site 9, which is not there", "topology.sites"],
    "verb(chain, x, y, slow, schedule=Elsewhere(0), stop=few)": ["moves site 0, which is not there", "the input"],
    "verb(chain, x, y, slow, schedule=Flat(), stop=few)": ["must be a tuple of phases of firings", "yield (("],
}
LEAKED = (
    "mat1",
    "size of tensor",
    "out of bounds",
    "Boolean value",
    "Expected",
    "not subscriptable",
    "has no attribute",
)
PROGRAM = """
import json
import torch
import worldsheet as ws
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from worldsheet.schedules import Firing


class Net(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Own(ws.dynamics.Dynamics):
    def __init__(self, state=None, costate=None, credit=None):
        right = lambda view: view.prediction, lambda view: view.pulled, lambda view: view.costate
        self._laws = [own or other for own, other in zip((state, costate, credit), right)]

    def state(self, view):
        return self._laws[0](view)

    def costate(self, view):
        return self._laws[1](view)

    def credit(self, view):
        return self._laws[2](view)


class Elsewhere(ws.schedules.Schedule):
    once = False

    def __init__(self, site):
        self.site = site

    def ticks(self, topology):
        while True:
            yield ((Firing(self.site, ws.extend.Field.STATE),),)

    def settles_after(self, topology):
        return None


class Flat(Elsewhere):
    def __init__(self):
        pass

    def ticks(self, topology):
        while True:
            yield (Firing(1, ws.extend.Field.STATE),)


def as_number(output, target):
    return F.cross_entropy(output, target).item()


def nothing(output, target):
    F.cross_entropy(output, target)


def cut_off(output, target):
    return F.cross_entropy(output.detach(), target)


loss, slow, few = nn.CrossEntropyLoss(), ws.Dyadic(0.5), ws.Stop(max_ticks=4)
x, y = torch.randn(8, 20), torch.tensor([0, 1, 2, 0, 1, 2, 0, 2])
loader = DataLoader(TensorDataset(x, y), 4)
told = {}
for kind in (nn.Sequential, Net):
    made = lambda outputs=3: kind(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, outputs))
    for verb in (ws.backward, ws.relax):
        for call in CALLS:
            model = made()
            chain, squares, one = ws.Chain(model, loss), ws.Chain(model, nn.MSELoss()), ws.Chain(made(1), nn.MSELoss())
            double = ws.Chain(made().double(), loss)
            images = ws.Chain(kind(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)), loss)
            tokens = ws.Chain(kind(nn.Embedding(5, 4), nn.Linear(4, 3)), loss)
            key = " | ".join((kind.__name__, verb.__name__, call))
            try:
                eval(call)
            except ws.WorldsheetError as error:
                told[key] = [error.problem, error.accepted, error.remedy]
            except Exception as error:
                told[key] = [f"{type(error).__name__}: {error}", "", ""]
            if any(p.grad is not None for p in model.parameters()):
                told[key] = ["some .grad has been touched", "", ""]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    program = f"CALLS = {list(SAID)!r}\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("call", SAID)
def test_a_mistake_is_refused_in_a_sentence_with_the_remedy_for_its_cause(call: str, told: dict[str, Any]) -> None:
    cases = {key: parts for key, parts in told.items() if key.endswith(f" | {call}")}
    assert len(cases) == 4, "refused by both verbs, for both kinds of modules"
    for key, parts in cases.items():
        *problem, remedy = SAID[call]
        text = " ".join(parts)
        assert all(fragment in text for fragment in problem), (key, parts)
        assert remedy in text, (key, parts)
        assert all(parts), (key, "three parts")
        assert "\n" not in text, (key, "each part is one line")
        assert not [leak for leak in LEAKED if leak in text], (key, "an error of torch's or Python's shows through")
