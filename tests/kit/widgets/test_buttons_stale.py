"""The button that runs stale steps again."""

from __future__ import annotations

import pytest

from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.buttons import StaleStepsButton
from tests.kit.widgets.front_end import press, screen
from tests.render.builders import an_execution

ONE = "%%pdstep one\ndef handler(pd):\n    return 1\n"
TWO = "%%pdstep two\ndef handler(pd):\n    return pd.steps['one']['$return_value']\n"
RUN = "Run two again"


def stale_two(session: Session) -> StaleStepsButton:
    """A button for step `two`, which is stale because `one` has run since."""
    session.record_cell(ONE, cell_id="c0")
    session.record_cell(TWO, cell_id="c1")
    session.run()
    session.run(only=frozenset({"one"}))
    return StaleStepsButton(["two"], lambda: session.run(only=frozenset(session.stale_steps)))


def test_pressing_runs_the_stale_steps(session: Session, issue: Event) -> None:
    """The stale step runs, is not stale after it, and the button shows the result."""
    session.load_event("issue")
    button = stale_two(session)

    press(button, RUN)

    assert screen(button).splitlines()[-1] == "two: success."
    assert session.stale_steps == set()
    assert not button.button.disabled


@pytest.mark.parametrize(
    ("status", "is_good"), [("success", True), ("exited", True), ("paused", True), ("cancelled", False)]
)
def test_the_color_of_the_result(status: str, *, is_good: bool) -> None:
    """A run that exited early or waits is not an error."""
    button = StaleStepsButton(["two"], lambda: an_execution(status=status))

    press(button, RUN)

    assert ('role="alert"' in button.message.value) is not is_good


def test_a_failed_step_is_named(session: Session, issue: Event) -> None:
    """A step that fails is reported as an error."""
    session.load_event("issue")
    button = stale_two(session)
    session.record_cell(TWO.replace("return", "raise ValueError"), cell_id="c1")

    press(button, RUN)

    assert screen(button).splitlines()[-1] == "two: error."


def test_an_error_before_the_run(session: Session) -> None:
    """Without an event no step runs, and the button gives the reason."""
    button = StaleStepsButton(["two"], session.run)

    press(button, RUN)

    assert "No event is chosen" in screen(button)
    assert not button.button.disabled
