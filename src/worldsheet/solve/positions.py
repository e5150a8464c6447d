"""How many predictions of a sample a loss averages over, where its class and its target tell."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsheet.core.private_torch import tree_leaves
from worldsheet.dynamics import Dynamics
from worldsheet.problem import Chain


def counting_positions(dynamics: Dynamics, chain: Chain, x: Any, target: Any) -> Dynamics:
    """The dynamics for a loss that averages over so many predictions of a sample as this one does."""
    if not dynamics.counts_positions:
        return dynamics
    positions = positions_of(chain, x, target)
    return dynamics if positions == 1 else dynamics.averaging_over(positions)


def positions_of(chain: Chain, x: Any, target: Any) -> float:
    """Targets per sample under a mean of cross-entropies; 1 for any other loss, or targets without a batch dimension.

    Tokens that are ignored do not count, and others count as much as the weight of their class: the loss is divided by
    the sum of these. Reads the target where that has more dimensions than one.
    """
    samples = next((len(leaf) for leaf in tree_leaves(x) if isinstance(leaf, Tensor) and leaf.dim()), 0)
    by_function = chain.loss is F.cross_entropy or chain.loss is F.nll_loss
    known = nn.CrossEntropyLoss() if by_function else chain.loss
    if not isinstance(known, (nn.CrossEntropyLoss, nn.NLLLoss)) or known.reduction != "mean":
        return 1.0
    if not isinstance(target, Tensor) or target.dim() < 2 or target.is_meta or len(target) != samples or not samples:
        return 1.0
    if target.is_floating_point():  # probabilities of the classes, which stand in the second dimension
        return target.numel() / (samples * max(target.shape[1], 1))
    counts = target != known.ignore_index
    if known.weight is None:
        weighed = counts.sum()
    else:
        usable = torch.where(counts, target, 0).clamp(0, len(known.weight) - 1)  # of others the loss will speak
        weighed = (known.weight.to(target.device)[usable] * counts).sum()
    return float(weighed) / samples or 1.0
