"""Random programs: modules whose forward is drawn statement by statement, with all that users' own forwards do.

A program is data. `Program.made` builds the module, its loss and its input from the program's seed; the module runs the
statements one after the other on a frame of tensors, all of one shape, so that any statement may follow any other.
"""

import random
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from nets import Residual

WIDTH, BATCH = 4, 3
SHAPE = (BATCH, WIDTH)


class Step(NamedTuple):
    """One statement: what it does, to which values (counted back from the newest), and in which of its varieties.

    With `rebinds` the result takes the place of the first operand, as in `h = f(h)`; otherwise both stay.
    """

    kind: str
    a: int = 0
    b: int = 0
    c: int = 0
    rebinds: bool = False
    body: "tuple[Step, ...]" = ()
    other: "tuple[Step, ...]" = ()

    def __repr__(self) -> str:
        told = [f"{name}={value!r}" for name, value in zip(self._fields[1:], self[1:], strict=True) if value]
        return f"Step({', '.join([repr(self.kind), *told])})"


class Frame:
    """The values that a forward has at hand."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self.values = list(values)

    def get(self, index: int) -> Tensor:
        return self.values[-1 - index % len(self.values)]

    def put(self, step: Step, *made: Tensor) -> None:
        if step.rebinds:
            self.values[-1 - step.a % len(self.values)] = made[0]
            made = made[1:]
        self.values += made


class Ledger:
    """Notes, in a plain run, whether a program writes into memory that a submodule returned while others held it.

    This is the one thing a cut forward may refuse: reader and site then share memory, and autograd would have to follow
    the write through both.

    Attributes:
        frames: of the forwards that are under way.
        may_refuse: whether this has happened.
        sums: of all that submodules returned. Where these have no derivatives, a graph holds memory that was written.
    """

    def __init__(self, root: nn.Module) -> None:
        self.frames: list[Frame] = []
        self.may_refuse = False
        self.sums: list[Tensor] = []
        self._root = root
        self._shared: dict[int, Tensor] = {}

    def returned(self, found: Sequence[Tensor]) -> None:
        kept = [value for module in self._root.modules() for value in tree_leaves(list(own(module).values()))]
        held = [value for frame in self.frames for value in frame.values]
        live = [memory(value) for value in (*kept, *held) if isinstance(value, Tensor)]
        several = [memory(value) for value in {id(value): value for value in found}.values()]
        live += [each for each in several if several.count(each) > 1]
        self.sums += [value.sum() for value in found if value.requires_grad]
        self._shared.update({memory(value): value for value in found if memory(value) in live})

    def written(self, value: Tensor) -> None:
        self.may_refuse |= memory(value) in self._shared


LEDGER: ContextVar[Ledger | None] = ContextVar("LEDGER", default=None)


def memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def own(module: nn.Module) -> dict[str, Any]:
    """What a forward may have left on a module, besides parameters and buffers."""
    torchs = set(vars(nn.Module())) - {"training"}
    return {name: value for name, value in vars(module).items() if name not in torchs and name != "generator"}


# Submodules.


class Same(nn.Module):
    """Returns its argument, seen anew."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.shape)


class Halves(nn.Module):
    """Returns two views of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.linear(x).tensor_split(2, 1)


class Twice(nn.Module):
    """Returns one tensor in two places, in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = torch.tanh(self.linear(x))
        return [y, y]


class Report(nn.Module):
    """Returns a dictionary with a number and something that is no tensor in it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, *, x: Tensor) -> dict[str, Any]:
        y = self.linear(x)
        return {"y": torch.sigmoid(y), "penalty": y.square().mean(), "name": "report", "none": None}


class Keeper(nn.Module):
    """Keeps what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.linear(x)
        return self.kept


class Caller(nn.Module):
    """Is given a function, which may call other submodules, and calls it twice."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return function(torch.tanh(self.linear(function(x))))


class Looking(nn.Module):
    """An embedding that is looked up by the signs of its argument, and a frozen table beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, WIDTH)
        self.frozen = nn.Embedding(3, WIDTH)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(len(x)) % 3
        return self.table(rows) * self.frozen(rows) + x


PARTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "norm": lambda: nn.LayerNorm(WIDTH, eps=0.1),
    "batch_norm": lambda: nn.BatchNorm1d(WIDTH, eps=0.1),
    "dropout": lambda: nn.Dropout(0.3),
    "lstm_cell": lambda: nn.LSTMCell(WIDTH, WIDTH),
    "gru_cell": lambda: nn.GRUCell(WIDTH, WIDTH),
    "residual": lambda: Residual(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)),
    "relu_": lambda: nn.ReLU(inplace=True),
    "leaky_": lambda: nn.LeakyReLU(inplace=True),
    "dropout_": lambda: nn.Dropout(0.3, inplace=True),
    "attention": lambda: nn.MultiheadAttention(WIDTH, 2, dropout=0.2),
    "lstm": lambda: nn.LSTM(WIDTH, WIDTH),
    "sequential": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)),
    "identity": nn.Identity,
    "same": Same,
    "split_backward": Halves,
    "twice": Twice,
    "report": Report,
    "keeper": Keeper,
    "caller": Caller,
    "bilinear": lambda: nn.Bilinear(WIDTH, WIDTH, WIDTH),
    "looking": Looking,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
}
IN_PLACE = (nn.ReLU, nn.LeakyReLU, nn.Dropout)


# Functions with a derivative of their own.


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, y)
        return x * y, x - y

    @staticmethod
    def backward(ctx: Any, product: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return product * y + difference, product * x - difference


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return -0.5 * slope


class Clipped(torch.autograd.Function):
    """Its backward is not linear, so that it must be given the whole of what arrives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope.tanh() + 0.1


class Stopped(torch.autograd.Function):
    """Tells torch that nothing depends on its argument."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> None:
        return None


class Overwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x.mul_(0.5)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return 0.5 * slope


class Passing(TorchFunctionMode):
    """A mode of the user's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


# What a forward does, kind by kind.

Pick = Callable[[Tensor, Tensor], Tensor]


def total(parts: Iterable[Tensor]) -> Tensor:
    """Python's own sum, which adds the first part to the number 0."""
    found = sum(parts)
    assert isinstance(found, Tensor)
    return found


JOINS: tuple[Pick, ...] = (
    lambda a, b: a + b,
    lambda a, b: torch.add(a, b, alpha=0.5),
    lambda a, b: torch.cat([a, b], 1).view(BATCH, 2, WIDTH).mean(1),
    lambda a, b: torch.stack((a, b)).mean(0),
    lambda a, b: torch.cat([a[:, :2], b[:, 2:]], 1),
    lambda a, b: total([a, b, a]) / 2,
    lambda a, b: a - b,
    lambda a, b: torch.tanh(a * b),
    lambda a, b: torch.where(b.detach() > 0, a, b),
    lambda a, b: a.lerp(b, 0.3),
    lambda a, b: (torch.softmax(a @ b.t(), -1)) @ b,
    lambda a, b: torch.concat(tensors=(a, b), dim=0)[:BATCH],
    lambda a, b: torch.addcmul(a, a, b, value=0.1),
)

MAPS: tuple[Callable[["Machine", Tensor], Tensor], ...] = (
    lambda m, a: torch.tanh(a),
    lambda m, a: F.gelu(a),
    lambda m, a: a * 0.7,
    lambda m, a: a * m.scale,
    lambda m, a: a.clone(),
    lambda m, a: torch.softmax(a, 1),
    lambda m, a: a * a.abs().mean().item(),
    lambda m, a: a.sort(1).values,
    lambda m, a: a + torch.from_numpy(a.detach().float().numpy()).tanh().to(a),
    lambda m, a: a.gather(1, a.argsort(1)),
    lambda m, a: torch.sin(a).roll(1, 1),
    lambda m, a: F.linear(a, m.mix, m.scale),
    lambda m, a: a / (1 + a.norm()),
    lambda m, a: a[torch.randperm(BATCH)],
    lambda m, a: a.cumsum(1) * 0.5,
    lambda m, a: torch.exp(-a.square()),
)

VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda a: a.reshape(-1).view(SHAPE),
    lambda a: a[:],
    lambda a: a.t().t(),
    lambda a: a[None].squeeze(0),
    lambda a: a.unflatten(1, (2, 2)).flatten(1),
    lambda a: a[:, :1].expand(SHAPE),
    lambda a: a.flip(0),
    lambda a: a.view(SHAPE).detach(),
)


def _added(frame: Frame, step: Step) -> None:
    frame.values[-1 - step.a % len(frame.values)] += frame.get(step.b)


def _powered(frame: Frame, step: Step) -> None:
    frame.values[-1 - step.a % len(frame.values)] **= 2


def _set(frame: Frame, step: Step) -> None:
    frame.get(step.a)[:, 1] = frame.get(step.b)[:, 2]


def _set_by_mask(frame: Frame, step: Step) -> None:
    a = frame.get(step.a)
    a[a.detach() > 0.5] = 0.25


WRITES: tuple[Callable[[Frame, Step], Any], ...] = (
    lambda f, s: f.get(s.a).add_(0.3),
    lambda f, s: f.get(s.a).mul_(0.7),
    lambda f, s: f.get(s.a).tanh_(),
    lambda f, s: F.relu(f.get(s.a), inplace=True),
    lambda f, s: F.dropout(f.get(s.a), 0.3, inplace=True),
    lambda f, s: torch.sigmoid_(f.get(s.a)),
    lambda f, s: f.get(s.a)[:, :2].mul_(2),
    lambda f, s: f.get(s.a).t().add_(0.1),
    lambda f, s: f.get(s.a).view(-1)[::2].mul_(0.5),
    lambda f, s: f.get(s.a).masked_fill_(torch.eye(BATCH, WIDTH, dtype=torch.bool), 0.5),
    lambda f, s: f.get(s.a).copy_(f.get(s.b)),
    lambda f, s: f.get(s.a).index_add_(0, torch.tensor([0, 2]), f.get(s.b)[:2]),
    lambda f, s: f.get(s.a).addcmul_(f.get(s.b), f.get(s.b), value=0.1),
    lambda f, s: Overwriting.apply(f.get(s.a)),
    _added,
    _powered,
    _set,
    _set_by_mask,
)

FUNCTIONS: tuple[Callable[[Tensor, Tensor], Any], ...] = (
    Scaled.apply,
    lambda a, b: Straight.apply(a),
    lambda a, b: Clipped.apply(a),
    lambda a, b: Stopped.apply(a),
)

CHANCES: tuple[Callable[["Machine", Tensor], Tensor], ...] = (
    lambda m, a: a * torch.rand(()),
    lambda m, a: a + torch.rand_like(a),
    lambda m, a: F.dropout(a, 0.4, m.training),
    lambda m, a: a * torch.rand(1, generator=m.generator),
    lambda m, a: a * random.random(),
    lambda m, a: a + np.random.rand(),
)


def _functional(machine: "Machine", part: nn.Module, a: Tensor) -> Tensor:
    weights = {name: 0.5 * p for name, p in part.named_parameters()}
    return torch.func.functional_call(part, weights, (a,))


def _caught(machine: "Machine", part: nn.Module, a: Tensor) -> Tensor:
    try:
        return part(a[:, :-1])
    except RuntimeError:
        return part(a)


PLAIN = (nn.Linear, nn.LayerNorm, Residual, Twice, nn.Sequential, Keeper, Same)

WAYS: tuple[Callable[["Machine", nn.Module, Tensor], Any], ...] = (
    lambda m, part, a: part.forward(a),
    _functional,
    _caught,
    lambda m, part, a: nn.Sequential(part, nn.Tanh(), part)(a) if not isinstance(part, Twice) else part(a),
    lambda m, part, a: F.linear(a, part.weight) if isinstance(part, nn.Linear) else part(a),
    lambda m, part, a: torch.vmap(part)(a) if isinstance(part, (nn.Linear, nn.LayerNorm)) else part(a),
)

STEADY: tuple[Callable[["Machine", Tensor, Tensor], bool], ...] = (
    lambda m, a, b: m.training,
    lambda m, a, b: a.requires_grad,
    lambda m, a, b: torch.is_grad_enabled(),
    lambda m, a, b: random.random() < 0.5,
    lambda m, a, b: bool(torch.rand(()) < 0.5),
    lambda m, a, b: m.steps % 2 == 0,
    lambda m, a, b: len(m.kept) > 1,
    lambda m, a, b: a is b,
    lambda m, a, b: a.is_leaf or b.grad_fn is None,
    lambda m, a, b: bool(m.count > 1),
)
BY_VALUE: tuple[Callable[["Machine", Tensor, Tensor], bool], ...] = (
    lambda m, a, b: bool(a.mean() > 0),
    lambda m, a, b: bool((a > b).any()),
    lambda m, a, b: bool(m.ema.sum() < b.sum()),
)

STEADY_COUNTS: tuple[Callable[[Tensor], int], ...] = (
    lambda a: 2,
    lambda a: random.randint(0, 3),
    lambda a: int(torch.randint(0, 4, ())),
)
COUNTS_BY_VALUE: tuple[Callable[[Tensor], int], ...] = (lambda a: int(a.detach().abs().sum() * 7) % 4,)

SCOPES: tuple[Callable[["Machine"], AbstractContextManager[Any]], ...] = (
    lambda m: torch.no_grad(),
    lambda m: torch.enable_grad(),
    lambda m: torch.set_grad_enabled(m.training),
    lambda m: torch.autocast("cpu", torch.bfloat16),
    lambda m: torch.autocast("cpu", enabled=False),
    lambda m: torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t),
    lambda m: torch.random.fork_rng(),
    lambda m: torch.device("cpu"),
    lambda m: Passing(),
    lambda m: parametrize.cached(),
)


class Machine(nn.Module):
    """A module that runs a program's statements, and has all that a user's module may have."""

    parts: nn.ModuleList | nn.Sequential | list[nn.Module]
    scale: nn.Parameter
    mix: nn.Parameter
    ema: Tensor
    count: Tensor
    generator: torch.Generator
    steps: int

    def __init__(self, body: tuple[Step, ...], parts: Sequence[nn.Module], output: int, holder: int = 0) -> None:
        super().__init__()
        if holder == 0:
            self.parts = nn.ModuleList(parts)
        elif holder == 1:
            self.parts = nn.Sequential(*parts)
        else:
            self.parts = list(parts)
            for number, part in enumerate(parts):
                setattr(self, f"part{number}", part)
        self.body = body
        self.output = output
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.mix = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2)
        self.register_buffer("ema", torch.zeros(WIDTH))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.generator = torch.Generator().manual_seed(5)
        self.steps = 0
        self.kept: list[Tensor] = []
        self.table: dict[str, Tensor] = {}
        self.last: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        self.kept.clear()
        self.table = {}
        self.last = None
        frame = Frame([x] if y is None else [x, y])
        with opened(frame):
            self.run(self.body, frame)
        return self.returned(frame.values)

    def returned(self, values: list[Tensor]) -> Any:
        last, before = values[-1], values[-2 % len(values)]
        forms: tuple[Callable[[], Any], ...] = (
            lambda: last,
            lambda: (last, before),
            lambda: {"last": last, "before": [before], "steps": self.steps},
            lambda: Pair(last, before),
            lambda: [last, (before, last)],
            lambda: last[:, :3],
            lambda: {"loss": last.square().mean() + before.mean()},
        )
        return forms[self.output]()

    def run(self, body: tuple[Step, ...], frame: Frame) -> None:
        for step in body:
            getattr(self, f"do_{step.kind}")(step, frame)

    def do_call(self, step: Step, frame: Frame) -> None:
        part = self.parts[step.c % len(self.parts)]
        a, b = frame.get(step.a), frame.get(step.b)
        found = self.invoke(part, a, b)
        came_back(found)
        frame.put(step, *found)

    def invoke(self, part: nn.Module, a: Tensor, b: Tensor) -> list[Tensor]:  # noqa: PLR0911  one way to call each
        if isinstance(part, IN_PLACE) and part.inplace:
            wrote(a)
        if isinstance(part, nn.LSTMCell):
            return list(part(a, (b, a)))
        if isinstance(part, (nn.GRUCell, nn.Bilinear)):
            return [part(a, b)]
        if isinstance(part, Machine):
            told = leaves(part(a, y=b))
            came_back(told)
            return [filled(each) for each in told]
        if isinstance(part, nn.MultiheadAttention):
            return [part(a[None], b[None], b[None], need_weights=self.training)[0].squeeze(0)]
        if isinstance(part, nn.LSTM):
            return [part(a[None])[0].squeeze(0)]
        if isinstance(part, Report):
            report = part(x=a)
            return [report["y"], a * report["penalty"]]
        if isinstance(part, Caller):
            inner = self.parts[0]
            return [part(lambda x: inner(x) if isinstance(inner, nn.Linear) else torch.sin(x) * b, a)]
        return leaves(part(a))

    def do_way(self, step: Step, frame: Frame) -> None:
        plain = [part for part in self.parts if isinstance(part, PLAIN)]
        if plain:
            found = leaves(WAYS[step.c % len(WAYS)](self, plain[step.b % len(plain)], frame.get(step.a)))
            came_back(found)
            frame.put(step, *found)

    def do_join(self, step: Step, frame: Frame) -> None:
        frame.put(step, JOINS[step.c % len(JOINS)](frame.get(step.a), frame.get(step.b)))

    def do_map(self, step: Step, frame: Frame) -> None:
        frame.put(step, MAPS[step.c % len(MAPS)](self, frame.get(step.a)))

    def do_view(self, step: Step, frame: Frame) -> None:
        frame.put(step, VIEWS[step.c % len(VIEWS)](frame.get(step.a)))

    def do_write(self, step: Step, frame: Frame) -> None:
        wrote(frame.get(step.a))
        WRITES[step.c % len(WRITES)](frame, step)

    def do_function(self, step: Step, frame: Frame) -> None:
        found = FUNCTIONS[step.c % len(FUNCTIONS)](frame.get(step.a), frame.get(step.b))
        frame.put(step, *leaves(found))

    def do_chance(self, step: Step, frame: Frame) -> None:
        frame.put(step, CHANCES[step.c % len(CHANCES)](self, frame.get(step.a)).to(self.scale.dtype))

    def do_closure(self, step: Step, frame: Frame) -> None:
        held = frame.get(step.b)

        def inner(value: Tensor) -> Tensor:
            return torch.sin(value) * held + self.scale

        frame.put(step, inner(inner(frame.get(step.a))))

    def do_branch(self, step: Step, frame: Frame) -> None:
        ways = (*STEADY, *BY_VALUE)
        chosen = ways[step.c % len(ways)](self, frame.get(step.a), frame.get(step.b))
        self.run(step.body if chosen else step.other, frame)

    def do_loop(self, step: Step, frame: Frame) -> None:
        ways = (*STEADY_COUNTS, *COUNTS_BY_VALUE)
        for _ in range(ways[step.c % len(ways)](frame.get(step.a))):
            self.run(step.body, frame)

    def do_scope(self, step: Step, frame: Frame) -> None:
        with SCOPES[step.c % len(SCOPES)](self):
            self.run(step.body, frame)

    def do_detach(self, step: Step, frame: Frame) -> None:
        value = frame.get(step.a).detach()
        frame.put(step, (value, value.clone(), value.clone().requires_grad_())[step.c % 3])

    def do_checkpoint(self, step: Step, frame: Frame) -> None:
        a, b = frame.get(step.a), frame.get(step.b)

        def region(a: Tensor, b: Tensor = b) -> Tensor:
            inside = Frame([1.0 * a, 1.0 * b])
            with opened(inside):
                self.run(step.body, inside)
            return inside.values[-1]

        if step.c % 2:
            frame.put(step, checkpoint(region, a, b, use_reentrant=True))
        else:
            frame.put(step, checkpoint(region, a, use_reentrant=False))

    def do_buffer(self, step: Step, frame: Frame) -> None:
        a = frame.get(step.a)
        match step.c % 5:
            case 0:
                self.count += 1
            case 1:
                with torch.no_grad():
                    self.ema.mul_(0.9).add_(a.mean(0), alpha=0.1)
            case 2:
                self.ema = 0.8 * self.ema + 0.2 * a.detach().mean(0)
            case 3:
                frame.put(step, a + self.ema)
            case 4:
                frame.put(step, a * (1 + self.count) / 2)

    def do_keep(self, step: Step, frame: Frame) -> None:
        a = frame.get(step.a)
        match step.c % 7:
            case 0:
                self.last = a
            case 1:
                self.kept.append(a)
            case 2:
                self.table[f"key{step.b}"] = a
            case 3:
                self.steps += 1
            case 4 if self.last is not None:
                frame.put(step, self.last)
            case 5 if self.kept:
                frame.put(step, self.kept[-1] * len(self.kept))
            case 6 if self.table:
                frame.put(step, next(iter(self.table.values())))


Pair = namedtuple("Pair", "last before")


def leaves(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def filled(value: Tensor) -> Tensor:
    """A value of the frame's shape, though a program returned less of it."""
    if value.dim() == 0:
        return value.expand(SHAPE)
    return value if value.shape == SHAPE else F.pad(value, (0, WIDTH - value.shape[1]))


@contextmanager
def opened(frame: Frame) -> Iterator[None]:
    ledger = LEDGER.get()
    if ledger is not None:
        ledger.frames.append(frame)
    try:
        yield
    finally:
        if ledger is not None:
            ledger.frames.remove(frame)


def came_back(found: Sequence[Tensor]) -> None:
    ledger = LEDGER.get()
    if ledger is not None:
        ledger.returned(found)


def wrote(value: Tensor) -> None:
    ledger = LEDGER.get()
    if ledger is not None:
        ledger.written(value)


# Losses.


class Price:
    """A loss on whatever a program returned, in one of several varieties; knows the module that it judges."""

    def __init__(self, kind: int, module: Machine) -> None:
        self.kind = kind
        self.module = module

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        found = leaves(output)
        came_back(found)
        if self.kind == 5:
            wrote(found[0])
            found[0].sub_(0.1)
        cost = total(
            (n + 1) * (each - (target[:, : each.shape[1]] if each.dim() else 0.3)).square().mean()
            for n, each in enumerate(found)
        )
        module = self.module
        if self.kind == 1:
            cost = cost + 0.1 * sum(p.square().sum() for p in module.parameters())
        if self.kind == 2 and module.last is not None:
            cost = cost + module.last.square().mean()
        if self.kind == 2:
            cost = cost + sum(each.sin().mean() for each in (*module.kept, *module.table.values()))
        if self.kind == 3 and found[0].shape == SHAPE:
            cost = cost + module.invoke(module.parts[0], found[0], target)[0].cos().mean()
        return cost.reshape(1) if self.kind == 4 else cost


class Trained(nn.Module):
    """A loss with a parameter, a buffer and a counter of its own."""

    level: Tensor

    def __init__(self, price: Price) -> None:
        super().__init__()
        self.price = [price]
        self.weight = nn.Parameter(torch.tensor(1.3))
        self.register_buffer("level", torch.tensor(1.0))
        self.calls = 0

    def forward(self, output: Any, target: Tensor) -> Tensor:
        self.calls += 1
        cost = self.price[0](output, target)
        self.level = 0.9 * self.level + 0.1 * cost.detach()
        return self.weight.square() * cost / (1 + self.level)


# Programs.


class Nested(NamedTuple):
    """A submodule that is a program itself."""

    parts: tuple[str, ...]
    body: tuple[Step, ...]
    output: int

    def made(self) -> nn.Module:
        return Machine(self.body, [PARTS[kind]() for kind in self.parts], self.output)


class Made(NamedTuple):
    """A program that was built: the module, its loss, what it is called with, and what it is compared with."""

    module: Machine
    loss: Callable[[Any, Any], Tensor]
    x: Any
    target: Tensor


@dataclass(frozen=True)
class Program:
    """A module, a loss and an input as data."""

    body: tuple[Step, ...]
    parts: tuple[str | Nested, ...]
    seed: int = 0
    output: int = 0
    loss: int = 0
    given: int = 0
    holder: int = 0
    x_grad: bool = False
    training: bool = True
    single: bool = False
    frozen: tuple[int, ...] = ()
    hooks: tuple[tuple[int, int], ...] = ()
    tied: bool = False
    sites: int | None = None

    def __repr__(self) -> str:
        told = [
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if value != self.__dataclass_fields__[name].default
        ]
        return f"Program({', '.join(told)})"

    def made(self) -> Made:
        torch.manual_seed(self.seed)
        parts = [part.made() if isinstance(part, Nested) else PARTS[part]() for part in self.parts]
        linears = [part for part in parts if type(part) is nn.Linear]
        for other in linears[1:] if self.tied else ():
            other.weight = linears[0].weight
        for number in self.frozen:
            parts[number % len(parts)].requires_grad_(False)
        module = Machine(self.body, parts, self.output, self.holder)
        loss: Any = Price(self.loss, module)
        loss = Trained(loss) if self.loss == 6 else loss
        x, y, target = (torch.randn(SHAPE) for _ in range(3))
        if not self.single:
            x, y, target = x.double(), y.double(), target.double()
            for each in (module, loss):
                if isinstance(each, nn.Module):
                    each.double()
        module.train(self.training)
        x.requires_grad_(self.x_grad)
        return Made(module, loss, (x, (x, y), {"y": y, "x": x})[self.given], target)

    def listen(self, made: Made) -> list[tuple[str, Tensor]]:
        """Put the program's hooks on a copy of what was built; returns what they will have heard."""
        heard: list[tuple[str, Tensor]] = []
        modules = [made.module, *made.module.parts]
        for number, (place, kind) in enumerate(self.hooks):
            hook(modules[place % len(modules)], kind, f"hook {number}", heard)
        return heard

    def blocks(self, root: nn.Module) -> Any:
        """The sites: the default, every submodule, or some of them."""
        if self.sites is None:
            return None
        found = [module for module in root.modules() if module is not root]
        picked = [m for n, m in enumerate(found) if self.sites >> n % 8 & 1] or found
        return lambda module: any(module is each for each in picked)


def hook(module: nn.Module, kind: int, name: str, heard: list[tuple[str, Tensor]]) -> None:
    """Have a hook of one of seven kinds write down what it is told."""

    def told(*values: Any) -> None:
        heard.extend((name, leaf.detach().norm()) for leaf in leaves(values))

    def before(module: nn.Module, args: Any) -> Any:
        told(args)
        return tuple(1.1 * arg if isinstance(arg, Tensor) else arg for arg in args)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        told(args, output)
        return 0.9 * output if isinstance(output, Tensor) else output

    def backward(module: nn.Module, below: Any, above: Any) -> Any:
        told(below, above)
        return tuple(None if slope is None else slope.tanh() for slope in below)

    def backward_before(module: nn.Module, above: Any) -> Any:
        told(above)
        return tuple(None if slope is None else slope.tanh() for slope in above)

    def of_parameter(slope: Tensor) -> Tensor:
        told(slope)
        return slope.tanh()

    parameters = [p for p in module.parameters() if p.requires_grad]
    if kind == 0:
        module.register_forward_pre_hook(before)
    elif kind == 1:
        module.register_forward_hook(after)
    elif kind == 2:
        module.register_full_backward_hook(backward)
    elif kind == 3:
        module.register_full_backward_pre_hook(backward_before)
    elif parameters and kind == 4:
        parameters[0].register_hook(of_parameter)
    elif parameters and kind == 5:
        parameters[0].register_post_accumulate_grad_hook(lambda p: told(p.grad))
    elif kind == 6:
        module.register_forward_hook(lambda module, args, output: told(args, output))


_INNER = ("call", "call", "call", "way", "join", "map", "map", "view", "write", "function", "closure")
_LEAVES = (*_INNER, "call", "call", "join", "chance", "detach", "buffer", "keep", "keep")


@st.composite
def _body(draw: st.DrawFn, longest: int, depth: int, *, steady: bool, inside: bool = False) -> tuple[Step, ...]:
    kinds = _INNER if inside else _LEAVES
    if depth:
        kinds = (*kinds, "branch", "loop", "scope", *(() if inside or steady else ("checkpoint",)))
    steps = []
    for _ in range(draw(st.integers(0 if depth < 2 else 1, longest))):
        kind = draw(st.sampled_from(kinds))
        most = _most(kind, steady)
        if inside and kind == "loop":  # a checkpointed region may draw nothing that is not torch's
            most = 0
        a, b, c = draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.integers(0, most))
        body: tuple[Step, ...] = ()
        other: tuple[Step, ...] = ()
        if kind in ("branch", "loop", "scope", "checkpoint"):
            body = draw(_body(4, depth - 1, steady=steady, inside=inside or kind == "checkpoint"))
        if kind == "branch":
            other = draw(_body(4, depth - 1, steady=steady, inside=inside))
        steps.append(Step(kind, a, b, c, draw(st.booleans()), body, other))
    return tuple(steps)


def _most(kind: str, steady: bool) -> int:
    """How many varieties there are, less one."""
    sizes = {
        "way": len(WAYS),
        "join": len(JOINS),
        "map": len(MAPS),
        "view": len(VIEWS),
        "write": len(WRITES),
        "function": len(FUNCTIONS) - 1,
        "chance": len(CHANCES),
        "detach": 3,
        "buffer": 5,
        "keep": 7,
        "checkpoint": 1 if steady else 2,
        "branch": len(STEADY) + (0 if steady else len(BY_VALUE)),
        "loop": len(STEADY_COUNTS) + (0 if steady else len(COUNTS_BY_VALUE)),
        "scope": len(SCOPES),
    }
    return sizes.get(kind, 6) - 1


@st.composite
def programs(draw: st.DrawFn, longest: int = 10, *, steady: bool = False, listened: bool = False) -> Program:
    """Random programs; steady ones call the same submodules whatever the values are."""
    parts: list[str | Nested] = list(draw(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=5)))
    if draw(st.integers(0, 2)) == 2:
        inner = tuple(draw(st.lists(st.sampled_from(sorted(PARTS)), min_size=1, max_size=3)))
        parts.append(Nested(inner, draw(_body(5, 1, steady=steady)), draw(st.integers(0, 6))))
    return Program(
        body=draw(_body(longest, 2, steady=steady)),
        parts=tuple(parts),
        seed=draw(st.integers(0, 2**16)),
        output=draw(st.integers(0, 6)),
        loss=draw(st.integers(0, 6)),
        given=draw(st.integers(0, 2)),
        holder=draw(st.integers(0, 2)),
        x_grad=draw(st.booleans()),
        training=draw(st.integers(0, 3)) < 3,
        single=not steady and draw(st.integers(0, 4)) == 4,
        frozen=tuple(draw(st.lists(st.integers(0, 5), max_size=2))),
        hooks=tuple(draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=2))) if listened else (),
        tied=draw(st.booleans()),
        sites=draw(st.sampled_from([None, None, 0]) | st.integers(1, 255)),
    )


@contextmanager
def noted(module: nn.Module) -> Iterator[Ledger]:
    """Notes what a plain run does."""
    token = LEDGER.set(Ledger(module))
    ledger = LEDGER.get()
    assert ledger is not None
    try:
        yield ledger
    finally:
        LEDGER.reset(token)
