"""A state: what a reader is given in the place of a prediction, and where the credits of its readers arrive."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, final
from weakref import ref

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from worldsheet.core.errors import LayerError

CreditHook: TypeAlias = Callable[[Tensor], Tensor | None]
"""What a user wants done with the derivative by a tensor; returns another in its place, or None."""


@final
class Gate:
    """Whether credits may arrive at the states of one run: only while the library itself pulls back.

    Attributes:
        is_open: a pull-back of the library's is under way.
        shows: it brings efforts along, so that whoever watches linear maps is shown their credits.
    """

    __slots__ = ("is_open", "shows")

    def __init__(self) -> None:
        self.is_open = False
        self.shows = False

    def __enter__(self) -> None:
        self.is_open = self.shows = True

    def __exit__(self, *_: object) -> None:
        self.is_open = self.shows = False


@final
class Site:
    """One call that was cut, and where the credits of the readers of its tensors arrive.

    It holds nothing of any graph, since the graphs of its readers hold it.

    Args:
        name: of the submodule.
        call: the number of the submodule's call, from 1 on.
        kind: the submodule's class, or how a join joins.
        first: the number of its first tensor among all of the run.
        returned: what the call returned, with its graph.
        gate: of the run.

    Attributes:
        submodule: its name.
        handed: by tensor, what the call itself returned, as long as anybody holds it.
        credits: by tensor, the sum of what its readers have pulled back; None where none has arrived.
    """

    __slots__ = ("_call", "_gate", "_hooks", "credits", "first", "handed", "kind", "submodule")

    def __init__(self, name: str, call: int, kind: str, first: int, returned: Sequence[Tensor], gate: Gate) -> None:
        self.submodule = name
        self._call = call
        self._gate = gate
        self._hooks: dict[int, OrderedDict[int, CreditHook]] | None = None
        self.kind = kind
        self.first = first
        self.handed = [ref(each) for each in returned]
        self.credits: list[Tensor | None] = [None] * len(returned)

    @property
    def name(self) -> str:
        """Of the submodule, with the number of the call from the second on."""
        return self.submodule if self._call == 1 else f"{self.submodule}#{self._call}"

    @property
    def label(self) -> str:
        """Name and class, for messages and tables."""
        return f"'{self.name}' ({self.kind})"

    def take(self, arrived: Sequence[Tensor | None]) -> None:
        """Add what one reader pulled back.

        Raises:
            LayerError: a derivative that the user's own code takes through a state.
        """
        if not self._gate.is_open:
            raise crosses_sites()
        credits = self.credits
        for index, credit in enumerate(arrived):
            if credit is not None:
                known = credits[index]
                credits[index] = credit if known is None else known + credit

    def hook(self, index: int, hook: CreditHook) -> RemovableHandle:
        """Have a hook called once, on the whole credit of a tensor, before it goes on."""
        self._hooks = self._hooks or {}
        hooks = self._hooks.setdefault(index, OrderedDict())
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        return handle

    def whole(self) -> list[Tensor | None]:
        """The whole credits, after the user's hooks; none are held afterwards."""
        found, self.credits = self.credits, [None] * len(self.credits)
        if self._hooks is None:
            return found
        for index, hooks in self._hooks.items():
            for hook in tuple(hooks.values()):
                credit = found[index]
                changed = None if credit is None else hook(credit)
                found[index] = credit if changed is None else changed
        return found


def crosses_sites() -> LayerError:
    """The refusal of derivatives that a forward or loss takes through several sites."""
    return LayerError(
        "the model or its loss asks autograd for derivatives through more than one site",
        "torch.autograd.grad and backward inside one site, or on tensors that depend on no site",
        "name the module that does so as a block, Chain(model, loss, blocks=...), or make the whole model one site: "
        "Chain([model], loss)",
    )


def hook_between_sites() -> LayerError:
    """The refusal of hooks that would be called with what single sites pull back."""
    return LayerError(
        "a hook is on a tensor outside of all sites that several sites read, or on several tensors together, and would "
        "be called with the gradient of one site at a time",
        "hooks on what one site returns, or inside of one site",
        "put the hook on a submodule's output, or name the module around it in blocks=",
    )


class _State(torch.autograd.Function):
    """Values without a past; credits go to the site and no further. Its outputs may be written into."""

    @staticmethod
    def forward(ctx: Any, token: Tensor, site: Any, *values: Tensor) -> Any:
        ctx.site = site
        ctx.set_materialize_grads(False)
        if len(values) == 1:
            return values[0].detach()
        return tuple([value.detach() for value in values])

    @staticmethod
    def backward(ctx: Any, *credits: Tensor | None) -> Any:
        ctx.site.take(credits)
        return (None,) * (2 + len(credits))

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        found = tuple([None if tangent is None else tangent.clone() for tangent in tangents[2:]])
        return found[0] if len(found) == 1 else found


_TOKEN = torch.empty(0, requires_grad=True)
_apply: Callable[..., Any] = super(torch.autograd.Function, _State).apply
"""Function.apply without its look for transforms of torch.func, in which nothing is cut."""


def states_of(values: Sequence[Tensor], site: Site) -> tuple[Tensor, ...]:
    """The values as the states of a call: neither leaves nor views, without the graph that made them."""
    found = _apply(_TOKEN, site, *values)
    return (found,) if len(values) == 1 else found


STATE_NODE = type(_apply(_TOKEN, None, torch.zeros(())).grad_fn)
"""The class of a state's node in torch's graph."""


def site_of(tensor: Tensor) -> Site | None:
    """Where the credits of a tensor arrive, if it is a state as it was handed out."""
    node: Any = tensor.grad_fn
    return node.site if type(node) is STATE_NODE else None
