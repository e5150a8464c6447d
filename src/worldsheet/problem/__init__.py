"""The problem: layers in a graph, their loss, and what one site may see of them."""

from worldsheet.core.problem import Problem
from worldsheet.core.topology import Topology
from worldsheet.problem.caller import Caller
from worldsheet.problem.chain import Chain
from worldsheet.problem.costs import Cost, HalfSquares, OffersCost
from worldsheet.problem.equilibrium import Equilibrium
from worldsheet.problem.evaluation import Efforts, Evaluation, Priced, Pull, Recorded, Remembered, Stepwise
from worldsheet.problem.fields import Fields
from worldsheet.problem.layer import Traits
from worldsheet.problem.linearised import Linearised, Sites, linearise
from worldsheet.problem.observer import Observer
from worldsheet.problem.proximal import proximal
from worldsheet.problem.residual import Nonlinearity, ResidualLinear, ScaledLinear, residual_mlp
from worldsheet.problem.site_table import SiteRow, SiteTable
from worldsheet.problem.stacks import Bound, Operation, Places, Stack
from worldsheet.problem.steps import Factors, OffersStep, Step
from worldsheet.problem.view import View

__all__ = [
    "Bound",
    "Caller",
    "Chain",
    "Cost",
    "Efforts",
    "Equilibrium",
    "Evaluation",
    "Factors",
    "Fields",
    "HalfSquares",
    "Linearised",
    "Nonlinearity",
    "Observer",
    "OffersCost",
    "OffersStep",
    "Operation",
    "Places",
    "Priced",
    "Problem",
    "Pull",
    "Recorded",
    "Remembered",
    "ResidualLinear",
    "ScaledLinear",
    "SiteRow",
    "SiteTable",
    "Sites",
    "Stack",
    "Step",
    "Stepwise",
    "Topology",
    "Traits",
    "View",
    "linearise",
    "proximal",
    "residual_mlp",
]
