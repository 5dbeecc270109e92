"""The button that saves a run as a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pdkernel.event import Event
from pdkernel.execution import StepResult
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, SaveTestButton
from tests.kit.widgets.front_end import enter, press, screen, type_into
from tests.notebook_files import notebook_of
from tests.render.builders import an_execution

HEADER = "%%pdworkflow\nname: Work\ntrigger:\n  type: http\n"
ONE = "%%pdstep one\ndef handler(pd):\n    return 1\n"
SAVE = "Save this run as a test"


def in_a_file(session: Session, folder: Path) -> None:
    """The session's notebook is a file with a single step."""
    session.notebook = notebook_of(folder / "work.ipynb", HEADER, ONE)
    session.record_cell(HEADER, cell_id="c0")
    session.record_cell(ONE, cell_id="c1")


def test_pressing_writes_a_test(session: Session, issue: Event, tmp_path: Path) -> None:
    """With a proposed name the button writes the test and lists its files."""
    in_a_file(session, tmp_path)
    session.load_event("issue")
    button = SaveTestButton(session, session.run())

    press(button, SAVE)

    assert button.name.value == "issue"
    assert "Wrote tests/test_issue.py" in screen(button)
    assert (tmp_path / "tests" / "test_issue.py").is_file()


def test_without_a_run_nothing_is_saved(session: Session, tmp_path: Path) -> None:
    """A button without a run writes nothing and shows no message."""
    button = SaveTestButton(session)

    press(button, SAVE)

    assert button.outcome.value == ""
    assert not button.button.disabled
    assert not (tmp_path / "tests").exists()


def test_a_message_belongs_to_its_run(session: Session) -> None:
    """The message about one run leaves with the next run, and stays while the same run is set again."""
    button = SaveTestButton(session, an_execution())
    press(button, SAVE)
    messages = [button.outcome.value]
    button.set_execution(an_execution())
    messages.append(button.outcome.value)

    button.set_execution(replace(an_execution(), id="another"))

    assert "the file of this notebook is unknown" in messages[0]
    assert messages[1] == messages[0]
    assert button.outcome.value == ""


def test_an_invalid_name_is_reported(session: Session, issue: Event, tmp_path: Path) -> None:
    """The error for an invalid name is shown below the button, which can be clicked again."""
    in_a_file(session, tmp_path)
    session.load_event("issue")
    button = SaveTestButton(session, session.run())
    type_into(button.name, "no name")

    press(button, SAVE)

    assert "cannot name a test" in screen(button)
    assert not button.button.disabled
    assert not (tmp_path / "tests").exists()


def test_the_form_has_the_button_after_a_run(
    session: Session, make_composer: Callable[[], EventComposer], issue: Event, tmp_path: Path
) -> None:
    """The composer has no such button before Send; after the run the button saves that run."""
    in_a_file(session, tmp_path)
    session.load_event("issue")
    composer = make_composer()
    before = screen(composer)

    press(composer, "Send")
    composer.wait()
    press(composer, SAVE)

    assert SAVE not in before
    assert "Wrote tests/test_issue.py" in screen(composer)


def test_a_refused_run_has_no_button(
    session: Session, make_composer: Callable[[], EventComposer], issue: Event, tmp_path: Path
) -> None:
    """A run that was refused before its first step has nothing to test."""
    in_a_file(session, tmp_path)
    session.record_cell("%%pdstep two --uses filter-end@0.0.1\n", cell_id="c2")
    session.load_event("issue")
    composer = make_composer()

    press(composer, "Send")
    composer.wait()

    assert SAVE not in screen(composer)


def test_enter_saves(session: Session, issue: Event, tmp_path: Path) -> None:
    """Enter in the name's field writes the test."""
    in_a_file(session, tmp_path)
    session.load_event("issue")
    button = SaveTestButton(session, session.run())
    type_into(button.name, "mine")

    enter(button.name)

    assert (tmp_path / "tests" / "test_mine.py").is_file()


@pytest.mark.parametrize(
    ("status", "step_status", "can_save"),
    [
        ("success", "success", True),
        ("error", "error", True),
        ("exited", "skipped", True),
        ("cancelled", "success", False),
        ("paused", "success", False),
        ("error", "not_run", False),
    ],
)
def test_runs_that_can_be_saved(status: Any, step_status: Any, can_save: bool) -> None:
    """A run with a step that ran can be saved once it has ended, unless it was cancelled."""
    steps = (StepResult("one", "not_run"), StepResult("two", step_status))

    assert SaveTestButton.can_save(an_execution(status=status, steps=steps)) is can_save


@pytest.mark.parametrize(
    ("event", "name"), [("Issue opened!", "issue_opened"), ("--", "run"), ("a.b-C", "a_b_c"), ("é", "run")]
)
def test_the_name_of_the_event_is_proposed(session: Session, issue: Event, event: str, name: str) -> None:
    """The proposal is a valid name; a typed name stays when another run is set."""
    session.choose_event(issue, event)
    button = SaveTestButton(session, an_execution())
    assert button.name.value == name
    button.name.value = "mine"
    button.set_execution(an_execution(id="another"))
    assert button.name.value == "mine"
