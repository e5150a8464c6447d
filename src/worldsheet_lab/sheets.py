"""One relaxation recorded from all sides: residuals, distances to rest, fields, fidelity and waves, tick by tick."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, nan
from typing import Any, TypeAlias

import torch
from torch import Tensor

from worldsheet.core.errors import RelaxationError
from worldsheet.core.fields import Fields
from worldsheet.core.record import Record
from worldsheet.diagnostics import compare, wave_report
from worldsheet.diagnostics.compare import Comparison
from worldsheet.dynamics import Dyadic, Wave
from worldsheet.engine import Stop
from worldsheet.problem import Chain
from worldsheet.schedules import Synchronous
from worldsheet.solve import relax
from worldsheet_lab.contest.rivals import LearningRule

Sheet: TypeAlias = Mapping[str, Tensor]
"""The tensors of a recorded relaxation by name, see `recorded`."""

UNITS = 48
"""Units of a site that are kept of one sample."""
SAMPLES = 32
"""Samples whose fields are kept at every tick."""
PROBES = 12
"""Numbers of ticks at which gradients are compared with backprop's."""

_NUMBERS = 2**25  # 128 MiB in float32
_EXACT = Dyadic()


def recorded(rival: LearningRule, chain: Chain, x: Tensor, target: Tensor) -> Sheet:
    """Relax a batch once and keep what a picture of it needs; T rows in time, L sites, K probes, U units.

    - `ticks` (T,), `state_residuals` and `costate_residuals` (T, L): norms over the batch (2), (3).
    - `moments` (M,): the ticks of the next ones, which are of the first samples only.
    - `state_distances`, `costate_distances` (M, L): norms of the fields' distance to (2) = (3) = 0.
    - `states`, `costates` (M, L, U): of the sample with the largest credit at rest, units evenly spaced; NaN where a
      site has fewer.
    - `cost` (M,): of the output state.
    - `probes` (K,), `cosines` (K, layers): smallest cosine of any parameter of a layer with backprop's gradient if the
      relaxation ends there; NaN where it has diverged.
    - of a `Wave` also the tensors of `WaveReport`.

    A dynamics that settles at once is moved at every site and tick, as its fronts are not seen otherwise. Costs some
    ten relaxations.

    Args:
        rival: a dynamics with its budget.
        chain: in eval mode, so that nothing moves by looking.
        x: a batch.
        target: its targets.

    Raises:
        InputError: backprop, or parameters that have overflowed.
    """
    rival = rival.calibrated(chain, x, target)
    if rival.dynamics is not None and rival.dynamics.settles_at_once:
        rival = replace(rival, schedule=Synchronous())
    record = Record()
    ticks = rival.phase(chain, x, target, record).ticks
    few, every = _affordable(relax(chain, x[:1], target[:1]).fields, ticks, len(x))
    x, target = x[:few], target[:few]
    within = replace(rival, stop=Stop(max_ticks=ticks))
    rest = relax(chain, x, target, _EXACT).fields
    kept = Record(every, fields=True)
    within.phase(chain, x, target, kept)
    return {
        "ticks": torch.tensor(record.ticks),
        "state_residuals": record.state_residuals,
        "costate_residuals": record.costate_residuals,
        **_moments(kept, rest, chain, target),
        **_fidelity(rival, chain, x, target, ticks),
        **_waves(rival, chain, x, target, kept, rest),
    }


def by_layer(comparison: Comparison) -> dict[str, float]:
    """The smallest cosine of any parameter of each layer, by the first part of its name."""
    worst: dict[str, float] = {}
    for row in comparison.rows:
        layer = row.name.split(".")[0]
        worst[layer] = min(row.cosine, worst.get(layer, 1.0))
    return worst


def _affordable(one: Fields, ticks: int, samples: int) -> tuple[int, int]:
    """How many samples' fields can be kept, and at every how many ticks."""
    numbers = 2 * (ticks + 1) * sum(state.numel() for state in one.states)
    return max(1, min(samples, SAMPLES, _NUMBERS // numbers)), ceil(numbers / _NUMBERS)


def _moments(record: Record, rest: Fields, chain: Chain, target: Any) -> dict[str, Tensor]:
    states, costates = zip(*record.moments, strict=True)
    sample = int(rest.costates[-1].flatten(1).norm(dim=1).argmax())
    return {
        "moments": torch.tensor([row * record.every for row in range(len(states))]),
        "state_distances": _distances(states, rest.states),
        "costate_distances": _distances(costates, rest.costates),
        "states": torch.stack([_sampled(moment, sample) for moment in states]),
        "costates": torch.stack([_sampled(moment, sample) for moment in costates]),
        "cost": torch.stack([chain.loss(moment[-1], target).detach().double().cpu() for moment in states]),
    }


def _distances(moments: Sequence[Sequence[Tensor]], rest: Sequence[Tensor]) -> Tensor:
    rows = [[float((x - end).norm()) for x, end in zip(moment, rest, strict=True)] for moment in moments]
    return torch.tensor(rows, dtype=torch.float64)


def _sampled(fields: Sequence[Tensor], sample: int) -> Tensor:
    """One sample's field, some units of every site: (L, U)."""
    found = torch.full((len(fields), UNITS), nan)
    for row, field in zip(found, fields, strict=True):
        flat = field[sample].detach().flatten().float().cpu()
        count = min(UNITS, len(flat))
        row[:count] = flat[torch.arange(count) * len(flat) // count]
    return found


def _fidelity(rival: LearningRule, chain: Chain, x: Tensor, target: Tensor, ticks: int) -> dict[str, Tensor]:
    """Relax anew, for fewer ticks each time."""
    probes = sorted({round(ticks * (number + 1) / PROBES) for number in range(PROBES)} - {0})
    rows: list[list[float]] = []
    layers = len({name.split(".")[0] for name, parameter in chain.named_parameters() if parameter.requires_grad})
    for probe in probes:
        within = replace(rival, stop=Stop(max_ticks=probe))
        solution = within.solution(chain, x, target) or within.phase(chain, x, target)
        try:
            rows.append(list(by_layer(compare(chain, x, target, solution)).values()))
        except RelaxationError:
            rows.append([nan] * layers)
    return {
        "probes": torch.tensor(probes, dtype=torch.int64),
        "cosines": torch.tensor(rows, dtype=torch.float64).reshape(len(probes), layers),
    }


def _waves(
    rival: LearningRule, chain: Chain, x: Tensor, target: Any, record: Record, rest: Fields
) -> dict[str, Tensor]:
    if not isinstance(rival.dynamics, Wave) or record.every != 1:
        return {}
    return dict(vars(wave_report(chain, x, target, rival.dynamics, record, rest)))
