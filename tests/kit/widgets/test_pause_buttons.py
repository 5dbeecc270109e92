"""Buttons for a paused run: in the form that sends an event, and below a cell."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from IPython.display import display
from IPython.utils.capture import capture_output

from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, PauseButtons
from tests.kit.widgets.front_end import enter, press, screen, type_into
from tests.render.builders import an_execution

APPROVE = "%%pdstep approve\ndef handler(pd):\n    pd.flow.suspend(3600_000)\n"
RESUME = "Resume now"
CANCEL = "Cancel the run"


def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture
def buttons(composer: EventComposer, session: Session) -> PauseButtons:
    """The buttons of a form whose sent run is paused."""
    session.record_cell(APPROVE, cell_id="cell-1")
    press(composer, "Send")
    until(lambda: RESUME in screen(composer))
    return composer.pause_buttons


def test_a_sent_run_is_resumed_with_data(composer: EventComposer, session: Session, buttons: PauseButtons) -> None:
    """The form shows the buttons while its run is paused; the JSON that is typed before Enter is the step's `$resume_data`."""
    while_paused = screen(composer)
    type_into(buttons.data, '{"approved": true}')
    enter(buttons.data)
    composer.wait()
    result = session.get_result("approve")

    assert RESUME in while_paused
    assert RESUME not in screen(composer)
    assert result is not None
    assert result.exports == {"$resume_data": {"approved": True}}
    assert "success" in composer.saved_output.text


def test_a_paused_run_is_cancelled(composer: EventComposer, buttons: PauseButtons) -> None:
    """Cancel ends the run, and the form can send again."""
    press(buttons, CANCEL)
    composer.wait()

    assert "cancelled" in composer.saved_output.text
    assert composer.send_button.description == "Send"


def test_typed_data_stays_while_the_run_is_paused(session: Session) -> None:
    """Data that is typed stays when the same pause is drawn again, and is removed at the next one; an ended run has no buttons."""
    paused = an_execution(status="paused")
    buttons = PauseButtons(session, paused)
    type_into(buttons.data, "1")
    buttons.set_execution(paused)
    kept = buttons.data.value
    buttons.set_execution(an_execution(status="paused", attempt=2))
    emptied = buttons.data.value

    buttons.set_execution(an_execution(status="success"))
    buttons.cancel_button.click()  # a click that was on its way

    assert (kept, emptied) == ("1", "")
    assert screen(buttons) == ""
    assert buttons.message.value == ""


def test_a_paused_run_is_stopped(composer: EventComposer, buttons: PauseButtons) -> None:
    """Stop, too, ends a paused run."""
    press(composer, "Stop")
    composer.wait()

    assert "cancelled" in composer.saved_output.text
    assert RESUME not in screen(composer)


def test_invalid_data_is_reported(composer: EventComposer, buttons: PauseButtons) -> None:
    """Text that is not JSON resumes nothing, and the message names the line and the column."""
    type_into(buttons.data, "{approved")
    press(buttons, RESUME)

    assert "$resume_data is not JSON" in screen(buttons)
    assert RESUME in screen(composer)
    press(composer, "Stop")
    composer.wait()


def test_waits_can_be_skipped(composer: EventComposer, session: Session) -> None:
    """With the box checked, a sent run goes on at once, and the form shows the line with the option."""
    session.record_cell(APPROVE, cell_id="cell-1")
    composer.skip_waits.value = True
    press(composer, "Send")
    composer.wait()

    assert composer.magic_line == "%pdevent --send --skip-waits"
    assert "suspend for 1 hour: skipped." in composer.saved_output.text


@pytest.mark.usefixtures("_shell")
def test_without_a_kernel_the_line_is_shown(composer: EventComposer, session: Session, buttons: PauseButtons) -> None:
    """The saved output names the line that resumes the run."""
    with capture_output() as captured:
        display(buttons)
    press(composer, "Stop")
    composer.wait()

    last = session.last_execution
    assert last is not None
    assert captured.outputs[0].data["text/plain"] == f"{RESUME}: %pdruns resume {last.id}"
