"""What a page is made of."""

from dataclasses import dataclass, field
from typing import TypeAlias, final

import plotly.graph_objects as go

Figure: TypeAlias = go.Figure
"""A figure of plotly, without a title and without a template: the page has both."""


@final
@dataclass(frozen=True)
class Drawing:
    """One figure and what stands above it.

    Attributes:
        title: what is drawn, with its unit.
        figure: its data. Frames named "0", "1", … are the moments of the panel's film.
        height: pixels.
    """

    title: str
    figure: Figure
    height: int = 340


@final
@dataclass(frozen=True)
class Panel:
    """Drawings that belong together.

    Attributes:
        key: its anchor on the page.
        title: its heading.
        words: what is shown, in which units, and what was left out.
        drawings: two in a row where there is room.
        film: a label for each moment that a slider can choose; empty where nothing moves.
        folded: whether it is opened by a click.
    """

    key: str
    title: str
    words: str
    drawings: tuple[Drawing, ...]
    film: tuple[str, ...] = field(default=())
    folded: bool = False
