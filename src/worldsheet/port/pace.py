"""From a rate per batch to a rate per tick."""

from typing import TypeVar

import torch

from worldsheet.core.errors import InputError

_AnyPort = TypeVar("_AnyPort", bound=torch.optim.Optimizer)


def per_tick(port: _AnyPort, ticks: int, silent: int = 0) -> _AnyPort:
    """Slow a port down so that K ticks move parameters as one step did, and return it.

    A tick is dt = 1/K of a batch. Resistance and inertia stay what they are per unit of time: m θ̈ + R θ̇ = −e in steps
    of dt, with efforts that arrive at n of the K ticks and stand for the whole batch, is

        v ← (1 − (1 − μ)/K) v − e,     θ ← θ + lr v/(K n),     or θ ← θ − lr e/n without mass                     (14)

    and moving averages, as of Adam, forget by (1 − β)/K a tick. No constant is left to tune.

    Args:
        port: an optimizer whose groups have momentum, betas or a plain rate; changed in place.
        ticks: K, for how long a batch is held.
        silent: K − n, ticks of a batch before efforts arrive: 3D/2 on average over D layers that start from silence
            (`Onset`), 0 where fields are carried from batch to batch.

    Raises:
        InputError: K below 1, no tick left with an effort, or an optimizer with time constants of another kind.
    """
    if not 0 <= silent < ticks:
        raise InputError(
            f"ticks={ticks}, silent={silent}",
            "at least one tick, and one that is not silent",
            "use the number of ticks for which a batch is held: more than 2D of them if it starts from silence",
        )
    for group in port.param_groups:
        strange = sorted({"alpha", "lr_decay", "lambd", "rho", "etas", "beta2_decay"} & set(group))
        if strange or "lr" not in group:
            raise InputError(
                f"{type(port).__name__} with {', '.join(strange) or 'no rate'}",
                "a port with a rate and, at most, momentum or betas",
                "use ws.ports.Inertial, SGD, Adam or AdamW, or set the rates per tick yourself",
            )
        group["lr"] /= ticks - silent
        if group.get("momentum"):
            group["lr"] /= ticks
            group["momentum"] = 1 - (1 - group["momentum"]) / ticks
        if "memory" in group:
            group["memory"] = 1 - (1 - group["memory"]) / ticks
        if "betas" in group:
            group["betas"] = tuple(1 - (1 - beta) / ticks for beta in group["betas"])
    return port
