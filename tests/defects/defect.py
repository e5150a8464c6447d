"""A planted defect: one line of the source made wrong."""

from typing import NamedTuple


class Defect(NamedTuple):
    """A line of the source, what it is turned into, and which tests must fail then."""

    file: str
    right: str
    wrong: str
    test: str
    choice: str
