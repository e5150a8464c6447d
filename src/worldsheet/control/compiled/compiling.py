"""Functions of a tick as machine code, and ordinary ticks as one call of it.

Records are taken apart to tensors, functions of them are recorded and written as C, and what that returns is compared
once with what the function returns. Within code that is made there is no more than one kind of call: what has code of
its own, stages and the Riccati recursion, is called by it, and all else becomes a part of it.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar, final

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from worldsheet.control.compiled.codegen import Straight, straight
from worldsheet.control.compiled.constants import Constants
from worldsheet.control.compiled.execution import (
    Eager,
    Execution,
    Form,
    Selectable,
    Static,
    for_some,
    put_together,
    taken_apart,
)
from worldsheet.control.compiled.loops import BASIC, Loops
from worldsheet.control.compiled.native import Recursion
from worldsheet.control.compiled.recording import Recorder, UnknownError, ValueAskedError
from worldsheet.control.compiled.repeated import Repeated
from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import compiled_graph

R = TypeVar("R")
S = TypeVar("S", bound=Selectable)

_POINTS = 8192  # stages that move at once where code wants their number
_ROUNDINGS = 1e3  # of the largest number that is given, by which code may differ from its function

_Bare: TypeAlias = tuple[Callable[..., list[Tensor]], list[Form]]


@final
class Compiled(Execution):
    """Machine code: on a processor all of it C, elsewhere by the generator behind `torch.compile`.

    Stages are straight-line code, what moves whole arrays is loops, and the Riccati recursion is made for its sizes. An
    operation that has no such form brings the generator in for its function. Making code takes some seconds, once for
    a number of problems and all that `Problem.at` and `MPC` make of them. It is kept in the user's cache folder, or
    where the environment variable `WORLDSHEET_CACHE` says (nowhere if that is empty): what was made before on this
    machine, by the same compiler of the same source, is there in a fraction of a second. Dynamics, costs and
    constraints are read at the first solve. A tensor that they close over is compared at every solve, which refuses one
    that has changed; numbers and all else that they read must not change. What differs from solve to solve belongs into
    `Problem.parameters`.

    Attributes:
        seconds: wall-clock time spent on making code so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._current: set[Constants] = set()
        self._made: dict[Any, tuple[Callable[[list[Tensor]], list[Tensor]], Form, Constants]] = {}
        self._recursions: dict[tuple[torch.dtype, tuple[int, int]], Recursion] = {}
        self._straight: dict[Hashable, Straight | None] = {}
        self._repeated: dict[Hashable, Repeated | None] = {}

    @property
    def makes_code(self) -> bool:
        """A new shape is new code."""
        return True

    def places(self, most: int, stages: int) -> int:
        """Not so many that places stay empty for long in the end."""
        return min(most, _POINTS // stages)

    def left(self, taken: Tensor) -> Tensor:
        """All: an empty place costs less than new code."""
        return torch.arange(len(taken), device=taken.device)

    def for_some(
        self,
        chosen: Tensor,
        function: Callable[..., tuple[Tensor, ...]],
        given: tuple[Selectable, ...],
        otherwise: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """All of them at once; how many they are is another number each time, for which there is no code."""
        return for_some(chosen, function, given, otherwise)

    def ahead(self, function: Callable[..., tuple[S, Tensor]], state: S, *given: Any) -> S:
        """On a processor, code for one problem that calls the function until it says to stop, problem after problem.

        Raises:
            InputError: tensors that the function closes over and that have changed, no C compiler, or a dtype that C
                has not.
        """
        record, leaves, kept = (state, *given), list[Tensor](), list[Any]()
        form = taken_apart(record, leaves, kept)
        if leaves[0].device.type != "cpu":
            return state
        one = leaves
        if len(leaves[0]) > 1:
            one = list[Tensor]()
            taken_apart(tuple(_first(part) for part in record), one, [])
        own = [mine is not theirs for mine, theirs in zip(one, leaves, strict=True)]
        key = (function, form, leaves[0].dtype, *[leaf.shape for leaf in one])
        if key not in self._repeated:
            with self._counted():
                self._repeated[key] = _repeated(self, function, form, [leaf.contiguous() for leaf in one], kept)
        code = self._repeated[key]
        if code is None:
            return state
        self._check(code.constants)
        leaves = [leaf.contiguous() for leaf in leaves]
        for place, written in enumerate(code.written):
            leaves[place] = leaves[place].clone() if written else leaves[place]
        code(leaves, own)
        found: S = put_together(_form_of_first(form), iter(leaves), iter(()))
        return found

    def begin(self) -> None:
        """The constants of code are compared once more when it is next used."""
        self._current.clear()

    def run(self, function: Callable[..., R], *given: Any) -> R:
        """Look up the code for these shapes, or make it.

        Raises:
            InputError: a function that cannot be traced, tensors it closes over that have changed, or no working C++
                compiler.
        """
        leaves: list[Tensor] = []
        kept: list[Any] = []
        form = taken_apart(given, leaves, kept)
        leaves = [leaf.contiguous() for leaf in leaves]
        key = (function, form, leaves[0].dtype, leaves[0].device, *[leaf.shape for leaf in leaves])
        if key not in self._made:
            with self._counted():
                self._made[key] = _code(self, function, form, leaves, kept)
        code, out, constants = self._made[key]
        self._check(constants)
        found: R = put_together(out, iter(code(leaves)), iter(()))
        return found

    def recursion(self, like: Tensor, sizes: tuple[int, int]) -> Recursion | None:
        """C on a processor, None elsewhere.

        Raises:
            InputError: no C compiler, or a dtype that C has not.
        """
        if like.device.type != "cpu":
            return None
        key = (like.dtype, sizes)
        if key not in self._recursions:
            with self._counted():
                self._recursions[key] = Recursion(like.dtype, sizes)
        return self._recursions[key]

    def straight(
        self,
        key: Hashable,
        function: Callable[..., tuple[Tensor, ...]],
        fields: list[Tensor],
        *,
        in_turn: bool = False,
    ) -> Straight | None:
        """C on a processor; None elsewhere and for what has no scalar form or is too large.

        Raises:
            InputError: a function that asks for values, tensors that it closes over and that have changed, no C
                compiler, or a dtype that C has not.
        """
        like = fields[0]
        if like.device.type != "cpu":
            return None
        key = (key, in_turn, like.dtype, *[field.shape[-1] for field in fields])
        if key not in self._straight:
            with self._counted():
                one = [field[:1, :1] for field in fields]
                try:
                    code = straight(function, one, in_turn=in_turn)
                except ValueAskedError as error:
                    raise _refusal(error) from error
                self._straight[key] = code if code is not None and agrees(code(*one), function(*one), one) else None
        code = self._straight[key]
        if code is not None:
            self._check(code.constants)
        return code

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """The time that making code takes, once where code is made for code."""
        before, begun = self.seconds, time.perf_counter()
        yield
        self.seconds = before + time.perf_counter() - begun

    def _check(self, constants: Constants) -> None:
        if constants not in self._current:
            constants.check()
            self._current.add(constants)


@final
class _Within(Execution):
    """Of a function that is part of code, or will be: what is code already is called, all else is done or recorded.

    Args:
        owner: who makes code.
        recorder: what writes down; None, and operations are done.
    """

    def __init__(self, owner: Compiled, recorder: Recorder | None) -> None:
        self._owner, self._recorder = owner, recorder

    @property
    def makes_code(self) -> bool:
        """As its owner."""
        return True

    def places(self, most: int, stages: int) -> int:
        """As its owner."""
        return self._owner.places(most, stages)

    def left(self, taken: Tensor) -> Tensor:
        """As its owner."""
        return self._owner.left(taken)

    def begin(self) -> None:
        """Its owner has begun."""

    def for_some(
        self,
        chosen: Tensor,
        function: Callable[..., tuple[Tensor, ...]],
        given: tuple[Selectable, ...],
        otherwise: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """A branch for one problem; more of them need not all go the same way.

        Raises:
            UnknownError: several problems in a recording.
        """
        if self._recorder is None:
            return for_some(chosen, function, given, otherwise)
        if len(chosen) != 1:
            raise UnknownError("a branch of several problems")
        return self._recorder.branch(chosen, function, given, otherwise)

    def ahead(self, function: Callable[..., tuple[S, Tensor]], state: S, *given: Any) -> S:
        """The state itself."""
        return state

    def run(self, function: Callable[..., R], *given: Any) -> R:
        """As part of the whole."""
        return function(*given)

    def recursion(self, like: Tensor, sizes: tuple[int, int]) -> Recursion | None:
        """That of its owner, called from within."""
        with self._aside():
            found = self._owner.recursion(like, sizes)
        return found if found is None or self._recorder is None else found.called_by(self._recorder.call)

    def straight(
        self,
        key: Hashable,
        function: Callable[..., tuple[Tensor, ...]],
        fields: list[Tensor],
        *,
        in_turn: bool = False,
    ) -> Callable[..., list[Tensor]] | None:
        """That of its owner, called from within.

        Raises:
            UnknownError: there is none, in a recording: what is as large as that is not made a second time.
        """
        with self._aside():
            code = self._owner.straight(key, function, [field.detach() for field in fields], in_turn=in_turn)
        recorder = self._recorder
        if recorder is None:
            return code
        if code is None:
            raise UnknownError("stages without straight-line code")
        return lambda *given: recorder.call(code, given)

    def _aside(self) -> AbstractContextManager[None]:
        return nullcontext() if self._recorder is None else self._recorder.aside()


def _first(part: Any) -> Any:
    """One problem of a record; anything else is shared by all."""
    if isinstance(part, Tensor) or not hasattr(part, "select"):
        return part
    return part.select(torch.zeros(1, dtype=torch.long))


def _form_of_first(form: Form) -> Form:
    """Of the first of a tuple."""
    assert isinstance(form, tuple)
    found: Form = form[1]
    return found


def _bare(function: Callable[..., Any], form: Form, kept: list[Any], execution: Execution) -> _Bare:
    """A function of records as one of tensors, and the forms of what it has returned."""
    forms: list[Form] = []
    held = [part.executed_by(execution) if isinstance(part, Static) else part for part in kept]

    def bare(*tensors: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        forms.append(taken_apart(function(*put_together(form, iter(tensors), iter(held))), found, []))
        return found

    return bare, forms


def _repeated(
    owner: Compiled, function: Callable[..., Any], form: Form, leaves: list[Tensor], kept: list[Any]
) -> Repeated | None:
    """Code that repeats a function of one problem; None where it has no such code."""
    recorder, state = Recorder(BASIC), list[Tensor]()
    bare, _ = _bare(function, form, kept, _Within(owner, recorder))
    plain, _ = _bare(function, form, kept, _Within(owner, None))
    taken_apart(put_together(form, iter(leaves), iter(kept))[0], state, [])
    try:
        made = Repeated(bare, leaves, len(state), recorder)
    except (UnknownError, ValueAskedError):
        return None
    return made if agrees(made.once(leaves), plain(*leaves), leaves) else None


def _code(
    owner: Compiled, function: Callable[..., Any], form: Form, leaves: list[Tensor], kept: list[Any]
) -> tuple[Callable[[list[Tensor]], list[Tensor]], Form, Constants]:
    """The function on bare tensors, the form of what it returns, and what it closes over."""
    plain, forms = _bare(function, form, kept, _Within(owner, None))
    try:
        code = _loops(owner, function, form, kept, leaves)
        if code is None or not agrees(code(leaves), plain(*leaves), leaves):
            made, constants = _generated(_bare(function, form, kept, Eager())[0], leaves)
            plain(*leaves)
            return made, forms[-1], constants
    except Exception as error:
        raise _refusal(error) from error
    return code, forms[-1], code.constants


def _refusal(error: Exception) -> InputError:
    return InputError(
        f"the problem's functions cannot be compiled: {type(error).__name__}: {str(error).splitlines()[0]}",
        "functions of tensors without branches on their values, and a C++ compiler",
        "use torch.where instead of if, install g++, or leave Compiled() out",
    )


_Code: TypeAlias = tuple[Callable[[list[Tensor]], list[Tensor]], Constants]


def _loops(
    owner: Compiled, function: Callable[..., Any], form: Form, kept: list[Any], leaves: list[Tensor]
) -> Loops | None:
    """Loops in C, on a processor and where all operations have them."""
    if leaves[0].device.type != "cpu":
        return None
    recorder = Recorder(BASIC)
    try:
        return Loops(_bare(function, form, kept, _Within(owner, recorder))[0], leaves, recorder)
    except UnknownError:
        return None


def agrees(made: Sequence[Tensor], wanted: Sequence[Tensor], given: Sequence[Tensor]) -> bool:
    """Whether code returns what the function itself does, to rounding: the safeguard of what is made of operations.

    Numbers may differ by the root of their precision times the largest, where the function returns a finite one, and by
    some roundings of the largest that is given, for what is small because large numbers cancel.
    """
    largest = max((_largest(field) for field in given if field.is_floating_point()), default=0.0)
    for mine, theirs in zip(made, wanted, strict=True):
        if (mine.shape, mine.dtype) != (theirs.shape, theirs.dtype):
            return False
        if not theirs.is_floating_point():
            if not torch.equal(mine, theirs):
                return False
            continue
        precision, finite = torch.finfo(theirs.dtype).eps, theirs.isfinite()
        apart = (mine - theirs)[finite].abs()
        tolerance = precision**0.5 * _largest(theirs) + _ROUNDINGS * precision * largest
        if apart.numel() and not float(apart.max()) <= tolerance:
            return False
    return True


def _largest(field: Tensor) -> float:
    """The largest finite size of an entry."""
    sizes = field[field.isfinite()].abs()
    return float(sizes.max()) if sizes.numel() else 0.0


def _generated(function: Callable[..., list[Tensor]], leaves: list[Tensor]) -> _Code:
    """By the generator behind torch.compile."""
    graph = make_fx(lambda *tensors: [leaf.contiguous() for leaf in function(*tensors)])(*leaves)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    constants = Constants.of(graph)
    with torch.no_grad():
        code = compiled_graph(graph, leaves)
        code(*leaves)
    return lambda given: code(*given), constants
