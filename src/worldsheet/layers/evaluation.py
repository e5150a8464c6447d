"""One layer at one point, and what is pulled back through it: the only place where autograd works for a relaxation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from worldsheet.core.bundle import Bundle, Form, Parcel, bundled
from worldsheet.core.errors import LayerError
from worldsheet.core.private_torch import run_backward, storage_users
from worldsheet.core.types import Costate, Point, State
from worldsheet.cut import is_watched, leaves_below, silenced
from worldsheet.layers.layer import ModuleInfo
from worldsheet.layers.losses import Cost
from worldsheet.layers.steps import Step

_NOTHING = torch.empty(0)
_UNHEARD = nullcontext()
_LARGE = 2**16  # numbers in an output that is worth to be let go while its layer is pulled back through


_MARK = "point_of_a_layer"
"""An attribute of the tensors that layers are given; a loss whose graph leads to one reads a layer's inside."""


class Pull(NamedTuple):
    """A pulled-back credit.

    Attributes:
        inputs: Jᵀ·credit for each input of the layer; None where the layer does not depend on it.
        efforts: (∂f/∂θ)ᵀ·credit (4) for each parameter in memory of its own, None where a parameter was not used; None
            if not asked for.
    """

    inputs: tuple[Tensor | None, ...]
    efforts: tuple[Tensor | None, ...] | None


Efforts: TypeAlias = Callable[[], tuple[Tensor | None, ...]]
"""Gives the efforts of a layer, for each of its parameters."""


class Evaluation(ABC):
    """f_l at given points, kept for its vector-Jacobian products.

    Attributes:
        points: the very tensors the layer was evaluated at.
        output: f_l there.
        spent: whether it has been pulled through for the last time.
        emptied: whether it has let go of its output too.
    """

    __slots__ = ("emptied", "output", "points", "spent")
    output: State
    points: Sequence[Point]
    spent: bool
    emptied: bool

    @abstractmethod
    def pull(self, credit: Costate, *, effort: bool, keep: bool) -> Pull:
        """Pull a credit back to the inputs and, with `effort`, to the parameters, in one go.

        Args:
            credit: covector at the output.
            effort: whether to pull back to the parameters too.
            keep: whether this point will be pulled through again; otherwise what was saved for it is freed.
        """

    def split_backward(self, credit: Costate) -> tuple[Tensor | None, Efforts]:
        """Pull a credit back to the one input, for the last time, and leave the parameters for later, if they can wait.

        Returns:
            Jᵀ·credit, and what gives the efforts when it is called.
        """
        pulled = self.pull(credit, effort=True, keep=False)
        return pulled.inputs[0], lambda: pulled.efforts or ()

    def is_at(self, points: Sequence[Point]) -> bool:
        """Whether this evaluation was made from these very tensors."""
        for mine, other in zip(self.points, points, strict=True):  # noqa: SIM110  all() costs a generator per message
            if mine is not other:
                return False
        return True


@final
class Recorded(Evaluation):
    """Any layer: torch records the graph of this one layer.

    Args:
        function: the layer.
        points: its inputs.
        differentiate: for each point, whether pull-backs to it will be asked for.
        traits: what is known of the layer.
        searched: whether it may read leaf tensors that are no parameters of its own; its graph tells.

    Attributes:
        parameters: what efforts are given for.
    """

    __slots__ = ("_foreign", "_graph", "_leaves", "parameters")

    def __init__(
        self,
        function: Callable[..., State],
        points: Sequence[Point],
        differentiate: Sequence[bool],
        traits: ModuleInfo,
        *,
        searched: bool = False,
    ) -> None:
        self.points = points
        self.spent = self.emptied = False
        self.parameters: tuple[Tensor, ...] = traits.parameters
        self._foreign = traits.foreign
        with torch.enable_grad():
            self._leaves = [
                point.detach().requires_grad_(wanted) for point, wanted in zip(points, differentiate, strict=True)
            ]
            self._graph = function(*self._leaves)
        if searched:
            own = {id(leaf) for leaf in self._leaves}
            self.parameters = tuple(leaf for leaf in leaves_below(self._graph) if id(leaf) not in own)
            if any(hasattr(leaf, _MARK) for leaf in self.parameters):
                raise _reads_inside()
        for leaf in self._leaves:
            setattr(leaf, _MARK, True)
        self.output = self._graph.detach()

    def pull(self, credit: Costate, *, effort: bool, keep: bool) -> Pull:
        """One run of torch's engine over this layer's graph."""
        graph, leaves = self._graph, self._leaves
        size, differs = graph.numel(), graph.requires_grad
        root = get_gradient_edge(graph) if differs and not keep and size >= _LARGE else graph
        if not keep:
            self._graph, self._leaves, self.spent = _NOTHING, [], True
            if size > 1:  # whoever needs it holds it as a state
                self.output, self.emptied = _NOTHING, True
        del graph
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        count = len(wanted)
        if effort:
            wanted += self.parameters
        if not wanted or not differs:
            return Pull((None,) * len(leaves), (None,) * len(self.parameters) if effort else None)
        with silenced(self.parameters) if effort and any(map(is_watched, self.parameters)) else _UNHEARD:
            pulled: tuple[Tensor | None, ...] = run_backward(
                (root,), (credit,), keep, False, (*wanted,), allow_unreachable=True, accumulate_grad=False
            )
        inputs = pulled[:count]
        if count < len(leaves):
            found = iter(inputs)
            inputs = tuple(next(found) if leaf.requires_grad else None for leaf in leaves)
        if not effort:
            return Pull(inputs, None)
        return Pull(inputs, tuple([None if part is None else _owned(part, self._foreign) for part in pulled[count:]]))


@final
class Nested:
    """A layer that may take and return several tensors, pulled back through once: torch records its graph.

    Args:
        function: the layer; it takes and returns tensors, in tuples, lists and dicts.
        point: its input.
        differentiate: whether credits of the input will be asked for.
        traits: what is known of the layer.
        searched: whether it may read leaf tensors that are no parameters of its own; its graph tells.

    Attributes:
        output: what the layer returned.
        parameters: what efforts are given for.
    """

    __slots__ = ("_foreign", "_graphs", "_leaves", "_point", "output", "parameters")

    def __init__(
        self,
        function: Callable[[Any], Any],
        point: Parcel,
        *,
        differentiate: bool,
        traits: ModuleInfo,
        searched: bool = False,
    ) -> None:
        self.parameters: tuple[Tensor, ...] = traits.parameters
        self._foreign = traits.foreign
        self._point = point if isinstance(point, Bundle) else Bundle((point,), (differentiate,), _ALONE)
        with torch.enable_grad():
            self._leaves = [
                leaf.detach().requires_grad_(differentiate and wanted)
                for leaf, wanted in zip(self._point.leaves, self._point.wanted, strict=True)
            ]
            made = bundled(function(self._point.with_leaves(self._leaves)))
        self._graphs = [leaf for leaf in made.leaves if leaf.requires_grad]
        if searched:
            own = {id(leaf) for leaf in self._leaves}
            found = {id(leaf): leaf for root in self._graphs for leaf in leaves_below(root)}
            self.parameters = tuple(leaf for key, leaf in found.items() if key not in own)
            if any(hasattr(leaf, _MARK) for leaf in self.parameters):
                raise _reads_inside()
        for leaf in self._leaves:
            setattr(leaf, _MARK, True)
        detached = replace(made, leaves=tuple(leaf.detach() for leaf in made.leaves))
        alone = made.form == _ALONE and (made.leaves[0].is_floating_point() or made.leaves[0].is_complex())
        self.output: Parcel = detached.leaves[0] if alone else detached

    def split_backward(self, credit: Parcel) -> tuple[Parcel | None, Efforts]:
        """Pull a credit back: that of the input, and what gives the efforts.

        Args:
            credit: of the output; a bundle has one for each tensor that wants it, or None.
        """
        given = credit.value if isinstance(credit, Bundle) else (credit,) * len(self._graphs)
        pairs = [(root, part) for root, part in zip(self._graphs, given, strict=True) if part is not None]
        wanted = [leaf for leaf in self._leaves if leaf.requires_grad]
        self._graphs, self._leaves = [], []
        nothing = (None,) * (len(wanted) + len(self.parameters))
        targets = (*wanted, *self.parameters)
        with silenced(self.parameters) if any(map(is_watched, self.parameters)) else _UNHEARD:
            found: tuple[Tensor | None, ...] = (
                run_backward(
                    tuple(root for root, _ in pairs),
                    tuple(part for _, part in pairs),
                    False,
                    False,
                    targets,
                    allow_unreachable=True,
                    accumulate_grad=False,
                )
                if pairs and targets
                else nothing
            )
        efforts = [None if part is None else _owned(part, self._foreign) for part in found[len(wanted) :]]
        return self._credit(found[: len(wanted)]), lambda: tuple(efforts)

    def _credit(self, found: tuple[Tensor | None, ...]) -> Parcel | None:
        """For each tensor that wants one; None where nothing is wanted, or where the input is not depended on."""
        if all(part is None for part in found):
            return None
        return found[0] if self._point.form == _ALONE and len(found) == 1 else bundled(found)


_ALONE: Form = bundled(_NOTHING).form


@final
class ClosedForm(Evaluation):
    """A layer made of steps whose derivatives are known: no graph, no engine. To be made under `torch.no_grad`.

    Args:
        steps: the elementary maps, applied in order.
        points: the layer's one input.
        differentiate: whether pull-backs to it will be asked for.
        parameters: the layer's parameters that require grad.
    """

    __slots__ = ("_differentiate", "_parameters", "_saved", "_steps")

    def __init__(
        self, steps: Sequence[Step], points: Sequence[Point], differentiate: bool, parameters: Sequence[Tensor]
    ) -> None:
        self.points = points
        self.spent = self.emptied = False
        self._steps = steps
        self._differentiate = differentiate
        self._parameters = parameters
        (value,) = points
        self._saved: list[Tensor] = []
        for step in steps:
            value, saved = step.forward(value)
            self._saved.append(saved)
        self.output = value

    def pull(self, credit: Costate, *, effort: bool, keep: bool) -> Pull:
        """The chain rule over the steps, from the last to the first."""
        values = self._saved
        if not keep:
            self._saved, self.spent = [], True
            self.output, self.emptied = self.output.new_empty(0), True
        efforts: dict[int, Tensor] = {}
        lowest = -1 if self._differentiate else _lowest(self._steps)
        for index in range(len(self._steps) - 1, max(lowest, 0) - 1, -1):
            step, saved = self._steps[index], values[index] if keep else values.pop()
            if effort:
                _add(efforts, step.efforts(credit, saved))
            if index > lowest:
                credit = step.pull(credit, saved)
        inputs = (credit if self._differentiate else None,)
        return Pull(inputs, tuple([efforts.get(id(p)) for p in self._parameters]) if effort else None)

    def split_backward(self, credit: Costate) -> tuple[Tensor | None, Efforts]:
        """The chain rule down to the input; each step with parameters waits with the credit that it was given."""
        values, self._saved, self.spent = self._saved, [], True
        self.output, self.emptied = self.output.new_empty(0), True
        waiting: list[tuple[Step, Tensor, Tensor]] = []
        lowest = -1 if self._differentiate else _lowest(self._steps)
        for index in range(len(self._steps) - 1, max(lowest, 0) - 1, -1):
            step, saved = self._steps[index], values.pop()
            if step.has_parameters:
                waiting.append((step, credit, saved))
            if index > lowest:
                credit = step.pull(credit, saved)
        return credit if self._differentiate else None, partial(self._efforts, waiting)

    def _efforts(self, waiting: Sequence[tuple[Step, Tensor, Tensor]]) -> tuple[Tensor | None, ...]:
        efforts: dict[int, Tensor] = {}
        for step, credit, saved in waiting:
            _add(efforts, step.efforts(credit, saved))
        return tuple([efforts.get(id(p)) for p in self._parameters])


@final
class Checkpointed(Evaluation):
    """Only what a layer returned: whoever pulls back through it evaluates the layer again.

    Args:
        evaluation: what is remembered of; its graph goes.
    """

    __slots__ = ()

    def __init__(self, evaluation: Evaluation) -> None:
        self.points = evaluation.points
        self.output = evaluation.output
        self.spent, self.emptied = True, False

    def pull(self, credit: Costate, *, effort: bool, keep: bool) -> Pull:
        """Never asked for: it is spent."""
        raise NotImplementedError


@final
class CostEvaluation(Evaluation):
    """The cost at an output, with its gradient in closed form; the cost itself is computed when it is asked for.

    Args:
        cost: the closed form.
        output: where.
        target: what it is compared with.
    """

    __slots__ = ("_cost", "_slope", "_target", "_value")

    def __init__(self, cost: Cost, output: State, target: Any) -> None:
        self.points = (output,)
        self.spent = self.emptied = False
        self._cost = cost
        self._target = target
        self._slope = cost.slope(output, target)
        self._value: Tensor | None = None

    @property
    def output(self) -> State:  # type: ignore[override]  # read like the attribute of the others, and never set
        """C, a scalar."""
        if self._value is None:
            self._value = self._cost.value(self.points[0], self._target)
        return self._value

    def pull(self, credit: Costate, *, effort: bool, keep: bool) -> Pull:
        """∇C, which is known, times the credit of the cost: 1, or the share of one packet in an update."""
        del keep
        return Pull((self._slope * credit,), () if effort else None)


def _reads_inside() -> LayerError:
    return LayerError(
        "the loss reads what a layer has stored on the side, and its derivative by the layers below would be lost",
        "a loss of the output, parameters and other leaf tensors",
        'run the model as it is: ws.Chain(model, loss, blocks="*"); or return the term with the output',
    )


def _owned(gradient: Tensor, foreign: bool) -> Tensor:
    """The gradient, copied where its memory may be another gradient's too, or a tensor's that a foreign layer keeps."""
    if foreign or gradient.layout is not torch.strided:
        return gradient.clone()
    storage = gradient.untyped_storage()
    alone = storage_users(storage) == 2  # the gradient and `storage` here
    return gradient if alone and storage.nbytes() == gradient.numel() * gradient.element_size() else gradient.clone()


def _add(efforts: dict[int, Tensor], parts: Iterable[tuple[Tensor, Tensor]]) -> None:
    for parameter, part in parts:
        known = efforts.get(id(parameter))
        efforts[id(parameter)] = part if known is None else known + part


def _lowest(steps: Sequence[Step]) -> int:
    """The first step that has parameters, where a pull-back that nobody wants at the input may end."""
    for index, step in enumerate(steps):
        if step.has_parameters:
            return index
    return len(steps)
