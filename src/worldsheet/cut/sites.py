"""Which submodules of a module are sites."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, final

from torch import nn
from torch.jit import ScriptModule
from torch.nn.parameter import UninitializedParameter

from worldsheet.core.errors import InputError

IsBlock: TypeAlias = Callable[[nn.Module], bool]
"""Picks submodules."""

Blocks: TypeAlias = type[nn.Module] | str | Sequence[type[nn.Module] | str] | IsBlock
"""Classes of submodules, names with wildcards, or a function that is asked about each."""

_LISTS = (nn.ModuleList, nn.ModuleDict)


@final
class Choice:
    """The sites of a module, found again when a submodule was added, replaced or taken away.

    Args:
        root: the module.
        blocks: what the user chose; None for the default.

    Raises:
        InputError: a choice that no submodule meets.
    """

    def __init__(self, root: nn.Module, blocks: Blocks | None) -> None:
        self._root = root
        self._blocks = blocks
        self._names: dict[nn.Module, str] = {}
        self._find()

    @property
    def joins(self) -> bool:
        """Whether sums and concatenations outside of all sites are sites too."""
        return self._blocks is None

    @property
    def is_settled(self) -> bool:
        """Whether a run has told which weight layers belong to joins; users' own choices need none."""
        return self._blocks is not None or self._is_settled

    def settle(self, joined: Collection[str]) -> bool:
        """Take weight layers whose results all went into one join each as parts of the joins' sites.

        Args:
            joined: names of sites.

        Returns:
            Whether that changes the sites.
        """
        self._is_settled = True
        kept = {m: n for m, n in self._names.items() if n not in joined or m._modules}
        changed = len(kept) < len(self._names)
        self._names = kept
        return changed

    def names(self) -> dict[nn.Module, str]:
        """The sites with their names.

        Raises:
            InputError: a choice that no submodule meets any more.
        """
        for children, known in self._shape:
            if tuple(children.values()) != known:
                self._find()
                break
        return self._names

    def _find(self) -> None:
        children = [module._modules for module in self._root.modules() if module._modules]
        self._shape = [(each, tuple(each.values())) for each in children]
        self._is_settled = False
        self._names = default_sites(self._root) if self._blocks is None else chosen_sites(self._root, self._blocks)


def default_sites(root: nn.Module) -> dict[nn.Module, str]:
    """Submodules of about one weight layer, or one block where blocks of several are repeated, by their names.

    From the root down, what is entered is: Sequentials, lists and dictionaries of modules, and every module that holds
    a list of blocks. What is not entered is a site if it has weights, that is matrices among its parameters: a
    normalisation belongs to the site that reads it. A block is a module with several weight layers. Compiled and
    scripted modules are never entered: as a whole they are one site.
    """
    found: dict[nn.Module, str] = {}
    if not is_sealed(root):
        _collect(root, "", found, set())
    return found or {root: ""}


def chosen_sites(root: nn.Module, blocks: Blocks) -> dict[nn.Module, str]:
    """The submodules that a user chose, by their names; of a compiled or scripted module, itself.

    Raises:
        InputError: a choice that no submodule meets.
    """
    if is_sealed(root):
        return {root: ""}
    reachable = _reachable(root)
    if callable(blocks) and not isinstance(blocks, (type, nn.Module)):
        found = {module: name for module, name in reachable.items() if blocks(module)}
    else:
        parts = _parts(blocks)
        classes = tuple(part for part in parts if isinstance(part, type))
        patterns = [part for part in parts if isinstance(part, str)]
        for pattern in patterns:
            if not any(_matches(name, pattern) for name in reachable.values()):
                raise _unmet(pattern, root, reachable)
        found = {
            module: name
            for module, name in reachable.items()
            if isinstance(module, classes) or any(_matches(name, pattern) for pattern in patterns)
        }
    if not found:
        raise _unmet(blocks, root, reachable)
    return found


def _parts(blocks: Any) -> Sequence[type[nn.Module] | str]:
    """Classes and names with wildcards.

    Raises:
        InputError: anything else.
    """
    parts: Any = [blocks] if isinstance(blocks, (str, type)) else blocks
    if not isinstance(parts, Sequence) or not all(isinstance(part, (str, type)) for part in parts):
        accepted = f"{_ACCEPTED}, or a list of classes and names"
        problem = f"blocks must be classes, names or a function, got {blocks!r}"
        raise InputError(problem, accepted, "pass for example ['stem', 'layers.*']")
    return parts


def _unmet(blocks: Any, root: nn.Module, reachable: Mapping[nn.Module, str]) -> InputError:
    return InputError(
        f"no submodule of {type(root).__name__} matches blocks={blocks!r}",
        _ACCEPTED,
        f"choose among {_examples(reachable)}",
    )


_ACCEPTED = "classes of submodules, their names with wildcards ('layers.*'), or a function that picks some"


def grouped(names: Mapping[nn.Module, str]) -> list[str]:
    """Names with classes, numbered neighbours of one class in one line: `layers.0 .. layers.11 (Block)`."""
    runs: list[list[tuple[str, str]]] = []
    for module, name in names.items():
        row = (name or "the module itself", type(module).__name__)
        before = runs[-1][-1] if runs else ("", "")
        stem, _, last = before[0].rpartition(".")
        if before[1] == row[1] and last.isdigit() and row[0] == f"{stem}.{int(last) + 1}".removeprefix("."):
            runs[-1].append(row)
        else:
            runs.append([row])
    return [
        f"{run[0][0]} ({run[0][1]})" if len(run) == 1 else f"{run[0][0]} .. {run[-1][0]} ({run[0][1]})" for run in runs
    ]


def refuse_sharded(root: nn.Module) -> None:
    """Refuse a module whose parameters are in pieces until hooks of a whole backward pass put them together.

    Raises:
        InputError: it is one.
    """
    sharding = sys.modules.get("torch.distributed.fsdp")  # whoever has such a module has imported it
    kinds = tuple(getattr(sharding, name) for name in ("FullyShardedDataParallel", "FSDPModule") if sharding)
    if kinds and any(isinstance(module, kinds) for module in root.modules()):
        raise InputError(
            f"{type(root).__name__} is fully sharded, so that no process holds its parameters whole",
            "modules whose parameters are whole in every process",
            "use DistributedDataParallel, or average .grad over processes after the call; see docs/layers.md",
        )


def is_torchs_own(module: nn.Module) -> bool:
    """Whether a call runs nothing but torch's code, hooks left aside: a layer of torch's without submodules."""
    return type(module).__module__.startswith("torch.nn.modules.") and not module._modules


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module runs code of the user's besides its forward."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def is_sealed(module: nn.Module) -> bool:
    """Whether a module's inside cannot be entered: it is compiled or scripted."""
    compiled = "_orig_mod" in module._modules or module._compiled_call_impl is not None
    return compiled or isinstance(module, ScriptModule) or hasattr(module.forward, "_torchdynamo_orig_callable")


def _collect(module: nn.Module, name: str, found: dict[nn.Module, str], seen: set[nn.Module]) -> None:
    for key, child in module._modules.items():
        if child is None or child in seen:
            continue
        seen.add(child)
        path = f"{name}.{key}" if name else key
        is_list = isinstance(child, (nn.Sequential, *_LISTS))
        if (is_list or _holds_blocks(child)) and not is_sealed(child):
            _collect(child, path, found, seen)
        elif any(isinstance(p, UninitializedParameter) or p.dim() > 1 for p in child.parameters()):
            found[child] = path


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a list of blocks stands anywhere inside."""
    for child in module.modules():
        if child is not module and isinstance(child, (nn.Sequential, *_LISTS)):
            blocks = sum(map(_is_block, child.children()))
            if blocks >= (1 if isinstance(child, _LISTS) else 2):
                return True
    return False


def _is_block(module: nn.Module) -> bool:
    """Whether several weight layers stand in a module that is no list itself."""
    if isinstance(module, (nn.Sequential, *_LISTS)):
        return False
    weighty = 0
    for child in module.modules():
        weighty += bool(child._parameters)
        if weighty > 1:
            return True
    return False


def _reachable(root: nn.Module) -> dict[nn.Module, str]:
    """Submodules with their names; what is inside of sealed ones is left out."""
    hidden = {inner for module in root.modules() if is_sealed(module) for inner in module.modules() if inner != module}
    return {module: name for name, module in root.named_modules() if module is not root and module not in hidden}


def _matches(name: str, pattern: str) -> bool:
    """Level by level, so that `layers.*` is each layer and not what is inside of it."""
    levels, wanted = name.split("."), pattern.split(".")
    return len(levels) == len(wanted) and all(map(fnmatchcase, levels, wanted))


def _examples(reachable: Mapping[nn.Module, str]) -> str:
    names = [f"'{name}' ({type(module).__name__})" for module, name in reachable.items()]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
