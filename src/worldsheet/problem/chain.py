"""The problem: a chain of layers, a loss, and nothing about how it will be relaxed."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, final

from torch import Tensor, nn
from torch.nn.parameter import Parameter

from worldsheet.core.errors import InputError, LayerError
from worldsheet.problem.layer import Layer, Survey, layers_of
from worldsheet.problem.observer import Observer
from worldsheet.problem.topology import Topology


@final
class Chain:
    """Layers x_l = f_l(x_{l-1}; θ_l), l = 1..L, and a cost C(x_L, target).

    Its Lagrangian C(x_L) + Σ_l λ_lᵀ(f_l(x_{l-1}) − x_l) (1) is what every relaxation makes stationary. The modules stay
    the user's own: nothing is copied, wrapped, renamed or moved.

    Args:
        module: an `nn.Sequential`, an `nn.ModuleList` or a list of modules; each child is one site.
        loss: maps (output, target) to a scalar, averaged or summed; a function or a module, whose own parameters are
            then trained too.
        flatten: open nested plain Sequentials, so that each innermost module is a site; otherwise a nested Sequential
            is one block-sized site, which costs fewer messages.

    Raises:
        InputError: no layers, something that is not a module, or a loss that cannot be called.
    """

    def __init__(
        self, module: nn.Module | Sequence[nn.Module], loss: Callable[[Any, Any], Tensor], *, flatten: bool = False
    ) -> None:
        if not callable(loss):
            raise InputError(
                f"a loss of type {type(loss).__name__}",
                "a callable (output, target) -> scalar tensor",
                "pass for example torch.nn.CrossEntropyLoss()",
            )
        self.module = module
        self.layers: tuple[Layer, ...] = layers_of(module, flatten)
        self.loss = loss
        self.loss_survey = Survey(loss)
        self.topology = Topology.chain(len(self.layers))

    def __len__(self) -> int:
        return len(self.layers)

    def __repr__(self) -> str:
        sites = "\n".join(f"  {site}: {layer.label}" for site, layer in enumerate(self.layers, start=1))
        return f"Chain of {len(self)} sites\n{sites}\n  loss: {self.loss_name}"

    @property
    def loss_name(self) -> str:
        """How the loss is called in messages."""
        return getattr(self.loss, "__name__", type(self.loss).__name__)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, under the name it has in the user's module; those of the loss under `loss.`."""
        seen: set[int] = set()
        parts = [(layer.name, layer.module) for layer in self.layers]
        if isinstance(self.loss, nn.Module):
            taken = {name.split(".")[0] for name, _ in parts}
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
        chain.loss, chain.loss_survey = loss, Survey(loss)
        return chain

    def observed(self, observer: Observer) -> "Chain":
        """The same chain, whose layers with a closed form show the factors of their efforts to an observer."""
        chain = copy(self)
        chain.layers = tuple(replace(layer, survey=Survey(layer.module, observer)) for layer in self.layers)
        return chain

    def blame_layer(self, site: int, points: Sequence[Tensor], error: Exception) -> LayerError:
        """The error of layer `site`, told with both layers of the edge it happened on."""
        parents = ", ".join(
            f"{_describe(point)} from {self.layers[parent - 1].label if parent else 'the input'}"
            for parent, point in zip(self.topology.parents_of(site), points, strict=True)
        )
        return LayerError(
            f"layer {self.layers[site - 1].label} (site {site}) failed on {parents}: {error}",
            "layers whose shapes and dtypes fit each other, one tensor in and one tensor out",
            f"make the output of the layer before fit {self.layers[site - 1].module}",
        )

    def blame_loss(self, output: Tensor, target: object, error: Exception) -> LayerError:
        """The error of the loss, told with what it was given."""
        given = _describe(target) if isinstance(target, Tensor) else type(target).__name__
        return LayerError(
            f"loss {self.loss_name} failed on output {_describe(output)} and target {given}: {error}",
            "an output and a target of the shapes and dtypes this loss is written for",
            "class indices must be int64 for cross-entropy; regression targets need the output's dtype and shape",
        )


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
