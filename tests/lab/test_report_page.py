"""The page of `worldsheet report` in a real browser: it loads alone, its slider moves, its legends toggle."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from safetensors.torch import load_file

from worldsheet_lab.report.command import page_of
from worldsheet_lab.report.runs import runs_at

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def file(run_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("page") / "report.html"
    place.write_text(page_of(runs_at(list(run_folders.values()))).html(), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page, opened once for all tests; at the end it must have said nothing and asked for nothing."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    said: list[str] = []
    asked: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri())
    yield opened
    opened.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]


def drawn(page: Page, name: str) -> str:
    """Scroll to a plot and wait until it is there."""
    page.locator(f"#{name}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{name} .main-svg")
    return name


def until(page: Page, condition: str) -> None:
    """Wait for a condition; playwright's own way would need to evaluate strings in the page, which it forbids."""
    for _ in range(400):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"in vain: {condition}")


def numbers(page: Page, plot: str, part: str) -> Any:
    rows = f"Array.from(document.getElementById('{plot}')._fullData[0].{part}, row => Array.from(row))"
    return np.array(page.evaluate(f"{rows}.map(row => row.map(x => Number.isNaN(x) ? null : x))"), dtype=float)


def test_every_panel_is_drawn_when_it_comes_into_view(page: Page) -> None:
    assert page.locator("details").count() >= 10
    for panel in page.query_selector_all("details:not([open]) > summary"):
        panel.click()
    plots = [plot.get_attribute("id") for plot in page.query_selector_all(".plot")]
    assert len(plots) > 40
    for plot in plots:
        assert plot is not None
        drawn(page, plot)
    empty = "plot => plot._fullData.length === 0"
    assert page.evaluate(f"[...document.querySelectorAll('.plot')].filter({empty}).length") == 0


def test_the_slider_moves_the_fields_and_the_cursor(page: Page, run_folders: dict[str, Path]) -> None:
    saved = load_file(run_folders["zero"] / "worldsheet.safetensors")
    panel = "worldsheet-0-zero-dyadic-rate-1"
    sheet, film = drawn(page, f"{panel}-0"), drawn(page, f"{panel}-5")
    slider, label = page.locator(f"#{panel} .film input"), page.locator(f"#{panel} .film output")
    assert label.text_content() == "tick 6 of 6"
    seen = []
    for tick, key in zip((6, 0, 1, 2, 3, 4), (None, "Home", *["ArrowRight"] * 4), strict=True):
        if key is not None:
            slider.press(key)
        until(page, f"document.getElementById('{sheet}').layout.shapes?.[0]?.x0 === {tick}")
        assert label.text_content() == f"tick {tick} of 6"
        page.wait_for_timeout(50)
        field = saved["costates"][tick][:, :10].numpy()  # the widest site has ten units
        assert np.array_equal(numbers(page, film, "customdata"), field, equal_nan=True)
        seen.append(page.locator(f"#{film} .hm").first.inner_html())
    assert (
        len(set(seen))
        == len({saved["costates"][tick].nan_to_num(0).numpy().tobytes() for tick in range(7)} - {b""}) - 1
    )
    heat = numbers(page, sheet, "customdata")
    assert np.array_equal(heat, saved["state_residuals"].T)


def test_a_film_plays_to_its_end(page: Page) -> None:
    panel = "control-mass"
    drawn(page, f"{panel}-0")
    button, label = page.locator(f"#{panel} .film button"), page.locator(f"#{panel} .film output")
    last = label.text_content()
    button.click()
    until(page, f"document.querySelector('#{panel} .film button').textContent === 'play'")
    assert label.text_content() == last
    assert button.text_content() == "play"


def test_a_click_on_the_legend_hides_a_curve_and_its_seeds(page: Page) -> None:
    plot = drawn(page, "learning-0")
    shown = f"document.getElementById('{plot}')._fullData.filter(trace => trace.visible === true).map(t => t.name)"
    before = page.evaluate(shown)
    name = next(name for name in before if name.startswith("relaxation") and name.endswith("seeds"))
    toggle = page.locator(f"#{plot} .legend .traces", has_text=name).locator(".legendtoggle")
    toggle.click()
    until(page, f"!{shown}.includes({json.dumps(name)})")
    gone = set(before) - set(page.evaluate(shown))
    assert gone == {other for other in before if other.startswith(name.partition(", mean")[0])}
    page.wait_for_timeout(400)  # longer than a double click
    toggle.click()
    until(page, f"{shown}.length === {len(before)}")


def test_light_and_dark_reach_the_figures(page: Page) -> None:
    plot = drawn(page, "energy-0")
    ink = f"document.getElementById('{plot}')._fullLayout.font.color"
    light = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    until(page, f"{ink} !== '{light}'")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 23)"
    page.locator("#theme").click()
    until(page, f"{ink} === '{light}'")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_a_narrow_window_needs_no_scrolling_sideways(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    drawn(page, "learning-0")
    until(page, "document.documentElement.scrollWidth <= 390")
    assert page.evaluate("document.getElementById('learning-0').getBoundingClientRect().width") < 390
    page.set_viewport_size({"width": 1280, "height": 900})


def test_on_paper_figures_fill_their_columns_in_light_colours(page: Page) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    if page.evaluate(paper) == "rgb(255, 255, 255)":
        page.locator("#theme").click()
    plot = drawn(page, "energy-0")
    svg = f"document.querySelector('#{plot} .main-svg').getBoundingClientRect()"
    before = page.evaluate(f"{svg}.width")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1047})  # A4 between margins of a centimetre
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    column = page.evaluate(f"document.querySelector('#{plot}').getBoundingClientRect().width")
    assert 0.9 * column < page.evaluate(f"{svg}.width") <= column < 718 / 2
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(34, 37, 43)"
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    until(page, f"{svg}.width === {before}")
    assert page.evaluate(paper) == "rgb(16, 18, 23)"
