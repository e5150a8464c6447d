"""A step that follows the network: the dense Hessian says what it should be, and training what it is worth."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import worldsheet as ws
from nets import Net, regression, stack
from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.dynamics.spectrum import normalised, power_step, probes
from worldsheet.errors import InputError, NotConvergedWarning, UnstableStepWarning
from worldsheet.problem import linearise
from worldsheet.schedules import Firing, Leapfrog, Schedule, Tick
from worldsheet_lab.data import load

TICKS = ws.Stop(max_ticks=12)
STALE = "residuals ended at .* and grew by .* a tick, as no stable relaxation does; use a smaller"


def slope(net: Net, flat: Tensor, samples: int) -> Tensor:
    """The prediction energy per sample at states laid side by side, output open."""
    layers = [layer.module for layer in net.chain.layers]
    shapes = [state.shape for state in ws.relax(net.chain, net.x, net.target).states[:-1]]
    parts = flat.split([shape.numel() for shape in shapes])
    moved = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    below = [net.x, *moved]
    errors = [(layer(x) - y).square().sum() for layer, x, y in zip(layers, below, moved, strict=False)]
    return 0.5 * torch.stack(errors).sum() + samples * net.loss(layers[-1](below[-1]), net.target)


def curvature(net: Net) -> Tensor:
    """Its Hessian at the forward pass."""
    states = torch.cat([state.flatten() for state in ws.relax(net.chain, net.x, net.target).states[:-1]])
    return torch.autograd.functional.hessian(lambda flat: slope(net, flat, len(net.x)), states)


def grow(module: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)


@pytest.mark.parametrize("depth", [2, 5])
def test_one_product_is_a_step_of_power_iteration_of_the_dense_curvature(depth: int) -> None:
    torch.manual_seed(depth)
    net = regression(stack(depth, activation=nn.ReLU))
    samples = len(net.x)
    states = ws.relax(net.chain, net.x, net.target).states
    with torch.no_grad(), linearise(net.chain, net.x, net.target) as linearised:
        operator = ws.PredictiveCoding().stiffness(linearised)
        assert operator is not None
        vector = normalised(probes(states), samples)
        largest, image = power_step(operator, vector, samples)
    dense = curvature(net) @ torch.cat([part.flatten() for part in vector[:-1]])
    parts = dense.split([part.numel() for part in vector[:-1]])
    sizes = sum(part.reshape(samples, -1).square().sum(1) for part in parts)
    assert isinstance(sizes, Tensor)
    assert largest == pytest.approx(float(sizes.sqrt().max()), rel=1e-9)
    for part, expected in zip(image[:-1], parts, strict=True):
        wanted = expected.reshape(part.shape) / sizes.sqrt().reshape(samples, *[1] * (part.dim() - 1))
        torch.testing.assert_close(part, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [3, 2, 5])
def test_it_follows_weights_that_grow_and_batches_that_change(size: int) -> None:
    """λ_max grows sixfold and more; the step stays near its inverse, below twice which it is stable."""
    torch.manual_seed(3)
    net = regression(stack(5, activation=nn.ReLU))
    calibration = ws.Calibration(ws.PredictiveCoding(), every=2)
    found, wanted = [], []
    for number in range(30):
        x = torch.randn(len(net.x) if number % 2 else size, *net.x.shape[1:], dtype=net.x.dtype)
        now = Net(net.module, net.loss, x, torch.randn(len(x), *net.target.shape[1:], dtype=net.x.dtype))
        calibration.at(net.chain, now.x, now.target)
        assert calibration.step is not None
        found.append(calibration.step)
        wanted.append(1 / float(torch.linalg.eigvalsh(curvature(now))[-1]))
        grow(net.module, 1.06)
    assert calibration.estimates == 1
    assert wanted[0] > 6 * wanted[-1]
    ratios = [one / other for one, other in zip(found, wanted, strict=True)]
    assert min(ratios) > 0.6
    assert max(ratios) < 1.8


def digits() -> Iterator[tuple[Tensor, Tensor]]:
    data, generator = load("digits"), torch.Generator().manual_seed(0)
    while True:
        batch = torch.randint(len(data.train_images), (32,), generator=generator)
        yield data.train_images[batch], data.train_labels[batch]


def convolutions() -> nn.Sequential:
    def site(inputs: int, outputs: int, *more: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), *more)

    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
    pooled = (site(8, 16, nn.MaxPool2d(2)), site(16, 16), site(16, 16, nn.MaxPool2d(2)))
    return nn.Sequential(site(1, 8), *pooled, head, nn.Linear(64, 10))


def trained(chain: ws.Chain, dynamics: ws.PredictiveCoding | ws.Calibration, steps: int) -> tuple[float, int]:
    """Test accuracy, and how many steps were told to be unstable."""
    optimizer, told = torch.optim.Adam(chain.parameters(), lr=3e-3), 0
    for _, (x, target) in zip(range(steps), digits(), strict=False):
        optimizer.zero_grad()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ws.backward(chain, x, target, dynamics, stop=TICKS)
        told += any(each.category is UnstableStepWarning for each in caught)
        optimizer.step()
    data = load("digits")
    assert isinstance(chain.module, nn.Module)
    with torch.no_grad():
        return float((chain.module(data.test_images).argmax(1) == data.test_labels).float().mean()), told


def test_training_that_fails_with_a_step_of_the_first_batch_succeeds_with_one_that_follows() -> None:
    """The right step falls to a third; the old one is told of, the one that follows needs no word and little work."""
    chain = ws.Chain(convolutions(), nn.CrossEntropyLoss())
    x, target = next(digits())
    once = ws.calibrate(chain, x, target, ws.PredictiveCoding())
    assert isinstance(once, ws.PredictiveCoding)
    accuracy, told = trained(chain, once, 80)
    assert accuracy < 0.3
    assert told > 20
    chain = ws.Chain(convolutions(), nn.CrossEntropyLoss())
    calibration = ws.Calibration(ws.PredictiveCoding())
    accuracy, told = trained(chain, calibration, 80)
    assert accuracy > 0.8
    assert told == 0
    full = ws.calibrate(chain, x, target, ws.PredictiveCoding())
    assert isinstance(full, ws.PredictiveCoding)
    assert calibration.step == pytest.approx(full.rate, rel=0.3)


class Operations(TorchDispatchMode):
    """Counts multiplications and additions of matrix products and convolutions, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        price = flop_registry.get(func.overloadpacket)
        self.count += 0 if price is None else price(*args, **(kwargs or {}), out_val=found)
        return found


def operations(call: Callable[[], object]) -> int:
    with Operations() as counted:
        call()
    return counted.count


def test_following_costs_less_than_a_twentieth_of_the_gradients() -> None:
    chain = ws.Chain(convolutions(), nn.CrossEntropyLoss())
    x, target = next(digits())
    calibration = ws.Calibration(ws.PredictiveCoding())
    dynamics = calibration.at(chain, x, target)
    gradient = operations(lambda: ws.backward(chain, x, target, dynamics, stop=TICKS))
    followed = [operations(lambda: calibration.at(chain, x, target)) for _ in range(100)]
    assert calibration.estimates == 1
    assert sum(followed) < 0.05 * 100 * gradient
    assert sum(each > 0 for each in followed) == calibration.products


@pytest.mark.parametrize("traced", [False, True])
def test_a_stale_step_is_given_up_before_its_gradient_is_used(traced: bool) -> None:
    """Gradients, statistics and generator are those of one relaxation with the step that was found in the end."""

    def problem() -> tuple[ws.Chain, nn.Module, Tensor, Tensor]:
        torch.manual_seed(1)
        first = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU())
        module: nn.Module = nn.Sequential(first, nn.Dropout(0.3), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
        x, target = torch.randn(16, 6), torch.randn(16, 3)
        chain = ws.Chain(Wrapped(module) if traced else module, nn.MSELoss())
        return chain, module, x, target

    chain, module, x, target = problem()
    calibration = ws.Calibration(ws.PredictiveCoding(), every=1000)
    calibration.at(chain, x, target)
    grow(module, 3.0)
    torch.manual_seed(2)
    ws.backward(chain, x, target, calibration, stop=TICKS)
    assert calibration.estimates > 1
    drawn, step = torch.rand(1), calibration.step

    twin, other, x, target = problem()
    grow(other, 3.0)
    torch.manual_seed(2)
    ws.backward(twin, x, target, ws.PredictiveCoding(rate=step), stop=TICKS)
    assert torch.equal(drawn, torch.rand(1))
    for (name, one), (_, two) in zip(module.named_parameters(), other.named_parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert torch.equal(one.grad, two.grad), name
    for (name, mine), (_, theirs) in zip(module.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(mine, theirs), name


class Wrapped(nn.Module):
    """A module that is no Sequential, so that its own forward runs."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) * 1.0
        return out


@pytest.mark.parametrize(
    ("dynamics", "factor"),
    [
        (ws.PredictiveCoding(), 1.0),
        (ws.PredictiveCoding(), 3.0),
        (ws.AugmentedLagrangian(), 1.0),
        (ws.AugmentedLagrangian(), 2.3),
    ],
)
def test_a_step_far_too_long_is_told_and_the_right_one_is_not(dynamics: ws.dynamics.Dynamics, factor: float) -> None:
    chain = ws.Chain(convolutions(), nn.CrossEntropyLoss())
    x, target = next(digits())
    right = ws.Calibration(dynamics)
    right.at(chain, x, target)
    assert right.step is not None
    stale = dynamics.with_step(factor * right.step)
    outcome = ws.relax(chain, x, target, stale, stop=TICKS).outcome
    assert outcome.growing == (factor > 1)
    if factor > 1:
        with pytest.warns(UnstableStepWarning, match=STALE):
            ws.backward(chain, x, target, stale, stop=TICKS)
    else:
        ws.backward(chain, x, target, stale, stop=TICKS)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("dynamics", [ws.PredictiveCoding(), ws.AugmentedLagrangian()])
def test_a_right_step_is_not_told_where_the_output_moves_more_than_the_states(
    dynamics: ws.dynamics.Dynamics, stacked: bool
) -> None:
    """An open output follows its prediction: how far is the last layer's doing, and no part of a slope."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(12, 12), nn.Tanh()) for _ in range(2)]
    model = nn.Sequential(*layers, nn.Linear(12, 10))
    grow(model, 4.0)
    chain = ws.Chain(model, nn.CrossEntropyLoss())
    for seed in range(6):
        torch.manual_seed(seed)
        x, target = torch.randn(32, 12), torch.randint(10, (32,))
        outcome = ws.relax(chain, x, target, dynamics, stop=ws.Stop(max_ticks=6), stack=stacked).outcome
        assert not outcome.growing


@final
@dataclass(frozen=True)
class HalfTicks(Schedule):
    """Somebody's own leapfrog: a tick moves one field, the next one the other."""

    first: Field

    def ticks(self, topology: Topology) -> Iterator[Tick]:
        order = (self.first, Field.COSTATE if self.first is Field.STATE else Field.STATE)
        return cycle([(tuple(Firing(site, field) for site in topology.sites),) for field in order])

    def settles_after(self, topology: Topology) -> int | None:
        return None

    @property
    def uniform(self) -> bool:
        return True


@pytest.mark.parametrize("first", list(Field))
@pytest.mark.parametrize("stacked", [True, False])
def test_ticks_that_move_one_field_are_watched_too(first: Field, stacked: bool) -> None:
    torch.manual_seed(0)
    chain = ws.Chain([nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)], nn.CrossEntropyLoss())
    x, target = torch.randn(5, 6), torch.randint(3, (5,))
    for dynamics in (ws.PredictiveCoding(0.1), ws.AugmentedLagrangian(0.1)):
        stop = ws.Stop(max_ticks=24)
        found = ws.relax(chain, x, target, dynamics, schedule=HalfTicks(first), stop=stop, stack=stacked)
        whole = ws.relax(
            chain, x, target, dynamics, schedule=Leapfrog(first), stop=ws.Stop(max_ticks=12), stack=stacked
        )
        assert not found.outcome.growing
        for mine, theirs in zip(found.states, whole.states, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_credit_that_cannot_cross_is_told() -> None:
    """After T ticks credit is T layers below the output, and nothing is below it."""
    torch.manual_seed(0)
    net = regression(stack(6))
    with pytest.warns(NotConvergedWarning, match=r"4 of 12 gradients are zero.* 3 ticks are too few for 6 layers"):
        ws.backward(net.chain, net.x, net.target, ws.PredictiveCoding(0.2), stop=ws.Stop(max_ticks=3))
    sizes = [float(parameter.grad.norm()) for parameter in net.module.parameters() if parameter.grad is not None]
    assert max(sizes[:4]) < 1e-15
    assert min(sizes[4:]) > 1e-5
    net.module.zero_grad()
    ws.backward(net.chain, net.x, net.target, ws.PredictiveCoding(0.2), stop=ws.Stop(max_ticks=6))
    assert all(float(p.grad.norm()) > 1e-9 for p in net.module.parameters() if p.grad is not None)


def test_by_hand_it_is_told_and_backs_off() -> None:
    chain = ws.Chain(convolutions(), nn.CrossEntropyLoss())
    x, target = next(digits())
    calibration = ws.Calibration(ws.PredictiveCoding(), every=1000)
    calibration.at(chain, x, target)
    before = calibration.step
    assert before is not None
    grow(chain.layers[1].module, 4.0)
    outcome = ws.relax(chain, x, target, calibration.at(chain, x, target), stop=TICKS).outcome
    assert outcome.growing
    calibration.tell(outcome)
    after = calibration.at(chain, x, target)
    full = ws.calibrate(chain, x, target, ws.PredictiveCoding())
    assert isinstance(after, ws.PredictiveCoding)
    assert isinstance(full, ws.PredictiveCoding)
    assert after.rate == pytest.approx(min(full.rate or 0, before / 2), rel=1e-6)


@pytest.mark.parametrize(
    ("dynamics", "every", "message"),
    [
        (ws.PredictiveCoding(0.1), 10, "no automatic constant to follow"),
        (ws.PredictiveCoding(), 0, "every must be at least 1, got 0"),
    ],
)
def test_it_refuses_what_cannot_be_followed(dynamics: ws.dynamics.Dynamics, every: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ws.Calibration(dynamics, every)


def test_a_wave_is_refused_with_a_remedy() -> None:
    net = regression(stack(3))
    with pytest.raises(InputError, match=r"other automatic constants than a step.*\n.*\n.*ws\.calibrate"):
        ws.backward(net.chain, net.x, net.target, ws.Calibration(ws.Wave()))
