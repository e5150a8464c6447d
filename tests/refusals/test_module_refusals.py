"""What a module or its loss must not do to be cut is refused with where it happened and the way out."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import worldsheet as ws
from nets import DOUBLE, assert_gradients, assert_tells, only

MSE = nn.MSELoss()

Verb = Callable[..., Any]

VERBS: dict[str, Verb] = {
    "backward": ws.backward,
    "relax": ws.relax,
    "relax, all sites": partial(ws.relax, schedule=ws.Synchronous()),
    "unlocked": lambda chain, x, target: ws.unlocked(
        chain, x, target, torch.optim.SGD(chain.module.parameters(), lr=0.1)
    ),
}

every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


def everywhere(part: nn.Module) -> bool:
    """Makes a site of every submodule."""
    return True


def data(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE)


class Pair(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))

    def between(self, h: Tensor) -> Tensor:
        return torch.tanh(h)


def filled(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_learns(module: nn.Module, blocks: Any = None, loss: Callable[[Any, Any], Tensor] = MSE) -> None:
    """As under `loss.backward()`."""
    x, target = data(3, 4), data(3, 4)
    twin = copy.deepcopy(module)
    value = loss(twin(x), target)
    value.backward()
    chain = ws.Chain(module, loss, blocks=blocks)
    torch.testing.assert_close(ws.backward(chain, x, target), value.detach(), rtol=1e-12, atol=0)
    assert_gradients(filled(module), filled(twin))


def refused(module: nn.Module, verb: Verb, kind: Any, *fragments: str, loss: Any = MSE, blocks: Any = None) -> None:
    """The error says so, and the module, its `.grad` and its calls are what they were."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    contents = [set(vars(part)) for part in module.modules()]
    with pytest.raises(kind) as refusal:
        verb(ws.Chain(module, loss, blocks=blocks), data(3, 4), data(3, 4))
    assert_tells(refusal.value, *fragments)
    assert all(value.equal(before[key]) for key, value in module.state_dict().items())
    assert all(p.grad is not None and p.grad.equal(torch.ones_like(p)) for p in module.parameters())
    for part, own in zip(module.modules(), contents, strict=True):
        assert not {"_call_impl", "_compiled_call_impl"} & (set(vars(part)) - own)


# What a chain is made of.


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        (nn.Conv2d, "Conv2d"),
        ((nn.Conv1d, nn.Conv2d), "Conv1d"),
        ("layers.*", "'layers.*'"),
        (("a.*", "c"), "'a.*'"),
        (lambda part: False, "lambda"),
        ("A", "'A'"),
        ("*.*", "'*.*'"),
        (["a", "c"], "'c'"),
        ((nn.Linear, "c"), "'c'"),
    ],
    ids=["class", "classes", "names", "several names", "function", "case", "level", "one name", "a class and a name"],
)
def test_blocks_that_match_nothing(blocks: Any, told: str) -> None:
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.Chain(Pair(), MSE, blocks=blocks)
    assert_tells(refusal.value, told, "no submodule of Pair matches blocks=", "'a' (Linear), 'b' (Linear)")


def test_a_module_is_chosen_by_name_or_class() -> None:
    module = Pair()
    with pytest.raises(ws.errors.InputError) as refusal:
        ws.Chain(module, MSE, blocks=module.a)
    assert_tells(
        refusal.value,
        "blocks must be classes, names or a function, got Linear",
        "or a list of classes and names",
        "['stem', 'layers.*']",
    )


def test_blocks_that_match_nothing_any_more() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner: nn.Module = Pair()
            self.head = nn.Linear(4, 4, dtype=DOUBLE)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x))

    module = Holding()
    chain = ws.Chain(module, MSE, blocks=Pair)
    ws.backward(chain, data(3, 4), data(3, 4))
    module.inner = nn.Identity()
    with pytest.raises(ws.errors.InputError, match="no submodule of Holding matches blocks="):
        ws.backward(chain, data(3, 4), data(3, 4))


MODEL = """
import json
import torch
import worldsheet as ws

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x)

told = []
for model in (Model(), torch.nn.Sequential(torch.nn.Linear(4, 4))):
    port = torch.optim.SGD(model.parameters(), lr=0.1)
    for name, more in (("backward", ()), ("relax", ()), ("unlocked", (port,))):
        try:
            getattr(ws, name)(model, torch.randn(3, 4), torch.randn(3, 4), *more)
        except ws.errors.InputError as error:
            told.append([name, type(model).__name__, str(error), error.remedy])
    assert all(p.grad is None for p in model.parameters())
print(json.dumps(told))
"""


def test_a_model_in_the_place_of_a_chain() -> None:
    """In an interpreter of its own: the types that are checked while tests run would speak first."""
    done = subprocess.run([sys.executable, "-c", MODEL], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert len(told) == 6
    for name, kind, text, remedy in told:
        assert f"{name} needs a Chain, got an object of type {kind}" in text
        assert "accepted: a ws.Chain of a model and its loss" in text
        assert "chain = ws.Chain(model, loss)" in remedy
        assert f"ws.{name}(chain, x, target" in remedy


def test_a_module_of_any_kind_has_no_layers_of_its_own() -> None:
    chain = ws.Chain(Pair(), MSE)
    assert not chain.is_path
    for look in (lambda: chain.layers, lambda: len(chain), lambda: chain.topology):
        with pytest.raises(ws.errors.InputError) as refusal:
            look()
        assert_tells(refusal.value, "a chain of Pair has no list of layers", "nn.Sequential", "chain.sites(x)")
    assert len(chain.sites(data(3, 4))) == 2
    assert repr(chain).splitlines()[1:3] == ["  a (Linear)", "  b (Linear)"]
    assert [name for name, _ in chain.named_parameters()] == ["a.weight", "a.bias", "b.weight", "b.bias"]


@every_verb
def test_inference_mode(verb: Verb) -> None:
    class Counting(Pair):
        def forward(self, x: Tensor, times: int = 1) -> Tensor:
            return super().forward(x) * times

    chain = ws.Chain(Counting(), MSE)
    target = data(3, 4)
    for given in (data(3, 4), (data(3, 4), 2), {"x": data(3, 4)}):
        with torch.inference_mode(), pytest.raises(ws.errors.InputError) as refusal:
            verb(chain, given, target)
        assert_tells(refusal.value, "inference_mode", "no_grad", "clone the input outside")
    with torch.inference_mode():
        made = data(3, 4)
    for given in (made, (made, 2), {"x": made}):
        with pytest.raises(ws.errors.InputError, match="its input was made there"):
            verb(chain, given, target)


def test_inference_mode_around_a_module_without_tensors_in_its_input() -> None:
    class Generating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, size: int) -> Tensor:
            return self.pair(torch.ones(size, 4, dtype=DOUBLE))

    module = Generating()
    chain = ws.Chain(module, MSE)
    with torch.inference_mode(), pytest.raises(ws.errors.InputError, match="inference_mode"):
        ws.backward(chain, (3,), torch.ones(3, 4, dtype=DOUBLE))
    twin = copy.deepcopy(module)
    MSE(twin(3), torch.ones(3, 4, dtype=DOUBLE)).backward()
    ws.backward(chain, (3,), torch.ones(3, 4, dtype=DOUBLE))
    assert_gradients(filled(module), filled(twin))


@every_verb
def test_an_input_inside_a_computation(verb: Verb) -> None:
    chain = ws.Chain(Pair(), MSE)
    x = data(3, 4).requires_grad_() * 2
    for given in (x, (x,), {"x": x}):
        with pytest.raises(ws.errors.InputError) as refusal:
            verb(chain, given, data(3, 4))
        assert_tells(refusal.value, "the output of another computation", "a leaf tensor", "x.detach()")


@every_verb
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(verb: Verb, bad: float) -> None:
    module = Pair()
    module.b.weight.data[1, 2] = bad
    with pytest.raises(ws.errors.InputError) as refusal:
        verb(ws.Chain(module, MSE), {"x": data(3, 4)}, data(3, 4))
    assert_tells(refusal.value, "parameter b.weight is not finite: 1 of 16 entries")
    x = data(3, 4)
    x[0, 0] = bad
    with pytest.raises(ws.errors.InputError) as refusal:
        verb(ws.Chain(Pair(), MSE), {"x": x}, data(3, 4))
    assert_tells(refusal.value, "the input is not finite: 1 of 12 entries")


def test_there_is_nothing_to_compile() -> None:
    with pytest.raises(ws.errors.InputError):
        ws.relax(ws.Chain(Pair(), MSE), data(3, 4), data(3, 4), schedule=ws.Synchronous(), compile=True)


# Losses.


@every_verb
@pytest.mark.parametrize(
    ("loss", "fragments"),
    [
        (lambda o, t: MSE(o.detach(), t), ["does not depend on anything", ".detach()"]),
        (lambda o, t: MSE(o, t).item(), ["returned an object of type float, not a scalar"]),
        (lambda o, t: torch.tensor(MSE(o, t).item()), ["does not depend on anything", ".item()"]),
        (lambda o, t: (o.argmax(-1) == 0).double().mean(), ["does not depend on anything", "argmax"]),
        (lambda o, t: (o - t).square(), ["returned a tensor of shape (3, 4), not a scalar", "reduction='mean'"]),
        (lambda o, t: None, ["returned an object of type NoneType"]),
        (lambda o, t: F.cross_entropy(o, t.long().argmax(1).double()), ["failed on output (3, 4) float64", "target"]),
        (lambda o, t: MSE(o[:, :2], t), ["failed on output (3, 4) float64"]),
    ],
    ids=["detach", "item", "tensor of item", "argmax", "shape", "None", "dtype", "fails"],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_losses_that_cannot_be_used(loss: Any, fragments: list[str], verb: Verb) -> None:
    refused(Pair(), verb, ws.errors.LayerError, "loss <lambda>", *fragments, loss=loss)


def test_a_loss_that_reads_only_parameters_has_nothing_to_relax() -> None:
    def penalty(module: nn.Module) -> Callable[[Any, Any], Tensor]:
        return lambda output, target: torch.stack([p.square().sum() for p in module.parameters()]).sum()

    module, twin = Pair(), Pair()
    twin.load_state_dict(module.state_dict())
    chain = ws.Chain(module, penalty(module))
    with pytest.raises(ws.errors.LayerError) as refusal:
        ws.relax(chain, data(3, 4), None)
    assert_tells(refusal.value, "the loss does not depend on what any site returned", "compute it from the output")
    penalty(twin)(None, None).backward()
    ws.backward(chain, data(3, 4), None)
    assert_gradients(filled(module), filled(twin))


@every_verb
def test_a_module_without_anything_to_train(verb: Verb) -> None:
    module = Pair().requires_grad_(False)
    with pytest.raises((ws.errors.LayerError, ws.errors.InputError)) as refusal:
        verb(ws.Chain(module, MSE), data(3, 4), data(3, 4))
    assert refusal.value.remedy


# Forwards that fail.


class Misfitting(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 5), nn.Linear(4, 4)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.a(x)) + x


class Sizes(Pair):
    def between(self, h: Tensor) -> Tensor:
        return torch.matmul(h, h)


class Raising(Pair):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("planted")


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() < 1e-3:
            raise ValueError("planted: all but nothing")
        return torch.sigmoid(x)


class Below(Pair):
    """Fails on states from which relaxations start, though not in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.picky = Picky()

    def between(self, h: Tensor) -> Tensor:
        return self.picky(h)


@every_verb
@pytest.mark.parametrize(
    ("make", "blocks", "fragments"),
    [
        (Misfitting, None, ["'inner.1' (Linear) of Misfitting reads", "got shape (3, 5)"]),
        (Misfitting, everywhere, ["'inner.1' (Linear) of Misfitting reads"]),
        (Misfitting, "inner", ["Misfitting failed in 'inner'"]),
        (Sizes, None, ["Sizes failed on (3, 4) float64"]),
        (Raising, None, ["Raising failed on (3, 4) float64: planted", "a tuple of arguments or a dict"]),
    ],
    ids=["default", "everywhere", "chosen", "outside", "root"],
)
def test_a_submodule_that_fails_is_named(make: Any, blocks: Any, fragments: list[str], verb: Verb) -> None:
    refused(make(), verb, ws.errors.LayerError, *fragments, blocks=blocks)


def test_a_submodule_that_fails_later_is_named() -> None:
    refused(Below(), VERBS["relax, all sites"], ws.errors.LayerError, "failed in 'picky'", "planted", blocks=everywhere)
    assert_learns(Below(), everywhere)


@pytest.mark.parametrize("verb", [ws.backward, ws.relax])
@pytest.mark.parametrize(
    ("x", "told"),
    [
        ((1, 2), "takes 2 positional arguments but 3 were given"),
        ({"y": torch.zeros(3, 4)}, "unexpected keyword argument 'y'"),
        ({}, "missing 1 required positional argument"),
    ],
)
def test_an_input_on_which_the_module_fails(x: Any, told: str, verb: Verb) -> None:
    with pytest.raises(ws.errors.LayerError) as refusal:
        verb(ws.Chain(Pair(), MSE), x, data(3, 4))
    assert_tells(refusal.value, told, "a tuple of arguments or a dict of arguments by name", "must work first")
    with pytest.raises(ws.errors.LayerError, match="Pair failed"):
        ws.Chain(Pair(), MSE).sites(x)


@pytest.mark.parametrize("verb", [ws.backward, ws.relax])
@pytest.mark.parametrize(
    ("x", "told", "remedy"),
    [
        ("text", "'a' (Linear) of Pair needs a tensor, got type str", "torch.as_tensor(x)"),
        (
            torch.zeros(3, 5).double(),
            "'a' (Linear) of Pair reads 4 features in the last dimension, got shape (3, 5)",
            "(5, 4)",
        ),
    ],
)
def test_a_submodule_that_fails_for_a_usual_reason_says_it(x: Any, told: str, remedy: str, verb: Verb) -> None:
    with pytest.raises(ws.errors.LayerError) as refusal:
        verb(ws.Chain(Pair(), MSE), x, data(3, 4))
    assert_tells(refusal.value, told, remedy)


# Derivatives that would cross sites.


class Penalised(Pair):
    """A gradient penalty that the forward computes through both layers."""

    def forward(self, x: Tensor) -> Tensor:
        output = self.b(torch.tanh(self.a(x)))
        (slope,) = torch.autograd.grad(output.sum(), self.a.weight, create_graph=True)
        return output + slope.norm()


class Restless(Pair):
    """Calls backward in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        output = self.b(torch.tanh(self.a(x)))
        output.sum().backward(retain_graph=True)
        return output


@pytest.mark.parametrize("verb", [ws.backward, ws.relax])
@pytest.mark.parametrize("make", [Penalised, Restless])
def test_derivatives_through_several_sites_in_the_forward(make: type[nn.Module], verb: Verb) -> None:
    refused(
        make(), verb, ws.errors.LayerError, "derivatives through more than one site", "blocks=", "Chain([model], loss)"
    )


@pytest.mark.parametrize("verb", [ws.backward, ws.relax])
def test_derivatives_through_several_sites_in_the_loss(verb: Verb) -> None:
    module = Pair()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        (slope,) = torch.autograd.grad(output.sum(), module.a.weight, create_graph=True)
        return MSE(output, target) + slope.norm()

    refused(module, verb, ws.errors.LayerError, "derivatives through more than one site", loss=loss)


def test_the_ways_out_of_derivatives_through_several_sites_work() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Penalised(), nn.Linear(4, 4, dtype=DOUBLE)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x))

    assert_learns(Outer(), Penalised)
    module, twin, x, target = Penalised(), Penalised(), data(3, 4), data(3, 4)
    twin.load_state_dict(module.state_dict())
    MSE(twin(x), target).backward()
    ws.backward(ws.Chain([module], MSE), x, target)
    assert_gradients(filled(module), filled(twin))


# Memory that two hold.


class Keeping(nn.Module):
    """Holds on to what it returns."""

    def __init__(self, *, copies: bool = False) -> None:
        super().__init__()
        self.line, self.copies = nn.Linear(4, 4), copies

    def forward(self, x: Tensor) -> Tensor:
        self.h = self.line(x)
        return self.h.clone() if self.copies else self.h


class Writing(nn.Module):
    """Writes into what such a module has returned."""

    def __init__(self, write: Callable[[Tensor], Any], *, copies: bool = False) -> None:
        super().__init__()
        self.keeping, self.head, self.write = Keeping(copies=copies), nn.Linear(4, 4), write
        self.to(DOUBLE)

    def forward(self, x: Tensor) -> Tensor:
        h = self.keeping(x)
        self.write(h)
        return self.head(h.tanh()) + self.keeping.h.sigmoid()


def assigned(h: Tensor) -> None:
    h[:, 0] = h[:, 1] * 3


def through_a_view(h: Tensor) -> None:
    h[:, :2].mul_(2)


WRITES: dict[str, Callable[[Tensor], Any]] = {
    "mul_": lambda h: h.mul_(2),
    "assigned": assigned,
    "through a view": through_a_view,
    "relu": lambda h: F.relu(h, inplace=True),
    "relu_": torch.relu_,
    "a module": nn.ReLU(inplace=True),
}


@pytest.mark.parametrize("verb", [ws.backward, ws.relax])
@pytest.mark.parametrize("name", WRITES)
def test_writing_into_memory_that_a_site_still_holds(name: str, verb: Verb) -> None:
    module = Writing(WRITES[name])
    refused(module, verb, ws.errors.LayerError, "memory that a site has returned", ".clone()", "blocks=")
    assert_learns(Writing(WRITES[name], copies=True))
    assert_learns(Writing(WRITES[name], copies=True), everywhere)


def test_writing_into_memory_that_one_block_alone_holds() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = Writing(torch.relu_), nn.Linear(4, 4, dtype=DOUBLE)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x))

    assert_learns(Outer(), Writing)
    assert_learns(Outer(), ("inner", "head"))


class Couple(nn.Module):
    """Two results in one memory."""

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        y = h * 1
        return y, y.view(-1)


class Column(nn.Module):
    """A view of its input."""

    def forward(self, h: Tensor) -> Tensor:
        return h[:, 1]


class Viewing(nn.Module):
    """Writes into memory that two sites have returned: one of its tensors shows what is written into the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.couple, self.column, self.flatten = Couple(), Column(), nn.Flatten()
        self.to(DOUBLE)


class TheFirst(Viewing):
    def forward(self, x: Tensor) -> Tensor:
        y, flat = self.couple(self.a(x))
        y.mul_(2)
        return self.b(y) + flat.sum()


class TheView(Viewing):
    def forward(self, x: Tensor) -> Tensor:
        y, flat = self.couple(self.a(x))
        flat.mul_(2)
        return self.b(y)


class ThePart(Viewing):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.column(h).mul_(3)
        return self.b(h)


class TheWhole(Viewing):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        column = self.column(h)
        h[:, 1] = 0.5 * h[:, 0]
        return self.b(h) * column.unsqueeze(1)


class TheData(Viewing):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.flatten(h.view(-1, 2, 2)).detach().mul_(2)
        return self.b(h)


@pytest.mark.parametrize("verb", [ws.backward, VERBS["relax, all sites"]], ids=["backward", "relax"])
@pytest.mark.parametrize("make", [TheFirst, TheView, ThePart, TheWhole, TheData])
def test_writing_into_memory_that_two_results_share(make: type[nn.Module], verb: Verb) -> None:
    refused(make(), verb, ws.errors.LayerError, "memory that a site has returned", ".clone()", blocks=everywhere)
    assert_learns(make(), nn.Linear)


@pytest.mark.parametrize("verb", [ws.backward, ws.relax])
def test_writing_into_memory_that_a_hook_holds(verb: Verb) -> None:
    class Hooked(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.caught: list[Tensor] = []
            self.a.register_forward_hook(lambda own, inputs, output: self.caught.append(output))

        def between(self, h: Tensor) -> Tensor:
            h.mul_(2)
            return h.tanh() + self.caught.pop()

    refused(Hooked(), verb, ws.errors.LayerError, "memory that a site has returned", "a hook, holds it too")


# Hooks on credits that several sites have parts of.


class Listening(nn.Module):
    """A hook on a tensor that two sites read, outside of both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4, dtype=DOUBLE) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).exp()
        h.register_hook(torch.tanh)
        return self.b(h) * self.c(h)


class Retaining(Listening):
    """Asks for the derivative by such a tensor to be kept."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).exp()
        h.retain_grad()
        return self.b(h) * self.c(h)


class Splitting(nn.Module):
    """Two sites inside read its input."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.c = (nn.Linear(4, 4, dtype=DOUBLE) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(x) * self.c(x)


class Watched(nn.Module):
    """A hook on a module that is no site itself: the gradient of its input has parts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.inner = nn.Linear(4, 4, dtype=DOUBLE), Splitting()
        self.inner.register_full_backward_hook(lambda own, inputs, outputs: (only(inputs).tanh(),))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.a(x).exp())


@pytest.mark.parametrize("make", [Listening, Retaining])
def test_a_hook_on_a_tensor_outside_of_sites_that_several_read(make: type[nn.Module]) -> None:
    refused(
        make(), ws.backward, ws.errors.LayerError, "a hook is on a tensor outside of all sites that several sites read"
    )


def test_a_backward_hook_on_a_module_whose_input_several_sites_read() -> None:
    """Each would call it with its part, and a hook that is not linear, or only looks, would be wrong in silence."""
    refused(Watched(), ws.backward, ws.errors.LayerError, "hook", "blocks=", blocks=nn.Linear)
    assert_learns(Watched(), Splitting)


def test_a_hook_on_a_tensor_that_one_site_reads() -> None:
    class Once(Pair):
        def between(self, h: Tensor) -> Tensor:
            h = h.exp()
            h.register_hook(torch.tanh)
            return h.sin()

    assert_learns(Once())
    assert_learns(Once(), everywhere)


def test_a_hook_on_several_gradients_together() -> None:
    """Torch counts them within one pass of its engine, and there is one for each site."""

    class Together(Pair):
        def forward(self, x: Tensor) -> Tensor:
            low = self.a(x)
            high = self.b(torch.tanh(low))
            torch.autograd.graph.register_multi_grad_hook((low, high), lambda gradients: None)
            return high + low

    refused(Together(), ws.backward, ws.errors.LayerError, "hook", "blocks=")


# What a path has no place for.


class Leaving(nn.Module):
    """Leaves a term of the loss behind."""

    def __init__(self, term: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.shift, self.term = nn.Parameter(torch.ones(4)), term

    def forward(self, x: Tensor) -> Tensor:
        h = x + self.shift
        self.aux = self.term(h)
        return h


@pytest.mark.parametrize("options", [{}, {"recompute": True}, {"schedule": ws.Synchronous()}, {"schedule": ws.Sweep()}])
@pytest.mark.parametrize("term", [torch.sum, lambda h: h.square().mean()], ids=["linear", "square"])
def test_a_loss_that_reads_what_a_layer_of_a_path_has_left_behind(term: Any, options: dict[str, Any]) -> None:
    """Layers of a path are evaluated apart: nothing would carry such a term to the layers below."""
    module = nn.Sequential(nn.Linear(4, 4), Leaving(term), nn.Linear(4, 4)).to(DOUBLE)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return MSE(output, target) + module[1].aux

    def train(chain: ws.Chain, x: Tensor, target: Tensor) -> None:
        ws.backward(chain, x, target, **options)

    refused(module, train, ws.errors.LayerError, "blocks=", loss=loss)
    module.zero_grad()
    x, target = data(3, 4), data(3, 4)
    loss(module(x), target).backward()
    wanted = filled(module)
    module.zero_grad()
    ws.backward(ws.Chain(module, loss, blocks="*"), x, target)
    assert_gradients(filled(module), wanted)


# Dynamics and ways that only a path has.


@pytest.mark.parametrize("blocks", [None, everywhere])
def test_a_proximal_step_of_the_cost(blocks: Any) -> None:
    module = Pair()
    chain = ws.Chain(module, MSE, blocks=blocks)
    x, target = data(3, 4), data(3, 4)
    with pytest.raises(ws.errors.RelaxationError) as refusal:
        ws.relax(chain, x, target, ws.Wave(output=ws.dynamics.Output.PROXIMAL))
    assert_tells(refusal.value, "has no proximal step", "Output.EXPLICIT", "nn.Sequential")
    sol = ws.relax(chain, x, target, ws.Wave(), stop=ws.Stop(tol=1e-11, max_ticks=4000))
    twin = copy.deepcopy(module)
    MSE(twin(x), target).backward()
    assert_gradients(sol.gradients(), filled(twin), tol=1e-8)


class Choosing(nn.Module):
    """Calls another module where its states are near zero, as at the start of a relaxation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.near, self.far, self.head = (nn.Linear(4, 4, dtype=DOUBLE) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(torch.tanh(self.near(h) if h.square().mean() < 1e-6 else self.far(h)))


class Stopping(Choosing):
    """Ends early there."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return h if h.square().mean() < 1e-6 else self.head(torch.tanh(self.far(h)))


class Repeating(Choosing):
    """Goes on for longer there."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for _ in range(1 if h.square().mean() > 1e-6 else 3):
            h = torch.tanh(self.far(h))
        return self.head(h)


class Selecting(Choosing):
    """The same sites, of other shapes."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(self.far(h[h.square().mean(1) > 1e-6])).sum(0, keepdim=True).expand_as(h)


class Catching(Choosing):
    """Does something else when anything goes wrong."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        try:
            h = self.near(h) if h.square().mean() < 1e-6 else self.far(h)
        except Exception:
            h = self.far(h)
        return self.head(torch.tanh(h))


ROUTES = pytest.mark.parametrize("make", [Choosing, Stopping, Repeating, Selecting, Catching])


@ROUTES
@pytest.mark.parametrize("blocks", [None, everywhere])
def test_a_forward_whose_sites_change_with_its_states_is_an_outcome(make: type[nn.Module], blocks: Any) -> None:
    module, x, target = make(), data(3, 4), data(3, 4)
    chain = ws.Chain(module, MSE, blocks=blocks)
    contents = [set(vars(part)) for part in module.modules()]
    sol = ws.relax(chain, x, target, schedule=ws.Synchronous())
    assert sol.outcome.status is ws.Status.SITES_CHANGED
    assert not sol.outcome.converged
    assert str(sol.outcome).startswith(f"sites changed after {sol.ticks} ticks")
    where: dict[type[nn.Module], str] = {
        Choosing: "'near' (Linear)",
        Stopping: "'far'",
        Repeating: "'far#2' (Linear)",
        Selecting: "'far' (Linear)",
    }
    for told in (f"first at {where.get(make, chr(39))}", "blocks=", "ws.backward"):
        assert told in sol.outcome.remedy
    for use in (sol.gradients, sol.accumulate, lambda: ws.compare(chain, x, target, sol)):
        with pytest.raises(ws.errors.RelaxationError) as refusal:
            use()
        assert_tells(refusal.value, "sites changed", "blocks=")
    with pytest.raises(ws.errors.RelaxationError) as refusal:
        ws.backward(chain, x, target, schedule=ws.Synchronous())
    assert_tells(refusal.value, "sites", "blocks=")
    assert all(p.grad is None for p in module.parameters())
    assert [set(vars(part)) for part in module.modules()] == contents


@ROUTES
def test_a_forward_whose_sites_change_is_an_outcome_of_unlocked_training_too(make: type[nn.Module]) -> None:
    module = make()
    before = {name: p.clone() for name, p in module.named_parameters()}
    port = torch.optim.SGD(module.parameters(), lr=0.1)
    held = ws.unlocked(ws.Chain(module, MSE), data(3, 4), data(3, 4), port, schedule=ws.Synchronous())
    assert held.outcome.status is ws.Status.SITES_CHANGED
    assert "blocks=" in held.outcome.remedy
    assert all(p.equal(before[name]) for name, p in module.named_parameters())


@ROUTES
def test_the_ways_out_of_sites_that_change_work(make: type[nn.Module]) -> None:
    """One backward pass from the states of the forward itself, and a block in which the choice is made."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(4, 4), make(), nn.Linear(4, 4)
            self.to(DOUBLE)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(self.stem(x)))

    for blocks in (None, everywhere):
        assert_learns(make(), blocks)
    module, x, target = Outer(), data(3, 4), data(3, 4)
    assert_learns(module, everywhere)
    twin = copy.deepcopy(module)
    twin.zero_grad()
    MSE(twin(x), target).backward()
    sol = ws.relax(ws.Chain(module, MSE), x, target)  # the wavefront puts nothing else in
    assert_gradients(sol.gradients(), filled(twin))
    if make is not Selecting:  # nothing to select makes no site of the choice itself
        chain = ws.Chain(module, MSE, blocks=("stem", "inner", "head"))
        assert_gradients(ws.relax(chain, x, target, schedule=ws.Synchronous()).gradients(), filled(twin))


def test_a_later_backward_through_what_a_module_has_kept() -> None:
    """The states of a call are closed when it is over: nothing may be added to credits that are gone."""

    class Keeping(Pair):
        def between(self, h: Tensor) -> Tensor:
            self.kept = h.square().sum()
            return h.tanh()

    module = Keeping()
    ws.backward(ws.Chain(module, MSE), data(3, 4), data(3, 4))
    before = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    with pytest.raises(ws.errors.LayerError, match="derivatives through more than one site"):
        module.kept.backward()
    assert all(p.grad is not None and p.grad.equal(before[name]) for name, p in module.named_parameters())


class Lookup(nn.Module):
    """Takes words, and fails where one of them is new to it."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(3, 2)

    def forward(self, words: list[str]) -> torch.Tensor:
        vector = torch.tensor([{"one": 1.0, "two": 2.0}[word] for word in words])
        out: torch.Tensor = self.rows(vector)
        return out


class Moving(nn.Module):
    """Brings its input to its own dtype, and fails for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.row(x.to(self.row.weight.dtype))
        raise ValueError("the table has no entry for Monday")
        return out


class Adding(nn.Module):
    """Adds what it has not got."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.bias = nn.Linear(3, 2), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.row(x.to(self.row.weight.dtype)) + self.bias


def boxes(output: torch.Tensor, target: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    if any("boxes" not in each for each in target):
        raise ValueError("every target needs boxes")
    return output.square().mean()


@pytest.mark.parametrize("verb", [ws.backward, ws.relax])
def test_what_takes_no_tensors_by_design_fails_with_its_own_words(verb: Verb) -> None:
    """A module or loss of the user's is not told to take tensors, or another dtype, where that is not what failed."""
    with pytest.raises(ws.errors.LayerError, match="'three'"):
        verb(ws.Chain(Lookup(), nn.MSELoss()), (["one", "two", "three"],), torch.zeros(2))
    with pytest.raises(ws.errors.LayerError, match="no entry for Monday"):
        verb(ws.Chain(Moving(), nn.MSELoss()), torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 2))
    with pytest.raises(ws.errors.LayerError, match="unsupported operand type"):
        verb(ws.Chain(Adding(), nn.MSELoss()), torch.zeros(1, 3, dtype=torch.float64), torch.zeros(1, 2))
    with pytest.raises(ws.errors.LayerError, match="every target needs boxes"):
        verb(ws.Chain(nn.Linear(3, 2), boxes), torch.zeros(1, 3), [{"labels": torch.zeros(1)}])
    with pytest.raises(ws.errors.LayerError, match="no entry for Monday"):
        verb(
            ws.Chain([Moving(), nn.Linear(2, 2)], nn.MSELoss()),
            torch.zeros(1, 3, dtype=torch.float64),
            torch.zeros(1, 2),
        )
