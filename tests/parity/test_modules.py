"""Modules stay the user's: hooks run, formats and names are kept, compiled and autocast layers work."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, Net, Order, Residual, assert_gradients, every_order, exact, grads, laid_out, regression


@every_order
def test_forward_hooks_run_and_count(order: Order) -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    net.module[1].register_forward_hook(lambda module, inputs, output: output * 3)
    net.module[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert_gradients(sol.gradients(), exact(net))
    torch.testing.assert_close(sol.states[1], 3 * sol.states[0].tanh(), rtol=1e-14, atol=0)


def test_on_the_wavefront_a_hook_runs_once_each_way() -> None:
    calls: list[str] = []
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    net.module[1].register_forward_hook(lambda *_: calls.append("up"))
    net.module[1].register_full_backward_hook(lambda *_: calls.append("down"))
    ws.backward(net.chain, net.x, net.target)
    assert calls == ["up", "down"]


def test_parameter_hooks_change_the_gradient_as_with_autograd() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).to(DOUBLE))
    net.module.get_parameter("0.weight").register_hook(lambda gradient: -2 * gradient)
    assert_gradients(ws.relax(net.chain, net.x, net.target).gradients(), exact(net))


def test_modules_and_their_names_are_untouched() -> None:
    net = regression(nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4), nn.Tanh())).to(DOUBLE))
    kept = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
    names = [name for name, _ in net.module.named_parameters()]
    sol = ws.relax(net.chain, net.x, net.target, schedule=ws.Synchronous())
    assert [name for name, _ in net.chain.named_parameters()] == names == list(sol.gradients())
    assert [layer.module for layer in net.chain.layers] == list(net.module)
    after = net.module.state_dict()
    assert after.keys() == kept.keys()
    assert all(after[name].equal(kept[name]) for name in kept)
    assert all(p.grad is None for p in net.module.parameters())


def test_a_list_names_its_layers_by_index() -> None:
    layers = [nn.Linear(4, 4, dtype=DOUBLE), nn.Sequential(nn.Tanh(), nn.Linear(4, 4, dtype=DOUBLE))]
    wanted = ["0.weight", "0.bias", "1.1.weight", "1.1.bias"]
    for given in (layers, tuple(layers), nn.ModuleList(layers)):
        assert [name for name, _ in ws.Chain(given, nn.MSELoss()).named_parameters()] == wanted


def test_a_layer_called_loss_keeps_its_gradient() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), dtype=DOUBLE))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return self.weight * (output - target).square().mean()

    module = nn.Sequential()
    module.add_module("loss", nn.Linear(4, 4, dtype=DOUBLE))
    net = regression(module)
    chain = ws.Chain(module, Scaled())
    names = [name for name, _ in chain.named_parameters()]
    assert len(set(names)) == len(names)
    assert len(ws.relax(chain, net.x, net.target).gradients()) == 3


@every_order
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolutions_in_either_memory_format(order: Order, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).to(DOUBLE)
    laid_out(module, memory_format)
    x = torch.randn(2, 3, 8, 8, dtype=DOUBLE).to(memory_format=memory_format)
    net = Net(module, nn.CrossEntropyLoss(label_smoothing=0.1), x, torch.tensor([1, 4]))
    sol = ws.relax(net.chain, net.x, net.target, schedule=order())
    assert_gradients(sol.gradients(), exact(net))
    assert sol.states[0].is_contiguous(memory_format=memory_format)


@every_order
def test_a_transformer_block_is_a_site(order: Order) -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    net = Net(
        nn.Sequential(nn.Embedding(11, 8), block, nn.Flatten(), nn.Linear(40, 3)).to(DOUBLE),
        nn.CrossEntropyLoss(),
        torch.randint(11, (3, 5)),
        torch.tensor([0, 2, 1]),
    )
    torch.manual_seed(4)
    wanted = exact(net)
    torch.manual_seed(4)
    assert_gradients(ws.relax(net.chain, net.x, net.target, schedule=order()).gradients(), wanted)


@every_order
def test_autocast_is_autograds_autocast(order: Order) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))
    net = Net(module, nn.MSELoss(), torch.randn(5, 4), torch.randn(5, 4))
    with torch.autocast("cpu", torch.bfloat16):
        wanted = exact(net)
        ws.backward(net.chain, net.x, net.target, schedule=order())
    found = grads(module)
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    assert_gradients(found, wanted, tol=1e-6)


@pytest.mark.parametrize("order", [ws.Wavefront, ws.Synchronous])
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_block_is_a_site(order: Order) -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).to(DOUBLE)
    plain = regression(nn.Sequential(block, nn.Linear(4, 4, dtype=DOUBLE)))
    faster: Any = torch.compile(block, backend="aot_eager")
    compiled = regression(nn.Sequential(faster, plain.module[1]))
    sol = ws.relax(compiled.chain, compiled.x, compiled.target, schedule=order())
    names = {name.replace("_orig_mod.", ""): gradient for name, gradient in sol.gradients().items()}
    assert_gradients(names, exact(plain))


def test_a_model_may_be_changed_between_calls() -> None:
    inner = nn.Sequential(nn.Tanh(), nn.Linear(4, 4))
    net = regression(nn.Sequential(nn.Linear(4, 4), inner).to(DOUBLE))
    ws.relax(net.chain, net.x, net.target)
    inner[1] = nn.Linear(4, 4, bias=False, dtype=DOUBLE)
    net.module[0].bias.requires_grad_(False)
    assert_gradients(ws.relax(net.chain, net.x, net.target).gradients(), exact(net))
