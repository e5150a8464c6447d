"""One layer of a chain and what must be known about it before it can be evaluated more than once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, TypeGuard, final

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from worldsheet.core.errors import InputError
from worldsheet.layers.closed_forms import steps_of
from worldsheet.layers.observer import Observed, Observer
from worldsheet.layers.steps import Step

_DRAWS_ALWAYS = (nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)
_DRAWS_IN_TRAINING = (_DropoutNd, nn.RReLU, nn.RNNBase, nn.MultiheadAttention)


class _Draws(Enum):
    NEVER = 0
    IN_TRAINING = 1
    ALWAYS = 2


class ModuleInfo(NamedTuple):
    """What one look at a function tells: taken anew at each relaxation, since users change modes and parameters.

    Attributes:
        parameters: those that require grad, each once.
        buffers: whether an evaluation may move buffers (batch-norm statistics, spectral-norm vectors).
        random: whether an evaluation may draw random numbers; any class or hook that is not torch's own may.
        foreign: whether any of its code is not torch's own.
        watched: whether hooks listen to its calls, so that it must be called.
        steps: its closed form, if it has one and nothing listens to its calls.
        mappable: itself, where it may be mapped with its like: it has no closed form and nothing listens to its calls.
    """

    parameters: tuple[Tensor, ...]
    buffers: bool
    random: bool
    foreign: bool
    watched: bool
    steps: tuple[Step, ...] | None
    mappable: nn.Module | None


@final
class ModuleInspector:
    """What a module is made of, walked once and walked again when a submodule has been replaced.

    Args:
        function: a module, or a plain function, which has no parameters or buffers, but may draw if it is not torch's.
        observer: is shown the factors of its efforts, where it has a closed form.
    """

    def __init__(self, function: object, observer: Observer | None = None) -> None:
        self._function = function
        self._observer = observer
        self._walk()

    def __reduce__(self) -> tuple[Any, ...]:
        """By what it was made from: what it found may hold functions that cannot be pickled."""
        return ModuleInspector, (self._function, self._observer)

    def look(self, watched: bool) -> ModuleInfo:
        """The traits as they are now.

        Args:
            watched: whether hooks for all modules are set.
        """
        for module, children in self._parts:
            if module._modules and tuple(module._modules.values()) != children:
                self._walk()
                return self.look(watched)
            watched = watched or is_watched(module)
        parameters = {id(p): p for held in self._holders for p in held.values() if p is not None and p.requires_grad}
        steps = self._steps
        if steps is not None:
            for parameter in parameters.values():
                watched = watched or bool(parameter._backward_hooks)
        random, foreign = watched or self._may_draw(), watched or self._foreign
        moving = self._may_move_buffers()
        mappable = None if watched or (random and not foreign) else self._mappable
        return ModuleInfo(
            (*parameters.values(),), moving, random, foreign, watched, None if watched else steps, mappable
        )

    def _may_move_buffers(self) -> bool:
        return bool(self._buffered) and any(module.training for module in self._buffered)

    def _may_draw(self) -> bool:
        if not self._parts:
            return not str(getattr(self._function, "__module__", "")).startswith("torch.")
        return bool(self._drawing) and any(kind is _Draws.ALWAYS or m.training for m, kind in self._drawing)

    def _walk(self) -> None:
        modules = list(self._function.modules()) if isinstance(self._function, nn.Module) else []
        kinds = [(module, _draws(module)) for module in modules]
        self._parts = [(module, tuple(module._modules.values())) for module in modules]
        self._steps = steps_of(self._function)
        if self._observer is not None and self._steps is not None:
            self._steps = tuple(Observed(step, self._observer) for step in self._steps)
        self._mappable = self._function if isinstance(self._function, nn.Module) and not self._steps else None
        self._foreign = not modules or any(not _is_torchs(module) for module in modules)
        self._holders = [module._parameters for module in modules if module._parameters]
        self._buffered = [module for module in modules if module._buffers]
        self._drawing = [(module, kind) for module, kind in kinds if kind is not _Draws.NEVER]


def is_watched(module: nn.Module) -> bool:
    """Whether hooks or a `forward` of its own see its calls; these may also draw random numbers."""
    own = module.__dict__
    before = own["_forward_hooks"] or own["_forward_pre_hooks"]
    return bool(before or own["_backward_hooks"] or own["_backward_pre_hooks"] or "forward" in own)


def _is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.")


def _draws(module: nn.Module) -> _Draws:
    if not _is_torchs(module) or isinstance(module, _DRAWS_ALWAYS):
        return _Draws.ALWAYS
    return _Draws.IN_TRAINING if isinstance(module, _DRAWS_IN_TRAINING) else _Draws.NEVER


@dataclass
class Layer:
    """The map f_l with its name in the user's module.

    Attributes:
        name: dotted path in the user's module, or the index in the user's list.
        module: the user's own module, called as it is.
        survey: what it is made of.
        writes_input: by training mode, whether it overwrites its input in place, so that it must be given a copy; found
            out at the first evaluation.
    """

    name: str
    module: nn.Module
    survey: ModuleInspector
    writes_input: dict[bool, bool] = field(default_factory=dict)

    @property
    def closed_parameters(self) -> tuple[Tensor, ...]:
        """Its trainable parameters if it has a closed form, else none."""
        traits = self.survey.look(False)
        return traits.parameters if traits.steps else ()

    @property
    def label(self) -> str:
        """Name and class, for messages and tables."""
        return f"'{self.name}' ({type(self.module).__name__})"


def layers_of(module: object, flatten: bool, observer: Observer | None = None) -> tuple[Layer, ...]:
    """The sites of an `nn.Sequential`, an `nn.ModuleList` or a list of modules, nested Sequentials opened on request.

    Raises:
        InputError: anything else, or no layer at all.
    """
    if is_plain_sequential(module):
        found = list(_children(module, "", flatten))
    elif isinstance(module, nn.ModuleList) or (isinstance(module, (list, tuple)) and not hasattr(module, "_fields")):
        found = [pair for index, item in enumerate(module) for pair in _opened(str(index), item, flatten)]
    else:
        raise InputError(
            f"a chain cannot be made from an object of type {type(module).__name__}",
            "an nn.Module, or a list of modules",
            "list the blocks of your model in order: ws.Chain([stem, block1, block2, head], loss)",
        )
    if not found:
        raise InputError(
            "the chain has no layers", "at least one layer", "put at least one module into the Sequential or list"
        )
    return tuple(Layer(name, item, ModuleInspector(item, observer)) for name, item in found)


def containers_of(module: object, flatten: bool) -> list[tuple[object, tuple[object, ...]]]:
    """The Sequentials and lists that layers were taken from, with what they hold."""
    items = tuple(items_of(module))
    nested = [item for item in items if flatten and is_plain_sequential(item)]
    return [(module, items), *(pair for item in nested for pair in containers_of(item, flatten))]


def items_of(container: Any) -> Iterable[object]:
    """What a Sequential or list holds."""
    return container._modules.values() if isinstance(container, nn.Module) else container


def is_open(container: object) -> bool:
    """Whether layers may still be taken from it: nobody listens to its call."""
    return not isinstance(container, nn.Sequential) or is_plain_sequential(container)


def is_plain_sequential(module: object) -> TypeGuard[nn.Sequential]:
    """Whether calling a module is calling its children in order and nothing else."""
    return (
        isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and not is_watched(module)
    )


def _children(module: nn.Module, prefix: str, flatten: bool) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module._modules.items():  # named_children would skip a module that is used twice
        yield from _opened(prefix + name, child, flatten)


def _opened(name: str, item: object, flatten: bool) -> Iterator[tuple[str, nn.Module]]:
    if not isinstance(item, nn.Module):
        raise InputError(
            f"layer '{name}' is of type {type(item).__name__}, not an nn.Module",
            "an nn.Module",
            "wrap a plain function in a module whose forward calls it",
        )
    if flatten and is_plain_sequential(item):
        yield from _children(item, f"{name}.", flatten)
    else:
        yield name, item
