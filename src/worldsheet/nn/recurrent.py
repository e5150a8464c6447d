"""Recurrent layers that are relaxed in time: all steps at once, or by the fastest loop there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from worldsheet.core.errors import InputError
from worldsheet.core.words import plural, shape_of
from worldsheet.layers.layer import is_watched
from worldsheet.recurrence.cells import Cell, GatedCell
from worldsheet.recurrence.compiled import NativeLoop, can_compile
from worldsheet.recurrence.costs import Costs, Method, Work
from worldsheet.recurrence.foreign import ForeignCell, LinearCell, LinearMap
from worldsheet.recurrence.layers import Layered, Single, Weights, kind_of
from worldsheet.recurrence.newton import Linearization, Progress, relax_states
from worldsheet.recurrence.once import refuse_transforms
from worldsheet.recurrence.relaxation import Relaxed, differentiable
from worldsheet.recurrence.types import Drive, States, Step

Hidden: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""h, or (h, c), as the wrapped module takes and returns it."""

_INNER = "module."
_PAUSE = 32  # calls that go without a scan after one that failed


@final
@dataclass(frozen=True)
class RecurrentOutcome:
    """How the last states of a `Recurrent` were found. They are the loop's to rounding, however that was.

    Attributes:
        method: loop, compiled loop, scan or diagonal scan.
        steps: T.
        iterations: Newton's, the most of any layer and window; 0 of a loop.
        residual: the largest |f(h_{t−1}, u_t) − h_t| over the largest |h_t|, of any layer; None of a loop.
        exponent: estimated growth per step of small deviations, Lyapunov's exponent; None where nothing measured it.
        windows: how many pieces of time were relaxed one after the other, the most of any layer.
        reason: why it was no scan, where one was tried or asked for.
    """

    method: Method
    steps: int
    iterations: int = 0
    residual: float | None = None
    exponent: float | None = None
    windows: int = 0
    reason: str = ""

    def __str__(self) -> str:
        parts = [f"{self.method.value} over {plural(self.steps, 'step')}"]
        if self.windows:
            parts.append(f"{plural(self.iterations, 'iteration')} in {plural(self.windows, 'window')}")
        if self.residual is not None:
            parts.append(f"residual {self.residual:.1e}")
        if self.exponent is not None:
            parts.append(f"exponent {self.exponent:.2g}")
        return ", ".join(parts) + (f": {self.reason}" if self.reason else "")

    __repr__ = __str__


@final
class Recurrent(nn.Module):
    """A recurrent layer of yours, with the same parameters, outputs and `state_dict`, in less time on long sequences.

    It takes `nn.RNN`, `nn.GRU` and `nn.LSTM` and is called as they are; or a cell, `nn.RNNCell`, `nn.GRUCell`,
    `nn.LSTMCell`, a `LinearCell`, or any module called as `cell(input, state)` that returns the new state. A cell is
    called with all inputs, (T, B, k), and gives (outputs, last state).

    States are found by a loop in C, on a processor with a C compiler; by Newton's method on all steps at once (41),
    where that is faster; or by the module itself. Costates come of one loop or reverse scan (43). Outputs and gradients
    are the loop's to rounding, whichever it was. A cell of your own must be a function of its two arguments,
    row by row.

    Args:
        module: the layer or cell.
        size: hidden numbers of a cell of your own; by default its attribute `hidden_size`.
        method: the way, where the cheapest by `costs` is not wanted.
        window: most steps that are relaxed together; as many as fit in memory by default.
        warm: begin with the last states, where shapes are equal and the residual is smaller, as in training.
        costs: of each way on this machine.

    Attributes:
        outcome: how the last states were found; None before the first.

    Raises:
        InputError: no module, or an LSTM with projections.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        size: int | None = None,
        method: Method | None = None,
        window: int | None = None,
        warm: bool = True,
        costs: Costs = Costs(),
    ) -> None:
        super().__init__()
        _check_module(module, window)
        self.module = module
        self._is_layered = isinstance(module, Layered)
        self.size = size
        self.method = method
        self.window = window
        self.warm = warm
        self.costs = costs
        self.outcome: RecurrentOutcome | None = None
        self._choices: dict[tuple[int, int, int, bool, torch.dtype, str], Method] = {}
        self._last: dict[str, States] = {}
        self._pause: dict[str, tuple[int, str]] = {}
        self.register_state_dict_post_hook(_without_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_with_prefix)  # type: ignore[no-untyped-call]

    def forward(self, x: Any, state: Hidden | None = None) -> tuple[Tensor, Hidden]:
        """Outputs of all steps and the last state.

        Raises:
            InputError: packed sequences, inputs of another shape or dtype, transforms of torch.func, a cell whose rows
                depend on each other.
        """
        refuse_transforms("Recurrent")
        _check_input(x)
        if self._is_layered:
            return self._layered(x, state)
        return self._single(x, state)

    def extra_repr(self) -> str:
        """The method and the last outcome."""
        parts = [] if self.method is None else [f"method={self.method}"]
        return ", ".join(parts + ([] if self.outcome is None else [f"outcome=({self.outcome})"]))

    def _layered(self, x: Tensor, state: Hidden | None) -> tuple[Tensor, Hidden]:
        """One of torch's layers, layer after layer, direction by direction."""
        module = cast(Layered, self.module)
        batched = x.dim() == 3
        first = x.transpose(0, 1) if batched and module.batch_first else x if batched else x[:, None]
        method, reason = self._chosen(first, module.hidden_size)
        if method is Method.LOOP:
            self.outcome = RecurrentOutcome(method, len(first), reason=reason)
            return cast(tuple[Tensor, Hidden], module(x, state))
        _check_sizes(module, x, state)
        starts, account, last = self._starts(first, state, batched), [], []
        directions = 2 if module.bidirectional else 1
        for layer in range(module.num_layers):
            outputs = []
            for direction in range(directions):
                place = f"_l{layer}" + ("_reverse" if direction else "")
                weights = Weights(module, place)
                drive = weights.drive(first.flip(0) if direction else first)
                start = starts[layer * directions + direction]
                states, progress = self._states(weights.cell, drive, start, method, place)
                account.append(progress)
                last.append(states[-1])
                shown = states[..., : module.hidden_size]
                outputs.append(shown.flip(0) if direction else shown)
            first = outputs[0] if directions == 1 else torch.cat(outputs, -1)
            if layer + 1 < module.num_layers and module.dropout:
                first = torch.dropout(first, module.dropout, module.training)
        self._tell(account, len(first))
        made = first.transpose(0, 1) if batched and module.batch_first else first if batched else first[:, 0]
        return made, _hidden(module, torch.stack(last) if batched else torch.stack(last)[:, 0])

    def _single(self, x: Tensor, state: Hidden | None) -> tuple[Tensor, Hidden]:
        """A cell over all steps."""
        module = self.module
        if x.dim() != 3:
            raise InputError(
                f"Recurrent: a cell needs inputs for all steps and samples, got shape {shape_of(x)}",
                "(steps, batch, inputs)",
                "add the batch dimension: x[:, None]",
            )
        kind = kind_of(module)
        if isinstance(module, LinearCell):
            kept, added = module.coefficients(x)
            cell: Cell = LinearMap(added.shape[-1])
            drive = torch.cat((kept.expand_as(added), added), -1)
        elif isinstance(module, Single) and kind is not None:
            weights = Weights(module, "")
            cell, drive = weights.cell, weights.drive(x)
        else:
            cell, drive = ForeignCell(module, self._size(state)), x
        method, reason = self._chosen(x, cell.size)
        if isinstance(module, LinearCell) and self.method is None:
            method = Method.DIAGONAL
        start = _joined(state) if state is not None else drive.new_zeros(x.shape[1], cell.size)
        _check_start(start, x.shape[1], cell.size)
        states, progress = self._states(cell, drive, start, method, "")
        self._tell([progress if not reason else _Passed(method, reason=reason)], len(x))
        return states[..., : states.shape[-1] // 2] if isinstance(module, nn.LSTMCell) else states, _hidden(
            module, states[-1]
        )

    def _chosen(self, x: Tensor, size: int) -> tuple[Method, str]:
        """The method for these inputs, and why it is the loop where it must be."""
        if len(x) < 2 or x.numel() == 0 or torch.compiler.is_compiling():
            return Method.LOOP, ""
        if torch.is_autocast_enabled(x.device.type) or x.dtype not in (torch.float32, torch.float64):
            return Method.LOOP, f"numbers of 32 or 64 bits are needed, without autocast, for {Method.SCAN.value}s"
        if is_watched(self.module):
            return Method.LOOP, "the wrapped module has hooks, which only its own call reaches"
        if self.method is not None:
            return self.method, ""
        key = len(x), x.shape[1], size, torch.is_grad_enabled(), x.dtype, x.device.type
        chosen = self._choices.get(key)
        if chosen is None:
            chosen = self._choices[key] = self._cheapest(*key)
        return chosen, ""

    def _cheapest(self, steps: int, batch: int, size: int, backward: bool, dtype: torch.dtype, device: str) -> Method:
        kind = kind_of(self.module)
        work = Work(
            kind=kind,
            steps=steps,
            batch=batch,
            size=size,
            backward=backward,
            double=dtype is torch.float64,
            on_cpu=device == "cpu",
            can_compile=kind is not None and can_compile(dtype, torch.device(device)),
        )
        return self.costs.best(work)

    def _states(self, cell: Cell, drive: Drive, start: Step, method: Method, place: str) -> tuple[States, "_Passed"]:
        """The states of one cell in one direction."""
        if method is Method.COMPILED:
            return _native(cell).states(drive, start), _Passed(method)
        if method is Method.LOOP:
            return _looped(cell, drive, start), _Passed(method)
        calls, reason = self._pause.get(place, (0, ""))
        if calls:
            self._pause[place] = (calls - 1, reason)
            return self._instead(cell, drive, start, Progress(reason=reason))
        how = Linearization(method is Method.DIAGONAL, 60 if method is Method.DIAGONAL else 20, self.window)
        known = drive.detach(), start.detach()
        with torch.no_grad():
            states, progress = relax_states(cell, *known, how, self._guess(drive, cell.size, place))
        if states is None:
            self._pause[place] = (_PAUSE, progress.reason)
            return self._instead(cell, drive, start, progress)
        if isinstance(cell, ForeignCell):
            _check_rows(cell, known[0], states)
        if self.warm:
            self._last[place] = states
        relaxed = Relaxed(cell, *known, states, how)
        return differentiable(cell, drive, start, relaxed), _Passed(method, progress)

    def _instead(self, cell: Cell, drive: Drive, start: Step, progress: Progress) -> tuple[States, "_Passed"]:
        """The loop, where a scan does not converge."""
        if isinstance(cell, GatedCell) and can_compile(drive.dtype, drive.device):
            return NativeLoop.of(cell).states(drive, start), _Passed(Method.COMPILED, progress, progress.reason)
        return _looped(cell, drive, start), _Passed(Method.LOOP, progress, progress.reason)

    def _guess(self, drive: Drive, size: int, place: str) -> States | None:
        last = self._last.get(place)
        fits = last is not None and last.shape == (*drive.shape[:2], size)
        return last if fits and last is not None and (last.device, last.dtype) == (drive.device, drive.dtype) else None

    def _size(self, state: Hidden | None) -> int:
        size = self.size if self.size is not None else getattr(self.module, "hidden_size", None)
        if isinstance(state, Tensor) and size is None:
            size = state.shape[-1]
        if not isinstance(size, int):
            raise InputError(
                f"Recurrent: how many numbers the state of {type(self.module).__name__} has is not known",
                "size=, an attribute hidden_size of the cell, or a state to begin with",
                "say it: ws.nn.Recurrent(cell, size=32)",
            )
        return size

    def _starts(self, x: States, state: Hidden | None, batched: bool) -> Tensor:
        """States before the first step, for each layer and direction."""
        module = cast(Layered, self.module)
        count = module.num_layers * (2 if module.bidirectional else 1)
        if state is None:
            width = module.hidden_size * (2 if isinstance(module, nn.LSTM) else 1)
            return x.new_zeros(count, x.shape[1], width)
        joined = _joined(state)
        return joined if batched else joined[:, None]

    def _tell(self, passes: list["_Passed"], steps: int) -> None:
        """What all layers together say: the last one that fell back, else the most of each number."""
        fallen = [each for each in passes if each.reason]
        shown = (fallen or passes)[-1]
        known = [each.progress for each in passes if each.progress is not None]
        exponents = [progress.exponent for progress in known if progress.exponent is not None]
        self.outcome = RecurrentOutcome(
            shown.method,
            steps,
            iterations=max((progress.iterations for progress in known), default=0),
            residual=max((progress.residual for progress in known), default=None) if not fallen else None,
            exponent=max(exponents, default=None),
            windows=max((progress.windows for progress in known), default=0) if not fallen else 0,
            reason=shown.reason,
        )


@final
@dataclass(frozen=True)
class _Passed:
    """How one layer in one direction was passed through."""

    method: Method
    progress: Progress | None = None
    reason: str = ""


def _native(cell: Cell) -> NativeLoop:
    if not isinstance(cell, GatedCell):
        raise InputError(
            "Recurrent: Method.COMPILED has C for torch's own cells only",
            "nn.RNN, nn.GRU, nn.LSTM or their cells",
            "leave method out, so that it is chosen",
        )
    return NativeLoop.of(cell)


def _looped(cell: Cell, drive: Drive, start: Step) -> States:
    """Step by step, recorded by autograd as any loop is."""
    states = []
    for now in drive:
        start = cell.step(start, now)
        states.append(start)
    return torch.stack(states)


def _joined(state: Hidden) -> Tensor:
    return torch.cat(state, -1) if isinstance(state, tuple) else state


def _hidden(module: nn.Module, state: Tensor) -> Hidden:
    if not isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return state
    hidden, cell = state.chunk(2, -1)
    return hidden.contiguous(), cell.contiguous()


def _check_module(module: object, window: int | None) -> None:
    if not isinstance(module, nn.Module):
        raise InputError(
            f"Recurrent: the module must be an nn.Module, got {type(module).__name__}",
            "nn.RNN, nn.GRU, nn.LSTM, one of their cells, a LinearCell, or a module called as cell(input, state)",
            "give an instance: ws.nn.Recurrent(nn.GRU(8, 16))",
        )
    if getattr(module, "proj_size", 0):
        raise InputError(
            "Recurrent: an LSTM with projections is not supported, proj_size must be 0, "
            f"got {getattr(module, 'proj_size', 0)}",
            "nn.LSTM without proj_size",
            "put an nn.Linear after the LSTM, or use this LSTM as it is",
        )
    if window is not None and window < 2:
        raise InputError(
            f"Recurrent: window must be at least 2 steps, got {window}",
            "a whole number of steps, or None",
            "leave it out: windows are as long as memory allows",
        )


def _check_input(x: object) -> None:
    if isinstance(x, PackedSequence):
        raise InputError(
            "Recurrent: packed sequences are not supported, as all sequences are relaxed over the same steps",
            "a padded tensor of inputs",
            "call nn.utils.rnn.pad_packed_sequence first and read each output at its own length, or call the wrapped "
            "module: recurrent.module",
        )
    if not isinstance(x, Tensor) or x.dim() not in (2, 3) or not (x.is_floating_point() or x.is_complex()):
        got = f"{x.dtype} of shape {shape_of(x)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"Recurrent: inputs must be a floating tensor for all steps, got {got}",
            "(steps, batch, inputs), or (batch, steps, inputs) of a layer with batch_first",
            "embed whole numbers first, and add the dimension that is missing",
        )


def _check_sizes(module: Layered, x: Tensor, state: Hidden | None) -> None:
    """What torch's own call would have refused."""
    if x.shape[-1] != module.input_size:
        raise InputError(
            f"Recurrent: the layer reads {module.input_size} numbers a step, got inputs of shape {shape_of(x)}",
            f"inputs whose last dimension is {module.input_size}",
            "make the layer with input_size equal to the inputs' last dimension",
        )
    if state is None:
        return
    batch = () if x.dim() == 2 else (x.shape[0 if module.batch_first else 1],)
    wanted = (module.num_layers * (2 if module.bidirectional else 1), *batch, module.hidden_size)
    parts = state if isinstance(state, tuple) else (state,)
    two = isinstance(module, nn.LSTM)
    if len(parts) != (2 if two else 1) or any(tuple(part.shape) != wanted for part in parts):
        raise InputError(
            f"Recurrent: the state before the first step must be {'two tensors' if two else 'a tensor'} of shape "
            f"{wanted}, got {', '.join(map(shape_of, parts))}",
            "(layers · directions, batch, hidden)" + (" for h and for c" if two else ""),
            "leave it out to begin with zeros",
        )


def _check_start(start: Step, batch: int, size: int) -> None:
    if tuple(start.shape) != (batch, size):
        raise InputError(
            f"Recurrent: the state before the first step must have shape {(batch, size)}, got {shape_of(start)}",
            "(batch, hidden), in two tensors (h, c) for an LSTM",
            "leave it out to begin with zeros, or say size= of a cell of your own",
        )


def _check_rows(cell: ForeignCell, drive: Drive, states: States) -> None:
    """Refuse a cell that gives something else for a step alone than for all steps together."""
    with torch.no_grad():
        some = sorted({1, len(states) // 2, len(states) - 1})
        apart = torch.stack([cell.step(states[at - 1], drive[at]) for at in some])
    scale = float(states.abs().max())
    rounding = 1e3 * torch.finfo(states.dtype).eps * max(scale, torch.finfo(states.dtype).tiny)
    if not float((apart - states[some]).abs().max()) <= rounding:
        raise InputError(
            "Recurrent: the cell must give the same state for a step alone as for all steps together, and does not",
            "a cell that maps each row by itself, without batch statistics, dropout or other random numbers",
            "put it into eval mode, or use ws.nn.Recurrent(cell, method=ws.nn.Method.LOOP)",
        )


def _without_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any]) -> None:
    """The wrapped module's own names."""
    del module, metadata
    for key in [key for key in state if key.startswith(prefix + _INNER)]:
        state[prefix + key.removeprefix(prefix + _INNER)] = state.pop(key)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *others: object) -> None:
    """And back."""
    del module, others
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + _INNER + key.removeprefix(prefix)] = state.pop(key)
