"""Unlocked training: stages that talk to their neighbours and never wait for a global pass."""

from worldsheet.pipeline.clipping import Clip, GlobalNorm, StageNorm
from worldsheet.pipeline.partition import Plan, balanced, measured_costs
from worldsheet.pipeline.passage import TrainingResult
from worldsheet.pipeline.pipeline import Pipeline, merged
from worldsheet.pipeline.relaxation import StagedResult, relax
from worldsheet.pipeline.schedule import Action, ActionType, BusyInterval, Locked, PipelineSchedule, Unlocked, timeline
from worldsheet.pipeline.segment import Endpoints
from worldsheet.pipeline.stage import Completed, Stage
from worldsheet.pipeline.transport.base import Transport
from worldsheet.pipeline.update_rule import UpdateRule
from worldsheet.pipeline.weights import (
    Current,
    DelayBounded,
    DelayCompensated,
    Predicted,
    StalenessAware,
    Stashed,
    Weights,
)

__all__ = [
    "Action",
    "ActionType",
    "BusyInterval",
    "Clip",
    "Completed",
    "Current",
    "DelayBounded",
    "DelayCompensated",
    "Endpoints",
    "GlobalNorm",
    "Locked",
    "Pipeline",
    "PipelineSchedule",
    "Plan",
    "Predicted",
    "Stage",
    "StageNorm",
    "StagedResult",
    "StalenessAware",
    "Stashed",
    "TrainingResult",
    "Transport",
    "Unlocked",
    "UpdateRule",
    "Weights",
    "balanced",
    "measured_costs",
    "merged",
    "relax",
    "timeline",
]
