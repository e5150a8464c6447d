"""Rates and masses for ports that move more often, or whose efforts come late."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any, TypeVar, final

import torch
from torch import Tensor
from typing_extensions import override

from worldsheet.core.errors import InputError
from worldsheet.ports.around import Around, plain
from worldsheet.ports.inertial import Inertial
from worldsheet.problem import Chain

_AnyPort = TypeVar("_AnyPort", bound=torch.optim.Optimizer)


def per_tick(port: _AnyPort, ticks: int, silent: int = 0) -> _AnyPort:
    """Slow a port down so that K ticks move parameters as one step did, and return it.

    Efforts arrive at n of the K ticks and stand for the whole batch, so that each of these is dt = 1/n of it.
    Resistance and inertia stay what they are per unit of time: m θ̈ + R θ̇ = −e in steps of dt is

        v ← (1 − (1 − μ)/n) v − e,     θ ← θ + lr v/n²,     or θ ← θ − lr e/n without mass                     (T)

    and moving averages, as of Adam, forget by (1 − β)/n a tick. The momentum of Muon is such an average, of which only
    the direction counts: μ ← 1 − (1 − μ)/n and θ ← θ − lr/n · direction. No constant is left to tune.

    Args:
        port: an optimizer whose groups have momentum, betas or a plain rate; changed in place.
        ticks: K, for how long a batch is held.
        silent: K − n, ticks of a batch before efforts arrive, for groups that do not say it themselves, as those of
            `by_site` do: 0 where fields are carried from batch to batch.

    Raises:
        InputError: K below 1, no tick left with an effort, or an optimizer with time constants of another kind, or with
            a momentum of which it is not known whether it sums efforts or averages them.
    """
    groups = [(inner, group) for inner in plain(port) for group in inner.param_groups]
    quiet = [group.get("silent", silent) for _, group in groups]
    if not all(0 <= count < ticks for count in quiet):
        raise InputError(
            f"some ticks must not be silent, got ticks={ticks} of which silent={max(quiet)}",
            "at least one tick, and one that is not silent",
            "use the number of ticks for which a batch is held: more than 2D of them if costates start at zero",
        )
    for (inner, group), count in zip(groups, quiet, strict=True):
        _slow(inner, group, float(ticks - count))
    return port


def delayed(port: _AnyPort, delay: float) -> _AnyPort:
    """Give a port the memory and resistance for efforts that are d updates late, and return it.

    With n = 1 + d a port that remembers efforts for τ = 1/(1 − μ) steps, μ its momentum or a beta, gets

        τ ← n τ,     R ← √n R,     or, without mass,     R ← n R                                     (P3)

    so that a delay is at every stage the same share of what the port remembers. R is the effort that a steady speed of
    1 takes, and what it has to do with the rate is a matter of what momentum means:

    - SGD and `Inertial` sum efforts, v ← μ v + e, θ ← θ − lr v, with Nesterov's θ ← θ − lr (e + μ v) too. A constant
      effort settles at v = e/(1 − μ), where e + μ v is the same: the speed is lr e/(1 − μ), and lr = (1 − μ)/R.
    - Muon averages them, v ← μ v + (1 − μ) e, and steps by the orthogonal factor of v, or of (1 − μ) e + μ v, whose
      size is not that of the effort. A constant effort settles at v = e, so that the speed is lr (e eᵀ)^(−1/2) e
      whatever μ is, and lr = 1/R in units of (e eᵀ)^(1/2). Adam's rate is 1/R likewise.

    So n τ and √n R are lr/n^(3/2) for the former, and lr/√n for the latter.

    Args:
        port: an optimizer whose groups have momentum, betas or a plain rate; changed in place.
        delay: d, 0 or more; at 0 nothing changes.

    Raises:
        InputError: a negative delay, or an optimizer with time constants of another kind, or with a momentum of which
            it is not known whether it sums efforts or averages them.
    """
    if not delay >= 0:
        raise InputError(
            f"delay must not be negative, got {delay}", "0 or more updates", "use order.delay(stage, stages)"
        )
    longer = 1 + delay
    for inner in plain(port):
        for group in inner.param_groups:
            massive = bool(group.get("momentum") or "betas" in group)
            _slow(inner, group, longer)
            if massive:
                group["lr"] = group["lr"] * longer**0.5
    return port


@final
class Slowed(Around):
    """A port whose efforts are d updates late: it is `delayed` while it steps, and at no other time.

    Its groups keep the rates, momenta and betas that are best without delay. So a scheduler acts on them as in one
    process, whether it multiplies them or sets them; what is checkpointed does not depend on the delay.

    Args:
        port: an optimizer as for `delayed`.
        delay: d, 0 or more.

    Raises:
        InputError: as `delayed`.
    """

    def __init__(self, port: torch.optim.Optimizer, delay: float) -> None:
        with _restored(port):
            delayed(port, delay)  # refused now or never
        super().__init__(port)
        self._delay = delay

    @override
    def move(self) -> None:
        (port,) = self.ports
        with _restored(port):
            delayed(port, self._delay).step()


@final
class Resisted(Around):
    """A port with the resistance for efforts that are d updates late, and no more memory than it has.

    While it steps, and at no other time,

        R ← (1 + d)^p R,     which is lr ← lr/(1 + d)^p                                              (P6)

    With `over` updates the power falls to zero, p (1 − k/over) at update k, for a delay that is hardest to bear at
    first; p = 1 is then PipeMare's T1 but for the 1, by which nothing changes at d = 0. What is counted stands in the
    groups, and so in a checkpoint.

    Args:
        port: an optimizer whose groups have a rate.
        delay: d, 0 or more.
        power: p.
        over: after how many updates the resistance is what it was; None for never.

    Raises:
        InputError: a negative delay, a power that is not finite, fewer than one update, or a group without a rate.

    Reference:
        Zhang et al., Staleness-aware async-SGD, IJCAI 2016: p = 1. Yang et al., PipeMare, MLSys 2021: T1.
    """

    def __init__(self, port: torch.optim.Optimizer, delay: float, power: float = 0.5, over: int | None = None) -> None:
        _refuse_senseless(delay, power, over)
        for group in port.param_groups:
            _refuse_without_rate(port, group)
        super().__init__(port)
        self._delay, self._power, self._over = delay, power, over

    @override
    def move(self) -> None:
        (port,) = self.ports
        with _restored(port):
            for group in port.param_groups:
                group["lr"] = group["lr"] / (1 + self._delay) ** self._power_of(group)
            port.step()

    def _power_of(self, group: dict[str, Any]) -> float:
        """p at this update of a group, which is counted."""
        if self._over is None:
            return self._power
        answered: int = group.get(_ANSWERED, 0)
        group[_ANSWERED] = answered + 1
        return self._power * max(0.0, 1 - answered / self._over)


@final
class RateBounded(Around):
    """A port whose rate has a largest value, which falls with the delay of its efforts.

    What delay sets a limit to is how far a port swings before it hears of it (P7). So while it steps, and at no other
    time,

        lr ← min(lr, lr_max/(1 + d)^p)                                                               (P8)

    with lr_max the largest rate of its group so far. While rates are at their highest they are divided by (1 + d)^p;
    where a schedule has lowered them further, they are what they are. That p is 1/2 for Muon and 1 for other optimizers
    is measured, and not derived. lr_max stands in the groups, and so in a checkpoint.

    Args:
        port: an optimizer whose groups have a rate.
        delay: d, 0 or more.
        power: p of all optimizers but Muon.
        muon_power: p of Muon.

    Raises:
        InputError: a negative delay, a power that is not finite, or a group without a rate.
    """

    def __init__(self, port: torch.optim.Optimizer, delay: float, power: float = 1.0, muon_power: float = 0.5) -> None:
        for each in (power, muon_power):
            _refuse_senseless(delay, each, None)
        for group in port.param_groups:
            _refuse_without_rate(port, group)
        super().__init__(port)
        self._delay, self._power, self._muon_power = delay, power, muon_power

    @override
    def move(self) -> None:
        (port,) = self.ports
        with _restored(port):
            for group in port.param_groups:
                rate = group["lr"]
                group[_LARGEST] = max(group.get(_LARGEST, 0.0), float(rate))
                power = self._muon_power if _is_muon(group) else self._power
                bound = group[_LARGEST] / (1 + self._delay) ** power
                group["lr"] = rate.clamp(max=bound) if isinstance(rate, Tensor) else min(rate, bound)
            port.step()


_ANSWERED, _LARGEST = "updates_resisted", "largest_rate"


def _refuse_senseless(delay: float, power: float, over: int | None) -> None:
    if not (delay >= 0 and isfinite(power) and (over is None or over >= 1)):
        raise InputError(
            f"a port cannot resist with delay={delay}, power={power}, over={over}",
            "a delay of 0 or more updates, a finite power, and over at least one update or None",
            "use power=0.5",
        )


@contextmanager
def _restored(port: torch.optim.Optimizer) -> Iterator[None]:
    """What happens to rates and memory meanwhile is undone afterwards."""
    own = [{name: group[name] for name in _RESCALED if name in group} for group in port.param_groups]
    try:
        yield
    finally:
        for group, kept in zip(port.param_groups, own, strict=True):
            group.update(kept)


_RESCALED = ("lr", "momentum", "memory", "betas")


def _slow(port: torch.optim.Optimizer, group: dict[str, Any], times: float) -> None:
    """(T) for one group: one n-th of the rate, n times the memory."""
    _refuse_strange(port, group)
    group["lr"] = group["lr"] / times  # in its own memory, where it is a tensor
    if group.get("momentum"):
        group["lr"] = group["lr"] / (times if _sums(port) else 1)
        group["momentum"] = 1 - (1 - group["momentum"]) / times
    if "memory" in group:
        group["memory"] = 1 - (1 - group["memory"]) / times
    if "betas" in group:
        group["betas"] = tuple(1 - (1 - beta) / times for beta in group["betas"])


def _sums(port: torch.optim.Optimizer) -> bool:
    """Whether the momentum of a port is a sum of efforts, which goes faster the longer it remembers."""
    return isinstance(port, (torch.optim.SGD, Inertial))


def _is_muon(group: dict[str, Any]) -> bool:
    """Whether a group is orthogonalised by steps of Newton and Schulz."""
    return "ns_steps" in group


def _refuse_strange(port: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    strange = sorted({"alpha", "lr_decay", "lambd", "rho", "etas", "beta2_decay"} & set(group))
    if strange:
        raise InputError(
            f"{type(port).__name__} cannot be rescaled, since it has {', '.join(strange)}",
            "an optimizer with a learning rate and, at most, momentum or betas",
            "use ws.ports.Inertial, SGD, Adam or AdamW, or set its rates yourself",
        )
    _refuse_without_rate(port, group)
    if group.get("momentum") and not _sums(port) and not _is_muon(group):
        raise InputError(
            f"{type(port).__name__} has a momentum of which it is not known whether it sums efforts or averages them",
            "the momentum of SGD, ws.ports.Inertial or Muon",
            "use one of these, or set its rates for the delay yourself",
        )


def _refuse_without_rate(port: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    if "lr" not in group:
        raise InputError(
            f"{type(port).__name__} cannot be rescaled, since it has no learning rate",
            "an optimizer with a learning rate",
            "use ws.ports.Inertial, SGD, Adam, AdamW or Muon",
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
