"""What all magics share: arguments, text with HTML, live timelines, outputs that follow the session, errors without a traceback."""

from __future__ import annotations

import functools
import re
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from IPython.core.error import UsageError
from IPython.core.magic_arguments import parse_argstring
from IPython.display import DisplayHandle, display

from pdkernel.common.clock import Clock
from pdkernel.errors import PdkernelError, did_you_mean
from pdkernel.kit.magics.notebook_context import get_cell_metadata, get_session
from pdkernel.render.markup import RichOutput, escape_control_characters

if TYPE_CHECKING:
    from pdkernel.execution import Execution, RunPause
    from pdkernel.kit.session import Session
    from pdkernel.kit.widgets import PauseButtons

MAX_LIVE_OUTPUTS = 30
"""Number of outputs that are drawn again; older outputs stay as they are."""

_ATTRIBUTE = "_pdkernel_live_outputs"


def parse_arguments(magic: Any, line: str) -> Namespace:
    """
    Return the arguments of *line*, as `magic_arguments` declares them for *magic*; IPython keeps the quotes around a value.

    Raises:
        UsageError: The line has other arguments.
    """
    chosen: Namespace = parse_argstring(magic, line)
    for name, value in vars(chosen).items():
        setattr(chosen, name, _remove_quotes(value))
    return chosen


def remove_quotes(text: str) -> str:
    """Return *text* without the quotes that the line of a magic needs around blanks."""
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] in ("'", '"') else text


def _remove_quotes(value: Any) -> Any:
    if isinstance(value, list):
        return [_remove_quotes(each) for each in value]
    return remove_quotes(value) if isinstance(value, str) else value


P = ParamSpec("P")
R = TypeVar("R")

MAX_WAIT_S = 60
"""Seconds of a delay for which a cell waits. After a longer pause, or a suspend, its run goes on in the background."""
REFRESH_S = 0.1
"""Least seconds between two drawings of a live timeline."""
MAX_REFRESH_S = 2.0
"""Most seconds between two drawings of a live timeline that changes."""
MAX_CHARACTERS_PER_S = 500_000
"""Characters of HTML that a live timeline sends to the front end in a second; a larger one is drawn less often."""

_DRAW_EXECUTOR = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-drawing")
"""
Runs postponed drawings of all timelines, in order of their due times.

A separate thread without a parent cell: output of the engine's thread would go to the cell that started the thread.
"""


def schedule_draw(seconds: float, draw: Callable[[], object]) -> None:
    """Call *draw* after *seconds*; from any thread."""
    due = time.monotonic() + seconds

    def wait() -> None:
        time.sleep(max(0.0, due - time.monotonic()))
        draw()

    _DRAW_EXECUTOR.submit(wait)


def show_message(text: str, *, metadata: Mapping[str, Any] | None = None) -> None:
    """Show a message, with the *metadata* of its output."""
    display(RichOutput.from_message(text, metadata=metadata))


class ProgressNote:
    """A message about a long task: the next message replaces it, and the end of the block removes it."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.update(RichOutput("", ""))

    def __call__(self, text: str) -> None:
        """Show *text*."""
        view = RichOutput.from_message(text)
        if self._handle is None:
            self._handle = display(view, display_id=True)
        else:
            self._handle.update(view)


class CellError(Exception):
    """
    An error that the notebook shows as a message without a traceback.

    Magics raise it last, so that Run All stops at the cell.
    """

    def __init__(self, title: str, message: str) -> None:
        super().__init__(message)
        self.title = title
        self.message = message

    def _render_traceback_(self) -> list[str]:
        return [escape_control_characters(f"{self.title}: {self.message}")]


def show_errors_as_messages(function: Callable[P, R]) -> Callable[P, R]:
    """Turn each `PdkernelError` of a magic into a `CellError`. With `--help` alone, show the magic's help instead."""

    @functools.wraps(function)
    def shown(*args: P.args, **kwargs: P.kwargs) -> R:
        parser = getattr(shown, "parser", None)  # set by `magic_arguments`
        if parser is not None and args[1:] == ("--help",):
            show_message(parser.format_help().rstrip())
            return cast("R", None)
        try:
            return function(*args, **kwargs)
        except UsageError as error:
            raise UsageError(_with_suggestion(error, getattr(args[0], function.__name__, None))) from None
        except PdkernelError as error:
            raise CellError(type(error).__name__, str(error)) from None

    return shown


def _with_suggestion(error: UsageError, magic: object) -> str:
    """Return the message of *error*, with the options of *magic* that are near an unknown option."""
    message = str(error)
    unknown = re.match(r"unrecognized arguments: (-[^\s=]+)", message)
    parser = getattr(magic, "parser", None)
    if unknown is None or parser is None:
        return message
    known = [option for action in parser._actions for option in action.option_strings]  # noqa: SLF001 (argparse has no list)
    return f"{message}\n{did_you_mean(unknown[1], known)}".rstrip()


class LiveTimeline:
    """
    A timeline that is drawn again during a run.

    Args:
        session: The session of the run.
        only: Names of the steps to show, or None for all.
        has_own_event: As for `render_timeline`.
        metadata: The metadata of the output.

    Attributes:
        latest: The latest state of the run, or None.
        in_foreground: Whether the cell that started the run waits for it, so that an interrupt stops the run.
    """

    def __init__(
        self,
        session: Session,
        *,
        only: Collection[str] | None = None,
        has_own_event: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self._session = session
        self._metadata = metadata or {}
        self._only = only
        self._has_own_event = has_own_event
        self._event_name = None if has_own_event else session.event_name
        self._handle: DisplayHandle | None = None
        self._lock = threading.Lock()
        self._drawn = time.monotonic()  # a step shorter than `REFRESH_S` is drawn once, at its end
        self.latest: Execution | None = None
        self.in_foreground = True
        self._interval_s = REFRESH_S
        self._due = False
        self._finished = False
        self._view: RichOutput | None = None

    def update(self, execution: Execution) -> None:
        """Draw *execution* soon; from any thread."""
        with self._lock:
            self.latest = execution
            if self._finished or self._due:
                return
            wait = self._drawn + self._interval_s - time.monotonic()
            if wait > 0:
                # draw the last of a burst of changes as well: a step may print once and then work for minutes
                self._due = True
                schedule_draw(wait, self._catch_up)
                return
            self._draw_latest()

    def finish(self, execution: Execution) -> None:
        """Draw the finished or paused *execution*."""
        with self._lock:
            self._finished = execution.status != "paused"
            self.latest = execution
            self._draw_latest()

    def redraw(self) -> None:
        """Draw the last execution again in its place, with the current stale marks."""
        with self._lock:
            self._draw_latest()

    def tick(self) -> None:
        """Draw the clock of the running step again; the cell calls this while it waits."""
        with self._lock:
            if time.monotonic() - self._drawn >= self._interval_s:
                self._draw_latest()

    def _catch_up(self) -> None:
        with self._lock:
            self._due = False
            if not self._finished:
                self._draw_latest()

    def _draw_latest(self) -> None:
        if self.latest is not None:
            from pdkernel.kit.session.timeline import render_timeline

            self._drawn = time.monotonic()
            view = render_timeline(
                self._session,
                self.latest,
                only=self._only,
                event_name=self._event_name,
                has_own_event=self._has_own_event,
                can_stop=self.in_foreground,
            )
            self._interval_s = min(max(REFRESH_S, len(view.html) / MAX_CHARACTERS_PER_S), MAX_REFRESH_S)
            self._draw(replace(view, metadata=self._metadata))

    def _draw(self, view: RichOutput) -> None:
        if view == self._view:
            return
        self._view = view
        if self._handle is None:
            self._handle = display(view, display_id=True)
        elif self._handle is not None:
            self._handle.update(view)


def wait_for_pauses(shell: Any, session: Session, timeline: LiveTimeline, execution: Execution) -> Execution:
    """
    Draw a run that has ended or paused, wait for the ends of short delays, and return its record.

    After a longer pause the run goes on in the background, and *timeline* shows it, with buttons if there is a front end.
    """
    timeline.finish(execution)
    while execution.pause is not None and _is_short(execution.pause, session.project.clock):
        task = session.paused_runs.follow(execution, on_change=timeline.update)
        execution = task.result(while_waiting=timeline.tick)
        timeline.finish(execution)
    if execution.status == "paused":
        _BackgroundPause(shell, session, timeline).follow(execution)
    _show_left_runs(shell, session)
    return execution


def _show_left_runs(shell: Any, session: Session) -> None:
    """Show how the paused runs of earlier kernels go on, once per kernel."""
    from pdkernel.kit.session.timeline import RESUME_LINE
    from pdkernel.render.runs import explain_status

    if getattr(shell, "_pdkernel_left_runs_shown", False):
        return
    shell._pdkernel_left_runs_shown = True  # noqa: SLF001 (an attribute that pdkernel owns)
    left = session.paused_runs.list_left(session.workflow.name)
    if left:
        now = session.project.clock.now()
        lines = [f"{each.id}: {explain_status(each, now=now, resume_command=RESUME_LINE)}" for each in left]
        head = "These runs of an earlier kernel are not finished. Each goes on with: %pdruns resume ID"
        show_message("\n".join([head, *lines]))


def _is_short(pause: RunPause, clock: Clock) -> bool:
    if pause.kind == "suspend" or pause.until is None:
        return False
    return (datetime.fromisoformat(pause.until) - clock.now()).total_seconds() <= MAX_WAIT_S


class _BackgroundPause:
    """Continues a paused run in the background, and draws it where its cell has drawn it."""

    def __init__(self, shell: Any, session: Session, timeline: LiveTimeline) -> None:
        self._session = session
        self._timeline = timeline
        self._buttons: PauseButtons | None = None
        if getattr(shell, "kernel", None) is not None:
            from pdkernel.kit.widgets import PauseButtons

            self._buttons = PauseButtons(session, timeline.latest)
            show_button(shell, self._buttons)

    def follow(self, paused: Execution) -> None:
        """Wait for the end of the pause; returns at once."""
        self._timeline.in_foreground = False
        self._timeline.redraw()
        self._show_buttons(paused)
        self._session.paused_runs.follow(paused, on_change=self._draw, on_stop=self._draw_stop)

    def _draw(self, execution: Execution) -> None:
        self._show_buttons(execution)
        self._timeline.update(execution)

    def _draw_stop(self, execution: Execution | None) -> None:
        if execution is not None:
            self._timeline.finish(execution)
        if execution is not None and execution.status == "paused":
            self.follow(execution)
        else:
            self._show_buttons(None)

    def _show_buttons(self, execution: Execution | None) -> None:
        if self._buttons is not None:
            self._buttons.set_execution(execution)


def offer_save_test(shell: Any, session: Session, execution: Execution) -> None:
    """Show the save button if the shell has a front end and steps of *execution* ran."""
    if getattr(shell, "kernel", None) is None:
        return
    from pdkernel.kit.widgets import SaveTestButton

    if SaveTestButton.can_save(execution):
        show_button(shell, SaveTestButton(session, execution))


def offer_proof(shell: Any, session: Session, folder: Path, line: str, *, is_patch: bool) -> None:
    """Show the Prove button for the files that `%pdexport` *line* wrote to *folder*, if there is a front end."""
    if getattr(shell, "kernel", None) is not None:
        from pdkernel.kit.widgets import ProveExportButton

        show_button(shell, ProveExportButton(session, folder, line, is_patch=is_patch))


def show_button(shell: Any, button: Any) -> None:
    """Show *button*, and close the buttons of the cell's earlier execution."""
    from pdkernel.kit.widgets.components import close_tree

    cell = str(get_cell_metadata(shell).get("cellId"))
    shown: dict[str, tuple[int, list[Any]]] = shell.__dict__.setdefault("_pdkernel_buttons", {})
    count, buttons = shown.get(cell, (0, []))
    if count != shell.execution_count:  # the cell runs again: its earlier buttons are off the screen
        for old in buttons:
            close_tree(old)
        buttons = []
    buttons.append(button)
    shown[cell] = (shell.execution_count, buttons)
    display(button)


def raise_on_failure(execution: Execution) -> None:
    """Raise `CellError` if *execution* failed or was cancelled; the timeline has the error, which is shown once."""
    if execution.status == "cancelled":
        raise CellError("Cancelled", "The run was interrupted, and its workers were stopped.")
    if execution.status == "error" and execution.error is not None:
        failed = [step.name for step in execution.steps if step.status == "error"]
        ran = any(step.status in ("success", "error") for step in execution.steps)
        what = f"Step {failed[-1]} failed" if failed else "The run failed" if ran else "The run did not start"
        raise CellError("Not finished", f"{what}: see the error above.")


class LiveOutputs:
    """The outputs that are drawn again when one session changes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._outputs: dict[str, Callable[[], None]] = {}
        session.add_listener(self._draw_again)

    def add(self, key: str, redraw: Callable[[], None]) -> None:
        """Call *redraw* after every change; replaces an earlier output of the same *key*."""
        self._outputs.pop(key, None)
        self._outputs[key] = redraw
        for old in list(self._outputs)[:-MAX_LIVE_OUTPUTS]:
            del self._outputs[old]

    def _draw_again(self) -> None:
        for draw_again in list(self._outputs.values()):
            with suppress(PdkernelError):  # an invalid workflow is reported by its own cell
                draw_again()


class LiveLine:
    """A short output that is drawn by *draw*, now and after every change of the session."""

    def __init__(self, draw: Callable[[], RichOutput]) -> None:
        self._draw = draw
        self._view = draw()
        self._handle: DisplayHandle | None = display(self._view, display_id=True)

    def redraw(self) -> None:
        """Draw the output again if it has changed."""
        view = self._draw()
        if view != self._view and self._handle is not None:
            self._view = view
            self._handle.update(view)


def keep_updated(shell: Any, magic_name: str, redraw: Callable[[], None]) -> None:
    """Call *redraw*, for the output of *magic_name* in the running cell, after each change of *shell*'s session."""
    session = get_session(shell)
    live_outputs = getattr(shell, _ATTRIBUTE, None)
    if not isinstance(live_outputs, LiveOutputs) or live_outputs.session is not session:
        live_outputs = LiveOutputs(session)
        setattr(shell, _ATTRIBUTE, live_outputs)
    cell = get_cell_metadata(shell).get("cellId") or f"execution {getattr(shell, 'execution_count', 0)}"
    live_outputs.add(f"{cell} {magic_name}", redraw)
