"""The pages say what the code says: names, remedies, equations, and where everything is."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import public_surface
from hooks import equation_numbers
from worldsheet.core.outcome import Status

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("**/*.md"))
LIBRARY = sorted((ROOT / "src" / "worldsheet").rglob("*.py"))
SOURCES = [*LIBRARY, *sorted((ROOT / "src" / "worldsheet_lab").rglob("*.py"))]
ADVISED = {"remedy", "advice", "told", "CURE", "_STATUS"}  # names that a remedy has on its way to an outcome
CITED = re.compile(r"(?<![\w)\]])\((\d{1,2}[a-z]?|W\d|[GMNTUX])\)(?!\w)")


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def public_names() -> list[str]:
    spaces = {name: importlib.import_module(name) for name in public_surface.PACKAGES}
    found = [f"{space}.{name}" for space, module in spaces.items() for name in module.__all__]
    return [name for name in found if inspect.isclass(reach(name)) or inspect.isfunction(reach(name))]


def documented_names() -> list[str]:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    return re.findall(r"^::: (\S+)$", pages, re.MULTILINE)


def reach(path: str) -> Any:
    """What a dotted path names: an attribute of a module, or of what `worldsheet` calls by another name."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return getattr(reach(module), name)


def test_every_public_name_is_in_the_reference() -> None:
    documented = {id(reach(name)) for name in documented_names()}
    assert [name for name in public_names() if id(reach(name)) not in documented] == []


def test_the_reference_names_what_there_is_once() -> None:
    names = documented_names()
    assert sorted({name for name in names if names.count(name) > 1}) == []
    assert all(reach(name) is not None for name in names)


def test_a_function_that_is_named_as_its_module_is_given_by_its_full_path() -> None:
    """The reference is made without importing, and would show the module."""
    hidden = []
    for path in documented_names():
        thing, name = reach(path), path.rpartition(".")[2]
        if getattr(thing, "__module__", "").rpartition(".")[2] == name and path != f"{thing.__module__}.{name}":
            hidden.append(path)
    assert hidden == []


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def docstrings(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            yield ast.get_docstring(node) or ""


def test_equations_that_docstrings_cite_are_in_the_theory() -> None:
    known = set(equation_numbers(DOCS / "theory.md"))
    cited = {(number, path.name) for path in SOURCES for text in docstrings(path) for number in CITED.findall(text)}
    assert len(cited) > 40, "the pattern finds the citations"
    assert sorted((number, name) for number, name in cited if number not in known) == []


def test_no_equation_number_is_given_twice() -> None:
    numbers = equation_numbers(DOCS / "theory.md")
    assert sorted({number for number in numbers if numbers.count(number) > 1}) == []


def pieces(node: ast.expr) -> Iterator[str]:
    """The fixed parts of a text that a reader will see."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and len(part.value.strip()) > 12:
            yield flat(part.value.strip(" :;,.").removeprefix("or "))


def advice(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions in a piece of source that become the remedy of an outcome."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Outcome" and len(node.args) == 4:
        yield node.args[3]
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "_ended":
        yield node.args[-1]
    elif (isinstance(node, ast.keyword) and node.arg in ("cure", "remedy")) or (
        isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ADVISED
    ):
        yield node.value
    elif isinstance(node, ast.FunctionDef) and node.name == "_remedy":
        yield from (part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value is not None)


def remedies() -> Iterator[str]:
    """What outcomes advise: handed to an Outcome, or given the name of a remedy first."""
    for path in LIBRARY:
        for node in nodes(path):
            for expression in advice(node):
                yield from pieces(expression)


def test_every_way_to_end_has_a_section_and_every_remedy_a_word() -> None:
    page = flat((DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
    for status in Status:
        assert f"### {status.value}" in page, status
    found = sorted(set(remedies()))
    assert len(found) > 20, "the search finds the remedies"
    assert [text for text in found if text not in page] == []


def test_what_troubleshooting_quotes_is_what_the_code_says() -> None:
    code = flat(" ".join(
        part.value for path in SOURCES for part in nodes(path)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ))  # fmt: skip
    page = flat((DOCS / "troubleshooting.md").read_text(encoding="utf-8"))
    quoted = [text for text in re.findall(r'"([^"]*)"', page) if len(text) >= 8]
    assert len(quoted) > 50
    assert [text for text in quoted if text.strip() not in code] == []


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_links_of_the_project_s_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (ROOT / link).exists()] == []


def test_the_gallery_shows_the_figures_of_the_experiments_as_they_are() -> None:
    """Copies to the byte, since a site is built from one folder."""
    figures = {path.read_bytes() for path in (ROOT / "experiments").glob("*/figure.png")}
    gallery = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]+\]\(pictures/(\w+\.png)\)\]", gallery)
    assert [f"](pictures/{name})](pictures/{name})" for name in shown if gallery.count(name) != 2] == []  # full size
    assert sorted(shown) == sorted(path.name for path in (DOCS / "pictures").glob("*.png"))
    assert [
        name for name in shown if name != "worldsheet.png" and (DOCS / "pictures" / name).read_bytes() not in figures
    ] == []


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(page.relative_to(DOCS)) for page in PAGES}


def test_the_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    there = {str(path) for place in ("src", "benchmarks", "tools", "docs") for path in (ROOT / place).rglob("*.*")}
    named = set(re.findall(r"`([\w/]+\.(?:py|c|css|js|html))`", text))
    assert len(named) > 50
    assert [name for name in sorted(named) if not any(path.endswith(f"/{name}") for path in there)] == []
