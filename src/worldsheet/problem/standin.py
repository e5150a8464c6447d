"""What stands for a tensor while a forward is followed."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, final

from torch import Tensor, fx

from worldsheet.problem.shadow import tensors_of, written


class NotTraceableError(Exception):
    """What a forward does here cannot be written down as a graph of operations."""


class Follower(fx.Tracer, ABC):
    """Who notes what is done with a stand-in."""

    @abstractmethod
    def overwrite(self, old: fx.Node, new: fx.Node) -> None:
        """From here on whoever reads `old` reads `new`; other views of its memory must not be read any more."""


@final
class Traced(fx.Proxy):
    """What stands for a tensor, or for several, while a forward is followed; shapes, dtypes and devices are known.

    Args:
        node: the operation that makes it.
        tracer: who follows.
        value: its value as tensors without data.
    """

    def __init__(self, node: fx.Node, tracer: Follower, value: Any) -> None:
        super().__init__(node, tracer)
        self.tracer: Follower = tracer
        self.value = value

    @property
    def __class__(self) -> type:
        """What `isinstance` is told: models ask whether they were given a tensor, a list or a tuple."""
        return Tensor if isinstance(self.value, Tensor) else type(self.value)

    @__class__.setter
    def __class__(self, _: type) -> None:
        raise NotTraceableError("a tensor's class is changed")

    def __getattr__(self, k: str) -> Any:
        found = getattr(self.value, k)
        if callable(found) and not isinstance(found, Tensor):
            return fx.proxy.Attribute(self, k)
        return self.tracer.create_proxy("call_function", getattr, (self, k), {}) if tensors_of(found) else found

    def __setitem__(self, index: Any, value: Any) -> None:
        made = self.tracer.create_proxy("call_function", written, (self, index, value), {})
        self.tracer.overwrite(self.node, made.node)

    def __len__(self) -> int:
        return len(self.value)

    def __iter__(self) -> Iterator[Any]:
        return iter([operator.getitem(self, index) for index in range(len(self))])

    def __bool__(self) -> bool:
        raise NotTraceableError(f"the value of {self.node.name} decides which way the forward goes")

    def __hash__(self) -> int:
        return id(self)

    def _number(self, *_: Any) -> Any:
        raise NotTraceableError(f"the value of {self.node.name} is turned into a Python number")

    __int__ = __float__ = __index__ = __complex__ = item = tolist = numpy = _number


def _overwriting(function: Callable[..., Any]) -> Callable[[Traced, Any], Any]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(Traced, f"__{_name}__", _overwriting(getattr(operator, _name)))
