"""Compiled parts of a module are sites without an inside, wherever they stand; gradients are autograd's."""

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, assert_gradients

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute:UserWarning")


class Block(nn.Module):
    """A residual block of two weight layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.tanh(self.a(x)))


def bend(z: Tensor) -> Tensor:
    return torch.sin(z) * z + z.exp()


class Model(nn.Module):
    """Two blocks and a head, something of which is compiled."""

    def __init__(self, compiled: str) -> None:
        super().__init__()
        self.one, self.two, self.head = Block(), Block(), nn.Linear(4, 3)
        self.bend = torch.compile(bend, backend="aot_eager") if compiled == "function" else bend
        self.call = torch.compile(self._call, backend="aot_eager") if compiled == "closure" else self._call
        if compiled == "submodule":
            self.one.compile(backend="aot_eager")

    def _call(self, x: Tensor) -> Tensor:
        return 0.5 * self.one(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.bend(self.call(x))))


@pytest.mark.parametrize("every", [False, True], ids=["default", "every"])
@pytest.mark.parametrize("compiled", ["submodule", "function", "closure", "root"])
def test_gradients_are_those_of_the_model_as_it_was_written(compiled: str, every: bool) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    plain = Model("nothing").to(DOUBLE)
    model = Model(compiled).to(DOUBLE)
    model.load_state_dict(plain.state_dict())
    if compiled == "root":
        model.compile(backend="aot_eager")
    x, target = torch.randn(5, 4, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    nn.MSELoss()(plain(x), target).backward()
    wanted = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    chain = ws.Chain(model, nn.MSELoss(), blocks=(lambda _: True) if every else None)
    for _ in range(3):  # the code is made in the first call and used again in the others
        model.zero_grad()
        ws.backward(chain, x, target)
        assert_gradients({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, wanted)
    for schedule in (None, ws.Synchronous(), ws.Leapfrog()):
        assert_gradients(ws.relax(chain, x, target, schedule=schedule).gradients(), wanted)
    if compiled == "root":
        assert len(chain.sites(x)) == 1
