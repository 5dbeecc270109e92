"""Work of a form in the background: the latest of calls in quick succession."""

from __future__ import annotations

import threading
from typing import Any

from pdkernel.errors import RequestError
from pdkernel.widgets.background_run import LatestCall


def test_a_later_call_replaces_one_that_waits() -> None:
    """Of two calls in quick succession only the later one is made."""
    called: list[str] = []
    call = LatestCall()

    call.start(lambda _: called.append("first"), on_error=called.append, delay_s=0.01)
    call.start(lambda _: called.append("second"), on_error=called.append, delay_s=0.05)
    call.wait(60)

    assert called == ["second"]


def test_an_error_of_a_replaced_call_is_not_shown() -> None:
    """A call that a later one replaces knows it, and its error is discarded; the error of the latest call is shown."""
    begun, go = threading.Event(), threading.Event()
    shown: list[str] = []
    call = LatestCall()
    known: list[bool] = []

    def fail(is_latest: Any) -> None:
        known.append(is_latest())
        begun.set()
        assert go.wait(60)
        known.append(is_latest())
        raise RequestError("Too late.")

    def fail_at_once(_: Any) -> None:
        raise RequestError("No.", fix="Yes.")

    call.start(fail, on_error=shown.append)
    assert begun.wait(60)
    replaced = [thread for thread in threading.enumerate() if thread.name == "pdkernel-latest-call"]
    call.start(fail_at_once, on_error=shown.append)
    call.wait(60)
    go.set()
    for thread in replaced:
        thread.join(60)

    assert known == [True, False]
    assert len(shown) == 1
    assert shown[0].startswith("No.")


def test_an_internal_error_is_shown_without_its_text() -> None:
    """The message of an unexpected error may contain a secret: its type and its place are shown."""
    shown: list[str] = []
    call = LatestCall()

    def fail(_: Any) -> None:
        raise KeyError("planted-token")

    call.start(fail, on_error=shown.append)
    call.wait(60)

    (text,) = shown
    assert text.startswith(
        "The form failed with an internal error of pdkernel: KeyError at test_background_run.py, line "
    )
    assert "planted-token" not in text
