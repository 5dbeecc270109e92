"""Live outputs: displayed text changes with the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher

from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.kit.magics.live_output import MAX_LIVE_OUTPUTS, LiveOutputs, keep_updated
from tests.cli.fork_server import ForkServer
from tests.kit.magics.conftest import CHECK, GREET, Notebook, Run
from tests.notebook_files import notebook_of
from tests.private_pytest import run_pytest

HEADER = "%%pdworkflow\nname: Work\ntrigger:\n  type: http\n"
NEEDS_SLACK = "%%pdstep send --app slack\ndef handler(pd):\n    return 'sent'\n"


@pytest.fixture
def updates(notebook: Notebook) -> Iterator[Callable[[], list[str]]]:
    """Returns the updated outputs as text, in order."""
    shell = notebook.shell
    front_end = CapturingDisplayPublisher()
    original, shell.display_pub = shell.display_pub, front_end
    yield lambda: [output["data"].get("text/plain", "") for output in front_end.outputs if output["update"]]
    shell.display_pub = original


def test_the_output_of_pduser_shows_a_connected_account(
    notebook: Notebook, run: Run, updates: Callable[[], list[str]]
) -> None:
    """The output of `%pduser ID` shows the missing account, and the account once it is connected."""
    run(NEEDS_SLACK)
    before = run("%pduser ada")

    account = notebook.session.directory.add_account(app="slack", credentials={"k": "v"}, external_user_id="ada")
    notebook.session.notify_accounts_changed()

    assert account.id not in before
    assert account.id in updates()[-1]


def test_both_outputs_show_another_user(notebook: Notebook, run: Run, updates: Callable[[], list[str]]) -> None:
    """The outputs of `%pduser` and `%pdevent` show the user that is picked in the form."""
    run("%pduser ada")
    run("%pdevent hello")

    notebook.session.choose_user("grace")

    assert any("The choice has changed since: steps run as grace" in text for text in updates())
    assert any(text.startswith("Event hello:") and "as grace in development.\n" in text for text in updates())
    notebook.session.choose_event(Event({"method": "GET"}), "other")
    assert any("The choice has changed since: other, as grace" in text for text in updates())


def test_a_timeline_marks_an_edited_step(run: Run) -> None:
    """The timeline of `%pdrun` marks an edited step and later steps as stale."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)
    run("%pdrun")

    shown = run(CHECK.replace("checking", "looking"))

    marked = "\n".join(line for line in shown.splitlines() if "[stale]" in line)
    assert "check" in marked  # the output of the step's own cell is current: only the timeline marks the step
    assert "greet" in marked


def test_an_unchanged_output_is_not_updated(notebook: Notebook, run: Run, updates: Callable[[], list[str]]) -> None:
    """A change without an effect on an output does not update the output."""
    run("%pduser ada")
    run("%pdevent hello")
    before = len(updates())

    notebook.session.choose_egress("deny")

    assert len(updates()) == before


def test_the_latest_outputs_are_drawn_again(notebook: Notebook) -> None:
    """A change draws the latest outputs; a later output of a cell replaces the cell's earlier one."""
    drawn: list[str] = []
    outputs = LiveOutputs(notebook.session)
    for key in (*map(str, range(MAX_LIVE_OUTPUTS)), "0", "new"):
        outputs.add(key, partial(drawn.append, key))

    notebook.session.choose_egress("deny")

    assert drawn == [*map(str, range(2, MAX_LIVE_OUTPUTS)), "0", "new"]


def test_two_magics_of_a_cell_are_drawn_again(notebook: Notebook) -> None:
    """A cell may have an output of each magic; an error of one does not keep the others from being drawn."""
    drawn: list[str] = []

    def fail() -> None:
        raise RequestError("The workflow is invalid.")

    keep_updated(notebook.shell, "%pdrun", fail)
    for name in ("%pduser", "%pdevent"):
        keep_updated(notebook.shell, name, partial(drawn.append, name))

    notebook.session.choose_egress("deny")

    assert drawn == ["%pduser", "%pdevent"]


def test_a_run_is_saved_as_a_test(notebook: Notebook, run: Run, fork_server: ForkServer, tmp_path: Path) -> None:
    """`%pdrun --save-test NAME` runs, and writes and lists a test beside the notebook's file; the test passes."""
    notebook.session.notebook = notebook_of(tmp_path / "work.ipynb", HEADER, CHECK, GREET)
    run(HEADER)
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    shown = run("%pdrun --save-test greeting")

    assert notebook.error is None, shown
    assert "Wrote tests/test_greeting.py" in shown
    assert run_pytest(fork_server, tmp_path) == {"passed": 1}


def test_a_notebook_without_a_file_cannot_be_saved(notebook: Notebook, run: Run) -> None:
    """If the notebook's file is unknown, the run is made and shown, and the message has a fix."""
    run("%pdevent hello")
    run(CHECK)

    shown = run("%pdrun --save-test greeting")

    assert "success" in shown
    assert "the file of this notebook is unknown" in shown
    assert "Save the notebook" in shown
