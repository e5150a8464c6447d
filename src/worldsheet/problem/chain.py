"""The problem: layers in order, or a module of any kind, a loss, and nothing about how it will be relaxed."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from worldsheet.core.errors import InputError, LayerError
from worldsheet.core.private_torch import tree_leaves
from worldsheet.core.topology import Topology
from worldsheet.cut import (
    Blocks,
    Program,
    Replayed,
    Where,
    cause_in_layer,
    describe,
    grouped,
    loss_error,
    name_of,
    refuse_sharded,
    shapes_along,
)
from worldsheet.layers.layer import (
    Layer,
    ModuleInspector,
    containers_of,
    is_open,
    is_plain_sequential,
    items_of,
    layers_of,
)
from worldsheet.layers.observer import Observer, factors_of
from worldsheet.problem.site_table import SiteRow, SiteTable


@final
class Chain:
    """Layers x_l = f_l(x_{l-1}; θ_l), l = 1..L, and a cost C(x_L, target); each layer may read several sites.

    Its Lagrangian C(x_L) + Σ_l λ_lᵀ(f_l(x_{l-1}) − x_l) (1) is what every relaxation makes stationary. The modules stay
    the user's own: nothing is copied, wrapped, renamed or moved, and what the user changes later counts.

    A Sequential or a list is a path of its children. Of any other module the own forward is run, as it is, and cut
    where submodules return: what a submodule returned is its site's prediction, and whoever called it is given the
    site's state in its place. Its input is what it is called with: a tensor, a tuple of arguments, or a dict of
    arguments by name; its loss is given what it returned.

    By default the sites of such a module are its blocks where it holds lists of blocks, elsewhere its weight layers,
    and sums and concatenations outside of these. `chain.sites(x)` shows them.

    Args:
        module: an `nn.Sequential`, an `nn.ModuleList` or a list of modules, each child one site; or any module.
        loss: maps (output, target) to a scalar, averaged or summed; a function or a module. Whatever it reads is
            trained too.
        flatten: open nested plain Sequentials of a path, so that each innermost module is a site; otherwise a nested
            Sequential is one block-sized site, which costs fewer messages.
        blocks: submodules that are to be the sites: classes, names with wildcards as in `"layers.*"`, several of these
            in a list, or a function that is asked about each submodule; a Sequential is then no path.

    Raises:
        InputError: no layers, something that is not a module, a loss that cannot be called, or blocks that no submodule
            meets, each name by itself.
    """

    def __init__(
        self,
        module: nn.Module | Sequence[nn.Module],
        loss: Callable[[Any, Any], Tensor],
        *,
        flatten: bool = False,
        blocks: Blocks | None = None,
    ) -> None:
        if isinstance(module, type) or isinstance(loss, type):
            raise _class_given(module, loss)
        if not callable(loss):
            raise InputError(
                f"the loss must be callable, got an object of type {type(loss).__name__}",
                "a callable (output, target) -> scalar tensor",
                "pass for example torch.nn.CrossEntropyLoss()",
            )
        self.module = module
        self.loss = loss
        self.loss_survey = ModuleInspector(loss)
        self._flatten = flatten
        self._blocks = blocks
        self._observer: Observer | None = None
        self._layers: tuple[Layer, ...] = ()
        self._containers: list[tuple[object, tuple[object, ...]]] = []
        self._path: Topology | None = None
        self._program: Program | None = None
        if self.is_path:
            self._follow()
        else:
            self._program = self._opened()

    @property
    def is_path(self) -> bool:
        """Whether its sites are the children of a Sequential or list, each of which reads the one before it."""
        if self._blocks is not None:
            return False
        module = self.module
        return not isinstance(module, nn.Module) or isinstance(module, nn.ModuleList) or is_plain_sequential(module)

    @property
    def program(self) -> Program:
        """A module of any kind with its loss, to be run and cut."""
        if self._program is None:
            self._program = self._opened()
        return self._program

    @property
    def layers(self) -> tuple[Layer, ...]:
        """f_1..f_L of a path, as the Sequential or list is now.

        Raises:
            InputError: a chain that is no path.
        """
        if not self.is_path:
            raise InputError(
                f"a chain of {type(self.module).__name__} has no list of layers: its sites are known when its forward "
                "runs",
                "a chain of an nn.Sequential or a list of modules",
                "chain.sites(x) shows the sites for an input; or list the blocks in order: ws.Chain([stem, *blocks, "
                "head], loss)",
            )
        for container, items in self._containers:
            if tuple(items_of(container)) != items or not is_open(container):
                self._follow()
                break
        return self._layers

    @property
    def topology(self) -> Topology:
        """Which site of a path reads which: each the one before it.

        Raises:
            InputError: a chain that is no path.
        """
        layers = self.layers
        if self._path is None or self._path.size != len(layers):
            self._path = Topology.chain(len(layers))
        return self._path

    def sites(self, x: Any) -> SiteTable:
        """The sites for an input, from one forward pass, after which generators and modules are as they were.

        Raises:
            LayerError: a module that fails on this input.
        """
        if self.is_path:
            shapes = shapes_along([layer.module for layer in self.layers], x)
            rows = tuple(
                SiteRow(layer.name, type(layer.module).__name__, shape, (site - 1,))
                for site, (layer, shape) in enumerate(zip(self.layers, shapes, strict=True), start=1)
            )
            return SiteTable(rows, self.topology)
        problem = Replayed(self.program.with_loss(_sum_of_outputs), x, None)
        problem.undo()
        found = zip(problem.names, problem.kinds, problem.first.predictions, problem.topology.parents, strict=True)
        return SiteTable(
            tuple(SiteRow(name, kind, tuple(y.shape), read) for name, kind, y, read in found), problem.topology
        )

    def __len__(self) -> int:
        return len(self.layers)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        if self.is_path:
            sites = "\n".join(f"  {site}: {layer.label}" for site, layer in enumerate(self.layers, start=1))
            return f"Chain of {len(self)} sites\n{sites}\n  loss: {self.loss_name}"
        names = grouped(self.program.names())
        sites = "\n".join(f"  {name}" for name in names)
        return f"Chain of {type(self.module).__name__}, cut where these return:\n{sites}\n  loss: {self.loss_name}"

    @property
    def loss_name(self) -> str:
        """How the loss is called in messages."""
        return name_of(self.loss)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, under the name it has in the user's module; those of the loss under `loss.`."""
        seen: set[int] = set()
        own = self.module if isinstance(self.module, nn.Module) and not self.is_path else None
        parts = [("", own)] if own is not None else [(layer.name, layer.module) for layer in self.layers]
        if isinstance(self.loss, nn.Module):
            taken = set(own._modules) if own is not None else {name.split(".")[0] for name, _ in parts}
            parts.append((next(name for name in ("loss", "loss_fn", "the loss") if name not in taken), self.loss))
        for prefix, module in parts:
            for name, parameter in module.named_parameters(prefix):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once, ready for any `torch.optim` optimizer."""
        for _, parameter in self.named_parameters():
            yield parameter

    def with_loss(self, loss: Callable[[Any, Any], Tensor]) -> "Chain":
        """The same chain under another loss."""
        chain = copy(self)
        chain.loss, chain.loss_survey = loss, ModuleInspector(loss)
        chain._program = None if self._program is None else self._program.with_loss(loss)
        return chain

    def with_observer(self, observer: Observer) -> "Chain":
        """The same chain, which shows the factors of the efforts of its linear maps to an observer."""
        chain = copy(self)
        chain._observer = observer
        if self.is_path:
            chain._follow()
        else:
            chain._program = self.program.with_observer(factors_of(self.program.module, observer))
        return chain

    def shown(self) -> set[int]:
        """Identities of the parameters whose factors an observer is shown."""
        if self.is_path:
            return {id(p) for layer in self.layers for p in layer.closed_parameters}
        return {id(p) for module in self.program.watched for p in module.parameters(recurse=False)}

    def layer_error(self, site: int, point: object, error: Exception) -> LayerError:
        """The error of layer `site` of a path, told with both layers of the edge it happened on."""
        below = self.layers[site - 2].label if site > 1 else "the input"
        layer = self.layers[site - 1]
        where = Where(f"layer {layer.label} (site {site})", f" from {below}", site == 1)
        return cause_in_layer(where, layer.module, point, error) or LayerError(
            f"{where.place} failed on {describe(point)} from {below}: {error}",
            "layers whose shapes and dtypes fit each other, one tensor in and one tensor out",
            f"make the output of the layer before fit {layer.module}",
        )

    def loss_error(self, output: object, target: object, error: Exception) -> LayerError:
        """The error of the loss, told by its cause, or else with what it was given."""
        return loss_error(self.loss, output, target, error)

    def _follow(self) -> None:
        """Look at what the Sequential or list holds now."""
        self._layers = layers_of(self.module, self._flatten, self._observer)
        self._containers = containers_of(self.module, self._flatten)
        self._path = None

    def _opened(self) -> Program:
        assert isinstance(self.module, nn.Module)
        refuse_sharded(self.module)
        return Program(self.module, self.loss, self._blocks)


def _class_given(module: object, loss: object) -> InputError:
    """The error of a class in the place of one of its objects."""
    role, given = ("module", module) if isinstance(module, type) else ("loss", loss)
    name = given.__name__ if isinstance(given, type) else ""
    return InputError(
        f"the {role} must be an object, got the class {name} itself",
        f"an object of the class {name}",
        f"write {name}(), with its arguments in the parentheses",
    )


def _sum_of_outputs(output: Any, _: object) -> Tensor:
    """A loss that reads whatever is differentiable, to look at sites without one."""
    parts = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not parts:
        raise LayerError(
            "the module returned nothing that requires grad, so that its sites cannot be told",
            "an output that depends on a parameter or input that requires grad",
            "unfreeze a parameter, and check for .detach() and no_grad in the forward",
        )
    return torch.stack([part.abs().sum().double() for part in parts]).sum()
