"""Runs to be saved, of a notebook in its own folder, with an outside server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.annex.snapshot_tests import SavedTest, save_test
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from tests.builders import an_event
from tests.cli.fork_server import ForkServer
from tests.notebook_files import notebook_of
from tests.private_pytest import run_pytest


class Notebook:
    """A notebook whose runs are saved; `work.ipynb`, with the event `hello`."""

    def __init__(self, folder: Path, fork_server: ForkServer) -> None:
        self.folder = folder
        self._fork_server = fork_server
        self.path = folder / "work.ipynb"
        (folder / "events").mkdir()
        (folder / "events" / "hello.json").write_text(json.dumps(dict(an_event().data)))
        self.session = Session(folder=folder, notebook=self.path, environ={"PDKERNEL_EGRESS": "deny"})

    def write(self, *cells: str) -> None:
        """Write the notebook and run its cells."""
        notebook_of(self.path, *cells)
        for number, cell in enumerate(cells):
            self.session.record_cell(cell, cell_id=f"c{number}")
        if self.session.event is None:
            self.session.load_event("hello")

    def connect(self, app: str = "slack", **credentials: str) -> str:
        """Connect an account of ada and run as ada from now on."""
        account = self.session.directory.add_account(app=app, credentials=credentials, external_user_id="ada")
        self.session.choose_user("ada")
        return account.id

    def save(self, execution: Execution, name: str = "run", **choices: Any) -> SavedTest:
        """Save *execution*."""
        return save_test(
            self.session.get_request(execution.id),
            execution,
            name=name,
            source=self.session.source,
            directory=self.session.directory,
            **choices,
        )

    def text(self, name: str = "run") -> str:
        """The text of the saved test."""
        return (self.folder / "tests" / f"test_{name}.py").read_text(encoding="utf-8")

    def pytest(self) -> dict[str, int]:
        """The numbers of the folder's tests by result, from a separate pytest run."""
        return run_pytest(self._fork_server, self.folder)


@pytest.fixture
def notebook(tmp_path: Path, fork_server: ForkServer) -> Iterator[Notebook]:
    """A notebook in an empty folder."""
    made = Notebook(tmp_path, fork_server)
    yield made
    made.session.close()
