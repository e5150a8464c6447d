"""Rates and masses for ports that move more often, or whose efforts come late."""

from typing import Any, TypeVar

import torch

from worldsheet.core.errors import InputError
from worldsheet.problem import Chain

_AnyPort = TypeVar("_AnyPort", bound=torch.optim.Optimizer)


def per_tick(port: _AnyPort, ticks: int, silent: int = 0) -> _AnyPort:
    """Slow a port down so that K ticks move parameters as one step did, and return it.

    Efforts arrive at n of the K ticks and stand for the whole batch, so that each of these is dt = 1/n of it.
    Resistance and inertia stay what they are per unit of time: m θ̈ + R θ̇ = −e in steps of dt is

        v ← (1 − (1 − μ)/n) v − e,     θ ← θ + lr v/n²,     or θ ← θ − lr e/n without mass                     (T)

    and moving averages, as of Adam, forget by (1 − β)/n a tick. No constant is left to tune.

    Args:
        port: an optimizer whose groups have momentum, betas or a plain rate; changed in place.
        ticks: K, for how long a batch is held.
        silent: K − n, ticks of a batch before efforts arrive, for groups that do not say it themselves, as those of
            `by_site` do: 0 where fields are carried from batch to batch.

    Raises:
        InputError: K below 1, no tick left with an effort, or an optimizer with time constants of another kind.
    """
    quiet = [group.get("silent", silent) for group in port.param_groups]
    if not all(0 <= count < ticks for count in quiet):
        raise InputError(
            f"some ticks must not be silent, got ticks={ticks} of which silent={max(quiet)}",
            "at least one tick, and one that is not silent",
            "use the number of ticks for which a batch is held: more than 2D of them if it starts from silence",
        )
    for group, count in zip(port.param_groups, quiet, strict=True):
        _slow(port, group, float(ticks - count))
    return port


def delayed(port: _AnyPort, delay: float) -> _AnyPort:
    """Give a port the memory and resistance for efforts that are d updates late, and return it.

    With n = 1 + d a port that remembers efforts for τ = 1/(1 − μ) steps, μ its momentum or a beta, gets

        τ ← n τ,     R ← √n R,     or, without mass,     R ← n R                                     (P3)

    so that a delay is at every stage the same share of what the port remembers. Adam's rate is 1/R; that of momentum is
    (1 − μ)/R.

    Args:
        port: an optimizer whose groups have momentum, betas or a plain rate; changed in place.
        delay: d, 0 or more; at 0 nothing changes.

    Raises:
        InputError: a negative delay, or an optimizer with time constants of another kind.
    """
    if not delay >= 0:
        raise InputError(
            f"delay must not be negative, got {delay}", "0 or more updates", "use order.delay(stage, stages)"
        )
    longer = 1 + delay
    for group in port.param_groups:
        massive = bool(group.get("momentum") or "betas" in group)
        _slow(port, group, longer)
        if massive:
            group["lr"] *= longer**0.5
    return port


def _slow(port: torch.optim.Optimizer, group: dict[str, Any], times: float) -> None:
    """(T) for one group: one n-th of the rate, n times the memory."""
    _refuse_strange(port, group)
    group["lr"] /= times
    if group.get("momentum"):
        group["lr"] /= times
        group["momentum"] = 1 - (1 - group["momentum"]) / times
    if "memory" in group:
        group["memory"] = 1 - (1 - group["memory"]) / times
    if "betas" in group:
        group["betas"] = tuple(1 - (1 - beta) / times for beta in group["betas"])


def _refuse_strange(port: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    strange = sorted({"alpha", "lr_decay", "lambd", "rho", "etas", "beta2_decay"} & set(group))
    if strange or "lr" not in group:
        raise InputError(
            f"{type(port).__name__} cannot be rescaled, since it has {', '.join(strange) or 'no learning rate'}",
            "an optimizer with a learning rate and, at most, momentum or betas",
            "use ws.ports.Inertial, SGD, Adam or AdamW, or set its rates yourself",
        )


def by_site(chain: Chain) -> list[dict[str, Any]]:
    """Parameter groups, one per site, that say for how many ticks of a batch they are silent.

    From silent fields (`Onset`) the states need D ticks to the output and the costates h_l from there to site l, its
    height, which the site may know once and for all. Parameters of a layer at several sites go with the first.

    Args:
        chain: whose parameters that require grad are to be grouped.
    """
    topology, seen = chain.topology, set[int]()
    groups: list[dict[str, Any]] = []
    for site, layer in enumerate(chain.layers, start=1):
        fresh = [p for p in layer.module.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if fresh:
            groups.append({"params": fresh, "silent": topology.depth + topology.heights[site]})
    return groups
