"""Layers whose derivatives are written out are autograd's layers, and step aside where something listens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import worldsheet as ws
from nets import DOUBLE, Net, Order, assert_gradients, every_order, exact, only, regression

FORMS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 4),
    "no-bias": lambda: nn.Linear(4, 4, bias=False),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "block": lambda: nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 4)), nn.Sigmoid()),
}
INPUTS: dict[str, Callable[[], Tensor]] = {
    "vector": lambda: torch.randn(4, dtype=DOUBLE),
    "one-row": lambda: torch.randn(1, 4, dtype=DOUBLE),
    "sequence": lambda: torch.randn(3, 5, 4, dtype=DOUBLE),
    "grid": lambda: torch.randn(2, 3, 2, 4, dtype=DOUBLE),
    "transposed": lambda: torch.randn(4, 6, dtype=DOUBLE).t(),
    "expanded": lambda: torch.randn(1, 4, dtype=DOUBLE).expand(3, 4),
    "with-zeros": lambda: torch.tensor([[0.0, -1.0, 2.0, 0.0]], dtype=DOUBLE),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", INPUTS)
def test_every_form_takes_every_shape(form: str, shape: str) -> None:
    torch.manual_seed(0)
    x = INPUTS[shape]()
    module = nn.Sequential(FORMS[form](), nn.Linear(4, 4), FORMS[form]()).to(DOUBLE)
    net = Net(module, nn.MSELoss(), x.clone(memory_format=torch.preserve_format).requires_grad_(), torch.randn_like(x))
    sol = ws.relax(net.chain, net.x, net.target)
    assert sol.input_gradient is not None
    assert_gradients(sol.gradients() | {"input": sol.input_gradient}, exact(net), tol=1e-13)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_half_frozen_linear_layers(frozen: str) -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4))).to(DOUBLE))
    net.module.get_parameter(f"0.{frozen}").requires_grad_(False)
    net.module.get_parameter(f"1.1.{frozen}").requires_grad_(False)
    assert_gradients(ws.relax(net.chain, net.x, net.target).gradients(), exact(net))


class Shifted(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 1)


def pruned() -> nn.Module:
    return prune.random_unstructured(nn.Linear(4, 4), "weight", amount=0.5)


def hooked_before() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return layer


def hooked_behind() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_full_backward_hook(lambda module, down, up: (only(down) * 2,) if only(down) is not None else None)
    return layer


def watched_inside() -> nn.Module:
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    block[1].register_forward_hook(lambda module, inputs, output: output + 1)
    return block


def parameter_hook() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight.register_hook(lambda gradient: gradient.clamp(-1e-3, 1e-3))
    return layer


def no_parameter() -> nn.Module:
    layer = nn.Linear(4, 4, dtype=DOUBLE)
    weight = layer.weight.detach() * 2
    del layer.weight
    layer.weight = weight
    return layer


@every_order
@pytest.mark.parametrize(
    "make",
    [
        lambda: Shifted(4, 4),
        pruned,
        lambda: weight_norm(nn.Linear(4, 4)),
        hooked_before,
        hooked_behind,
        watched_inside,
        parameter_hook,
        no_parameter,
    ],
    ids=[
        "subclass",
        "pruned",
        "weight-norm",
        "pre-hook",
        "backward-hook",
        "inner-hook",
        "parameter-hook",
        "no-parameter",
    ],
)
def test_a_layer_that_is_more_than_its_class_is_called(make: Callable[[], nn.Module], order: Order) -> None:
    torch.manual_seed(0)
    net = regression(nn.Sequential(nn.Linear(4, 4), make(), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    net.x.requires_grad_()
    wanted = exact(net)
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert sol.input_gradient is not None
    assert_gradients(sol.gradients() | {"input": sol.input_gradient}, wanted)


def test_a_forward_replaced_on_the_instance_is_called() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    plain = net.module[0].forward
    net.module[0].forward = lambda x: plain(x) * 2
    assert_gradients(ws.relax(net.chain, net.x, net.target).gradients(), exact(net))


def test_a_hook_for_all_modules_sees_every_layer() -> None:
    seen: list[Any] = []
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        ws.backward(net.chain, net.x, net.target)
    finally:
        handle.remove()
    assert [module for module in seen if module in set(net.module)] == list(net.module)


def test_hooks_added_between_calls_are_noticed() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    ws.relax(net.chain, net.x, net.target)
    handle = net.module[1].register_forward_hook(lambda module, inputs, output: output * 3)
    assert_gradients(ws.relax(net.chain, net.x, net.target).gradients(), exact(net))
    handle.remove()
    assert_gradients(ws.relax(net.chain, net.x, net.target).gradients(), exact(net))
