"""The public surface is frozen: names, signatures, what an import costs, and that everything is explained."""

import importlib
import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

import public_surface
import worldsheet as ws

SNAPSHOT = Path(__file__).with_name("public_surface.txt")
PACKAGES = [importlib.import_module(name) for name in public_surface.PACKAGES]
NAMES = [(package, name) for package in PACKAGES for name in package.__all__ if not name.startswith("__")]


def test_public_names_members_and_signatures_are_these() -> None:
    wanted = SNAPSHOT.read_text(encoding="utf-8").splitlines()
    assert list(public_surface.lines()) == wanted, "python tools/public_surface.py > tests/surface/public_surface.txt"


def test_the_top_holds_what_everybody_needs() -> None:
    own = [name for package, name in NAMES if package is ws and not inspect.ismodule(getattr(ws, name))]
    assert len(own) <= 27
    assert {name for name in ws.__all__ if inspect.ismodule(getattr(ws, name))} == {
        package.__name__.removeprefix("worldsheet.") for package in PACKAGES if package is not ws
    }


@pytest.mark.parametrize("name", public_surface.PACKAGES)
def test_every_package_is_importable_by_its_name(name: str) -> None:
    code = f"import {name} as package; print(len(package.__all__))"
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) > 2


def test_every_public_thing_is_explained() -> None:
    silent = []
    for package, name in NAMES:
        thing = getattr(package, name)
        doc = inspect.getdoc(thing) or ""
        if isinstance(thing, (type, types.FunctionType, types.ModuleType)) and (not doc or doc.startswith(f"{name}(")):
            silent.append(name)  # a dataclass writes its own, if nobody does
        if inspect.isclass(thing):
            members = {member: value for member, value in vars(thing).items() if not member.startswith("_")}
            ours = {
                m: v for m, v in members.items() if inspect.isfunction(v) or isinstance(v, (property, staticmethod))
            }
            silent += [f"{name}.{member}" for member in ours if not inspect.getdoc(getattr(thing, member))]
    assert silent == []


def test_no_class_name_stands_for_two_things() -> None:
    homes: dict[str, set[int]] = {}
    for package, name in NAMES:
        homes.setdefault(name, set()).add(id(getattr(package, name)))
    assert {name for name, things in homes.items() if len(things) > 1} <= {"relax", "Residuals"}


def test_importing_the_library_loads_no_shell() -> None:
    heavy = ["matplotlib", "typer", "rich", "sklearn", "pooch", "safetensors", "worldsheet_lab"]
    code = f"import json, sys, worldsheet; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
