"""With recompute gradients, masks, statistics and the generator are those of one ordinary pass."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from benchmarks.architectures import GPT, Mixed, ResNet
from benchmarks.memory import peak_bytes
from nets import DOUBLE, assert_gradients, grads


def chain_with_memory() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.4)),
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()),
        nn.Linear(6, 4),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "sequential": (chain_with_memory, (5, 6)),
    "mixed": (Mixed, (4, 2, 6, 6)),
    "resnet": (lambda: ResNet(4, 4, (1, 1)), (4, 3, 8, 8)),
}


class Attentive(nn.Module):
    """Reassigns a buffer and counts its calls, draws from torch and numpy, and holds a list that grows."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 6)
        self.register_buffer("mean", torch.zeros(6))
        self.calls, self.log = 0, [0.0]

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.dropout(self.line(x), 0.3) * (1 + np.random.rand()) + np.random.rand()
        self.mean = 0.9 * self.mean + h.detach().mean(0)
        self.calls += 1
        self.log.append(self.log[-1] + self.calls * np.random.rand())
        return torch.tanh(h - self.mean) * self.log[-1]


class Twice(nn.Module):
    """Calls one such module twice, with another between."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = Attentive(), Attentive(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(self.two(self.one(x)) + np.random.rand()))


def everywhere(part: nn.Module) -> bool:
    return True


@pytest.mark.parametrize("order", [ws.Wavefront(), ws.Sweep()], ids=["wavefront", "sweep"])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_but_the_memory_changes(name: str, order: ws.schedules.Schedule) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    module = make().to(DOUBLE)
    x, target = torch.randn(shape, dtype=DOUBLE), torch.randint(4, (shape[0],))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    chain = ws.Chain(module, nn.CrossEntropyLoss())

    def run(recompute: bool) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Tensor]:
        module.load_state_dict(before)
        module.zero_grad()
        torch.manual_seed(7)
        loss = ws.backward(chain, x, target, schedule=order, recompute=recompute)
        gradients = {key: p.grad.clone() for key, p in module.named_parameters() if p.grad is not None}
        return loss, gradients, {key: b.clone() for key, b in module.named_buffers()}, torch.get_rng_state()

    kept, again = run(False), run(True)
    assert again[0].equal(kept[0])
    assert_gradients(again[1], kept[1], tol=1e-14)
    assert all(again[2][key].equal(buffer) for key, buffer in kept[2].items())
    assert again[3].equal(kept[3])


@pytest.mark.parametrize("blocks", [None, everywhere, Attentive], ids=["default", "everywhere", "class"])
def test_what_modules_remember_and_draw_is_that_of_one_ordinary_pass(blocks: Any) -> None:
    plain = Twice().to(DOUBLE)
    x, target = torch.randn(5, 6, dtype=DOUBLE), torch.randint(4, (5,))

    def run(train: Callable[[nn.Module], Any]) -> tuple[dict[str, Tensor], list[Any]]:
        module = copy.deepcopy(plain)
        torch.manual_seed(7)
        np.random.seed(7)
        for _ in range(2):
            train(module)
        drawn = np.random.get_state(legacy=False)["state"]
        left: list[Any] = [torch.get_rng_state().tolist(), drawn["key"].tolist(), drawn["pos"]]
        for part in (module.one, module.two):
            left += [part.calls, part.log, part.mean.tolist()]
        return grads(module), left

    loss = nn.CrossEntropyLoss()
    wanted = run(lambda module: loss(module(x), target).backward())
    found = run(lambda module: ws.backward(ws.Chain(module, loss, blocks=blocks), x, target, recompute=True))
    assert_gradients(found[0], wanted[0], tol=1e-12)
    assert found[1] == wanted[1]


class Overwriting(nn.Module):
    """Blocks that write into what they are given, which others do not read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(2)
        )
        self.head = nn.Sequential(nn.Hardtanh(inplace=True), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) * 2
        return self.head(x)


@pytest.mark.parametrize("blocks", [everywhere, ("stem", "blocks.*", "head")], ids=["all", "names"])
def test_sites_that_overwrite_their_input_are_refused(blocks: Any) -> None:
    chain = ws.Chain(Overwriting().to(DOUBLE), nn.CrossEntropyLoss(), blocks=blocks)
    x, target = torch.randn(5, 6, dtype=DOUBLE), torch.randint(4, (5,))
    with pytest.raises(ws.errors.LayerError, match="a site writes into its input"):
        ws.backward(chain, x, target, recompute=True)


@pytest.mark.parametrize("blocks", [None, nn.Linear], ids=["default", "layers"])
def test_what_is_overwritten_between_sites_is_kept(blocks: Any) -> None:
    module = Overwriting().to(DOUBLE)
    twin = copy.deepcopy(module)
    x, target = torch.randn(5, 6, dtype=DOUBLE), torch.randint(4, (5,))
    nn.CrossEntropyLoss()(twin(x), target).backward()
    ws.backward(ws.Chain(module, nn.CrossEntropyLoss(), blocks=blocks), x, target, recompute=True)
    wanted = grads(twin)
    assert_gradients(grads(module), wanted)


FORCE = """
import copy, torch, worldsheet as ws
from torch import nn

class Force(nn.Module):
    def __init__(self):
        super().__init__()
        self.energy = nn.Linear(4, 1)

    def forward(self, x):
        (slope,) = torch.autograd.grad(self.energy(x).square().sum(), x, create_graph=True)
        return x - slope

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.force, self.head = nn.Linear(4, 4), Force(), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.force(self.stem(x).exp()))

model, x, target = Model().double(), torch.randn(3, 4).double(), torch.randn(3, 4).double()
twin = copy.deepcopy(model)
nn.MSELoss()(twin(x), target).backward()
chain = ws.Chain(model, nn.MSELoss(), blocks=("force", "force.energy", "head"))
ws.backward(chain, x, target, recompute=True)
print(all(torch.allclose(a.grad, b.grad, rtol=1e-12) for a, b in zip(model.parameters(), twin.parameters())))
"""


def test_derivatives_inside_of_a_site_whose_insides_are_not_kept() -> None:
    """In an interpreter of its own: it is torch's engine that calls the module again, inside of the forward."""
    done = subprocess.run([sys.executable, "-c", FORCE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-2000:]


def test_a_deep_language_model_takes_less_than_half_the_memory() -> None:
    module = GPT(vocabulary=16, context=32, width=32, depth=8, heads=2)
    tokens, target = torch.randint(16, (8, 32)), torch.randint(16, (8, 32))

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), wanted.flatten())

    chain = ws.Chain(module, loss)

    def peak(recompute: bool) -> int:
        module.zero_grad()
        return peak_bytes(lambda: ws.backward(chain, tokens, target, recompute=recompute), torch.device("cpu"))

    assert peak(True) < 0.5 * peak(False)


@pytest.mark.parametrize("options", [{}, {"blocks": nn.Linear}], ids=["path", "sites"])
def test_a_schedule_of_many_moves_is_refused(options: dict[str, Any]) -> None:
    chain = ws.Chain(nn.Sequential(nn.Linear(2, 2)), nn.MSELoss(), **options)
    with pytest.raises(ws.errors.InputError, match="recompute=True does not apply to Synchronous"):
        ws.backward(chain, torch.randn(3, 2), torch.randn(3, 2), schedule=ws.Synchronous(), recompute=True)
