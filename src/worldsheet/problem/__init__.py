"""The problem: layers in a graph, their loss, and what one site may see of them."""

from worldsheet.problem.calls import BoundLayers
from worldsheet.problem.chain import Chain
from worldsheet.problem.linearization import Linearised, Sites, linearise
from worldsheet.problem.site_table import SiteRow, SiteTable
from worldsheet.problem.view import View

__all__ = ["BoundLayers", "Chain", "Linearised", "SiteRow", "SiteTable", "Sites", "View", "linearise"]
