"""Everything public, a line for each name with its arguments: tests/surface/public_surface.txt is what this prints.

python tools/public_surface.py > tests/surface/public_surface.txt
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

PACKAGES = (
    "worldsheet",
    *(f"worldsheet.{name}" for name in ("control", "diagnostics", "dynamics", "errors", "extend", "nn", "pipeline")),
    *(f"worldsheet.{name}" for name in ("ports", "schedules", "streaming", "substrates")),
)


def lines() -> Iterator[str]:
    """Sorted by package and name; members below their class."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            if inspect.ismodule(thing) or name.startswith("__"):
                continue
            yield f"{package}.{name}{arguments(thing)}"
            yield from (f"    .{member}" for member in sorted(members(thing)))


def members(thing: Any) -> Iterator[str]:
    """What a class has of its own, methods with their arguments."""
    if not inspect.isclass(thing):
        return
    fields = set(getattr(thing, "__dataclass_fields__", ()))
    for name, member in vars(thing).items():
        inherited = getattr(member, "__qualname__", "").rpartition(".")[0] not in ("", thing.__qualname__)
        if not name.startswith("_") and not inherited:  # torch puts an inherited step into classes of optimizers
            fields.discard(name)
            function = getattr(thing, name) if isinstance(member, (staticmethod, classmethod)) else member
            yield name + (arguments(function) if inspect.isroutine(function) else "")
    yield from fields


def arguments(thing: Any) -> str:
    """Names, kinds and defaults of the arguments; annotations are the type checker's business."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


if __name__ == "__main__":
    print("\n".join(lines()))
