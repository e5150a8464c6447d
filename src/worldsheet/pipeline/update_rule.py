"""How a stage answers the efforts of an update: it clips them, the optimizer steps, then the schedule of its rates."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from worldsheet.core.errors import InputError
from worldsheet.pipeline.clipping import Clip, Norms

MakeOptimizer: TypeAlias = Callable[[Iterable[Parameter]], Optimizer]
"""Makes the optimizer of one stage's parameters: `partial(torch.optim.Adam, lr=1e-3)`."""

MakeScheduler: TypeAlias = Callable[[Optimizer], LRScheduler]
"""Makes what moves its rates, a step per update: `partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=1000)`."""

Prepare: TypeAlias = Callable[[Optimizer], Optimizer]
"""Puts a port around an optimizer, for efforts that are late."""


@final
@dataclass(frozen=True)
class UpdateRule:
    """What each stage makes of its own parameters.

    Args:
        optimizer: makes the optimizer, which may have groups, or be several: `ports.Joined`.
        scheduler: makes what moves its rates; None for rates that stay.
        clip: how large efforts may be; None for any size.
    """

    optimizer: MakeOptimizer
    scheduler: MakeScheduler | None = None
    clip: Clip | None = None

    def updater(self, parameters: Mapping[str, Parameter], name: str, prepare: Prepare) -> "Updater | None":
        """The updater of a stage; None for one that has nothing to move.

        Args:
            parameters: of the stage, under their names in the whole network.
            name: of the stage, for errors.
            prepare: puts a port around its optimizer.

        Raises:
            InputError: an optimizer or scheduler that cannot do its part.
        """
        if not parameters:
            return None
        own = self.optimizer(list(parameters.values()))
        _refuse_unfit(own, parameters, name)
        optimizer = prepare(own)
        scheduler = None if self.scheduler is None else self.scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise InputError(
                "ReduceLROnPlateau asks for a metric at every step, which no stage has",
                "a scheduler whose step() takes nothing, such as LambdaLR, OneCycleLR or CosineAnnealingLR",
                "lower the rates yourself between calls: for stage in pipeline.stages: stage.optimizer.param_groups",
            )
        return Updater(parameters, optimizer, scheduler, self.clip)


@final
class Updater:
    """Answers the efforts of one stage's parameters.

    Args:
        parameters: under their names in the whole network.
        optimizer: moves them.
        scheduler: moves its rates.
        clip: how large efforts may be.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        clip: Clip | None,
    ) -> None:
        self._parameters = parameters
        self.optimizer = optimizer
        self.scheduler = scheduler
        self._clip = clip

    def answer(self, norms: Norms) -> None:
        """Move the parameters by their efforts, once, and then the rates."""
        if self._clip is not None:
            self._clip.apply(list(self._parameters.values()), norms)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler is not None:
            self.scheduler.step()

    @property
    def is_global(self) -> bool:
        """Whether the norms of other stages' efforts are asked for."""
        return self._clip is not None and self._clip.is_global

    @property
    def rates(self) -> dict[str, Any] | None:
        """Where the schedule of rates is, and for how many groups; None without a schedule."""
        if self.scheduler is None:
            return None
        return {"groups": len(self.optimizer.param_groups), "schedule": self.scheduler.state_dict()}

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """By the names of parameters: what the optimizer remembers, and the options of the group that each is in."""
        states = {name: dict(self.optimizer.state.get(p, {})) for name, p in self._parameters.items()}
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        groups = {
            names[id(parameter)]: {key: value for key, value in group.items() if key not in _OF_THE_GROUP}
            for group in self.optimizer.param_groups
            for parameter in group["params"]
        }
        return {"optimizer": states, "groups": groups}

    def load_state_dict(
        self, state: Mapping[str, Mapping[str, Any]], rates: Mapping[str, Any] | None, name: str
    ) -> None:
        """Go back to where a state was taken, of this stage or of others that had these parameters.

        Args:
            state: by the names of parameters.
            rates: where their schedule was.
            name: of the stage, for errors.

        Raises:
            InputError: parameters that are not in the state, that are one group here and had different options there,
                or a schedule here or there only.
        """
        self._refuse_strange(state, rates, name)
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        for group in self.optimizer.param_groups:
            own = [names[id(parameter)] for parameter in group["params"]]
            _refuse_torn_group(own, state["groups"])
            group.update(_copied(state["groups"][own[0]]) if own else {})
        for key, parameter in self._parameters.items():
            self.optimizer.state.pop(parameter, None)
            if known := state["optimizer"][key]:
                self.optimizer.state[parameter] = _moved(known, parameter)
        if self.scheduler is not None and rates is not None:
            self.scheduler.load_state_dict(_copied(rates["schedule"]))

    def _refuse_strange(
        self, state: Mapping[str, Mapping[str, Any]], rates: Mapping[str, Any] | None, name: str
    ) -> None:
        missing = [key for key in self._parameters if key not in state["groups"]]
        if missing:
            raise InputError(
                f"the state holds nothing of {', '.join(map(repr, missing))}, which {name} moves",
                "a state of a pipeline that moved the same parameters",
                "freeze what was frozen then, or load weights alone: module.load_state_dict(state['model'])",
            )
        mine = self.rates
        many, here = (0 if each is None else each["groups"] for each in (rates, mine))
        if many != here:
            raise InputError(
                f"{name} has a schedule of {here} rates, the state one of {many}",
                "the same scheduler, and as many groups in every stage",
                "make the pipeline with the same optimizer and scheduler as the one whose state this is",
            )


_OF_THE_GROUP = ("params", "param_names")


def _copied(value: Any) -> Any:
    """Nothing that the optimizer moves is shared with what was loaded."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return type(value)(_copied(inner) for inner in value) if isinstance(value, (list, tuple)) else value


def _moved(state: Mapping[str, Any], parameter: Parameter) -> dict[str, Any]:
    """Beside the parameter, but for the count of steps, which optimizers keep where it was."""
    return {
        key: value.to(parameter.device, copy=True) if isinstance(value, Tensor) and key != "step" else _copied(value)
        for key, value in state.items()
    }


def _refuse_torn_group(own: Sequence[str], groups: Mapping[str, Any]) -> None:
    for name in own:
        if not _equal(groups[name], groups[own[0]]):
            raise InputError(
                f"parameters {own[0]!r} and {name!r} are in one group here, and had different options in the state",
                "groups that divide the parameters as they did when the state was taken",
                "make the pipeline with the same optimizer",
            )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return bool(torch.equal(one, other)) if isinstance(one, Tensor) else bool(one == other)


def _refuse_unfit(optimizer: Optimizer, parameters: Mapping[str, Parameter], name: str) -> None:
    """What cannot step without a closure, or leaves parameters where they are."""
    kind = type(optimizer).__name__
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"{kind} asks for the loss again within a step, which no stage can compute",
            "an optimizer whose step() takes nothing",
            "use torch.optim.AdamW, SGD or Muon",
        )
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left = [key for key, parameter in parameters.items() if id(parameter) not in moved]
    if not left and len(moved) == len(parameters):
        return
    what = f"does not move {', '.join(map(repr, left))} of {name}" if left else "moves others too"
    raise InputError(
        f"the optimizer {kind} is not one of the parameters that it was given: it {what}",
        "an optimizer of the very parameters that it is made of",
        "put them into a group, or freeze those that shall not move: parameter.requires_grad_(False)",
    )
