"""Starts JupyterLab and controls a notebook page in it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Locator, Page

from pdkernel.files.notebook.notebook_text import LANGUAGE_INFO
from tests.lab_files import CHECKOUT, TOKEN, private_environment, wait_for_url

# What a careful server sends: no inline script, no script from elsewhere. Lab itself needs 'unsafe-eval'.
STRICT_POLICY = "default-src 'self'; script-src 'self' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
STRICT_POLICY += (
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss:; worker-src 'self' blob:"
)

SETTINGS: dict[str, dict[str, object]] = {
    # The question whether to fetch news covers a corner of the page.
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Cells out of sight stay in the page, so that the n-th cell is the n-th element.
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    # By default, the kernel's completions are left out if they come later than a second after the key.
    "@jupyterlab/completer-extension/manager": {"providerTimeout": 60_000},
}

DISPLAY_NAMES = {"pdkernel": "Pipedream workflow (pdkernel)", "python3": "Python 3 (ipykernel)"}
LANGUAGES = {"pdkernel": LANGUAGE_INFO, "python3": {**LANGUAGE_INFO, "version": platform.python_version()}}
"""The language that each kernel reports."""
PROMPTS = (
    "() => [...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')].map(prompt => prompt.textContent).join(' ')"
)
"""JavaScript: the prompts of all cells, `[1]:` or `[*]:`."""
AXE_RUN = """async selector => {
  const { violations } = await axe.run(selector ? { include: [selector] } : document, { iframes: false });
  return violations.filter(each => ['serious', 'critical'].includes(each.impact))
    .flatMap(each => each.nodes.map(node => `${each.id}: ${node.html.slice(0, 300)}`));
}"""
"""JavaScript: what axe-core finds serious or critical in the elements of a selector, or in the whole page."""
LINK_SERVER = "import pdkernel.server.app"
"""A line of a cell: then a link is there in time for the page to open it, which a browser permits for seconds after a click."""
POLLING_MS = 50
"""Milliseconds between two looks at the page; without the number, Playwright looks at each of 60 frames a second, and Lab draws them all."""
RUN_ALL_TIMEOUT_MS = 110_000
"""Time limit of Run All in milliseconds: a notebook may install packages, and the machine may be busy."""


@dataclass
class Lab:
    """
    A running JupyterLab.

    Attributes:
        folder: The folder of all files that Lab reads and writes.
        root: The root folder of the file browser.
        url: The address, without a slash at the end.
    """

    folder: Path
    root: Path
    url: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path, *options: str) -> Lab:
        """Start JupyterLab in *folder* on a free port and wait for its first response."""
        root = folder / "notebooks"
        root.mkdir(parents=True)
        for name, values in SETTINGS.items():
            file = folder / "settings" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        headers = {"headers": {"Content-Security-Policy": STRICT_POLICY}}
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"),
            *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}"),
            *("--LabApp.extension_manager=readonly", "--KernelManager.transport=ipc"),
            *(f"--ServerApp.tornado_settings={headers}", "--LabApp.expose_app_in_browser=True", *options),
        ]
        with (folder / "lab.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=root, env=private_environment(folder), stdout=log, stderr=log, start_new_session=True
            )
        try:
            return cls(folder, root, wait_for_url(folder, process, folder / "lab.log"), process)
        except BaseException:
            process.kill()
            raise

    def stop(self) -> None:
        """Stop the server and its kernels."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def request(self, method: str, path: str) -> Any:
        """Call the server's own API; return the JSON of the response, or None."""
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, headers={"Authorization": f"token {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def end_sessions(self) -> None:
        """End every kernel, as after closing all tabs."""
        for session in self.request("GET", "/api/sessions"):
            self.request("DELETE", f"/api/sessions/{session['id']}")

    def write_notebook(
        self, name: str, cells: Sequence[str], kernel: str = "pdkernel", *, saved_before: bool = True
    ) -> Path:
        """
        Write a notebook of code cells, with the kernel's metadata as Lab saves them or without.

        A *name* without a folder gets a folder of that name: each notebook has its own project, users and accounts.
        """
        notebook = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {
                "kernelspec": {"name": kernel, "display_name": DISPLAY_NAMES[kernel], "language": "python"},
                **({"language_info": LANGUAGES[kernel]} if saved_before else {}),
            },
            "cells": [
                {
                    "id": f"cell-{index}",
                    "cell_type": "code",
                    "source": source,
                    "metadata": {},
                    "outputs": [],
                    "execution_count": None,
                }
                for index, source in enumerate(cells)
            ],
        }
        path = self.root / (name if "/" in name else f"{Path(name).stem}/{name}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(notebook))
        return path

    def copy_notebooks(self, folder: str) -> None:
        """Copy the notebooks of the checkout to *folder*, without what an earlier run by hand has left."""
        generated = shutil.ignore_patterns("exported", ".pdkernel", ".ipynb_checkpoints")
        shutil.copytree(CHECKOUT / "notebooks", self.root / folder, ignore=generated)


@dataclass
class LabPage:
    """
    A page of a browser with JupyterLab in it.

    Attributes:
        external: Requested addresses of other machines; none of them is reached.
        errors: Uncaught errors of the page's scripts.
    """

    lab: Lab
    page: Page
    external: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Store the requests and errors of the page from now on."""
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("websocket", lambda socket: self._note(socket.url.replace("ws:", "http:", 1)))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _note(self, url: str) -> None:
        if not url.startswith((self.lab.url, "data:", "blob:")):
            self.external.append(url)

    # ---- Where to go

    def open_launcher(self) -> None:
        """Open Lab with only the launcher."""
        self.page.goto(f"{self.lab.url}/lab?token={TOKEN}&reset")
        self.page.wait_for_selector(".jp-Launcher")

    def open_notebook(self, name: str, *, reload: bool = False) -> None:
        """
        Open a notebook of the server's folder, alone, and wait until its kernel is idle.

        Args:
            name: The file of the notebook.
            reload: Load all of Lab again; otherwise only the first notebook of a page loads Lab.
        """
        if not reload:
            self.close_all()
        if reload or not self.page.url.startswith(self.lab.url):
            self.page.goto(f"{self.lab.url}/lab/tree/{quote(name)}?token={TOKEN}&reset")
        else:
            self.execute("docmanager:open", path=name)
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_idle()

    def close_all(self) -> None:
        """Close every tab without a question, and reset Lab after a failed test."""
        if not self.page.url.startswith(self.lab.url) or self.page.locator(".jp-Dialog").count():
            self.page.goto("about:blank")
            return
        self.page.evaluate("[...jupyterapp.shell.widgets('main')].forEach(widget => widget.dispose())")

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Open a notebook for several tests; at the end, the page must have had no error and no call elsewhere."""
        self.errors.clear()
        self.open_notebook(name)
        yield
        errors = [*self.errors]
        self.leave()
        assert errors == []

    def leave(self) -> None:
        """Close every tab and end every kernel; until then, the page must have sent no request to another machine."""
        self.close_all()
        self.lab.end_sessions()
        external, self.external = self.external, []
        assert external == []

    def new_notebook(
        self,
        cells: Sequence[str],
        *,
        name: str = "test.ipynb",
        kernel: str = "pdkernel",
        saved_before: bool = True,
    ) -> None:
        """Write a notebook and open it."""
        path = self.lab.write_notebook(name, cells, kernel, saved_before=saved_before)
        self.open_notebook(str(path.relative_to(self.lab.root)))

    # ---- What is there

    def cell(self, index: int) -> Locator:
        """The n-th cell; the first is 0."""
        return self.page.locator(".jp-Notebook > .jp-WindowedPanel-outer .jp-Cell").nth(index)

    def index_of(self, cell_id: str) -> int:
        """The position of the cell with this id."""
        find = "id => jupyterapp.shell.currentWidget.content.widgets.findIndex(cell => cell.model.id === id)"
        return int(self.page.evaluate(find, cell_id))

    def editor(self, index: int) -> Locator:
        """The text of the n-th cell."""
        return self.cell(index).locator(".jp-InputArea-editor .cm-content")

    def output(self, index: int) -> Locator:
        """The output of the n-th cell."""
        return self.cell(index).locator(".jp-Cell-outputWrapper")

    def expect_copied(self, text: str) -> None:
        """Wait until *text* is copied. The mark of a copy is gone after 1.5 seconds, so a slow machine may not see it."""
        self.page.wait_for_function(
            "text => navigator.clipboard.readText().then((copied) => copied === text)", arg=text
        )
        self.page.evaluate("navigator.clipboard.writeText('')")  # the next copy may be the same text

    # ---- What to do

    def menu(self, *labels: str) -> None:
        """Choose from the menu bar: `menu("Run", "Run All Cells")`."""
        bar, *items = labels
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{bar}$")).click()
        for label in items:
            self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{re.escape(label)}$")).click()

    def execute(self, command: str, **arguments: object) -> None:
        """Execute a command of Lab; its result stays in the page: to copy a widget with all that it refers to takes seconds."""
        self.page.evaluate(
            "async ([command, values]) => { await jupyterapp.commands.execute(command, values); }", [command, arguments]
        )

    def run_all(self) -> None:
        """Run every cell and wait for the last."""
        before = self.page.evaluate(f"({PROMPTS})()")
        self.menu("Run", "Run All Cells")
        # before the first cell is queued, the kernel is idle as well
        self.page.wait_for_function(f"before => ({PROMPTS})() !== before", arg=before, polling=POLLING_MS)
        self.wait_idle(timeout_ms=RUN_ALL_TIMEOUT_MS)

    def run_cell(self, index: int) -> None:
        """Run one cell without moving the selection, and wait for the cell."""
        self.editor(index).click()
        self.page.keyboard.press("Control+Enter")
        self.wait_idle()

    def edit_cell(self, index: int, text: str) -> None:
        """Replace a cell's text."""
        self.editor(index).click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)

    def type_at_end(self, index: int, text: str) -> None:
        """Type at the end of a cell's text, letter by letter."""
        self.editor(index).click()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.type(text)

    def complete(self) -> list[str]:
        """Press Tab and return what the popup offers; Enter takes the first."""
        self.page.keyboard.press("Tab")
        self.page.wait_for_selector(".jp-Completer .jp-Completer-item")
        return [text.strip() for text in self.page.locator(".jp-Completer .jp-Completer-match").all_inner_texts()]

    def wait_idle(self, *, timeout_ms: int = 90_000) -> None:
        """Wait until the kernel is idle and no cell is queued."""
        self.page.wait_for_function(
            """() => {
              const panel = jupyterapp.shell.currentWidget;
              return panel?.context?.isReady && panel.context.sessionContext.isReady
                && panel.context.sessionContext.session?.kernel?.status === 'idle'
                && ![...panel.node.querySelectorAll('.jp-InputPrompt')].some(each => each.textContent.includes('*'));
            }""",
            polling=POLLING_MS,
            timeout=timeout_ms,
        )

    def wait_until_shared(self) -> None:
        """Wait until the page shares its cells with the kernel: a page that finds a kernel asks it first whether it has pdkernel."""
        self.page.wait_for_function(
            """() => [...jupyterapp.shell.currentWidget.sessionContext.session.kernel._comms.values()]
              .some(each => each.targetName === 'pdkernel.notebook')""",
            polling=POLLING_MS,
        )

    def save(self) -> Path:
        """Save the notebook and return its file."""
        self.page.evaluate(
            """() => {
              const { saveState } = jupyterapp.shell.currentWidget.context;
              window.pdSaved = new Promise(done => saveState.connect((_, state) => state === 'completed' && done()));
            }"""
        )
        self.page.keyboard.press("Control+s")
        self.page.evaluate("window.pdSaved")
        name = self.page.evaluate("jupyterapp.shell.currentWidget.context.path")
        return self.lab.root / str(name)

    def screenshot(self, name: str) -> None:
        """Take a picture of the page into the folder PDKERNEL_SCREENSHOTS, if the variable is set."""
        folder = os.environ.get("PDKERNEL_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png")


def find_barriers(page: Page, axe: str, selector: str = "") -> list[str]:
    """The serious and critical findings of the script *axe* in the elements of *selector*, or in the whole page."""
    page.evaluate(axe)  # not a script element, which the page's policy would refuse
    found: list[str] = page.evaluate(AXE_RUN, selector)
    return found
