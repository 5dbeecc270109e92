"""
The quickstart driven as a person does: the time to the first green run, and the pictures of the documentation.

    python -m tests.browser.film time               (make first-run) seconds from the answer of `pdkernel lab` to the first
    green run python -m tests.browser.film pictures FOLDER    (make pictures) the film strip: 1,400 px, dark, 900 px, phone

Not a test: the gate asserts no time, and a picture is looked at by a person.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.browser.harness import RUN_ALL_TIMEOUT_MS, Lab, LabPage
from tests.lab_files import CHECKOUT, TOKEN, private_environment, wait_for_url

NOTEBOOK = "01_quickstart.ipynb"
ORIENT_S = 5.0
"""Seconds in which a person looks at a page that is new to them."""
FIND_S = 3.0
"""Seconds in which a person finds the next thing to click."""
WORDS_PER_S = 200 / 60
"""Words that a person reads in a second: 200 in a minute."""
QUICK = ".pd-timeline"


@contextmanager
def _lab(folder: Path) -> Iterator[Lab]:
    """`pdkernel lab` on a copy of the notebooks, as `make lab` starts it, with private folders and without a browser."""
    root = folder / "notebooks"
    ours = shutil.ignore_patterns("exported", ".pdkernel", ".ipynb_checkpoints")
    shutil.copytree(CHECKOUT / "notebooks", root, ignore=ours)
    command = [sys.executable, "-m", "pdkernel", "lab", str(root / NOTEBOOK), "--no-browser", "--port=0"]
    options = [f"--IdentityProvider.token={TOKEN}", "--LabApp.expose_app_in_browser=True"]
    log = folder / "lab.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], cwd=root, env=private_environment(folder), stdout=output, stderr=output
        )
    try:
        yield Lab(folder, root, wait_for_url(folder, process, log), process)
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def _browser(**options: object) -> Iterator[BrowserContext]:
    assert CHROMIUM is not None, "No Chromium is on the PATH."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        context = browser.new_context(**options)  # type: ignore[arg-type]  # options of a context, by name
        context.set_default_timeout(RUN_ALL_TIMEOUT_MS)
        yield context
        browser.close()


def print_time_to_first_run() -> None:
    """Open the quickstart, read its first cell, choose Run All, and print the seconds until the whole workflow is green."""
    expect.set_options(timeout=RUN_ALL_TIMEOUT_MS)
    with (
        tempfile.TemporaryDirectory(prefix="pdk") as folder,
        _lab(Path(folder)) as lab,
        _browser(viewport={"width": 1400, "height": 900}) as context,
    ):
        began = time.monotonic()
        page = LabPage(lab, context.new_page())
        page.page.goto(f"{lab.url}/lab/tree/{NOTEBOOK}?token={TOKEN}")
        page.page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_idle()
        _print_lap("the notebook is open, and its kernel is ready", began)
        time.sleep(ORIENT_S)
        words = len(page.cell(0).inner_text().split())
        time.sleep(words / WORDS_PER_S)
        _print_lap(f"the first cell is read ({words} words)", began)
        time.sleep(FIND_S)
        page.page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
        time.sleep(FIND_S)
        page.page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        _print_lap("Run All Cells is chosen", began)
        expect(page.page.locator(QUICK).first).to_contain_text("success")
        _print_lap("the first step is green", began)
        expect(page.output(page.index_of("run"))).to_contain_text("success")
        _print_lap("the whole workflow is green", began)


def _print_lap(what: str, began: float) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {what}", flush=True)


class Film:
    """
    The pictures in order.

    Args:
        page: The page with the quickstart.
        folder: The folder of the pictures.
    """

    def __init__(self, page: LabPage, folder: Path) -> None:
        self._page = page
        self._folder = folder

    def output(self, cell: str) -> Locator:
        """The output of the cell with this id."""
        return self._page.output(self._page.index_of(cell))

    def show(self, cell: str, name: str) -> None:
        """Take a picture with the top of a cell at the top of the page."""
        self._page.cell(self._page.index_of(cell)).evaluate("cell => cell.scrollIntoView({ block: 'start' })")
        self.take(name)

    def take(self, name: str) -> None:
        """Take a picture, without the keyboard's cursor."""
        self._page.page.evaluate("document.activeElement?.blur()")
        self._page.page.screenshot(path=self._folder / f"{name}.png", animations="disabled", caret="hide")
        print(name, flush=True)

    def take_phone(self, page: Page, name: str) -> None:
        """Take a picture of another *page* in the size of a phone."""
        page.set_viewport_size({"width": 390, "height": 844})
        page.wait_for_load_state()
        page.screenshot(path=self._folder / f"{name}.png", animations="disabled", caret="hide")
        print(name, flush=True)

    def resize(self, width: int, height: int) -> None:
        """Give the page another size, as a person who narrows the window."""
        self._page.page.set_viewport_size({"width": width, "height": height})
        self._page.page.evaluate("new Promise(requestAnimationFrame)")


def take_pictures(folder: Path) -> None:
    """Drive the quickstart and take the pictures of the film strip."""
    expect.set_options(timeout=RUN_ALL_TIMEOUT_MS)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="pdk") as temporary,
        _lab(Path(temporary)) as lab,
        _browser(viewport={"width": 1400, "height": 900}) as context,
    ):
        page = LabPage(lab, context.new_page())
        page.open_notebook(NOTEBOOK)
        page.execute("application:toggle-left-area")
        film = Film(page, folder)
        film.take("01-opened")
        page.run_all()
        film.show("user-about", "02-user-and-account")
        film.show("event-about", "03-event")
        film.show("check", "04-step")
        film.show("send-about", "05-run")
        film.show("shape-about", "06-shape")
        film.show("grace", "07-missing-account")
        film.show("export-about", "08-export")
        _find_an_action(page, film)
        _narrow_and_dark(page, film)
        _phone(page, film)


def _find_an_action(page: LabPage, film: Film) -> None:
    """Add a cell with the form of `%pdactions`, search, fill in and write."""
    index = page.index_of("send-about")
    _insert_and_run(page, index, "%pdactions")
    form = page.output(index)
    form.get_by_role("textbox", name="search").fill("record")
    expect(form.locator(".widget-hbox", has_text="data_stores-add-update-record@")).to_be_visible()
    page.cell(index).evaluate("cell => cell.scrollIntoView({ block: 'start' })")
    expect(form).to_contain_text("%pdactions record")
    film.take("09-actions-search")
    form.locator(".widget-hbox", has_text="data_stores-add-update-record@").get_by_role("button", name="Use").click()
    form.get_by_label("Key *").fill("{{steps.check.$return_value.repository}}")
    form.get_by_label("Value *").fill("{{steps.check.$return_value.title}}")
    form.get_by_role("button", name="Write cell").click()
    expect(form.get_by_text("The cell is written.")).to_be_visible()
    page.page.keyboard.press("Control+Enter")
    page.wait_idle()
    expect(page.output(index + 1)).to_contain_text("success")
    page.cell(index).evaluate("cell => cell.scrollIntoView({ block: 'start' })")
    film.take("10-actions-written")


def _narrow_and_dark(page: LabPage, film: Film) -> None:
    page.execute("apputils:change-theme", theme="JupyterLab Dark")
    page.page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
    film.show("send-about", "11-dark-run")
    film.show("user-about", "12-dark-user")
    page.execute("apputils:change-theme", theme="JupyterLab Light")
    page.page.wait_for_selector("body[data-jp-theme-light=true]", state="attached")
    film.resize(900, 1100)
    film.show("user-about", "13-narrow-user")
    film.show("send-about", "14-narrow-run")


def _phone(page: LabPage, film: Film) -> None:
    """The pages that an external user and an operator open on a phone: Connect Link and the console."""
    film.resize(1400, 900)
    picker = film.output("picker")
    picker.get_by_placeholder("the user's id in your product").fill("grace")
    picker.get_by_role("button", name="Use", exact=True).click()
    with page.page.expect_popup() as opened:
        picker.get_by_role("button", name="Connect with Link").click()
    film.take_phone(opened.value, "15-phone-link")
    index = page.index_of("export-about")
    _insert_and_run(page, index, "%pdserve")
    _insert_and_run(page, index + 1, "%pdserve console")
    with page.page.expect_popup() as opened:
        page.output(index + 1).get_by_role("button", name="Open the console").click()
    console = opened.value
    console.get_by_role("button", name="Log in").click()
    expect(console.get_by_role("heading", level=1)).to_have_text("Workflows")
    film.take_phone(console, "16-phone-console")
    console.goto(console.url.rpartition("/-/")[0] + "/-/runs")
    film.take_phone(console, "17-phone-runs")


def _insert_and_run(page: LabPage, index: int, source: str) -> None:
    """Insert a code cell and run it."""
    insert = "([index, source]) => jupyterapp.shell.currentWidget.content.model.sharedModel.insertCell(index, {cell_type: 'code', source})"
    page.page.evaluate(insert, [index, source])
    page.run_cell(index)


def main() -> None:
    """Run the command of the command line."""
    match sys.argv[1:]:
        case ["time"]:
            print_time_to_first_run()
        case ["pictures", folder]:
            take_pictures(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
