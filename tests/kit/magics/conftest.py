"""An IPython shell with pdkernel loaded, in its own folder and project."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from pdkernel import load_ipython_extension, unload_ipython_extension
from pdkernel.kit.magics import output
from pdkernel.kit.magics.notebook_context import get_live_notebook, get_session
from pdkernel.kit.session import Session
from tests.builders import an_event

CHECK = '%%pdstep check\ndef handler(pd):\n    print("checking")\n    return {"name": pd.steps["trigger"]["event"]["body"]["name"]}\n'
GREET = "%%pdstep greet --lang node\nexport default defineComponent({\n  async run({ steps }) {\n    return `Hello, ${steps.check.$return_value.name}`;\n  },\n});\n"


class Notebook:
    """Runs cells and returns their output."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.error: BaseException | None = None
        self._revision = 0

    @property
    def session(self) -> Session:
        """The notebook's session."""
        return get_session(self.shell)

    def run(self, cell: str) -> str:
        """Run *cell*; return its text output, with the message of its error at the end."""
        with capture_output() as captured:
            result = self.shell.run_cell(cell, store_history=True)
        self.error = result.error_before_exec or result.error_in_exec
        shown = [str(output.data.get("text/plain", "")) for output in captured.outputs]
        return "\n".join([*shown, captured.stdout, str(self.error or "")])

    def show(self, *cells: str) -> str:
        """Edit the notebook, without running a cell: a front end sends *cells*. Returns the outputs that change."""
        self._revision += 1
        shown = [
            {"index": place, "id": f"c{place}", "type": "code", "source": source} for place, source in enumerate(cells)
        ]
        message = {"page": "page", "revision": self._revision, "cells": shown}
        with capture_output() as captured:
            get_live_notebook(self.shell).show(message, at=time.time())
        return "\n".join(str(output.data["text/plain"]) for output in captured.outputs)


def await_drawings() -> None:
    """Wait until the postponed drawings are done, which else appear in what is captured next."""
    output._DRAW_EXECUTOR.submit(lambda: None).result(60)


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """A notebook in an empty folder, with outbound calls answered by the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PDKERNEL_EGRESS", "stand-in=slack")
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "hello.json").write_text(json.dumps(dict(an_event().data)))
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    load_ipython_extension(shell)
    yield Notebook(shell)
    unload_ipython_extension(shell)
    await_drawings()
    InteractiveShell.clear_instance()


Run = Callable[[str], str]


@pytest.fixture
def run(notebook: Notebook) -> Run:
    """Runs a cell."""
    return notebook.run


@pytest.fixture
def shell() -> Iterator[Any]:
    """An IPython shell with pdkernel loaded and without a history file."""
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    load_ipython_extension(shell)
    yield shell
    unload_ipython_extension(shell)
    await_drawings()
    InteractiveShell.clear_instance()
