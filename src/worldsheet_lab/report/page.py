"""One page: panels, plotly and style in a single file that loads nothing else."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import final

from plotly.offline import get_plotlyjs

from worldsheet_lab.report.panel import Drawing, Panel
from worldsheet_lab.report.run import Run
from worldsheet_lab.report.style import template

_HERE = Path(__file__).parent
_LEGEND_ROW = 12
"""Pixels that a name in a legend takes where there is little room, beside what a figure has for it."""
_PRINTED = 250
"""Pixels of height on paper, so that a panel of six figures fits a page."""


@final
@dataclass(frozen=True)
class Page:
    """What stands on a page.

    Attributes:
        title: its heading.
        origin: command, machine and moment of the report itself.
        runs: the folders it was made from.
        panels: in the order in which they are shown.
    """

    title: str
    origin: Mapping[str, str]
    runs: Sequence[Run]
    panels: Sequence[Panel]

    def html(self) -> str:
        """The file's content; plotly.js is in it once."""
        themes = {theme: template(theme) for theme in ("light", "dark")}
        return Template(_text("page.html")).substitute(
            title=escape(self.title),
            subtitle=self._subtitle(),
            css=_text("page.css"),
            contents="".join(f'<a href="#{_anchor(panel)}">{escape(panel.title)}</a>' for panel in self.panels),
            runs="".join(_run(run) for run in self.runs),
            panels="\n".join(_panel(panel) for panel in self.panels),
            footer=f"Made by worldsheet {escape(self.origin['worldsheet'])} with plotly; nothing here is loaded.",
            templates=_embedded(json.dumps(themes)),
            plotly=get_plotlyjs(),
            script=_text("page.js"),
        )

    def _subtitle(self) -> str:
        command = self.origin["command"]
        typed = f"{_code(command)}<br>" if command else ""
        return f"{typed}{_moment(self.origin)} · {escape(self.origin['machine'])}"


def _run(run: Run) -> str:
    found = "".join(f"<li>{escape(name)}: {escape(value)}</li>" for name, value in run.found.items())
    command, machine, started = _code(run.origin["command"]), escape(run.origin["machine"]), _moment(run.origin)
    return (
        f"<tr><td><b>{escape(run.label)}</b><br><span class=soft>{escape(run.kind)}</span></td>"
        f"<td class=wide>{escape(run.about)}</td><td class=wide><ul>{found or '<li>has not ended</li>'}</ul></td>"
        f"<td class=wide>{command}<br><span class=soft>{machine}<br>{started}</span></td></tr>"
    )


def _panel(panel: Panel) -> str:
    anchor = _anchor(panel)
    drawings = "\n".join(_drawing(f"{anchor}-{number}", drawing) for number, drawing in enumerate(panel.drawings))
    one = " one" if len(panel.drawings) == 1 else ""
    return (
        f'<details id="{anchor}"{"" if panel.folded else " open"}><summary><h2>{escape(panel.title)}</h2></summary>\n'
        f"<p class=soft>{escape(panel.words)}</p>\n{_film(panel)}"
        f'<div class="drawings{one}">\n{drawings}\n</div></details>'
    )


def _film(panel: Panel) -> str:
    if not panel.film:
        return ""
    labels, last = escape(json.dumps(panel.film)), len(panel.film) - 1
    return (
        f'<div class="film"><button type="button">play</button><input type="range" min="0" max="{last}" value="{last}" '
        f'step="1" aria-label="moment" data-labels="{labels}"><output>{escape(panel.film[-1])}</output></div>\n'
    )


def _drawing(name: str, drawing: Drawing) -> str:
    film = " data-film" if drawing.figure.frames else ""
    named = sum(trace.showlegend is not False for trace in drawing.figure.data)
    more = _LEGEND_ROW * named if named > 1 else 0  # where each name has a row of its own
    heights = {"tall": drawing.height, "narrow": drawing.height + more, "printed": min(drawing.height, _PRINTED) + more}
    style = "; ".join(f"--{name}:{height}px" for name, height in heights.items())
    return (
        f"<figure><figcaption>{escape(drawing.title)}</figcaption>"
        f'<div class="plot" id="{name}"{film} style="{style}"></div>'
        f'<script type="application/json" id="{name}-data">{_embedded(drawing.figure.to_json())}</script></figure>'
    )


def _code(command: str) -> str:
    """A command that is broken between its words only."""
    return f"<code>{' '.join(f'<span>{escape(word)}</span>' for word in command.split())}</code>"


def _moment(origin: Mapping[str, str]) -> str:
    return escape(origin["started"].replace("T", " "))


def _anchor(panel: Panel) -> str:
    return re.sub(r"[^a-z0-9]+", "-", panel.key.lower()).strip("-")


def _embedded(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("</", "<\\/")


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
