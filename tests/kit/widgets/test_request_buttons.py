"""The buttons of the latest requests to the served draft."""

from __future__ import annotations

import pytest
from IPython.display import display
from IPython.utils.capture import capture_output
from msgspec.structs import replace

from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.widgets.request_buttons import RequestButtons
from tests.kit.widgets.front_end import button, press, screen

ONE = "%%pdstep one\ndef handler(pd):\n    return 1\n"


@pytest.fixture
def run(session: Session) -> Execution:
    """A run started by a POST to /orders."""
    session.record_cell(ONE, cell_id="c1")
    session.choose_event(Event({"method": "POST", "path": "/orders", "body": {"n": 1}}))
    return session.run()


def at(run: Execution, second: int, *, path: str = "/orders", user: str | None = None) -> Execution:
    """*run* as another request, started in the given second."""
    trigger = replace(run.trigger, event={**run.event, "path": path})
    begun = f"2026-11-26T10:00:{second:02}.000Z"
    return replace(run, id=f"run{second}", started_at=begun, trigger=trigger, external_user=user)


def test_each_request_has_its_own_button(run: Execution) -> None:
    """A click uses the request of the button, and shows the equivalent line; a long path is cut."""
    used: list[str] = []

    def use(run_id: str) -> str:
        used.append(run_id)
        return "request abc"

    widget = RequestButtons(use)
    widget.update([at(run, 1), at(run, 2, path="/refunds", user="ada"), at(run, 3, path=f"/{'x' * 32}")])

    press(widget, "10:00:02.000 POST /refunds as ada")

    assert used == ["run2"]
    assert f"10:00:03.000 POST /{'x' * 31}…" in screen(widget).splitlines()
    assert "The test event is now request abc. As a line: %pdserve use run2" in screen(widget)


def test_a_button_stays_with_its_request(run: Execution) -> None:
    """New requests add and remove buttons; the buttons of kept requests are unchanged."""
    widget = RequestButtons(str)
    widget.update([at(run, 1), at(run, 2)])
    first, second = (button(widget, f"10:00:0{number}.000 POST /orders") for number in (1, 2))

    widget.update([at(run, 2), at(run, 3)])

    assert button(widget, "10:00:02.000 POST /orders") is second
    assert (first.comm is None, second.comm is None) == (True, False)  # a button that left is closed
    assert screen(widget).splitlines()[1:] == ["10:00:02.000 POST /orders", "10:00:03.000 POST /orders"]


def test_a_request_that_comes_back_has_a_new_button(run: Execution) -> None:
    """A request that left the list and is listed again has a button that works."""
    used: list[str] = []

    def use(run_id: str) -> str:
        used.append(run_id)
        return "request abc"

    widget = RequestButtons(use)
    for number in (1, 2, 1):
        widget.update([at(run, number)])

    shown = button(widget, "10:00:01.000 POST /orders")
    press(widget, "10:00:01.000 POST /orders")

    assert shown.comm is not None
    assert used == ["run1"]


def test_nothing_is_offered_before_the_first_request() -> None:
    """Without a request there are no buttons."""
    widget = RequestButtons(str)
    widget.update([])

    assert screen(widget) == ""


def test_a_request_that_is_no_longer_stored(run: Execution) -> None:
    """An error of a click is shown below the buttons."""

    def none(run_id: str) -> str:
        raise RequestError(f"There is no run {run_id} among the latest requests.")

    widget = RequestButtons(none)
    widget.update([at(run, 1)])
    press(widget, "10:00:01.000 POST /orders")

    assert "There is no run run1 among the latest requests." in screen(widget)


@pytest.mark.usefixtures("_shell")
def test_the_line_form_is_saved() -> None:
    """A notebook without a kernel shows the line form, as HTML and text."""
    with capture_output() as shown:
        display(RequestButtons(str))
    data = shown.outputs[0].data

    assert data["text/plain"] == "Use as the test event: %pdserve use RUN"
    assert "%pdserve use RUN" in data["text/html"]
