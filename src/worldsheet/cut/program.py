"""A module of any kind as a problem: its own forward, the loss, and which submodules are sites."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from worldsheet.core.errors import LayerError, WorldsheetError
from worldsheet.core.private_torch import tree_leaves, without_function_modes
from worldsheet.cut.causes import (
    Where,
    cause_in_layer,
    describe,
    loss_error,
    name_of,
    no_scalar,
    unequal_shapes,
)
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
        with torch.enable_grad(), tapped({**names, **dict.fromkeys(self.watched, "")}, run.called), run.watch:
            output = self._called(run, x)
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

    def _called(self, run: Run, x: Any) -> Any:
        args, kwargs = call_of(x)
        try:
            output = self.module(*args, **kwargs)
        except WorldsheetError:
            raise
        except Exception as error:  # whatever a user's module raises is told with where
            raise self._failed(run, x, error) from error
        if run.sites:
            return output
        with without_function_modes():
            return run.cut("", type(self.module).__name__, output)

    def _failed(self, run: Run, x: Any, error: Exception) -> LayerError:
        model = type(self.module).__name__
        failed = run.failed
        given = tree_leaves(x)
        if failed is not None:
            held = {(p.dtype, p.device) for p in self.module.parameters() if p.is_floating_point()}
            own = len(held) == 1 or any(leaf is point for leaf in tree_leaves(failed.given) for point in given)
            cause = cause_in_layer(
                Where(f"'{failed.name}' ({type(failed.module).__name__}) of {model}", "", own),
                failed.module,
                failed.given,
                error,
            )
            if cause is not None:
                return cause
        elif type(x) is list and isinstance(error, TypeError):
            batch = any(isinstance(leaf, Tensor) for leaf in given)
            return LayerError(
                f"the model {model} cannot be called with the {len(x)} arguments that the list holds: {error}",
                "a tensor, or a tuple or list of arguments",
                "take the batch of a DataLoader apart first: x, target = batch"
                if batch
                else "convert the list: torch.as_tensor(x)",
            )
        place = f"in '{failed.name}' " if failed is not None else ""
        return LayerError(
            f"the model {model} failed {place}on {describe(x)}: {error}",
            "an input that the module itself takes: a tensor, a tuple of arguments or a dict of arguments by name",
            "call the module itself on this input: it must work first",
        )

    def _priced(self, output: Any, target: Any) -> Tensor:
        name = name_of(self.loss)
        if (unequal := unequal_shapes(self.loss, output, target)) is not None:
            raise unequal
        try:
            cost: Any = self.loss(output, target)
        except WorldsheetError:
            raise
        except Exception as error:  # whatever a user's loss raises is told with what it was given
            raise loss_error(self.loss, output, target, error) from error
        if not isinstance(cost, Tensor) or cost.numel() != 1:
            raise no_scalar(name, cost)
        if not cost.requires_grad:
            trained = any(p.requires_grad for p in self.module.parameters())
            raise LayerError(
                f"loss {name} returned a value that does not depend on anything that requires grad",
                "a loss that torch can differentiate by the output, of a model with a parameter that requires grad",
                "compute it from the output without .detach(), .item(), argmax or numpy"
                if trained
                else "unfreeze a parameter: model.requires_grad_(True)",
            )
        found: Tensor = cost.reshape(())
        return found


def call_of(x: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """How a module is called with an input: a tuple or list holds its arguments, a mapping its arguments by name."""
    if isinstance(x, Mapping):
        return (), x
    return (tuple(x), {}) if type(x) in (tuple, list) else ((x,), {})
