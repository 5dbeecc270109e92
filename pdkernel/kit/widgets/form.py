"""
The base class of forms: a box that follows the session, and a readable output beside it; its work in the background.

Two rules prevent deadlocks between threads. The form's lock is held while the form is filled from the session. It is
never held during a call to the session, whose listeners take the locks of other forms.
"""

from __future__ import annotations

import functools
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets as ipw
from IPython.display import display

from pdkernel.common.loop_thread import ThreadTask
from pdkernel.errors import PdkernelError
from pdkernel.execution import Execution
from pdkernel.kit.session import Session
from pdkernel.kit.session.timeline import render_timeline
from pdkernel.kit.widgets.components import (
    SavedOutput,
    build_copyable_html,
    build_fallback_bundle,
    close_tree,
    create_message,
    set_value,
    set_visible,
    show_message,
)
from pdkernel.render.markup import RichOutput

REFRESH_S = 0.1
"""Seconds between two drawings of a live timeline."""
TICK_S = 0.5
"""Seconds after which a timeline that does not change is drawn again, for its clock."""


class BackgroundRunner:
    """
    Runs the session's workflow, one run at a time.

    Args:
        session: The session of the workflow and the chosen event.
        draw: Called with each drawing of the timeline, from another thread.
        changed: Called after each pause, and after the end of a run, from another thread.

    Attributes:
        is_stopping: Whether the user has stopped the current run.
        last_execution: The last finished run of this runner, or None.
        paused_execution: The current run while it is paused, or None.
    """

    def __init__(self, session: Session, *, draw: Callable[[RichOutput], None], changed: Callable[[], None]) -> None:
        self._session = session
        self._draw = draw
        self._changed = changed
        self._has_update = threading.Event()
        self._latest: Execution | None = None
        self._view: RichOutput | None = None
        self._stop: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self.is_stopping = False
        self.last_execution: Execution | None = None
        self.paused_execution: Execution | None = None

    @property
    def is_running(self) -> bool:
        """Whether a run of this runner is in progress."""
        return self._stop is not None

    def start(self, *, skips_waits: bool = False) -> None:
        """
        Start a run and return at once; with *skips_waits* the run goes on at once where the workflow pauses.

        Raises:
            PdkernelError: The workflow or the event is invalid, or a run is already in progress.
        """
        self._latest = self._view = None
        self._has_update.clear()
        task = self._session.start(skips_waits=skips_waits, on_change=self._on_change)
        self._stop = task.cancel
        self._draw(RichOutput.from_message("The run has started."))
        self._thread = threading.Thread(
            target=self._draw_until_end, args=(task,), name="pdkernel-timeline", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Cancel the run; its timeline up to the end is drawn."""
        stop = self._stop
        if stop is not None:
            self.is_stopping = True
            stop()

    def wait(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for the end of the run and its last drawing."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _on_change(self, execution: Execution) -> None:
        # runs in the engine's thread: must return quickly
        self._latest = execution
        self._has_update.set()

    def _draw_until_end(self, task: ThreadTask[Execution]) -> None:
        try:
            execution = self._draw_until_done(task)
            while execution.status == "paused":
                self.paused_execution = execution
                task = self._session.paused_runs.follow(execution, on_change=self._on_change)
                self._stop = task.cancel
                if self.is_stopping:  # stopped before this assignment
                    task.cancel()
                self._changed()
                execution = self._draw_until_done(task)
            self.last_execution = execution
        except KeyboardInterrupt:
            self._draw(RichOutput.from_message("The run was stopped before its first step."))
        except PdkernelError as fault:
            self._draw(RichOutput.from_message(str(fault)))
        except Exception as fault:  # noqa: BLE001 - no caller waits for this thread: an error must be drawn
            self._draw(RichOutput.from_message(_describe_failure("The run", fault)))
        finally:
            self._stop = self.paused_execution = None
            self.is_stopping = False
            self._changed()

    def _draw_until_done(self, task: ThreadTask[Execution]) -> Execution:
        """Draw the run until its next pause or its end, and return its record there."""
        task.add_done_callback(self._has_update.set)
        while not task.done:
            # drawn here and not in `_on_change`, so that the last of a burst of changes is drawn as well
            has_changed = self._has_update.wait(TICK_S)
            if has_changed and not task.done:
                self._has_update.clear()
                latest = self._latest
                if self.paused_execution is not None and latest is not None and latest.status != "paused":
                    self.paused_execution = None
                    self._changed()
                self._draw_run(latest)
                threading.Event().wait(REFRESH_S)
            elif not task.done:
                self._draw_run(self.paused_execution or self._latest)  # the clock of the step, or of the pause
        execution = task.result()
        self._draw_run(execution)
        return execution

    def _draw_run(self, execution: Execution | None) -> None:
        if execution is None:
            return
        view = render_timeline(self._session, execution, event_name=self._session.event_name)
        if view != self._view:
            self._view = view
            self._draw(view)


class LatestCall:
    """Calls a function in a background thread. A later call replaces the earlier one, whose result is then discarded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._thread: threading.Thread | None = None

    def start(
        self, act: Callable[[Callable[[], bool]], None], *, on_error: Callable[[str], None], delay_s: float = 0.0
    ) -> None:
        """
        Call *act* after *delay_s* seconds, unless a later call starts before.

        Args:
            act: Receives a function that returns whether no later call has started.
            on_error: Called with the message of an error, if no later call has started.
            delay_s: Seconds to wait.
        """
        with self._lock:
            self._number += 1
            self._thread = threading.Thread(
                target=self._run,
                args=(self._number, act, on_error, delay_s),
                name="pdkernel-latest-call",
                daemon=True,
            )
            self._thread.start()

    def cancel(self) -> None:
        """Discard the call that has not ended."""
        with self._lock:
            self._number += 1

    def wait(self, timeout_s: float) -> None:
        """Wait up to *timeout_s* seconds for the end of the latest call."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _run(
        self,
        number: int,
        act: Callable[[Callable[[], bool]], None],
        on_error: Callable[[str], None],
        delay_s: float,
    ) -> None:
        def is_latest() -> bool:
            return number == self._number

        if delay_s:
            threading.Event().wait(delay_s)
        if not is_latest():
            return
        try:
            act(is_latest)
        except PdkernelError as fault:
            if is_latest():
                on_error(str(fault))
        except BaseException as fault:  # noqa: BLE001 - no caller waits for this thread; the end of a session cancels its calls
            if is_latest():
                on_error(_describe_failure("The form", fault))


def _describe_failure(what: str, fault: BaseException) -> str:
    """Return the type and place of an internal error, without its message, which may contain secrets."""
    frames = traceback.extract_tb(fault.__traceback__)
    place = f" at {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{what} failed with an internal error of pdkernel: {type(fault).__name__}{place}."


class SessionForm(ipw.VBox):
    """
    A form that shows and changes a session.

    Subclasses set the widgets in `_update_widgets`, return the output for readers without a kernel in
    `_build_saved_output`, and wrap every handler in `_user_handler`.
    """

    _title = "A form"

    def __init__(self, session: Session, children: Iterable[Any]) -> None:
        self._session = session
        self._guard = threading.RLock()
        self._filler: int | None = None
        self._is_closed = False
        self._has_error = False
        self._saved_output = SavedOutput()
        self._problem = create_message()
        self._line = ipw.HTML()
        super().__init__(
            children=(*children, self._problem, self._line), layout={"width": "100%", "max_width": "1100px"}
        )
        self.add_class("pd-form")  # with the title in the line, the Lab extension makes the form a named group
        self.refresh()
        self._unlisten = session.add_listener(self.refresh)

    @property
    def saved_output(self) -> RichOutput:
        """The form's output in the saved notebook."""
        return self._saved_output.output

    def refresh(self) -> None:
        """Show the current state of the session; from any thread. The form shows an error."""
        with self._filling():
            if self._is_closed:
                return
            try:
                self._update_widgets()
                self._saved_output.update(self._build_saved_output())
            except PdkernelError as fault:
                self._has_error = True
                self._show_error(fault)
                return
            if self._has_error:
                self._has_error = False
                show_message(self._problem, "")

    def close(self) -> None:
        """Stop listening to the session and close the widgets."""
        if not getattr(self, "_is_closed", True):
            self._is_closed = True
            self._unlisten()
            self._release()
            for child in self.children:
                close_tree(child)
            self.layout.close()
        super().close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self._saved_output.output.text}"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**options), **self.saved_output.bundle}

    def _ipython_display_(self, **_: Any) -> None:
        # Without a kernel, the form's own output is a heading of the readable output below.
        bundle = super()._repr_mimebundle_()
        set_visible(self._line, visible=False)  # the output below shows the line
        shown = f"<strong>{self._title}</strong> <small>(saved; run the cell to use the form)</small>"
        display(build_fallback_bundle(bundle, self._title, shown), raw=True)
        self._saved_output.display()

    def _update_widgets(self) -> None:
        """Set every widget from the session."""

    def _build_saved_output(self) -> RichOutput:
        """Return the current choice, for a reader without a kernel."""
        return RichOutput("", "")

    def _show_line(self, line: str) -> None:
        """Show the magic line that is equivalent to the form."""
        set_value(self._line, f'<small data-form="{self._title}">as a line: {build_copyable_html(line)}</small>')

    def _release(self) -> None:
        """Release resources other than widgets."""

    @contextmanager
    def _filling(self) -> Iterator[None]:
        """Hold the form's lock while this thread sets widgets from the session."""
        with self._guard:
            filler, self._filler = self._filler, threading.get_ident()
            try:
                yield
            finally:
                self._filler = filler

    @property
    def _is_filling(self) -> bool:
        """Whether this thread is setting widgets from the session."""
        return self._filler == threading.get_ident()

    def _user_handler(self, act: Callable[[], None]) -> Callable[..., None]:
        """Return *act* as a handler: ignores changes of `_update_widgets`, and shows errors in the form."""

        @functools.wraps(act)
        def handle(*_: object) -> None:
            if self._is_filling:
                return
            show_message(self._problem, "")
            try:
                act()
            except PdkernelError as fault:
                self._show_error(fault)

        return handle

    def _show_error(self, fault: PdkernelError) -> None:
        show_message(self._problem, str(fault), kind="error")
