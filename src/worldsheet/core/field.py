"""The two fields of a worldsheet, by name."""

from enum import Enum


class Field(Enum):
    """Which of a site's two fields."""

    STATE = "x"
    COSTATE = "λ"
