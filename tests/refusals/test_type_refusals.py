"""Arguments of a wrong type are refused by the library itself.

Its annotations are checked while the tests run, and the checker would speak first: so these calls are made in a fresh
interpreter, where nothing is checked but what the library checks.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

CALLS = {
    "ws.Chain('linear', loss)": ["cannot be made from an object of type str", "a list of modules", "list the blocks"],
    "ws.Chain([layer, torch.tanh], loss)": ["layer '1' is of type builtin_function_or_method", "nn.Module", "wrap"],
    "ws.Chain([layer, None], loss)": ["layer '1' is of type NoneType", "nn.Module"],
    "ws.Chain([layer], 'mse')": ["loss must be callable, got an object of type str", "CrossEntropyLoss"],
    "ws.Chain([layer], None)": ["loss must be callable, got an object of type NoneType", "CrossEntropyLoss"],
    "ws.relax(ws.Chain([layer], loss), [[1.0, 2.0]], x)": [
        "input must be a tensor, got an object of type list",
        "torch.as_tensor",
    ],
    "ws.backward(ws.Chain([layer], loss), None, x)": ["input must be a tensor, got an object of type NoneType"],
    "net.step([0.0], torch.zeros(1, 1), 0.01)": [
        "input must be a tensor, got an object of type list",
        "torch.as_tensor",
    ],
    "net.step(torch.zeros(1, 1), 0.5, 0.01)": [
        "target must be a tensor, got an object of type float",
        "torch.as_tensor",
    ],
    "optimal(initial_state=[1.0, 0.0])": ["initial_state must be a tensor, got list", "write torch.tensor("],
    "optimal(steps=40.0)": ["steps must be a whole number, got 40.0", "write steps=int(40.0)"],
    "optimal(control_size=1.5)": ["control_size must be a whole number, got 1.5"],
    "ws.Dyadic(0)": ["Dyadic: rate must be strictly between 0 and 2, got 0"],
}
PROGRAM = """
import json
import torch
import worldsheet as ws

layer, loss, x = torch.nn.Linear(2, 2), torch.nn.MSELoss(), torch.randn(3, 2)


def optimal(**changes):
    own = dict(initial_state=x[0], control_size=1, steps=4, dynamics=lambda x, u, t: -x + u)
    return ws.control.Problem(**{**own, "running_cost": lambda x, u, t: x.square().sum(-1), **changes})


net = ws.streaming.HamiltonianNetwork(ws.streaming.Dense(2), [1], [0])
told = {}
for call in %r:
    try:
        eval(call)
    except Exception as error:
        told[call] = [type(error).__name__, str(error)]
assert ws.Dyadic(1) == ws.Dyadic(1.0)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", PROGRAM % list(CALLS)], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("call", CALLS)
def test_arguments_of_a_wrong_type_are_refused(call: str, told: dict[str, Any]) -> None:
    kind, text = told[call]
    assert kind == "InputError"
    assert text.count("\n  accepted: ") == text.count("\n  remedy: ") == 1
    for fragment in CALLS[call]:
        assert fragment in text
