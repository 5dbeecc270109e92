"""What magics share: which pauses a cell waits for, what is drawn after a pause and a change, and quotes of arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from comm.base_comm import CommManager
from IPython.core.displaypub import CapturingDisplayPublisher
from ipywidgets import Button
from msgspec.structs import replace

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, RunPause
from pdkernel.kit.magics.output import (
    MAX_LIVE_OUTPUTS,
    CellError,
    LiveOutputs,
    LiveTimeline,
    _is_short,
    keep_updated,
    raise_on_failure,
    remove_quotes,
    show_button,
)
from pdkernel.kit.widgets.components import quote_magic_argument
from tests.kit.magics.conftest import CHECK, GREET, Notebook, Run
from tests.notebook_files import notebook_of
from tests.render.builders import an_execution
from tests.waiting import wait_until

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "until", "is_short"),
    [
        ("delay", "2026-11-24T10:01:00Z", True),
        ("delay", "2026-11-24T10:01:01Z", False),
        ("retry", "2026-11-24T10:00:01Z", True),
        ("rerun", None, False),
        ("suspend", "2026-11-24T10:00:01Z", False),
    ],
)
def test_a_cell_waits_for_a_delay_of_a_minute(kind: Any, until: str | None, is_short: bool) -> None:
    """A cell does not wait for a person who ends a suspend, nor for a longer pause, or one whose end is not known."""
    assert _is_short(RunPause("wait", kind, until), ManualClock(NOW)) is is_short


@pytest.fixture
def drawn(notebook: Notebook) -> Iterator[Callable[[], list[str]]]:
    """Returns what was drawn so far, as text, in order."""
    front_end = CapturingDisplayPublisher()
    original, notebook.shell.display_pub = notebook.shell.display_pub, front_end
    yield lambda: [output["data"]["text/plain"] for output in front_end.outputs]
    notebook.shell.display_pub = original


def test_a_run_is_drawn_after_its_pause(notebook: Notebook, drawn: Callable[[], list[str]]) -> None:
    """The timeline of a paused run is drawn again while the run goes on, and never after its end."""
    run = an_execution()
    going_on = replace(run, status="executing", finished_at=None)
    timeline = LiveTimeline(notebook.session)

    def is_shown(text: str) -> bool:
        return text in drawn()[-1]

    timeline.finish(replace(run, status="paused", finished_at=None, pause=RunPause("wait", "suspend", None)))
    assert "paused" in drawn()[-1]
    for number in range(3):
        for change in ("drawn later", f"change {number}"):  # of changes in quick succession, the last is drawn
            timeline.update(replace(going_on, workflow=change))
        wait_until(partial(is_shown, f"change {number}"))
    timeline.finish(run)
    timeline.update(replace(going_on, workflow="Too late"))
    timeline.finish(run)

    assert "success" in drawn()[-1]
    assert "Too late" not in "".join(drawn())


def test_a_run_in_the_background_has_no_stop_button(notebook: Notebook) -> None:
    """An interrupt of the kernel does not stop a run that goes on after a long pause: its timeline has no button for that."""
    notebook.run("%%pdstep wait --no-run\ndef handler(pd):\n    pd.flow.suspend(600_000)\n")
    notebook.run("%pdevent hello")
    front_end = CapturingDisplayPublisher()
    original, notebook.shell.display_pub = notebook.shell.display_pub, front_end
    try:
        notebook.shell.run_line_magic("pdrun", "")
    finally:
        notebook.shell.display_pub = original

    drawn = [output["data"]["text/html"] for output in front_end.outputs if "paused" in str(output["data"])]
    assert ["pd-stop" in html for html in drawn][-1:] == [False]


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (an_execution(status="cancelled"), "The run was interrupted, and its workers were stopped."),
        (an_execution(status="success"), None),
        (an_execution(status="paused"), None),
    ],
)
def test_a_cell_fails_with_its_run(execution: Execution, message: str | None) -> None:
    """A cancelled run stops Run All; a successful or paused one does not."""
    if message is None:
        raise_on_failure(execution)
        return
    with pytest.raises(CellError) as raised:
        raise_on_failure(execution)
    assert raised.value.message == message


def test_buttons_stay_until_their_own_cell_runs_again(notebook: Notebook, drawn: Callable[[], list[str]]) -> None:
    """A cell shows several buttons; they are closed when the cell runs again, not when another cell runs."""
    metadata: dict[str, object] = {}
    notebook.shell.kernel = SimpleNamespace(get_parent=lambda: {"metadata": metadata}, comm_manager=CommManager())

    def show(cell: str, count: int) -> Button:
        button = Button()
        metadata["cellId"], notebook.shell.execution_count = cell, count
        show_button(notebook.shell, button)
        return button

    shown = [show("a", 1), show("a", 1), show("b", 2)]
    before = [button.comm is not None for button in shown]
    shown.append(show("a", 3))
    after = [button.comm is not None for button in shown]

    assert before == [True, True, True]
    assert after == [False, False, True, True]
    assert len(drawn()) == 4


def test_an_error_cannot_control_a_terminal() -> None:
    """Control characters of a foreign name in an error are shown as text in the cell."""
    error = CellError("RequestError", "There is no run \x1b]0;owned\x07.")

    assert error._render_traceback_() == ["RequestError: There is no run \\x1b]0;owned\\x07."]


@pytest.mark.parametrize(
    ("text", "plain"), [("'a b'", "a b"), ('"a"', "a"), ("'a", "'a"), ("'", "'"), ("a'", "a'"), ("", "")]
)
def test_quotes_around_a_text_are_removed(text: str, plain: str) -> None:
    """A pair of quotes is removed, a single one is part of the text."""
    assert remove_quotes(text) == plain


@pytest.mark.parametrize("user", ["auth0|5f7c", "Jürgen", "Ada Lovelace", "O'Brien", "it's me", "'ada'", "-1", "a#b$c"])
def test_a_user_of_any_id_is_chosen(notebook: Notebook, user: str) -> None:
    """The line that the form shows for a user chooses that user."""
    shown = notebook.run(f"%pduser {quote_magic_argument(user)} --environment production")

    assert notebook.error is None, shown
    assert (notebook.session.external_user_id, notebook.session.environment) == (user, "production")


def test_a_name_with_blanks_is_quoted(notebook: Notebook, tmp_path: Path) -> None:
    """The names of an event and of a folder may have blanks, in single or double quotes."""
    notebook.run("%%pdstep one\ndef handler(pd):\n    return 1\n")
    notebook.run("%pdevent hello")

    notebook.run("%pdevent --save 'new order'")
    notebook.run("%pdevent hello")
    notebook.run('%pdevent "new order"')
    notebook.run("%pdexport --to 'my export'")

    assert notebook.error is None
    assert notebook.session.event_name == "new order"
    assert (tmp_path / "my export" / "workflow.yaml").is_file()


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


def test_a_timeline_keeps_the_name_of_its_event(notebook: Notebook, run: Run, updates: Callable[[], list[str]]) -> None:
    """A timeline that is drawn again after another event was chosen says for which event its run was."""
    run("%pdevent hello")
    run(CHECK)
    run("%pdrun")

    notebook.session.choose_event(Event({"method": "GET"}), "other")

    drawn = [text for text in updates() if "✓ success" in text]
    assert drawn
    assert all("hello (POST /)" in text and "other" not in text for text in drawn)


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


def test_a_run_is_saved_as_a_test(notebook: Notebook, run: Run, tmp_path: Path) -> None:
    """`%pdrun --save-test NAME` runs, and writes and lists a test beside the notebook's file."""
    notebook.session.notebook = notebook_of(tmp_path / "work.ipynb", HEADER, CHECK, GREET)
    run(HEADER)
    run("%pdevent hello")
    run(CHECK)
    run(GREET)

    shown = run("%pdrun --save-test greeting")

    assert notebook.error is None, shown
    assert "Wrote tests/test_greeting.py" in shown
    assert (tmp_path / "tests" / "test_greeting.py").is_file()


def test_a_notebook_without_a_file_cannot_be_saved(notebook: Notebook, run: Run) -> None:
    """If the notebook's file is unknown, the run is made and shown, and the message has a fix."""
    run("%pdevent hello")
    run(CHECK)

    shown = run("%pdrun --save-test greeting")

    assert "success" in shown
    assert "the file of this notebook is unknown" in shown
    assert "Save the notebook" in shown
