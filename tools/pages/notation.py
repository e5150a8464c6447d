"""Mathematics as docstrings and docs/theory.md write it, in plain Unicode, turned into LaTeX and so into MathML.

    x_l ← x_l + η r_l,     λ_l ← λ_l + η g_l                                                 (7)

A run of two or more blanks separates formulas, a number in brackets at the end names the line. `_` and `^` take one
character, a word or what stands in braces; Σ, √( ), ½, ᵀ, ², dots and hats are themselves; words are upright.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from latex2mathml.converter import convert

NUMBER = r"\d{1,2}[a-z]?|W\d|[A-Z]"
_NUMBERED = re.compile(rf"^(?P<body>.*\S)\s{{2,}}\((?P<number>{NUMBER})\)$")
_FUNCTION = r"(?:arg)?(?:cos|sin|max|min|log|exp)(?![A-Za-z])"
_DIFFERENTIAL = r"d[tuxls](?![A-Za-z])"
_WORD = rf"(?!{_FUNCTION}|{_DIFFERENTIAL})[A-Za-z]{{2,}}"
_WORDS = rf"{_WORD}(?: {_WORD})*"
_OPERATORS = set("←→−·≤≥≡≈∝±×Σ∫=<>+/,;([")
_TOKEN = re.compile(
    rf"(?P<script>[_^])(?:\{{(?P<braced>[^{{}}]*)\}}|(?P<bare>[A-Za-z0-9]+|.))|(?P<raised>[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹ⁱᵀ]+)"
    rf"|(?P<function>{_FUNCTION})|(?P<differential>{_DIFFERENTIAL})"
    rf"|(?P<words> ?{_WORDS} ?)|(?P<blank> )|(?P<one>.)",
    re.DOTALL,
)
_ACCENTS = {"\u0307": r"\dot", "\u0308": r"\ddot", "\u0302": r"\hat", "\u0304": r"\bar"}
_SYMBOLS = {
    "←": r"\leftarrow ", "→": r"\rightarrow ", "−": "-", "·": r"\cdot ", "≤": r"\le ", "≥": r"\ge ", "≡": r"\equiv ",
    "≈": r"\approx ", "∝": r"\propto ", "±": r"\pm ", "×": r"\times ", "Σ": r"\sum ", "∫": r"\int ", "∂": r"\partial ",
    "∇": r"\nabla ", "…": r"\ldots ", "′": r"'", "∞": r"\infty ", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}",
    "‖": r"\Vert ", "{": r"\{", "}": r"\}", "<": r"\lt ", ">": r"\gt ", "%": r"\%", "&": r"\&", "#": r"\#",
    "𝓛": r"\mathcal{L}", "∈": r"\in ", "~": r"\sim ", "\\": r"\backslash ",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One line of an equation block: its formulas in LaTeX and its number, if it has one."""

    formulas: tuple[str, ...]
    number: str | None


def lines(block: str) -> Iterator[Line]:
    """The lines of an equation block."""
    for raw in block.splitlines():
        text = raw.strip()
        numbered = _NUMBERED.match(text)
        body = numbered["body"] if numbered else text
        formulas = tuple(latex(part) for part in re.split(r"\s{2,}", body) if part)
        if formulas:
            yield Line(formulas, numbered["number"] if numbered else None)


def latex(formula: str) -> str:
    """One formula in LaTeX."""
    out: list[str] = []
    text = unicodedata.normalize("NFD", formula)
    place = 0
    while place < len(text):
        if text.startswith("√(", place):
            end = _closing(text, place + 1)
            out.append(rf"\sqrt{{{latex(text[place + 2 : end])}}}")
            place = end + 1
            continue
        token = _TOKEN.match(text, place)
        if token is None:
            raise ValueError(f"{formula!r} at {text[place:]!r}")
        place = token.end()
        out.append(_spaced(text, token) if token["blank"] else _written(token, out))
    return "".join(out).strip()


def mathml(formula: str, *, block: bool) -> str:
    """A formula in LaTeX as a `math` element."""
    return convert(formula, display="block" if block else "inline")


def _written(token: re.Match[str], before: list[str]) -> str:
    kind, text = str(token.lastgroup), token[str(token.lastgroup)]
    if kind in ("braced", "bare"):
        return f"{token['script']}{{{_script(text)}}}"
    if kind == "one" and text in _ACCENTS and before:
        return rf"{_ACCENTS[text]}{{{before.pop()}}}"
    return _WRITTEN[kind](text)


def _raised(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text).replace("−", "-")
    return f"^{{{plain.replace('T', chr(92) + 'top ')}}}"


def _words(text: str) -> str:
    before, after = (r"\;" if text[place] == " " else "" for place in (0, -1))
    return rf"{before}\text{{{text.strip()}}}{after}"


_WRITTEN: dict[str, Callable[[str], str]] = {
    "raised": _raised,
    "words": _words,
    "function": lambda text: rf"\operatorname{{{text}}} ",
    "differential": lambda text: rf"\,d{text[1:]}",
    "one": lambda text: _SYMBOLS.get(text, text),
}


def _spaced(text: str, blank: re.Match[str]) -> str:
    """A blank between two factors is a thin space; beside an operator the operator brings its own."""
    around = {text[blank.start() - 1], text[blank.end()]} if blank.start() > 0 and blank.end() < len(text) else {"="}
    return " " if around & _OPERATORS or text[blank.end()] in ")]" else r"\,"


def _script(text: str) -> str:
    """An index: several letters in a row are a word only if there are more than two of them."""
    return latex(text) if len(text) > 2 else "".join(_SYMBOLS.get(letter, letter) for letter in text)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"no closing bracket in {text!r}")
