"""Forms of the same session, used from several threads, and what they run in the background."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.loop_thread import LoopThread, ThreadTask
from pdkernel.errors import ProjectError, RequestError
from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, UserPicker
from pdkernel.kit.widgets.form import BackgroundRunner, LatestCall
from tests.kit.widgets.front_end import NEEDS_SLACK, press, screen, type_into
from tests.notebook_files import notebook_of

TIMES = 20


def run_together(*acts: Callable[[int], None]) -> bool:
    """Run each act several times, all concurrently; return whether all ended."""

    def repeat(act: Callable[[int], None]) -> None:
        for number in range(TIMES):
            act(number)

    threads = [threading.Thread(target=repeat, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return not any(thread.is_alive() for thread in threads)


def test_no_form_waits_for_another(
    session: Session, make_picker: Callable[[], UserPicker], make_composer: Callable[[], EventComposer]
) -> None:
    """Concurrent choices in two forms and in the session all end, and every form shows the last state."""
    picker, composer = make_picker(), make_composer()

    def pick_user(number: int) -> None:
        type_into(picker.new_user, f"user-{number}")
        press(picker, "Use")

    def use_event(number: int) -> None:
        type_into(composer.fields.path, f"/{number}")
        press(composer, "Use as the event")

    ended = run_together(pick_user, use_event, lambda n: session.choose_event(Event({"path": f"/elsewhere/{n}"})))

    assert ended
    assert f"external user: {session.external_user_id} (no account yet)" in screen(picker)
    assert session.event is not None
    assert f"x-pd-environment: {session.environment}<" in composer.fields.identity.value
    assert f"x-pd-external-user-id: {session.external_user_id}<" in composer.fields.identity.value


def test_a_form_shows_an_error_until_it_is_corrected(tmp_path: Path) -> None:
    """An error of the session is shown in the form, which shows the state again after the error is corrected."""
    path = notebook_of(tmp_path / "work.ipynb", NEEDS_SLACK)
    session = Session(folder=tmp_path, notebook=path, environ={"PDKERNEL_EGRESS": "deny"})
    picker = UserPicker(session)
    sidecar = path.with_suffix(".pdkernel.yaml")
    sidecar.write_text("steps:\n  send:\n    accounts:\n      other: unanswered\n")
    session.choose_user("ada")
    failed = screen(picker)
    sidecar.unlink()
    session.notify_accounts_changed()

    assert "the owner of the account is not set" in failed
    assert "the owner of the account is not set" not in screen(picker)
    assert "ada has no account yet" in screen(picker)
    picker.close()
    session.close()


def test_change_from_another_thread_is_shown(picker: UserPicker, session: Session) -> None:
    """A choice made in another thread is shown when it returns."""
    thread = threading.Thread(target=lambda: session.choose_user("ada"))

    thread.start()
    thread.join()

    assert "external user: ada (no account yet)" in screen(picker)


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
    assert text.startswith("The form failed with an internal error of pdkernel: KeyError at test_form.py, line ")
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
