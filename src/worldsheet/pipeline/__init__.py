"""Unlocked training: stages that talk to their neighbours and never wait for a global pass."""

from worldsheet.pipeline.partition import Plan, balanced, measured_costs
from worldsheet.pipeline.pipeline import Pipeline, Traversal
from worldsheet.pipeline.relaxation import Share, relax
from worldsheet.pipeline.schedule import Act, Deed, Locked, Order, Span, Unlocked, timeline
from worldsheet.pipeline.segment import Place
from worldsheet.pipeline.stage import Done, Stage
from worldsheet.pipeline.transport.base import Links
from worldsheet.pipeline.weights import Current, Passive, Predicted, Stashed, Weights

__all__ = [
    "Act",
    "Current",
    "Deed",
    "Done",
    "Links",
    "Locked",
    "Order",
    "Passive",
    "Pipeline",
    "Place",
    "Plan",
    "Predicted",
    "Share",
    "Span",
    "Stage",
    "Stashed",
    "Traversal",
    "Unlocked",
    "Weights",
    "balanced",
    "measured_costs",
    "relax",
    "timeline",
]
