"""What one builds a dynamics, a schedule, a closed form or a loss of one's own from."""

from worldsheet.core.topology import Topology
from worldsheet.core.types import Field
from worldsheet.layers import Cost, OffersCost, OffersStep, Stack, Step
from worldsheet.problem import View

__all__ = ["Cost", "Field", "OffersCost", "OffersStep", "Stack", "Step", "Topology", "View"]
