"""
Fixtures of the browser tests: all tests share one JupyterLab and one page.

Without Chromium the tests are listed as NOT RUN with the command that installs Chromium; if CI is set, that is a
failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, expect, sync_playwright

from pdkernel.packages.npm_command import find_npm
from pdkernel.workers.interpreters import find_node
from tests.browser.harness import Lab, LabPage
from tests.conftest import KEPT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
GET_CHROMIUM = "apt-get update && apt-get install -y chromium fonts-dejavu-core"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update"]
# Whatever is not on this machine goes to a proxy that is not there. (Refusing it by Playwright's routes would switch
# the browser's cache off, and every page would load all of Lab again.)
ARGUMENTS += ["--proxy-server=127.0.0.1:9"]
expect.set_options(timeout=60_000)  # other tests run at the same time
AXE_VERSION = "4.14.1"
AXE_SCRIPT = KEPT / f"axe-core-{AXE_VERSION}.js"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them without a browser."""
    ours = [item for item in items if item.nodeid.startswith("tests/browser/")]
    for item in ours:
        item.add_marker(pytest.mark.browser)
        if "axe" in getattr(item, "fixturenames", ()) and not AXE_SCRIPT.exists():
            item.add_marker(pytest.mark.network)
    if CHROMIUM or os.environ.get("CI"):
        return
    for item in ours:
        item.add_marker(
            pytest.mark.skip(reason=f"NOT RUN: no Chromium is on the PATH. Get it (as root) with: {GET_CHROMIUM}")
        )


# Of the package, not of the session: while Playwright's synchronous API is open its event loop counts as running, and
# the asynchronous tests of other folders could not run theirs.
@pytest.fixture(scope="package")
def browser() -> Iterator[BrowserContext]:
    """Headless Chromium with one profile for all tests, so that Lab's files are loaded once."""
    if CHROMIUM is None:
        pytest.fail(f"No Chromium is on the PATH. Get it (as root) with: {GET_CHROMIUM}", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        context = browser.new_context(
            viewport={"width": 1400, "height": 1300}, permissions=["clipboard-read", "clipboard-write"]
        )
        context.set_default_timeout(90_000)
        yield context
        browser.close()


@pytest.fixture(scope="package")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, which checks a page for barriers; from the npm registry, kept for the next test run."""
    if not AXE_SCRIPT.exists():
        folder = tmp_path_factory.mktemp("axe")
        node = find_node()
        pack = [str(node), str(find_npm(node, os.environ)), "pack", "--silent", f"axe-core@{AXE_VERSION}"]
        subprocess.run(pack, cwd=folder, check=True, timeout=100)
        with tarfile.open(folder / f"axe-core-{AXE_VERSION}.tgz") as archive:
            script = archive.extractfile("package/axe.min.js")
            assert script is not None
            AXE_SCRIPT.parent.mkdir(parents=True, exist_ok=True)
            partial = AXE_SCRIPT.with_suffix(f".{os.getpid()}")
            partial.write_bytes(script.read())
        partial.replace(AXE_SCRIPT)
    return AXE_SCRIPT.read_text()


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab with this checkout's kernel and extension, with private folders and a strict content policy."""
    lab = Lab.start(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.stop()


@pytest.fixture(scope="package")
def lab_page(browser: BrowserContext, lab: Lab) -> LabPage:
    """The page that the tests share: loading Lab takes seconds, opening a notebook does not."""
    page = LabPage(lab, browser.new_page())
    page.watch()
    return page


@pytest.fixture
def page(lab_page: LabPage) -> Iterator[LabPage]:
    """The shared page without tabs and kernels; after the test, the page has sent no request to another machine."""
    yield lab_page
    lab_page.leave()
    assert not (lab_page.lab.root / ".pdkernel").exists(), "notebooks of several tests would share this project"


@pytest.fixture
def new_page(browser: BrowserContext, lab: Lab) -> Iterator[LabPage]:
    """A separate page, for a test that changes the browser."""
    page = LabPage(lab, browser.new_page())
    page.watch()
    yield page
    page.page.close()
    lab.end_sessions()
    assert page.external == []
