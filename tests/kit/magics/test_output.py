"""Timelines of cells: which pauses a cell waits for, and what is drawn after a pause."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from comm.base_comm import CommManager
from IPython.core.displaypub import CapturingDisplayPublisher
from ipywidgets import Button
from msgspec.structs import replace

from pdkernel.common.clock import ManualClock
from pdkernel.execution import Execution, RunPause
from pdkernel.kit.magics.output import CellError, LiveTimeline, _is_short, raise_on_failure, show_button
from tests.kit.magics.conftest import Notebook
from tests.render.builders import an_execution

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "until", "is_short"),
    [
        ("delay", "2026-11-24T10:01:00Z", True),
        ("delay", "2026-11-24T10:01:01Z", False),
        ("retry", "2026-11-24T10:00:01Z", True),
        ("rerun", None, False),
        ("suspend", "2026-11-24T10:00:01Z", False),
    ],
)
def test_a_cell_waits_for_a_delay_of_a_minute(kind: Any, until: str | None, is_short: bool) -> None:
    """A cell does not wait for a person who ends a suspend, nor for a longer pause, or one whose end is not known."""
    assert _is_short(RunPause("wait", kind, until), ManualClock(NOW)) is is_short


@pytest.fixture
def drawn(notebook: Notebook) -> Iterator[Callable[[], list[str]]]:
    """Returns what was drawn so far, as text, in order."""
    front_end = CapturingDisplayPublisher()
    original, notebook.shell.display_pub = notebook.shell.display_pub, front_end
    yield lambda: [output["data"]["text/plain"] for output in front_end.outputs]
    notebook.shell.display_pub = original


def wait_for(drawn: Callable[[], list[str]], word: str) -> bool:
    """Whether *word* is in the last drawing, after it was drawn."""
    until = time.monotonic() + 60
    while word not in drawn()[-1] and time.monotonic() < until:
        time.sleep(0.01)
    return word in drawn()[-1]


def test_a_run_is_drawn_after_its_pause(notebook: Notebook, drawn: Callable[[], list[str]]) -> None:
    """The timeline of a paused run is drawn again while the run goes on, and never after its end."""
    run = an_execution()
    going_on = replace(run, status="executing", finished_at=None)
    timeline = LiveTimeline(notebook.session)

    timeline.finish(replace(run, status="paused", finished_at=None, pause=RunPause("wait", "suspend", None)))
    assert "paused" in drawn()[-1]
    for number in range(3):
        for change in ("drawn later", f"change {number}"):  # of changes in quick succession, the last is drawn
            timeline.update(replace(going_on, workflow=change))
        assert wait_for(drawn, f"change {number}")
    timeline.finish(run)
    timeline.update(replace(going_on, workflow="Too late"))
    timeline.finish(run)

    assert "success" in drawn()[-1]
    assert "Too late" not in "".join(drawn())


def test_a_run_in_the_background_has_no_stop_button(notebook: Notebook) -> None:
    """An interrupt of the kernel does not stop a run that goes on after a long pause: its timeline has no button for that."""
    notebook.run("%%pdstep wait --no-run\ndef handler(pd):\n    pd.flow.suspend(600_000)\n")
    notebook.run("%pdevent hello")
    front_end = CapturingDisplayPublisher()
    original, notebook.shell.display_pub = notebook.shell.display_pub, front_end
    try:
        notebook.shell.run_line_magic("pdrun", "")
    finally:
        notebook.shell.display_pub = original

    drawn = [output["data"]["text/html"] for output in front_end.outputs if "paused" in str(output["data"])]
    assert ["pd-stop" in html for html in drawn][-1:] == [False]


@pytest.mark.parametrize(
    ("execution", "message"),
    [
        (an_execution(status="cancelled"), "The run was interrupted, and its workers were stopped."),
        (an_execution(status="success"), None),
        (an_execution(status="paused"), None),
    ],
)
def test_a_cell_fails_with_its_run(execution: Execution, message: str | None) -> None:
    """A cancelled run stops Run All; a successful or paused one does not."""
    if message is None:
        raise_on_failure(execution)
        return
    with pytest.raises(CellError) as raised:
        raise_on_failure(execution)
    assert raised.value.message == message


def test_buttons_stay_until_their_own_cell_runs_again(notebook: Notebook, drawn: Callable[[], list[str]]) -> None:
    """A cell shows several buttons; they are closed when the cell runs again, not when another cell runs."""
    metadata: dict[str, object] = {}
    notebook.shell.kernel = SimpleNamespace(get_parent=lambda: {"metadata": metadata}, comm_manager=CommManager())

    def show(cell: str, count: int) -> Button:
        button = Button()
        metadata["cellId"], notebook.shell.execution_count = cell, count
        show_button(notebook.shell, button)
        return button

    shown = [show("a", 1), show("a", 1), show("b", 2)]
    before = [button.comm is not None for button in shown]
    shown.append(show("a", 3))
    after = [button.comm is not None for button in shown]

    assert before == [True, True, True]
    assert after == [False, False, True, True]
    assert len(drawn()) == 4


def test_an_error_cannot_control_a_terminal() -> None:
    """Control characters of a foreign name in an error are shown as text in the cell."""
    error = CellError("RequestError", "There is no run \x1b]0;owned\x07.")

    assert error._render_traceback_() == ["RequestError: There is no run \\x1b]0;owned\\x07."]
