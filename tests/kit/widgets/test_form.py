"""Forms of the same session, used from several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, UserPicker
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
