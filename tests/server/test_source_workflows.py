"""Sources that change while they are served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.project import Project
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.source_workflows import RELOAD_INTERVAL_S, SourceWorkflows
from pdkernel.source import load_sources
from tests.notebook_files import notebook_of

CELL = "%%pdworkflow\nname: Answer\ntrigger: {{type: http, auth: {auth}}}\n"
STEP = "%%pdstep {name}\ndef handler(pd):\n    return 1\n"


class Shelf:
    """A folder of workflows, served."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.project = Project.open(folder / ".pdkernel", clock=self.clock)
        self.lines: list[str] = []
        self.write("one")
        self.workflows = SourceWorkflows(
            self.project, load_sources(folder / "work.ipynb"), check=self.check, write_line=self.lines.append
        )

    def write(self, step: str, *, auth: str = "oauth", name: str = "work.ipynb") -> None:
        """Save the notebook with one step of that name."""
        notebook_of(self.folder / name, CELL.format(auth=auth), STEP.format(name=step))

    def check(self, served: ServedWorkflow) -> None:
        """Endpoints need auth, as behind `--host`."""
        if served.source.workflow.trigger.auth == "none":
            raise RequestError("Anybody could start it.")

    def steps(self) -> list[str]:
        """Names of the steps that the next request would run."""
        self.clock.advance(RELOAD_INTERVAL_S)
        (served,) = self.workflows.list_workflows()
        return [step.name for step in served.source.workflow.steps]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    """A notebook with a step `one`."""
    made = Shelf(tmp_path)
    yield made
    made.project.close()


def test_a_notebook_that_is_saved(shelf: Shelf) -> None:
    """The next request runs what was saved, at the same endpoint; it is said once."""
    (before,) = shelf.workflows.list_workflows()
    shelf.write("another")
    seen = shelf.steps(), shelf.steps()
    (after,) = shelf.workflows.list_workflows()

    assert seen == (["another"], ["another"])
    assert (after.endpoint_key, after.id) == (before.endpoint_key, before.id)
    assert len(shelf.lines) == 1
    assert "was reloaded" in shelf.lines[0]


def test_a_look_a_second(shelf: Shelf) -> None:
    """Files are looked at once a second, however many requests come."""
    shelf.steps()
    shelf.write("another")
    (served,) = shelf.workflows.list_workflows()

    assert [step.name for step in served.source.workflow.steps] == ["one"]
    assert shelf.steps() == ["another"]


@pytest.mark.parametrize("text", ["", '{"cells": [', "[]"])
def test_a_notebook_that_cannot_be_read(shelf: Shelf, text: str) -> None:
    """It is served as it was, and it is said why; the next good version is taken."""
    (shelf.folder / "work.ipynb").write_text(text)
    broken = shelf.steps()
    shelf.write("mended")

    assert broken == ["one"]
    assert "the previous version is served" in shelf.lines[0]
    assert shelf.steps() == ["mended"]


def test_a_dotenv_that_cannot_be_read(shelf: Shelf) -> None:
    """The variables stay as they were, and that is said once; the next good version is taken."""
    dotenv = shelf.folder / ".env"
    dotenv.write_text("WORD=first\n")
    shelf.steps()
    dotenv.write_bytes(b"WORD=\xff\n")
    shelf.steps()
    shelf.steps()
    (broken,) = shelf.workflows.list_workflows()
    dotenv.write_text("WORD=second\n")
    shelf.steps()
    (mended,) = shelf.workflows.list_workflows()

    assert (broken.variables, mended.variables) == ({"WORD": "first"}, {"WORD": "second"})
    assert len(shelf.lines) == 1
    assert ".env, line 1, is not UTF-8 text" in shelf.lines[0]


def test_a_notebook_that_is_gone(shelf: Shelf) -> None:
    """As one that cannot be read."""
    (shelf.folder / "work.ipynb").unlink()

    assert shelf.steps() == ["one"]
    assert "does not exist any more" in shelf.lines[0]


def test_a_change_that_may_not_be_served(shelf: Shelf) -> None:
    """Whoever takes the auth away does not open the endpoint to the world: the workflow stays as it was."""
    shelf.write("open", auth="none")

    assert shelf.steps() == ["one"]
    assert shelf.lines[0].endswith("Anybody could start it.")


def test_another_endpoint(shelf: Shelf) -> None:
    """An endpoint's key changes with the next start only."""
    (shelf.folder / "work.pdkernel.yaml").write_text("endpoint: eo0000000000000000\n")

    assert shelf.steps() == ["one"]
    assert "Restart `pdkernel serve`" in shelf.lines[0]


def test_the_yaml_beside_a_notebook(shelf: Shelf) -> None:
    """`pdkernel.yaml` is part of the source."""
    (served,) = shelf.workflows.list_workflows()
    (shelf.folder / "work.pdkernel.yaml").write_text(f"endpoint: {served.endpoint_key}\n")
    shelf.steps()

    assert "was reloaded" in shelf.lines[0]


def test_a_folder(tmp_path: Path) -> None:
    """A file of a synced folder is part of its source, one in `node_modules` is not."""
    from pdkernel.source import file_stamps, load_source

    folder = tmp_path / "flow"
    (folder / "one").mkdir(parents=True)
    (folder / "node_modules" / "x").mkdir(parents=True)
    entry = folder / "one" / "entry.js"
    (folder / "workflow.yaml").write_text(
        "org_id: o_1\nproject_id: proj_1\nsteps:\n  - namespace: one\n    type: CODE\n    runtime: nodejs18.x\n    uses: ./one/entry.js\ntriggers:\n  - id: hi_1\nname: Flow\nschema_version: 2\n"
    )
    entry.write_text("export default defineComponent({ async run() { return 1; } });\n")
    before = file_stamps(load_source(folder))
    (folder / "node_modules" / "x" / "index.js").write_text("1")
    same = file_stamps(load_source(folder))
    entry.write_text("export default defineComponent({ async run() { return 22; } });\n")

    assert same == before
    assert file_stamps(load_source(folder)) != before
