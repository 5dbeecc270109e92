"""The button below a draft that is served."""

from __future__ import annotations

from pdkernel.errors import RequestError
from pdkernel.widgets.use_request import UseRequest


def pressed(widget: UseRequest) -> str:
    """What is said after a press."""
    row, said = widget.children
    row.children[0].click()
    return str(said.value)


def test_a_press_uses_the_latest_request() -> None:
    """The button does what it was given, and says what the event is called."""
    assert "The test event is now request abc" in pressed(UseRequest(lambda: "request abc"))


def test_before_the_first_request() -> None:
    """Without a request it says so."""

    def none() -> str:
        raise RequestError("No request has come yet.")

    assert "No request has come yet." in pressed(UseRequest(none))
