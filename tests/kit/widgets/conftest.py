"""Forms on a real session of a temporary project."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import ipywidgets as ipw
import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from pdkernel.common.clock import SequentialIds
from pdkernel.event import Event
from pdkernel.kit.session import Session
from pdkernel.kit.widgets import EventComposer, UserPicker
from tests.kit.widgets.front_end import NEEDS_SLACK

ISSUE = Event(
    {
        "method": "POST",
        "path": "/hook",
        "query": {},
        "headers": {"content-type": "application/json", "x-github-event": "issues"},
        "body": {"action": "opened", "issue": {"number": 7, "title": "Café"}},
    }
)

BACKGROUND_THREADS = {"pdkernel-latest-call", "pdkernel-timeline"}
"""Names of the threads that change widgets."""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A session on a new project, with outbound calls refused and sequential ids."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_EGRESS": "deny"}, ids=SequentialIds())
    yield session
    session.close()


@pytest.fixture
def issue(session: Session) -> Event:
    """The event `issue` in the session's library."""
    session.events.save("issue", ISSUE)
    return ISSUE


@pytest.fixture
def make_picker(session: Session) -> Iterator[Callable[[], UserPicker]]:
    """Makes pickers of the session and closes them at the end."""
    made: list[UserPicker] = []

    def make() -> UserPicker:
        made.append(UserPicker(session))
        return made[-1]

    yield make
    for picker in made:
        picker.close()


@pytest.fixture
def picker(make_picker: Callable[[], UserPicker]) -> UserPicker:
    """A picker of a session whose workflow has no steps."""
    return make_picker()


@pytest.fixture
def slack_picker(session: Session, make_picker: Callable[[], UserPicker]) -> UserPicker:
    """A picker of a session whose step `send` needs the external user's Slack account."""
    session.record_cell(NEEDS_SLACK, cell_id="cell-1")
    return make_picker()


@pytest.fixture
def make_composer(session: Session) -> Iterator[Callable[[], EventComposer]]:
    """Makes composers of the session and closes them at the end."""
    made: list[EventComposer] = []

    def make() -> EventComposer:
        made.append(EventComposer(session))
        return made[-1]

    yield make
    for composer in made:
        composer.close()


@pytest.fixture
def composer(make_composer: Callable[[], EventComposer]) -> EventComposer:
    """A composer of a session without an event."""
    return make_composer()


@pytest.fixture
def _shell() -> Iterator[None]:
    """An IPython shell, without which nothing is displayed."""
    InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    yield
    InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def _no_widgets_left() -> Iterator[None]:
    """Each test starts without the widgets of the previous test, and without its threads, which could make some."""
    ipw.Widget.close_all()
    yield
    for thread in threading.enumerate():
        if thread.name in BACKGROUND_THREADS:
            thread.join(60)
    ipw.Widget.close_all()


class Timers:
    """
    Timers that end when the test ends them.

    Attributes:
        ends: Ends each timer.
    """

    def __init__(self) -> None:
        self.ends: list[Callable[[], object]] = []

    def __call__(self, _: float, function: Callable[..., object], args: tuple[object, ...] = ()) -> SimpleNamespace:
        """Make a timer."""
        self.ends.append(partial(function, *args))
        return SimpleNamespace(start=lambda: None)


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    """The timers of the package, which count no time: a form waits for a value, and a link is shown for a while."""
    timers = Timers()
    monkeypatch.setattr(threading, "Timer", timers)
    return timers
