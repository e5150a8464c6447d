"""Every error begins with a sentence that says what is wrong, as far as the source can be asked."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import worldsheet as ws
from worldsheet.core.errors import WorldsheetError

SOURCE = Path(ws.__file__).parent
TREE = SOURCE.parents[1]
FOLDERS = (SOURCE, TREE / "src" / "worldsheet_lab", TREE / "benchmarks", TREE / "experiments")
TREES = {
    path.relative_to(TREE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for folder in FOLDERS
    for path in sorted(folder.rglob("*.py"))
}

VALUE = "{}"  # stands in a message for what is put in when it is raised
VERBS = {
    *("is", "are", "was", "were", "has", "have", "does", "did", "must", "can", "cannot", "needs", "failed", "returned"),
    *(
        "asks",
        "may",
        "meets",
        "sent",
        "wait",
        "belongs",
        "calls",
        "depend",
        "fires",
        "holds",
        "leads",
        "matches",
        "moves",
        "read",
        "reads",
        "runs",
        "writes",
    ),
}
RELATIVE = {"that", "which", "whose", "where", "who"}


def errors(trees: dict[str, ast.Module]) -> set[str]:
    """The names of `WorldsheetError` and of all that inherit from it."""
    names = {WorldsheetError.__name__}
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while more := {
        node.name for node in classes if node.name not in names and names & {called(base) for base in node.bases}
    }:
        names |= more
    return names


def called(function: ast.expr) -> str:
    return ast.unparse(function).rpartition(".")[2]


def texts(node: ast.expr, scope: ast.AST, module: ast.Module) -> Iterator[str]:
    """What an expression may say, with `{}` for values; nothing where the source does not tell."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from (text for way in (node.body, node.orelse) for text in texts(way, scope, module))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        rights = list(texts(node.right, scope, module)) or [VALUE]
        yield from (left + right for left in texts(node.left, scope, module) for right in rights)
    elif isinstance(node, ast.Name):
        for way in assigned(node.id, scope, module):
            yield from texts(way, module, module)


def assigned(name: str, scope: ast.AST, module: ast.Module) -> Iterator[ast.expr]:
    """What a name stands for in a function: what is assigned to it, or what callers in the module hand over."""
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            yield node.value
    parameters = [each.arg for each in scope.args.args] if isinstance(scope, ast.FunctionDef) else []
    if isinstance(scope, ast.FunctionDef) and name in parameters:
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and called(node.func) == scope.name:
                yield node.args[parameters.index(name)]


def problems(module: ast.Module, names: set[str]) -> Iterator[tuple[int, list[str]]]:
    """The line of every error that a module makes, and what its first part may say."""
    scopes = [node for node in ast.walk(module) if isinstance(node, (ast.Module, ast.FunctionDef))]
    inner = {id(node): scope for scope in scopes for node in ast.walk(scope)}  # functions come after what holds them
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and called(node.func) in names:
            first = [each.value for each in node.keywords if each.arg == "problem"] or node.args[:1]
            yield node.lineno, [text for each in first for text in texts(each, inner[id(node)], module)]


def is_sentence(text: str) -> bool:
    """Three words of its own, a verb that no relative clause holds, and not first of all `name=value`."""
    words = re.findall(r"[^\W\d_]+", text.replace(VALUE, " "))
    main = [word for number, word in enumerate(words) if not RELATIVE & set(words[:number])]
    return len(words) >= 3 and bool(VERBS & set(main)) and not re.match(r"[\w-]+ ?= ?\{\}", text)


def test_every_error_begins_with_a_sentence_that_says_what_is_wrong() -> None:
    names = errors(TREES)
    found = [(f"{path}:{line}", said) for path, tree in TREES.items() for line, said in problems(tree, names)]
    assert len(found) > 200, "the search finds the errors"
    assert [place for place, said in found if not said] == []
    assert [(place, text) for place, said in found for text in said if not is_sentence(text)] == []


OLD = """
def refused(self, tol, steps, path, error, flag):
    raise InputError(f"tol={tol}", "a positive number", "try 1e-8")
    raise InputError(f"{self}", "a positive speed", "use speed=1")
    raise errors.InputError(f"steps={steps}: the horizon is empty", "at least one stage", "use 1")
    raise InputError("an empty chain", "at least one layer", "put one in")
    raise InputError("a port that holds no trainable parameter of the chain", "one that does", "make one")
    raise InputError("--seconds " + str(tol) + " --dt 3", "another", "try it")
    problem = f"{path}: {error}"
    raise RunFolderError(problem, "a file", "restore it")
    raise torn(path, "no such folder" if flag else "the folder is there")

def torn(path, problem):
    return RunFolderError(problem, "a file", "restore it")
"""


def test_the_rule_about_sentences_sees_what_is_none() -> None:
    found = [said for _, said in problems(ast.parse(OLD), {"InputError", "RunFolderError"})]
    wrong = [[text for text in said if not is_sentence(text)] for said in found]
    assert len(found) == 8
    assert all(wrong)
    assert ["no such folder"] in wrong, "of two ways to say it, the one that is no sentence"


@pytest.mark.parametrize(
    "text",
    [
        "tol must be a positive number, got {}",
        "the loss {} returned {}, not a scalar",
        "{} cannot be read: {}",
        "this optimizer holds none of the chain's parameters",
    ],
)
def test_a_sentence_is_one(text: str) -> None:
    assert is_sentence(text)
