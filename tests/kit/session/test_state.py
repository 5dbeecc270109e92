"""The state of a notebook's session in the project's database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.errors import ProjectError
from pdkernel.execution import StepResult
from pdkernel.files.notebook import read_cells
from pdkernel.kit.session.draft import ExecutedCell
from pdkernel.kit.session.state import SessionState, SessionStateStore, find_unsaved_steps, read_pinned_steps
from pdkernel.kit.session.step_results import StoredResult
from pdkernel.storage import Project
from tests.notebook_files import notebook_of

STATE = SessionState(
    event={"body": {"a": 1}},
    event_name="hello",
    external_user_id="ada",
    environment="production",
    pins={"one": {"$return_value": 1}},
    results={"one": StoredResult(StepResult("one", "success", duration_ms=1.5), "print", "scope", 3)},
    cells=(ExecutedCell("%%pdstep one", "c", "one", 1.5),),
)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """A new project."""
    with Project.open(tmp_path / ".pdkernel") as opened:
        yield opened


@pytest.fixture
def store(project: Project) -> SessionStateStore:
    """The state of one notebook."""
    return SessionStateStore(project.notebook_states, "/notebooks/n.ipynb")


def test_state_is_read_as_it_was_saved(store: SessionStateStore) -> None:
    """A saved state is read back, and so is the last of those that are saved in the background."""
    store.save(STATE)
    saved = store.load()
    for name in ("first", "second", "other"):
        store.schedule_save(SessionState.from_json({**STATE.to_json(), "event_name": name}))

    later = store.load()

    assert saved == STATE
    assert later is not None
    assert later.event_name == "other"
    store.schedule_save(later)
    store.save(STATE)  # a pending state is older than this one
    assert store.load() == STATE


def test_newer_code_of_a_kernel_is_unsaved(project: Project, tmp_path: Path) -> None:
    """A step is unsaved if its cell ran after the notebook was saved, with another text than the file has."""
    notebook = notebook_of(tmp_path / "n.ipynb", "%%pdstep a", "%%pdstep b")
    ids = [cell.id for cell in read_cells(notebook)]
    assert find_unsaved_steps(project, notebook) == ()
    at = notebook.stat().st_mtime
    cells = [
        ExecutedCell("%%pdstep a\nnew", ids[0], "a", at - 1),
        ExecutedCell("%%pdstep b", ids[1], "b", at + 1),
        ExecutedCell("%%pdstep c", "new", "c", at + 1),
    ]
    state = STATE.to_json() | {"cells": [cell.to_json() for cell in cells]}
    project.notebook_states.save(str(notebook.resolve()), state)

    assert find_unsaved_steps(project, notebook) == ("c",)
    assert read_pinned_steps(project, notebook) == {"one"}


def test_json_of_a_state() -> None:
    """The keys of the stored state are those that earlier versions wrote."""
    assert json.dumps(STATE.to_json()) == json.dumps(
        {
            "event": {"body": {"a": 1}},
            "event_http": True,
            "event_name": "hello",
            "external_user_id": "ada",
            "environment": "production",
            "pins": {"one": {"$return_value": 1}},
            "results": {
                "one": {
                    "result": StepResult("one", "success", duration_ms=1.5).to_json(),
                    "fingerprint": "print",
                    "scope": "scope",
                    "order": 3,
                }
            },
            "cells": [{"source": "%%pdstep one", "cell_id": "c", "name": "one", "at": 1.5}],
        }
    )


def test_state_of_the_first_versions_is_read(project: Project, store: SessionStateStore) -> None:
    """The kind of the event and the executed cells may be absent."""
    old = {key: value for key, value in STATE.to_json().items() if key not in {"event_http", "cells"}}
    project.notebook_states.save("/notebooks/n.ipynb", old)

    state = store.load()

    assert state is not None
    assert (state.event_http, state.cells, state.results) == (True, (), STATE.results)


@pytest.mark.parametrize("damage", [{"pins": None}, {"results": {"one": {}}}, {"environment": "planted"}])
def test_damaged_state_is_refused(project: Project, store: SessionStateStore, damage: dict[str, object]) -> None:
    """A state that does not fit is an error that names the notebook and shows no value of the state."""
    project.notebook_states.save("/notebooks/n.ipynb", {**STATE.to_json(), **damage})

    with pytest.raises(ProjectError, match=r"cannot be read \(notebooks//notebooks/n\.ipynb/state\)") as refused:
        store.load()

    assert "planted" not in str(refused.value)


class FullTable:
    """A table of a database without space."""

    def save(self, key: str, state: object) -> None:
        """Fail as a full disk does."""
        raise ProjectError(f"The state of {key} cannot be written: the disk is full.")


def test_a_state_that_cannot_be_saved_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """If the results of a run cannot be saved, the log has the reason, and the run is not affected."""
    store = SessionStateStore(FullTable(), "/notebooks/n.ipynb")  # type: ignore[arg-type]

    store.schedule_save(STATE)
    store.flush()

    assert "Cannot save the results of the last run for the next kernel" in caplog.text
    assert "the disk is full" in caplog.text
