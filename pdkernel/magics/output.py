"""
How magics show things: HTML and text together, growing timelines, errors without our stack.

Knows IPython's display. Knows nothing of workflows beyond their records.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from IPython.core.error import UsageError
from IPython.display import DisplayHandle, display

from pdkernel.errors import PdkernelError
from pdkernel.execution import ErrorRecord, Execution
from pdkernel.render import note
from pdkernel.render.rich_output import RichOutput
from pdkernel.session import Session, render_timeline

P = ParamSpec("P")
R = TypeVar("R")

REFRESH_S = 0.1
"""Seconds between two drawings of a growing timeline."""

_DRAW_EXECUTOR = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-drawing")
"""
Draws what was put off, for all timelines: each is due later than those before it.

A thread of its own, which belongs to no cell: what the engine's thread displays would go to the cell that it was started in.
"""


def schedule_draw(seconds: float, draw: Callable[[], object]) -> None:
    """Call *draw* in *seconds*, which are `REFRESH_S` at most; from any thread."""
    due = time.monotonic() + seconds

    def wait() -> None:
        time.sleep(max(0.0, due - time.monotonic()))
        draw()

    _DRAW_EXECUTOR.submit(wait)


def show_message(text: str) -> None:
    """Show a message."""
    display(RichOutput(text=text, html=note.render_message_html(text)))


class CellError(Exception):
    """
    An error as a notebook shows it: the message alone, none of our frames.

    Raised at the outermost edge, so that Run All stops here.
    """

    def __init__(self, title: str, message: str) -> None:
        super().__init__(message)
        self.title = title
        self.message = message

    def _render_traceback_(self) -> list[str]:
        return [f"{self.title}: {self.message}"]


def show_errors_as_messages(function: Callable[P, R]) -> Callable[P, R]:
    """Show our own errors as messages."""

    @functools.wraps(function)
    def shown(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UsageError:
            raise
        except PdkernelError as error:
            raise CellError(type(error).__name__, str(error)) from None

    return shown


class LiveTimeline:
    """
    A timeline that grows while a run goes on.

    Args:
        session: Whose run it is; says which steps are stale, and what the event is called.
        only: Steps to show, or None for all.
    """

    def __init__(self, session: Session, *, only: Collection[str] | None = None) -> None:
        self._session = session
        self._only = only
        self._handle: DisplayHandle | None = None
        self._lock = threading.Lock()
        self._drawn = time.monotonic()  # a step that takes less than a moment is drawn once, when it has ended
        self._latest: Execution | None = None
        self._due = False
        self._finished = False
        self._view: RichOutput | None = None

    def update(self, execution: Execution) -> None:
        """Draw *execution*, in a moment if it was drawn just now; from any thread."""
        with self._lock:
            self._latest = execution
            if self._finished or self._due:
                return
            wait = self._drawn + REFRESH_S - time.monotonic()
            if wait > 0:
                # the last of a burst of changes is drawn, too: a step may print once and then work for minutes
                self._due = True
                schedule_draw(wait, self._catch_up)
                return
            self._draw_latest()

    def finish(self, execution: Execution) -> None:
        """Draw the whole of *execution*."""
        with self._lock:
            self._finished = True
            self._latest = execution
            self._draw_latest()

    def redraw(self) -> None:
        """Draw what was drawn last, with the marks of now, where it stands."""
        with self._lock:
            self._draw_latest()

    def _catch_up(self) -> None:
        with self._lock:
            self._due = False
            if not self._finished:
                self._draw_latest()

    def _draw_latest(self) -> None:
        if self._latest is not None:
            self._drawn = time.monotonic()
            self._draw(render_timeline(self._session, self._latest, only=self._only))

    def _draw(self, view: RichOutput) -> None:
        if view == self._view:
            return
        self._view = view
        if self._handle is None:
            self._handle = display(view, display_id=True)
        elif self._handle is not None:
            self._handle.update(view)


def offer_save_test(shell: Any, session: Session, execution: Execution) -> None:
    """Offer to save *execution* as a test if steps of it ran, where there is a front end with buttons."""
    if getattr(shell, "kernel", None) is None:
        return
    from pdkernel.widgets import SaveTestButton

    if SaveTestButton.can_save(execution):
        _show_button(shell, SaveTestButton(session, execution))


def offer_proof(shell: Any, session: Session, folder: Path, line: str, *, into: bool) -> None:
    """Offer to prove what `%pdexport` *line* wrote to *folder*, where there is a front end with buttons."""
    if getattr(shell, "kernel", None) is not None:
        from pdkernel.widgets import ProveExportButton

        _show_button(shell, ProveExportButton(session, folder, line, into=into))


def _show_button(shell: Any, button: Any) -> None:
    """Show *button*; those that the same cell showed when it ran before are closed."""
    from pdkernel.magics.notebook_context import get_cell_metadata
    from pdkernel.widgets.components import close_tree

    cell = str(get_cell_metadata(shell).get("cellId"))
    offered: dict[str, tuple[int, list[Any]]] = shell.__dict__.setdefault("_pdkernel_offered", {})
    count, buttons = offered.get(cell, (0, []))
    if count != shell.execution_count:  # the cell has run before: those are off the screen
        for old in buttons:
            close_tree(old)
        buttons = []
    buttons.append(button)
    offered[cell] = (shell.execution_count, buttons)
    display(button)


def raise_on_failure(execution: Execution) -> None:
    """Stop Run All where *execution* failed; the timeline above has the details."""
    if execution.status == "cancelled":
        raise CellError("Cancelled", "The run was interrupted; its processes are ended.")
    if execution.status == "error" and execution.error is not None:
        raise CellError(_title(execution.error), _message(execution.error))


def _title(error: ErrorRecord) -> str:
    return error.name


def _message(error: ErrorRecord) -> str:
    where = ""
    if error.step is not None:
        where = f"\nin step {error.step}" + (f", line {error.line} of its cell" if error.line is not None else "")
    return f"{error.message}{where}"
