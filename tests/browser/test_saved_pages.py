"""Pages that open without a server and a kernel: saved notebooks as HTML, and the report on a move away from Pipedream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import BrowserContext, Page

from pdkernel.annex.migration.pages import render_page
from tests.annex.migration.test_migration_report import REPORT
from tests.browser.harness import find_barriers
from tests.lab_files import CHECKOUT

OURS = ".pd-view, .pd-fallback"
"""Selector of pdkernel's outputs in a notebook; the rest of the page is nbconvert's."""
NOTEBOOKS = sorted(path.stem for path in (CHECKOUT / "notebooks").glob("*.ipynb"))
WIDE_PARTS = """selector => [...document.querySelectorAll(selector)]
  .filter(each => each.scrollWidth > each.clientWidth + 1 && getComputedStyle(each).overflowX === 'visible').map(each => each.outerHTML.slice(0, 300))"""
"""JavaScript: the elements of a selector with content beyond their edge."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the pages, by name."""
    folder = tmp_path_factory.mktemp("pages")
    exporter = HTMLExporter(template_name="lab", require_js_url="", mathjax_url="")
    made = {
        name: exporter.from_notebook_node(nbformat.read(CHECKOUT / "notebooks" / f"{name}.ipynb", 4))[0]
        for name in NOTEBOOKS
    }
    made["move"] = render_page(REPORT)
    for name, text in made.items():
        (folder / name).with_suffix(".html").write_text(text)
    return {name: (folder / name).with_suffix(".html") for name in made}


@pytest.fixture(scope="module")
def page(browser: BrowserContext) -> Iterator[Page]:
    """A page of the size of a phone."""
    page = browser.new_page()
    page.set_viewport_size({"width": 390, "height": 800})
    yield page
    page.close()


@pytest.mark.parametrize("name", [*NOTEBOOKS, "move"])
def test_on_a_phone_nothing_scrolls_sideways(page: Page, pages: dict[str, Path], name: str) -> None:
    """At 390 pixels the page does not scroll sideways, and no output of pdkernel has content beyond its edge; wide tables scroll."""
    page.goto(pages[name].as_uri(), wait_until="domcontentloaded")

    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(WIDE_PARTS, OURS) == []


@pytest.mark.parametrize("name", [*NOTEBOOKS, "move"])
def test_axe_finds_no_barrier(page: Page, pages: dict[str, Path], axe: str, name: str) -> None:
    """axe-core finds nothing serious in the outputs of pdkernel."""
    page.goto(pages[name].as_uri(), wait_until="domcontentloaded")

    assert find_barriers(page, axe, "" if name == "move" else OURS) == []
