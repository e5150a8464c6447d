"""The translation of plain Unicode mathematics, against LaTeX written by hand, and its place in a page."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from markdown import Markdown
from mkdocs.exceptions import PluginError

import hooks
import notation
from hooks import equation_numbers
from markdown_math import CITED, Mathematics

THEORY = Path(__file__).resolve().parents[2] / "docs" / "theory.md"


def tight(latex: str) -> str:
    return latex.replace(" ", "")


@pytest.mark.parametrize(
    ("plain", "latex"),
    [
        ("x_l ← x_l + η r_l", r"x_{l}\leftarrow x_{l}+η\,r_{l}"),
        ("J_{l+1}ᵀ λ_{l+1} − λ_l", r"J_{l+1}^{\top}\,λ_{l+1}-λ_{l}"),
        ("λ_lᵀδr_l", r"λ_{l}^{\top}δr_{l}"),
        ("θ̇ = −lr G⁻¹ e A⁻¹", r"\dot{θ}=-\text{lr}\;G^{-1}\,e\,A^{-1}"),
        ("√(2R) + ẋ_i", r"\sqrt{2R}+\dot{x}_{i}"),
        ("½ ‖J‖²_F/n", r"\frac{1}{2}\,\VertJ\Vert^{2}_{F}/n"),
        ("H_xx − H_uu⁻¹", r"H_{xx}-H_{uu}^{-1}"),
        ("e^{−k dt} y", r"e^{-k\,\,dt}\,y"),
        ("c cos φ", r"c\,\operatorname{cos}\,φ"),
        ("x_right if and only if r = 0", r"x_{\text{right}}\;\text{ifandonlyif}\;r=0"),
    ],
)
def test_formulas_are_what_a_hand_would_write(plain: str, latex: str) -> None:
    assert tight(notation.latex(plain)) == tight(latex)


def test_a_line_is_its_formulas_and_its_number() -> None:
    (line,) = notation.lines("    x ← x − ν z g,     λ ← λ + (ν/z) r                         (26)")
    assert line.number == "26"
    assert len(line.formulas) == 2


def test_every_equation_of_the_theory_is_understood() -> None:
    page = Markdown(extensions=[Mathematics(set(equation_numbers(THEORY)))]).convert(THEORY.read_text(encoding="utf-8"))
    assert "<pre>" not in page, "no equation is left as code"
    for number in equation_numbers(THEORY):
        assert f'id="eq-{number}"' in page
    assert page.count("<math") > len(equation_numbers(THEORY))


def test_an_equation_in_a_list_is_one_by_its_number() -> None:
    page = Markdown(extensions=[Mathematics({"T"})]).convert("- so that\n\n      v ← v − e,     θ ← θ + v     (T)\n")
    assert page.index("<li>") < page.index('id="eq-T"') < page.index("</li>")


def test_code_stays_code_and_prose_gets_indices_and_links() -> None:
    page = Markdown(extensions=[Mathematics({"7"})]).convert(
        "By (7), `x_l` is x_{l−1}; max_ticks and f(7) stay.\n\n    total = x_l + 1  # ASCII\n"
    )
    assert f'<a class="citation" href="{CITED}7">(7)</a>' in page
    assert "<code>x_l</code> is x<sub>l−1</sub>; max_ticks and f(7) stay" in page
    assert "<pre><code>total = x_l + 1  # ASCII" in page


def finished(html: str, **meta: Any) -> str:
    return hooks.on_post_page(html, SimpleNamespace(url="api/dynamics/", meta=meta), None)


def test_a_citation_leads_to_its_equation_unless_the_page_cites_none() -> None:
    cited = f'By <a class="citation" href="{CITED}9a">(9a)</a>.'
    assert finished(cited) == 'By <a class="citation" href="../../theory/#eq-9a">(9a)</a>.'
    assert finished(cited, equations=False) == "By (9a)."


@pytest.mark.parametrize(
    "tag",
    [
        '<script src="https://example.org/a.js">',
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<img alt="" src="http://example.org/a.png">',
    ],
)
def test_what_another_host_would_have_to_send_is_refused(tag: str) -> None:
    with pytest.raises(PluginError, match="must work offline"):
        finished(f"<p>text</p>{tag}")
    assert finished('<a href="https://example.org">a link</a>')
