"""Layers: what one of them makes of a state, and what it pulls back."""

from worldsheet.layers.evaluation import Efforts, Evaluation, Priced, Pull, Recorded, Remembered, Stepwise
from worldsheet.layers.layer import Traits
from worldsheet.layers.losses import Cost, HalfSquares, OffersCost
from worldsheet.layers.observer import Observer
from worldsheet.layers.proximal import proximal
from worldsheet.layers.stacked_steps import Bound, Operation, Places, Stack
from worldsheet.layers.steps import Factors, OffersStep, Step

__all__ = [
    "Bound",
    "Cost",
    "Efforts",
    "Evaluation",
    "Factors",
    "HalfSquares",
    "Observer",
    "OffersCost",
    "OffersStep",
    "Operation",
    "Places",
    "Priced",
    "Pull",
    "Recorded",
    "Remembered",
    "Stack",
    "Step",
    "Stepwise",
    "Traits",
    "proximal",
]
