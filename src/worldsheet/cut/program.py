"""A module of any kind as a problem: its own forward, the loss, and which submodules are sites."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from worldsheet.core.errors import LayerError, WorldsheetError
from worldsheet.core.private_torch import tree_leaves, without_function_modes
from worldsheet.cut.run import Feed, Run, Seen
from worldsheet.cut.sites import Blocks, Choice
from worldsheet.cut.tap import tapped


@final
class Program:
    """Runs a module and its loss, cut at the module's sites.

    Args:
        module: the user's own.
        loss: maps what the module returned and the target to a scalar.
        blocks: the submodules that are sites; None for the default.

    Attributes:
        watched: linear maps whose input and credit somebody wants to see.

    Raises:
        InputError: blocks that no submodule meets.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Any, Any], Tensor], blocks: Blocks | None) -> None:
        self.module = module
        self.loss = loss
        self.watched: Mapping[nn.Module, Seen] = {}
        self._choice = Choice(module, blocks)

    def with_loss(self, loss: Callable[[Any, Any], Tensor]) -> "Program":
        """The same under another loss."""
        program = copy(self)
        program.loss = loss
        return program

    def with_observer(self, watched: Mapping[nn.Module, Seen]) -> "Program":
        """The same, whose linear maps tell of their inputs and credits."""
        program = copy(self)
        program.watched = watched
        return program

    def names(self) -> dict[nn.Module, str]:
        """The submodules that are sites, with their names."""
        return self._choice.names()

    def run(self, x: Any, target: Any, feed: Feed, *, recompute: bool = False) -> tuple[Run, Tensor]:
        """One forward, on states that `feed` gives, and the loss at its end.

        Args:
            x: what the module is called with.
            target: what the loss compares the output with.
            feed: what readers are given at the cuts.
            recompute: keep nothing of the insides of sites, and call each again when it is pulled back through.

        Raises:
            LayerError: a module or loss that fails on what it receives, or a loss that is no scalar.
        """
        names = self.names()
        run = Run(names, feed, joins=self._choice.joins, watched=self.watched, root=self.module if recompute else None)
        args, kwargs = call_of(x)
        with torch.enable_grad(), tapped({**names, **dict.fromkeys(self.watched, "")}, run.called), run.watch:
            output = self._called(run, args, kwargs)
            cost = self._priced(output, target)
        run.finish()
        return run, cost

    def settle(self, run: Run, cost: Tensor) -> bool:
        """Learn from the first run which weight layers belong to joins; whether the sites are others from now on."""
        if self._choice.is_settled:
            return False
        return self._choice.settle(run.joined_layers(get_gradient_edge(cost)))

    def plain(self, x: Any, target: Any) -> Tensor:
        """The loss of the user's own forward, with nothing cut and nothing listened to."""
        args, kwargs = call_of(x)
        return self.loss(self.module(*args, **kwargs), target)

    def _called(self, run: Run, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        try:
            output = self.module(*args, **kwargs)
        except WorldsheetError:
            raise
        except Exception as error:  # whatever a user's module raises is told with where
            place = f"in '{run.failing}' " if run.failing else ""
            raise LayerError(
                f"the model {type(self.module).__name__} failed {place}on {describe((args, dict(kwargs)))}: {error}",
                "an input that the module itself takes: a tensor, a tuple of arguments or a dict of arguments by name",
                "call the module itself on this input: it must work first",
            ) from error
        if run.sites:
            return output
        with without_function_modes():
            return run.cut("", type(self.module).__name__, output)

    def _priced(self, output: Any, target: Any) -> Tensor:
        name = getattr(self.loss, "__name__", type(self.loss).__name__)
        try:
            cost: Any = self.loss(output, target)
        except WorldsheetError:
            raise
        except Exception as error:  # whatever a user's loss raises is told with what it was given
            raise LayerError(
                f"loss {name} failed on output {describe(output)} and target {describe(target)}: {error}",
                "an output and a target of the shapes and dtypes this loss is written for",
                "class indices must be int64 for cross-entropy; regression targets need the output's dtype and shape",
            ) from error
        if not isinstance(cost, Tensor) or cost.numel() != 1:
            raise LayerError(
                f"loss {name} returned {in_words(cost)}, not a scalar tensor",
                "a tensor with one entry",
                "average or sum over the batch: reduction='mean' or 'sum'",
            )
        if not cost.requires_grad:
            raise LayerError(
                f"loss {name} returned a value that does not depend on anything that requires grad",
                "a loss that torch can differentiate by the output",
                "compute it from the output without .detach(), .item(), argmax or numpy, and unfreeze a parameter",
            )
        found: Tensor = cost.reshape(())
        return found


def call_of(x: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """How a module is called with an input: a tuple or list holds its arguments, a mapping its arguments by name."""
    if isinstance(x, Mapping):
        return (), x
    return (tuple(x), {}) if type(x) in (tuple, list) else ((x,), {})


def in_words(value: object) -> str:
    """What a function returned where something else was wanted."""
    return (
        f"a tensor of shape {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else f"an object of type {type(value).__name__}"
    )


def describe(value: Any) -> str:
    """Shapes and dtypes of the tensors in a value, or its class."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    found = [describe(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return ", ".join(found[:4]) + ("" if len(found) <= 4 else ", ...") if found else type(value).__name__
