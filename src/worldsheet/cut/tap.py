"""Listening to the calls of a module, in one thread and only while a run lasts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any, TypeAlias, final

from torch import nn
from torch.compiler import is_dynamo_compiling

Call: TypeAlias = Callable[..., Any]
"""What a module does when it is called, hooks included."""

Listener: TypeAlias = Callable[[nn.Module, Call, tuple[Any, ...], dict[str, Any]], Any]
"""Is told the module, its own call and the arguments, and returns what the caller shall receive."""

_LOCK = Lock()
_ABSENT = object()


@final
class _Tap:
    """Stands in a module in the place of its own call; a thread in which nobody listens notices nothing.

    Args:
        module: the module.
        name: the attribute of the module that torch calls.

    Attributes:
        listeners: by thread.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        self.listeners: dict[int, Listener] = {}
        self._module = module
        self._name = name
        self._own: Call = getattr(module, name)
        self._before = module.__dict__.get(name, _ABSENT)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():  # a compiled caller has no inside
            return self._own(*args, **kwargs)
        listener = self.listeners.get(get_ident())
        return self._own(*args, **kwargs) if listener is None else listener(self._module, self._own, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Alone":
        return _Alone(memo[id(self._module)])

    def leave(self) -> None:
        """Make the module what it was before anybody listened."""
        own = self._module.__dict__
        if own.get(self._name) is not self:
            return
        if self._before is _ABSENT:
            del own[self._name]
        else:
            own[self._name] = self._before


@final
class _Alone:
    """The call of a copy that was made of a module while somebody listened to it: nobody listens to the copy."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self._module)._call_impl(self._module, *args, **kwargs)  # type: ignore[no-untyped-call]


@contextmanager
def tapped(modules: Iterable[nn.Module], listener: Listener) -> Iterator[None]:
    """Let a listener stand between modules and whoever calls them from this thread, after all of their hooks.

    Torch looks up `_compiled_call_impl` or `_call_impl` in the module at every call, so that an entry of that name in
    the module itself comes first. Both names are private to torch: tests/parity/test_private_calls.py says when this
    no longer holds.
    """
    thread = get_ident()
    held = []
    with _LOCK:
        for module in modules:
            name = "_call_impl" if module._compiled_call_impl is None else "_compiled_call_impl"
            tap = module.__dict__.get(name)
            if not isinstance(tap, _Tap):
                tap = module.__dict__[name] = _Tap(module, name)
            held.append((tap, tap.listeners.get(thread)))
            tap.listeners[thread] = listener
    try:
        yield
    finally:
        with _LOCK:
            for tap, outer in held:
                if outer is not None:
                    tap.listeners[thread] = outer
                    continue
                del tap.listeners[thread]
                if not tap.listeners:
                    tap.leave()
