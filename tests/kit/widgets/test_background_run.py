"""Work of a form in the background: runs, and the latest of calls in quick succession."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pdkernel.common.loop_thread import LoopThread, ThreadTask
from pdkernel.errors import ProjectError, RequestError
from pdkernel.kit.widgets.background_run import BackgroundRunner, LatestCall


def test_a_later_call_replaces_one_that_waits() -> None:
    """Of two calls in quick succession only the later one is made."""
    called: list[str] = []
    call = LatestCall()

    call.start(lambda _: called.append("first"), on_error=called.append, delay_s=3)
    call.start(lambda _: called.append("second"), on_error=called.append, delay_s=0.01)
    for thread in [thread for thread in threading.enumerate() if thread.name == "pdkernel-latest-call"]:
        thread.join(60)

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


class Refusing:
    """A session whose runs end with an error instead of a record."""

    def __init__(self, fault: BaseException) -> None:
        self._fault = fault
        self.loop = LoopThread()

    def start(self, **_: object) -> ThreadTask[Any]:
        """Start a run that fails."""

        async def fail() -> None:
            raise self._fault

        return self.loop.submit(fail())


@pytest.mark.parametrize(
    ("fault", "shown"),
    [
        (ProjectError("The database is gone."), "The database is gone."),
        (KeyError("planted-token"), "The run failed with an internal error of pdkernel: KeyError at "),
        (asyncio.CancelledError(), "The run was stopped before its first step."),
    ],
)
def test_a_run_without_a_record_is_reported(fault: BaseException, shown: str) -> None:
    """If a run ends without a record, its output has the reason, without the text of an internal error; the next run can start."""
    drawn: list[str] = []
    changes: list[bool] = []
    session: Any = Refusing(fault)
    runner = BackgroundRunner(
        session, draw=lambda view: drawn.append(view.text), changed=lambda: changes.append(runner.is_running)
    )

    runner.start()
    runner.wait(60)
    session.loop.close()

    assert drawn[-1].startswith(shown)
    assert "planted-token" not in drawn[-1]
    assert changes == [False]
