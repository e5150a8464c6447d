"""Rules that the source keeps: where autograd is, where imports point, who may inherit from whom."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import worldsheet as ws
from worldsheet.core.errors import WorldsheetError

ROOT = Path(ws.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}

TREE = ROOT.parents[1]
OUTSIDE = {
    path.relative_to(TREE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in (TREE / "src" / "worldsheet_lab", TREE / "benchmarks", TREE / "experiments" / "harness")
    for path in sorted(folder.rglob("*.py"))
}

RELATIVES = {
    "run_backward",
    "vjp",
    "jvp",
    "jacrev",
    "jacfwd",
    "jacobian",
    "hessian",
    "grad_and_value",
    "linearize",
}

GIVEN = {"jacobian", "hessian"}


def differentiates(tree: ast.AST) -> set[str]:
    """How a module asks torch for derivatives: `torch.autograd.grad`, `x.backward(…)`, and their relatives."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in (
            "torch.autograd",
            "torch.func",
            "torch.autograd.functional",
            "worldsheet.core.private_torch",
        ):
            found |= {alias.name for alias in node.names} & (RELATIVES | {"grad", "backward"})
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        asked = owner.endswith(("autograd", "func", "functional"))  # a record may hold a jacobian that it was given
        if node.attr in RELATIVES - GIVEN or (node.attr in {"grad", "backward"} | GIVEN and asked):
            found.add(node.attr)
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and called.attr == "backward" and ast.unparse(called.value) != "ws":
            found.add("backward")
    return found


def imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or "", tuple(alias.name for alias in node.names)


def test_autograd_is_asked_for_one_layer_at_a_time_and_end_to_end_only_by_the_oracle() -> None:
    found = {name: ways for name, tree in TREES.items() if (ways := differentiates(tree))}
    assert found == {
        "control/derivatives.py": {"grad", "run_backward"},
        "core/private_torch.py": {"run_backward"},
        "cut/leaves.py": {"run_backward"},
        "cut/pull.py": {"run_backward"},
        "cut/replayed.py": {"grad"},
        "cut/watch.py": {"grad", "backward"},
        "layers/evaluation.py": {"run_backward"},
        "problem/linearization.py": {"grad"},
        "engine/batched/vmapped.py": {"grad"},
        "layers/proximal.py": {"grad"},
        "diagnostics/autograd.py": {"grad", "backward"},
        "streaming/derivatives.py": {"grad", "jacrev"},
    }


def test_what_torch_calls_private_is_asked_for_in_one_file() -> None:
    private = re.compile(r"torch\._|_execution_engine|utils\._pytree|autograd\._unsafe_")
    users = {name for name, path in SOURCES.items() if private.search(path.read_text(encoding="utf-8"))}
    stores = "pipeline/transport/distributed.py"  # they have no public name that is typed, and not every torch has them
    assert users == {"core/private_torch.py", stores}


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.autograd.grad(y, x)",
        "from torch.autograd import grad",
        "from torch import autograd\nautograd.backward(y)",
        "loss.backward()",
        "(a + b).backward(g)",
        "torch.func.vjp(f, x)",
        "from torch.func import jacrev",
        "engine.run_backward((y,))",
        "from worldsheet.core.private_torch import run_backward",
    ],
)
def test_the_rule_about_autograd_sees_every_way_around_it(code: str) -> None:
    assert differentiates(ast.parse(code))


def test_a_gradient_that_is_only_read_is_no_backward_pass() -> None:
    assert not differentiates(
        ast.parse("import worldsheet as ws\nws.backward(c, x, y)\nleaf.grad += 1\nbackward(c, x, y)")
    )


def test_only_the_plots_import_matplotlib() -> None:
    users = {name for name, tree in OUTSIDE.items() for module, _ in imports(tree) if module.startswith("matplotlib")}
    assert users == {
        "src/worldsheet_lab/plots.py",
        "src/worldsheet_lab/plots_control.py",
        "src/worldsheet_lab/plots_plants.py",
        "src/worldsheet_lab/plots_stages.py",
    }


def test_only_the_report_imports_plotly() -> None:
    users = {name for name, tree in OUTSIDE.items() for module, _ in imports(tree) if module.startswith("plotly")}
    assert users
    assert all(name.startswith("src/worldsheet_lab/report/") for name in users), users


def test_processes_are_known_in_one_file_only() -> None:
    users = {
        name
        for name, tree in (TREES | OUTSIDE).items()
        for module, _ in imports(tree)
        if "distributed" in module.split(".")
    }
    assert users == {
        "pipeline/transport/distributed.py",
        "benchmarks/at_scale.py",
        "benchmarks/gpu/parity.py",
        "benchmarks/gpu/stages.py",
        "benchmarks/pipeline_asleep.py",
        "benchmarks/pipeline_contenders.py",
        "benchmarks/pipeline_messages.py",
        "benchmarks/pipeline_turns.py",
        "src/worldsheet_lab/staged/checkpoints.py",
        "src/worldsheet_lab/staged/elastic.py",
        "src/worldsheet_lab/staged/launch.py",
        "src/worldsheet_lab/staged/worker.py",
    }


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("dynamics/")])
def test_a_dynamics_knows_nothing_but_a_view(name: str) -> None:
    for module, names in imports(TREES[name]):
        if module.startswith("worldsheet"):
            allowed = module.startswith(("worldsheet.core.", "worldsheet.dynamics"))
            known = {"Fields", "Linearised", "Sites", "View"}
            assert allowed or (module == "worldsheet.problem" and set(names) <= known), f"{module} {names}"


@pytest.mark.parametrize("name", [name for name in SOURCES if name.startswith("substrates/")])
def test_a_substrate_knows_nothing_but_views_and_what_it_wraps(name: str) -> None:
    for module, names in imports(TREES[name]):
        if module.startswith("worldsheet"):
            allowed = module.startswith(("worldsheet.core.", "worldsheet.dynamics", "worldsheet.substrates"))
            seen = set(names) <= {"View", "Fields", "Linearised"}
            assert allowed or (module == "worldsheet.problem" and seen), f"{module} {names}"


class Recording(ws.extend.View):
    """A view that writes down what is looked at."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Tensor:
        raise AssertionError(f"a dynamics looked for {name}")

    def _look(self, name: str, value: float) -> Tensor:
        self.seen.append(name)
        return torch.full((2, 3), value, dtype=torch.float64)

    @property
    def state(self) -> Tensor:
        return self._look("state", 1.0)

    @property
    def costate(self) -> Tensor:
        return self._look("costate", 10.0)

    @property
    def prediction(self) -> Tensor:
        return self._look("prediction", 3.0)

    @property
    def pulled(self) -> Tensor:
        return self._look("pulled", 50.0)

    @property
    def state_residual(self) -> Tensor:
        return self.prediction - self.state

    @property
    def credit(self) -> Tensor:
        return self._look("credit", 10.0)

    @property
    def samples(self) -> int:
        return 2

    def own(self, values: Sequence[float]) -> float:
        return values[0]

    def absorbed(self, point: Tensor, step: float) -> Tensor:
        return point / (1 + step)

    @property
    def at_output(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("rate", "state", "costate"),
    [(1.0, {"prediction"}, {"pulled"}), (0.5, {"state", "prediction"}, {"costate", "pulled"})],
)
def test_a_site_moves_by_what_it_sees_and_reads_no_message_it_does_not_need(
    rate: float, state: set[str], costate: set[str]
) -> None:
    dynamics = ws.Dyadic(rate)
    for move, seen, value in (
        (dynamics.state, state, 1 + rate * 2),
        (dynamics.costate, costate, 10 + rate * 40),
        (dynamics.credit, {"costate"}, 10.0),
    ):
        view = Recording()
        assert move(view).unique().tolist() == [value]
        assert set(view.seen) == seen


def classes() -> Iterator[type]:
    """Every class of the library."""
    for name in SOURCES:
        if name != "__main__.py":
            parts = name.removesuffix(".py").removesuffix("/__init__").replace("__init__", "").split("/")
            module = importlib.import_module(".".join(["worldsheet", *filter(None, parts)]))
            members = inspect.getmembers(module, inspect.isclass)
            yield from (cls for _, cls in members if cls.__module__ == module.__name__)


def test_every_dynamics_and_schedule_is_abstract_or_final() -> None:
    kinds = [cls for cls in classes() if issubclass(cls, (ws.dynamics.Dynamics, ws.schedules.Schedule))]
    assert {
        ws.Dyadic,
        ws.Synchronous,
        ws.Wavefront,
        ws.Sweep,
        ws.Asynchronous,
    } <= set(kinds)
    between = [cls for cls in kinds if not inspect.isabstract(cls) and "@final" not in decorators(cls)]
    assert between == []


def decorators(cls: type) -> list[str]:
    """What is written above a class (`__final__` is not there on Python 3.10)."""
    name = cls.__module__.removeprefix("worldsheet.").replace(".", "/")
    tree = TREES.get(f"{name}.py") or TREES[f"{name}/__init__.py"]
    (found,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == cls.__name__]
    return [f"@{ast.unparse(decorator)}" for decorator in found.decorator_list]


def test_nobody_inherits_from_a_concrete_class() -> None:
    for cls in classes():
        for base in cls.__bases__:
            if base.__module__.startswith("worldsheet") and not issubclass(base, WorldsheetError):
                assert inspect.isabstract(base), f"{cls.__name__} inherits from {base.__name__}"
