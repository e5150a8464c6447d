"""The problem: layers in a chain or graph, a loss, and nothing about how it will be relaxed."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias, final

from torch import Tensor, nn
from torch.nn.parameter import Parameter
from torch.utils import _pytree as pytree

from worldsheet.core.errors import InputError, LayerError
from worldsheet.problem.graph import Graph
from worldsheet.problem.layer import Layer, Survey, is_plain_sequential, layers_of
from worldsheet.problem.observer import Observer
from worldsheet.problem.retracing import KEPT, Tracing
from worldsheet.problem.topology import Topology
from worldsheet.problem.tracing import IsBlock

Blocks: TypeAlias = type[nn.Module] | tuple[type[nn.Module], ...] | IsBlock
"""Classes of submodules, or a function that picks them."""


@final
class Chain:
    """Layers x_l = f_l(x_{l-1}; θ_l), l = 1..L, and a cost C(x_L, target); each layer may read several sites.

    Its Lagrangian C(x_L) + Σ_l λ_lᵀ(f_l(x_{l-1}) − x_l) (1) is what every relaxation makes stationary. The modules stay
    the user's own: nothing is copied, wrapped, renamed or moved.

    A Sequential or a list is a path of its children. Any other module is traced to a graph: its forward is followed
    once for each shape of input, on tensors without data. Its input is what it is called with: a tensor, a tuple of
    arguments, or a dict of arguments by name. By default operations are joined to sites of about one weight layer, and
    a fork with its join to one site, so that what is kept is what backpropagation keeps. A submodule whose forward
    cannot be followed is one site.

    Args:
        module: an `nn.Sequential`, an `nn.ModuleList` or a list of modules, each child one site; or any module.
        loss: maps (output, target) to a scalar, averaged or summed; a function or a module, whose own parameters are
            then trained too.
        flatten: open nested plain Sequentials, so that each innermost module is a site; otherwise a nested Sequential
            is one block-sized site, which costs fewer messages.
        blocks: submodules that are to be one site each, by class or by a function that is asked about each; a
            Sequential is then traced too.
        fuse: join operations to sites; with False every operation of a traced module is one.

    Raises:
        InputError: no layers, something that is not a module, or a loss that cannot be called.
    """

    def __init__(
        self,
        module: nn.Module | Sequence[nn.Module],
        loss: Callable[[Any, Any], Tensor],
        *,
        flatten: bool = False,
        blocks: Blocks = (),
        fuse: bool = True,
    ) -> None:
        if not callable(loss):
            raise InputError(
                f"a loss of type {type(loss).__name__}",
                "a callable (output, target) -> scalar tensor",
                "pass for example torch.nn.CrossEntropyLoss()",
            )
        self.module = module
        self.loss = loss
        self.loss_survey = Survey(loss)
        self._graph: Graph | None = None
        self._root: nn.Module | None = None
        self._tracing: Tracing | None = None
        self._twins: dict[int, Chain] = {}
        self._is_twin = False
        as_it_is = is_plain_sequential(module) and blocks == () and fuse
        if isinstance(module, nn.Module) and not isinstance(module, nn.ModuleList) and not as_it_is:
            self._root = module
            self._tracing = Tracing(module, _picker(blocks), fuse)
        else:
            layers = layers_of(module, flatten)
            paths = ((0,), *[()] * (len(layers) - 1))
            self._graph = Graph(layers, Topology.chain(len(layers)), paths, (), None)

    @property
    def traces(self) -> bool:
        """Whether the sites depend on the input, and are found out when one is given."""
        return self._root is not None

    @property
    def graph(self) -> Graph:
        """Layers and their places; those of the input that was given last, if they depend on it.

        Raises:
            InputError: a traced module that no input was given yet.
        """
        if self._graph is None:
            raise InputError(
                f"a chain of {type(self.module).__name__}, which is traced when it is first given an input",
                "a chain whose sites are known",
                "call at(x) with an input, whose shapes decide what the forward does",
            )
        return self._graph

    def at(self, x: Any) -> "Chain":
        """This chain with the sites that it has for an input: itself unless it is traced.

        Raises:
            InputError: a forward that cannot be followed.
            LayerError: an operation that fails on what it receives.
        """
        if self._tracing is None:
            return self
        graph = self._tracing.graph(x)
        twin = self._twins.get(id(graph))
        if twin is None:
            twin = copy(self)
            twin._graph, twin._is_twin = graph, True
            if len(self._twins) >= KEPT:
                self._twins.clear()
            self._twins[id(graph)] = twin
        if not self._is_twin:
            self._graph = graph
        return twin

    def tensors(self, x: Any) -> list[Any]:
        """The tensors of an input; of a path, the input itself."""
        if not self.traces:
            return [x]
        found = [leaf for leaf in pytree.tree_leaves(x) if isinstance(leaf, Tensor)]
        return found or [x]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """f_1..f_L."""
        return self.graph.layers

    @property
    def topology(self) -> Topology:
        """Which site reads which."""
        return self.graph.topology

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        if self._graph is None:
            return f"Chain of {type(self.module).__name__}, to be traced\n  loss: {self.loss_name}"
        sites = "\n".join(f"  {site}: {layer.label}" for site, layer in enumerate(self.layers, start=1))
        return f"Chain of {len(self)} sites\n{sites}\n  loss: {self.loss_name}"

    @property
    def loss_name(self) -> str:
        """How the loss is called in messages."""
        return getattr(self.loss, "__name__", type(self.loss).__name__)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, under the name it has in the user's module; those of the loss under `loss.`."""
        seen: set[int] = set()
        parts = [("", self._root)] if self._root is not None else [(layer.name, layer.module) for layer in self.layers]
        if isinstance(self.loss, nn.Module):
            taken = set(self._root._modules) if self._root is not None else {name.split(".")[0] for name, _ in parts}
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

    def judged(self, loss: Callable[[Any, Any], Tensor]) -> "Chain":
        """The same chain under another loss."""
        chain = copy(self)
        chain.loss, chain.loss_survey, chain._twins = loss, Survey(loss), {}
        return chain

    def observed(self, observer: Observer) -> "Chain":
        """The same chain, whose layers with a closed form show the factors of their efforts to an observer."""
        chain = copy(self)
        layers = tuple(replace(layer, survey=Survey(layer.module, observer)) for layer in self.layers)
        chain._graph, chain._tracing = self.graph._replace(layers=layers), None
        return chain

    def blame_layer(self, site: int, points: Sequence[Tensor], error: Exception) -> LayerError:
        """The error of layer `site`, told with both layers of the edge it happened on."""
        parents = ", ".join(
            f"{_describe(point)} from {self.layers[parent - 1].label if parent else 'the input'}"
            for parent, point in zip(self.graph.sources(site), points, strict=True)
        )
        return LayerError(
            f"layer {self.layers[site - 1].label} (site {site}) failed on {parents}: {error}",
            "layers whose shapes and dtypes fit each other, one tensor in and one tensor out",
            f"make the output of the layer before fit {self.layers[site - 1].module}",
        )

    def blame_loss(self, outputs: Sequence[Tensor], target: object, error: Exception) -> LayerError:
        """The error of the loss, told with what it was given."""
        output = ", ".join(_describe(state) for state in outputs)
        given = _describe(target) if isinstance(target, Tensor) else type(target).__name__
        return LayerError(
            f"loss {self.loss_name} failed on output {output} and target {given}: {error}",
            "an output and a target of the shapes and dtypes this loss is written for",
            "class indices must be int64 for cross-entropy; regression targets need the output's dtype and shape",
        )


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _picker(blocks: Blocks) -> IsBlock:
    if isinstance(blocks, (type, tuple)):
        return lambda module: isinstance(module, blocks)
    return blocks
