"""Outputs that follow: what they say changes where they stand when the session does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher

from tests.magics.conftest import Notebook, Run
from tests.magics.test_magics import CHECK, GREET
from tests.notebook_files import notebook_of
from tests.private_pytest import run_pytest

HEADER = "%%pdworkflow\nname: Work\ntrigger:\n  type: http\n"
NEEDS_SLACK = "%%pdstep send --app slack\ndef handler(pd):\n    return 'sent'\n"


@pytest.fixture
def updates(notebook: Notebook) -> Iterator[Callable[[], list[str]]]:
    """Returns the texts of the outputs that were drawn again, in their order."""
    shell = notebook.shell
    front_end = CapturingDisplayPublisher()
    original, shell.display_pub = shell.display_pub, front_end
    yield lambda: [output["data"].get("text/plain", "") for output in front_end.outputs if output["update"]]
    shell.display_pub = original


def test_a_connected_account_is_shown_by_the_line(
    notebook: Notebook, run: Run, updates: Callable[[], list[str]]
) -> None:
    """The output of `%pduser ID` says that the account is missing, and says which it is once it is connected."""
    run(NEEDS_SLACK)
    before = run("%pduser ada")

    account = notebook.session.directory.add_account(app="slack", credentials={"k": "v"}, external_user_id="ada")
    notebook.session.notify_accounts_changed()

    assert account.id not in before
    assert account.id in updates()[-1]


def test_another_user_is_told_by_both_lines(notebook: Notebook, run: Run, updates: Callable[[], list[str]]) -> None:
    """The outputs of `%pduser` and `%pdevent` say for whom steps run now, when someone else is picked in the form."""
    run("%pduser ada")
    run("%pdevent hello")

    notebook.session.choose_user("grace")

    assert any("The choice has changed since: steps run as grace" in text for text in updates())
    assert any(text.startswith("Event hello:") and text.endswith("as grace in development.") for text in updates())


def test_a_run_marks_a_step_that_was_edited_since(run: Run) -> None:
    """The timeline of `%pdrun` is drawn again with an edited step and those below marked as stale."""
    run("%pdevent hello")
    run(CHECK)
    run(GREET)
    run("%pdrun")

    shown = run(CHECK.replace("checking", "looking"))

    marked = "\n".join(line for line in shown.splitlines() if "[stale]" in line)
    assert "check" in marked  # its own cell's output is fresh: only the timeline can say this
    assert "greet" in marked


def test_nothing_is_drawn_again_where_nothing_changed(
    notebook: Notebook, run: Run, updates: Callable[[], list[str]]
) -> None:
    """A change that an output says nothing of does not draw it again."""
    run("%pduser ada")
    run("%pdevent hello")
    before = len(updates())

    notebook.session.choose_egress("deny")

    assert len(updates()) == before


def test_a_run_is_saved_as_a_test(notebook: Notebook, run: Run, tmp_path: Path) -> None:
    """`%pdrun --save-test NAME` runs, writes a test beside the notebook's file and says so; the test passes."""
    notebook.session.notebook = notebook_of(tmp_path / "work.ipynb", HEADER, CHECK, GREET)
    run(HEADER)
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    shown = run("%pdrun --save-test greeting")

    assert notebook.error is None, shown
    assert "Wrote tests/test_greeting.py" in shown
    assert run_pytest(tmp_path) == {"passed": 1}


def test_a_notebook_without_a_file_cannot_be_saved(notebook: Notebook, run: Run) -> None:
    """Where nothing tells the notebook's file, the run is made and shown, and the message says what to do."""
    run("%pdevent hello")
    run(CHECK)

    shown = run("%pdrun --save-test greeting")

    assert "success" in shown
    assert "the file of this notebook is unknown" in shown
    assert "Save the notebook" in shown
