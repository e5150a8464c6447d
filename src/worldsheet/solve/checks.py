"""What every verb checks before anything moves."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from worldsheet.core.errors import InputError
from worldsheet.core.private_torch import tree_leaves
from worldsheet.core.reading import read
from worldsheet.core.record import Record
from worldsheet.core.topology import Topology
from worldsheet.dynamics import Dynamics
from worldsheet.engine import Stop
from worldsheet.problem import Chain
from worldsheet.schedules import CreditFront, Late, Leapfrog, Schedule, Synchronous, Wavefront

_NONE_GIVEN = Stop()


def default_schedule(dynamics: Dynamics, schedule: Schedule | None, *, fresh: bool = True) -> Schedule:
    """The schedule asked for, else the wavefront for a dynamics that settles at once, else one that moves all at once.

    A descent from a forward pass leaves out the sites ahead of its credit, unless it starts elsewhere. The delays that
    a dynamics brings along are added to either.

    Raises:
        InputError: a schedule that moves each site once, for a dynamics that needs many moves, or one under which it
            must diverge.
    """
    character = dynamics.character
    schedule = _natural(dynamics, fresh) if schedule is None else schedule
    if schedule.once and not dynamics.settles_at_once:
        raise InputError(
            f"{schedule} moves each site once, but {dynamics} does not settle in one move",
            "a schedule that moves each site many times, or a dynamics that settles in one move",
            "use Synchronous(), Sweep(count=None) or Asynchronous(generator), or Dyadic(rate=1)",
        )
    if character.whole_credit and (character.delay or not schedule.uniform):
        late = f" with messages {character.delay} ticks late" if character.delay else ""
        raise InputError(
            f"{dynamics} cannot move under {schedule}{late}: its credit and its states cross the network within a tick",
            "a schedule that moves all sites at once, with fresh messages",
            "leave schedule out, or use PredictiveCoding(), whose sites move one by one as well",
        )
    if character.patience is not None and schedule.own_delay > character.patience:
        raise InputError(
            f"{dynamics} is unstable under {schedule}, where a site reads its own costate {schedule.own_delay} ticks "
            "late",
            f"a delay of at most {character.patience} ticks at these rates: α/ρ < 2 sin(π/(2(2·delay + 1)))",
            "let each site read its own costate fresh, Delays(own=0), or make dual_rate smaller",
        )
    return Late(schedule, character.delay) if character.delay else schedule


def _natural(dynamics: Dynamics, fresh: bool) -> Schedule:
    character = dynamics.character
    if dynamics.settles_at_once and not character.delay:
        return Wavefront()
    if character.leads is None:
        return Synchronous()
    if character.whole_credit:
        return Leapfrog(character.leads)
    return CreditFront(character.leads) if fresh and character.descends else Leapfrog(character.leads)


def reads_start(schedule: Schedule, stop: Stop, topology: Topology) -> bool:
    """Whether fields are read before they have moved: always, unless each site moves once and all of them get to."""
    if not schedule.once or stop.max_ticks is None:
        return not schedule.once
    return stop.max_ticks < (schedule.settles_after(topology) or 0)


def moves_once(schedule: Schedule, stop: Stop, topology: Topology) -> bool:
    """Whether every site moves just once, on neighbours that have settled."""
    return schedule.once and not reads_start(schedule, stop, topology)


def check_input(x: Any) -> None:
    """Refuse an input that cannot be relaxed.

    Raises:
        InputError: no tensor, inference mode, or an input that is itself the result of a recorded computation.
    """
    if not isinstance(x, Tensor):
        raise InputError(
            f"the input must be a tensor, got an object of type {type(x).__name__}",
            "a torch.Tensor",
            _how_to_a_tensor(x),
        )
    if torch.is_inference_mode_enabled() or x.is_inference():
        raise InputError(
            "the call is under torch.inference_mode, or its input was made there",
            "grad mode or torch.no_grad, which are both fine",
            "leave inference_mode, and clone the input outside it",
        )
    if x.requires_grad and not x.is_leaf:
        raise InputError(
            "the input requires grad and is the output of another computation",
            "a leaf tensor",
            "h = x.detach().requires_grad_(); ws.backward(chain, h, target); x.backward(h.grad)",
        )


def _how_to_a_tensor(x: object) -> str:
    if isinstance(x, (list, tuple)) and any(isinstance(each, Tensor) for each in x):
        return "take the batch of a DataLoader apart first: x, target = batch"
    if isinstance(x, DataLoader):
        return "loop over it: for x, target in loader"
    return "convert it: torch.as_tensor(x)"


def check_options(dynamics: object, schedule: object = None, stop: object = _NONE_GIVEN, record: object = None) -> None:
    """Refuse anything but objects of the library's own kinds, each with what was probably meant.

    Raises:
        InputError: the first of them.
    """
    if not isinstance(dynamics, Dynamics):
        raise _wrong_option("dynamics", dynamics, "ws.Dyadic() or another dynamics")
    if not (schedule is None or isinstance(schedule, Schedule)):
        raise _wrong_option("schedule", schedule, "ws.Synchronous() or another schedule, or None for the natural one")
    if not isinstance(stop, Stop):
        raise _wrong_option("stop", stop, "a ws.Stop")
    if not (record is None or isinstance(record, Record)):
        raise _wrong_option("record", record, "a ws.Record, or None")


def _wrong_option(role: str, given: object, accepted: str) -> InputError:
    if isinstance(given, type):
        return InputError(
            f"{role} must be an object, got the class {given.__name__} itself",
            accepted,
            f"write {given.__name__}(), with its arguments in the parentheses",
        )
    roles = {"dynamics": Dynamics, "schedule": Schedule, "stop": Stop, "record": Record}
    meant = next((name for name, kind in roles.items() if isinstance(given, kind)), None)
    if meant is not None:
        cure = f"pass it as {meant}={type(given).__name__}(…)"
    elif role == "stop" and isinstance(given, (int, float)) and not isinstance(given, bool):
        cure = f"use ws.Stop(max_ticks={given})" if isinstance(given, int) else f"use ws.Stop(tol={given})"
    else:
        cure = {
            "dynamics": "use ws.Dyadic(), ws.Wave(), ws.PredictiveCoding() or ws.AugmentedLagrangian()",
            "schedule": "leave it out, or use ws.Synchronous()",
            "stop": "use ws.Stop(max_ticks=20), ws.Stop(tol=1e-6) or both in one",
            "record": "use record=ws.Record(), and look at it afterwards",
        }[role]
    shown = given if isinstance(given, (int, float, str)) else type(given).__name__
    return InputError(f"{role} must be of another type, got {shown!r}", accepted, cure)


def check_chain(chain: object, verb: str) -> None:
    """Refuse a model in the place of a chain.

    Raises:
        InputError: anything but a `Chain`.
    """
    if not isinstance(chain, Chain):
        raise InputError(
            f"{verb} needs a Chain, got an object of type {type(chain).__name__}",
            "a ws.Chain of a model and its loss",
            f"make one once and keep it: chain = ws.Chain(model, loss); ws.{verb}(chain, x, target)",
        )


def inputs_of(chain: Chain, x: Any) -> tuple[Tensor, ...]:
    """The tensors of an input: of a path the one, of a module of any kind all that it is called with.

    Raises:
        InputError: an input that cannot be relaxed.
    """
    if chain.is_path:
        check_input(x)
        _refuse_empty([x])
        return (x,)
    found = tuple(leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor))
    for tensor in found:
        check_input(tensor)
    if torch.is_inference_mode_enabled():
        check_input(torch.empty(0))
    _refuse_empty(found)
    return found


def _refuse_empty(inputs: Sequence[Tensor]) -> None:
    if inputs and all(tensor.numel() == 0 for tensor in inputs):
        raise InputError(
            f"the batch is empty: the input has shape {tuple(inputs[0].shape)}",
            "at least one sample",
            "leave the empty batch out; drop_last=True of a DataLoader leaves out a last one that is too small",
        )


def check_finite(chain: Chain, *inputs: Tensor) -> None:
    """Refuse NaN and infinity in the input or a parameter, and name it.

    Raises:
        InputError: the first tensor found to hold any.
    """
    given = [("the input", tensor) for tensor in inputs]
    given += [(f"parameter {name}", p) for name, p in chain.named_parameters()]
    if are_finite([tensor for _, tensor in given]):
        return
    for name, tensor in given:
        if not are_finite([tensor]):
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                f"{name} is not finite: {bad} of {tensor.numel()} entries are NaN or infinite",
                "finite numbers",
                "clean the data, or lower the learning rate if a parameter overflowed in training",
            )


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every entry is finite: sums decide nearly always, since NaN and infinity survive them.

    A device is read once for all tensors on it; a read waits until the device has done what it was asked to do.
    """
    known = [tensor for tensor in tensors if not tensor.is_meta]  # of what has no numbers, a layer will speak
    numbers = [tensor.detach() for tensor in known if tensor.is_floating_point() or tensor.is_complex()]
    if all(map(isfinite, read([tensor.sum().abs() for tensor in numbers]))):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in numbers)
