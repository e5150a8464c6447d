"""Ports around ports: they share the groups and the states of what they hold."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from worldsheet.core.errors import InputError

Making: TypeAlias = tuple[Callable[[list[Tensor]], Optimizer], Iterable[Tensor]]
"""What makes an optimizer, and the parameters that it is made of."""


class Around(Optimizer, ABC):
    """An optimizer that holds others. Schedulers, groups and state_dict work as with the ones inside.

    Args:
        ports: what it holds, of parameters that are all different.
    """

    def __init__(self, *ports: Optimizer) -> None:
        super().__init__([group for port in ports for group in port.param_groups], _common([p.defaults for p in ports]))
        self.ports = ports
        together: defaultdict[Tensor, Any] = defaultdict(dict)
        for port in ports:
            together.update(port.state)
        _share(self, together)

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while it is made: no port inside would move parameters that come later.

        Raises:
            InputError: afterwards.
        """
        if hasattr(self, "ports"):
            raise InputError(
                f"{type(self).__name__} cannot take another group of parameters, since no port inside would move them",
                "groups of the optimizers that it is made of",
                "add the group to the optimizer before it is put in here",
            )
        super().add_param_group(param_group)

    @abstractmethod
    def move(self) -> None:
        """Move every parameter that has a gradient."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.move()
        return loss

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        _hand_down(self, self.param_groups)
        _share(self, self.state)


@final
class Joined(Around):
    """Several optimizers as one, each of some of the parameters: Muon for matrices and AdamW for the rest.

        Joined((partial(torch.optim.Muon, lr=0.02), matrices), (partial(torch.optim.AdamW, lr=3e-4), rest))

    An optimizer that would have no parameters is left out, as of a stage that has no matrix.

    Args:
        parts: pairs of what makes an optimizer, and its parameters.

    Raises:
        InputError: a parameter of two optimizers, or no parameters at all.
    """

    def __init__(self, *parts: Making) -> None:
        given = [(make, list(parameters)) for make, parameters in parts]
        owned = [id(parameter) for _, parameters in given for parameter in parameters]
        if not owned or len(owned) != len(set(owned)):
            raise InputError(
                f"Joined was given {'a parameter for two optimizers' if owned else 'no parameters at all'}",
                "pairs (make, parameters) whose parameters are all different",
                "divide them by one question: [p for p in params if p.ndim == 2], [p for p in params if p.ndim != 2]",
            )
        super().__init__(*(make(parameters) for make, parameters in given if parameters))

    @override
    def move(self) -> None:
        for port in self.ports:
            port.step()


def _common(defaults: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all have, by which schedulers know whether there is a momentum to be moved."""
    first, *others = defaults
    return {name: value for name, value in first.items() if all(name in other for other in others)}


def plain(port: Optimizer) -> Iterator[Optimizer]:
    """The optimizers that move parameters, inside of ports around ports."""
    if not isinstance(port, Around):
        yield port
        return
    for inner in port.ports:
        yield from plain(inner)


def _share(port: Optimizer, state: defaultdict[Tensor, Any]) -> None:
    """One state for all, since their parameters are different ones."""
    port.state = state
    for inner in port.ports if isinstance(port, Around) else ():
        _share(inner, state)


def _hand_down(port: Optimizer, groups: list[dict[str, Any]]) -> None:
    """The groups of a port to those inside, in order."""
    port.param_groups = groups
    rest = iter(groups)
    for inner in port.ports if isinstance(port, Around) else ():
        _hand_down(inner, [next(rest) for _ in inner.param_groups])
