"""Runs of equal layers: which are evaluated and pulled through together."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from worldsheet.core.errors import InputError
from worldsheet.core.types import AnyState, Costate, Point, State
from worldsheet.engine.batched.vmapped import Mapped
from worldsheet.layers import ModuleInfo, Stack, Stackable


@final
class Workspace:
    """Room for one tensor with a row for each of up to so many sites, taken when it is first needed.

    A large new tensor costs more than what is computed into it: the operating system hands it out page by page.

    Args:
        sites: how many rows there may be.
    """

    __slots__ = ("_held", "_sites")

    def __init__(self, sites: int) -> None:
        self._sites = sites
        self._held: Tensor | None = None

    def like(self, tensor: Tensor) -> Tensor:
        """Room for a tensor of this shape and dtype, whose first dimension counts sites."""
        held = self._held
        if held is None or held.shape[1:] != tensor.shape[1:] or held.dtype != tensor.dtype:
            held = self._held = torch.empty((self._sites, *tensor.shape[1:]), dtype=tensor.dtype, device=tensor.device)
        return held if held.shape[0] == tensor.shape[0] else held[: tensor.shape[0]]

    def rows(self, count: int) -> Tensor | None:
        """So many rows of the shape that was asked for before; None if none was."""
        return None if self._held is None else self._held[:count]


_ROUNDINGS = 1000  # by which a batched product may differ from single ones


@final
class LayerGroup:
    """Consecutive layers first..last of one form, or one layer of any kind, which has no steps here.

    Args:
        first: its lowest layer.
        last: its highest layer.
        steps: the elementary maps of all its layers, in order.
        parameters: of all its layers, those that require grad, each once.
    """

    def __init__(self, first: int, last: int, steps: tuple[Stack, ...], parameters: tuple[Tensor, ...]) -> None:
        self.first = first
        self.last = last
        self.parameters = parameters
        self.steps = steps
        self._part = (first, last, steps)
        self._values = [Workspace(last + 1 - first) for _ in steps]
        self._work = [Workspace(last + 1 - first) for _ in steps]
        self._credits = [Workspace(last + 1 - first) for _ in steps]

    @property
    def alone(self) -> bool:
        """Whether it is one layer."""
        return self.first == self.last

    def forward(self, first: int, last: int, points: Point, out: State) -> list[Point]:
        """Evaluate layers first..last at `points`, into `out`; return what each step saves for its derivatives.

        What is saved is overwritten by the next call.
        """
        saved, top, count = [], len(self.steps) - 1, last + 1 - first
        for index, step in enumerate(self.part(first, last)):
            into = out if index == top else self._values[index].rows(count)
            y, kept = step.forward(points, into, self._work[index].like(points))
            if into is None:
                self._values[index].like(y)  # for the next time
            points = y
            saved.append(kept)
        return saved

    def pull(self, first: int, last: int, credit: Costate, saved: Sequence[Point], out: AnyState) -> None:
        """Pull credits back through layers first..last, into `out`."""
        steps = self.part(first, last)
        for index in range(len(steps) - 1, 0, -1):
            into = self._credits[index].rows(last + 1 - first)
            credit = steps[index].pull(credit, saved[index], into)
            if into is None:
                self._credits[index].like(credit)
        steps[0].pull(credit, saved[0], out)

    def efforts(self, credit: Costate, saved: Sequence[Point]) -> dict[int, tuple[Tensor, Tensor]]:
        """Each parameter's effort (4) under its id, summed over the run's layers; `saved` is of the whole run."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        lowest = next((index for index, step in enumerate(self.steps) if step.has_parameters), len(self.steps))
        for index in range(len(self.steps) - 1, lowest - 1, -1):
            step = self.steps[index]
            for parameter, part in step.efforts(credit, saved[index]):
                known = found.get(id(parameter))
                found[id(parameter)] = (parameter, part if known is None else known[1] + part)
            if index > lowest:
                credit = step.pull(credit, saved[index], None)
        return found

    def part(self, first: int, last: int) -> tuple[Stack, ...]:
        """The steps of some of the layers, remembered until others are asked for."""
        if self._part[:2] != (first, last):
            parts = tuple(step.part(first - self.first, last + 1 - self.first) for step in self.steps)
            self._part = (first, last, parts)
        return self._part[2]


def runs(traits: Sequence[ModuleInfo], passed: Sequence[Tensor], *, compiled: bool) -> list[LayerGroup]:
    """Consecutive layers that are equal but for their parameters on states of one shape, the last layer apart.

    Layers without a closed form are mapped together if that gives what each of them gave by itself.

    Args:
        traits: of layers 1..L.
        passed: a forward pass, x_0..x_L.
        compiled: whether layers that are mapped together are compiled.

    Raises:
        InputError: nothing to compile, or a compiler that fails.
    """
    autocast = torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")  # a closed form would not cast
    forms = [_fitting(trait, point) for trait, point in zip(traits, passed, strict=False)]
    found: list[list[int]] = []
    for index in range(len(traits)):
        inner = 0 < index < len(traits) - 1 and not autocast
        if inner and same_form(passed[index - 1], passed[index]) and _alike(forms[index - 1], forms[index]):
            found[-1].append(index)
        else:
            found.append([index])
    gathered: list[LayerGroup] = []
    for indices in found:
        run = _gathered(indices, traits)
        agree = run.alone or traits[indices[0]].steps is not None or _agree(run, passed)
        gathered += [run] if agree else [_gathered([index], traits) for index in indices]
    if not compiled:
        return gathered
    if not any(step.compiles for run in gathered for step in run.steps):
        raise nothing_to_compile()
    return [_compiled(run, passed) for run in gathered]


def nothing_to_compile() -> InputError:
    """The refusal of a compiler that would have nothing to do."""
    return InputError(
        "compile=True has nothing to compile: this chain has no layers that are mapped together",
        "a chain with equal neighbours that have no closed form, moving all at once",
        "leave compile out: closed forms and layers that stand alone are run by torch's own kernels as they are",
    )


def same_form(one: Tensor, other: Tensor) -> bool:
    """Whether two states can be rows of one tensor."""
    return one.shape == other.shape and one.dtype == other.dtype and one.device == other.device


def _compiled(run: LayerGroup, passed: Sequence[Tensor]) -> LayerGroup:
    """The run with its maps compiled, tried at the forward pass, so that a compiler that fails is told at once."""
    if not any(step.compiles for step in run.steps):
        return run
    made = LayerGroup(run.first, run.last, tuple(step.compiled() for step in run.steps), run.parameters)
    points = torch.stack(list(passed[run.first - 1 : run.last]))
    credit = torch.zeros_like(torch.stack(list(passed[run.first : run.last + 1])))
    try:
        saved = made.forward(run.first, run.last, points, torch.empty_like(credit))
        made.pull(run.first, run.last, credit, saved, torch.empty_like(points))
    except Exception as error:  # whatever a compiler says
        raise InputError(
            f"torch.compile failed on the layers of this chain: {str(error).strip().splitlines()[0]}",
            "a C++ compiler that torch finds, and layers that it can compile",
            "leave compile out: equal layers move together all the same",
        ) from error
    return made


def _fitting(traits: ModuleInfo, point: Point) -> tuple[Stackable, ...]:
    """What of a layer can be stacked with its like, if all of it holds for the layer's input."""
    forms = _forms(traits)
    return forms if all(form.fits(point) for form in forms) else ()


def _alike(below: Sequence[Stackable], forms: Sequence[Stackable]) -> bool:
    """Whether two layers are the same map but for the values of parameters."""
    if not forms or len(forms) != len(below):
        return False
    return all(form.alike(other) for form, other in zip(forms, below, strict=True))


def _forms(traits: ModuleInfo) -> tuple[Stackable, ...]:
    """What of a layer can be stacked with its like."""
    return traits.steps or (() if traits.mappable is None else (Mapped(traits.mappable),))


def _gathered(indices: Sequence[int], traits: Sequence[ModuleInfo]) -> LayerGroup:
    parameters = tuple({id(p): p for index in indices for p in traits[index].parameters}.values())
    steps: tuple[Stack, ...] = ()
    if len(indices) > 1:
        columns = zip(*(_forms(traits[index]) for index in indices), strict=True)
        steps = tuple(column[0].stacked(column[1:]) for column in columns)
    return LayerGroup(indices[0] + 1, indices[-1] + 1, steps, parameters)


def _agree(run: LayerGroup, passed: Sequence[Tensor]) -> bool:
    """Whether layers mapped together give, to rounding, what they gave one by one, and leave what they read alone."""
    read, wanted = (torch.stack(list(passed[run.first - shift : run.last + 1 - shift])) for shift in (1, 0))
    if read.shape[1:] != wanted.shape[1:]:
        return False
    points, made = read.clone(), torch.empty_like(wanted)
    try:
        run.forward(run.first, run.last, points, made)
    except Exception:
        return False
    error, size = (torch.linalg.vector_norm(each) for each in (made - wanted, wanted))
    kept = torch.equal(points, read) and not any(step.overwritten for step in run.steps)
    return kept and bool(error <= _ROUNDINGS * torch.finfo(wanted.dtype).eps * size)
