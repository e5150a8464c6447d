"""Layers: what one of them makes of a state, and what it pulls back."""

from worldsheet.layers.evaluation import (
    Checkpointed,
    ClosedForm,
    CostEvaluation,
    Efforts,
    Evaluation,
    Nested,
    Pull,
    Recorded,
)
from worldsheet.layers.layer import ModuleInfo
from worldsheet.layers.losses import Cost, HalfSquares, OffersCost
from worldsheet.layers.observer import Observer
from worldsheet.layers.products import Operation
from worldsheet.layers.proximal import proximal
from worldsheet.layers.steps import BoundOperations, Factors, OffersStep, OperandSlots, Stack, Stackable, Step

__all__ = [
    "BoundOperations",
    "Checkpointed",
    "ClosedForm",
    "Cost",
    "CostEvaluation",
    "Efforts",
    "Evaluation",
    "Factors",
    "HalfSquares",
    "ModuleInfo",
    "Nested",
    "Observer",
    "OffersCost",
    "OffersStep",
    "OperandSlots",
    "Operation",
    "Pull",
    "Recorded",
    "Stack",
    "Stackable",
    "Step",
    "proximal",
]
