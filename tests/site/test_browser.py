"""The built site in a browser, opened as files: nothing is loaded from elsewhere, and everybody can read it.

A screenshot of each top page at each width is left in out/site-screenshots.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = ROOT / "out" / "site"
SCREENSHOTS = ROOT / "out" / "site-screenshots"
WIDTHS = (390, 1440)  # pixels: a phone, a desk
SECONDS = 60_000  # milliseconds, as Playwright counts
TOP = (
    "index",
    "start/client",
    "guides/which-model",
    "guides/export",
    "guides/client",
    "guides/compose",
    "concepts/precision",
    "concepts/pooling",
    "operations/limits",
    "operations/alerts",
    "reference/vitriton",
    "reference/commands",
    "reference/files",
    "reference/models",
    "benchmarks",
    "decisions",
)


@pytest.fixture
def visit(browser):
    """Opens a page of the site at a width; a request that leaves the site, or an error of a script, fails the test."""
    faults: list[str] = []
    contexts = []

    def open_page(name: str, width: int, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        page.on("request", lambda request: None if is_inside(request.url) else faults.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto((SITE / f"{name}.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def is_inside(url: str) -> bool:
    """Whether an address is that of a file of the site, or of no file at all."""
    return url.startswith((SITE.as_uri(), "data:", "blob:", "about:"))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TOP)
def test_a_page_fits_its_width(visit, name, width):
    """No page scrolls sideways, whatever its tables and code."""
    page = visit(name, width)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name.replace('/', '-')}-{width}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
@pytest.mark.parametrize("name", TOP)
def test_a_page_is_accessible(visit, name, width, scheme):
    """axe-core finds nothing, in either palette."""
    from axe_playwright_python.sync_playwright import Axe  # where the browser is

    found = Axe().run(visit(name, width, scheme)).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"], len(fault["nodes"])) for fault in found] == []


def test_search_works_without_a_server(visit):
    """A word that stands on one page leads there."""
    page = visit("index", 1440)
    page.keyboard.press("Control+k")
    page.keyboard.type("allow-untrained-pooler")
    page.click("a:has-text('Untrained poolers')")
    page.wait_for_url("**/concepts/pooling.html**")
