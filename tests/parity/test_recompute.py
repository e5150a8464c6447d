"""With recompute gradients, masks, statistics and the generator are those of one ordinary pass."""

import pytest
import torch
from torch import Tensor, nn

import worldsheet as ws
from nets import DOUBLE, assert_gradients
from worldsheet.app.architectures import GPT, Mixed, ResNet
from worldsheet.app.bench.memory import peak_bytes


def chain_with_memory() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.4)),
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()),
        nn.Linear(6, 4),
    )


MODELS = {
    "sequential": (chain_with_memory, (5, 6)),
    "mixed": (Mixed, (4, 2, 6, 6)),
    "resnet": (lambda: ResNet(4, 4, (1, 1)), (4, 3, 8, 8)),
}


@pytest.mark.parametrize("order", [ws.Wavefront(), ws.Sweep()], ids=["wavefront", "sweep"])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_but_the_memory_changes(name: str, order: ws.Schedule) -> None:
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


def test_a_deep_language_model_takes_less_than_half_the_memory() -> None:
    module = GPT(vocabulary=16, context=32, width=32, depth=8, heads=2)
    tokens, target = torch.randint(16, (8, 32)), torch.randint(16, (8, 32))

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.flatten(0, 1), wanted.flatten())

    chain = ws.Chain(module, loss)
    chain.at(tokens)

    def peak(recompute: bool) -> int:
        module.zero_grad()
        return peak_bytes(lambda: ws.backward(chain, tokens, target, recompute=recompute), torch.device("cpu"))

    assert peak(True) < 0.5 * peak(False)


def test_a_schedule_of_many_moves_is_refused() -> None:
    chain = ws.Chain([nn.Linear(2, 2)], nn.MSELoss())
    with pytest.raises(ws.InputError, match="recompute=True with Synchronous"):
        ws.backward(chain, torch.randn(3, 2), torch.randn(3, 2), schedule=ws.Synchronous(), recompute=True)
