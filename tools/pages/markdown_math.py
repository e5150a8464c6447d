"""A Python-Markdown extension: indented equations become MathML, indices in prose subscripts, cited numbers links."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Set
from html import escape
from typing import Any

from markdown import Extension, Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.inlinepatterns import InlineProcessor

import notation

INDENT = 4
CITED = "equation:"  # the address of a cited equation until a page knows where it is
_SIGNS = re.compile("[←≡∂Σ∇≤≥=<>−·√∫‖ᵀ]")
_NUMBERED = re.compile(rf"\S {{2,}}\((?:{notation.NUMBER})\)$")
_UNICODE = re.compile(r"[^\x00-\x7f]")
_INDEXED = r"(?<![A-Za-z0-9_./])([^\W\d_][\u0300-\u036f]?)([_^])(?:\{([^{}]+)\}|([A-Za-z0-9]+|[^\W\d_]))"
_RAISED = r"(?<=[)}\]A-Za-z0-9])(\^)(?:\{([^{}]+)\}|([A-Za-z0-9]+))"


class Mathematics(Extension):
    """Reads mathematics as the docstrings write it.

    Args:
        numbers: the numbers of the equations that may be cited.
    """

    def __init__(self, numbers: Set[str]) -> None:
        super().__init__()
        self._numbers = numbers

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  Markdown's name
        """Equations before indented code, the rest before links and emphasis."""
        md.parser.blockprocessors.register(_Equations(md.parser), "equations", 85)
        md.inlinePatterns.register(_Indexed(_INDEXED, md), "indexed", 170)
        md.inlinePatterns.register(_Raised(_RAISED, md), "raised", 169)
        if self._numbers:
            numbers = "|".join(sorted(map(re.escape, self._numbers), key=len, reverse=True))
            md.inlinePatterns.register(_Citation(rf"(?<![\w)\]])\(({numbers})\)(?!\w)", md), "citation", 168)


def is_equation(block: str) -> bool:
    """Whether an indented block is mathematics: it has a sign of it and is not plain ASCII, as code would be.

    In a list, whose own indentation is taken off, less of it is left; there a number at the end of the line tells.
    """
    signed = _SIGNS.search(block) and _UNICODE.search(block)
    return bool(signed and (block.startswith(" " * INDENT) or (block.startswith("  ") and _NUMBERED.search(block))))


class _Equations(BlockProcessor):
    def test(self, parent: ET.Element, block: str) -> bool:
        return is_equation(block)

    def run(self, parent: ET.Element, blocks: list[str]) -> None:
        rows = [_row(line) for line in notation.lines(blocks.pop(0))]
        paragraph = ET.SubElement(parent, "p")
        paragraph.text = self.parser.md.htmlStash.store(f'<div class="equations">{"".join(rows)}</div>')


def _row(line: notation.Line) -> str:
    formulas = "".join(f"<span>{notation.mathml(formula, block=True)}</span>" for formula in line.formulas)
    number = f'<span class="number">({line.number})</span>' if line.number else ""
    place = f' id="eq-{line.number}"' if line.number else ""
    return f'<div class="equation"{place}><div class="formulas">{formulas}</div>{number}</div>'


class _Inline(InlineProcessor):
    def stored(self, html: str, match: re.Match[str]) -> tuple[str, int, int]:
        return self.md.htmlStash.store(html), match.start(0), match.end(0)


class _Indexed(_Inline):
    def handleMatch(self, m: re.Match[str], data: str) -> Any:  # noqa: N802  Markdown's name
        tag = "sub" if m[2] == "_" else "sup"
        return self.stored(f"{m[1]}<{tag}>{escape(m[3] or m[4])}</{tag}>", m)


class _Raised(_Inline):
    def handleMatch(self, m: re.Match[str], data: str) -> Any:  # noqa: N802  Markdown's name
        return self.stored(f"<sup>{escape(m[2] or m[3])}</sup>", m)


class _Citation(_Inline):
    def handleMatch(self, m: re.Match[str], data: str) -> Any:  # noqa: N802  Markdown's name
        return self.stored(f'<a class="citation" href="{CITED}{m[1]}">({m[1]})</a>', m)
