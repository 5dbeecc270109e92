"""Starts an engine for a command and prints runs: progress, timeline, exit status, and the command that follows."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from pdkernel.cli.app import CliContext, print_error
from pdkernel.cli.terminal import color_statuses, is_interactive

if TYPE_CHECKING:
    from pdkernel.engine.run_request import RunWatcher
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.execution import Execution, RunPause, StepResult
    from pdkernel.model import Workflow


@asynccontextmanager
async def open_engine(state: CliContext) -> AsyncIterator[WorkflowEngine]:
    """An engine of the project for one run at a time; SIGTERM cancels the run."""
    from pdkernel.engine.workflow_engine import WorkflowEngine

    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with await WorkflowEngine.start(state.open_project(), state.open_directory(), max_active_runs=1) as engine:
        yield engine


@contextmanager
def watch_run(state: CliContext, *, is_shown: bool, is_waiting: bool = False) -> Iterator[RunWatcher]:
    """A watcher that prints the progress of a run, and its pauses if the command waits for their ends."""
    from pdkernel.engine.run_request import RunWatcher

    with Progress(state, is_shown=is_shown, is_waiting=is_waiting) as progress:
        yield RunWatcher(on_progress=progress.print_line, on_change=progress.update)


class Progress:
    """Progress: on a terminal, a line with the running step and a clock; lasting lines for installed packages."""

    def __init__(self, state: CliContext, *, is_shown: bool = True, is_waiting: bool = False) -> None:
        self._state = state
        self._is_waiting = is_waiting
        self._on = is_shown and not state.quiet and is_interactive(sys.stderr)
        self._shown = ""
        self._running: StepResult | None = None
        self._update = ""
        self._clock: asyncio.TimerHandle | None = None
        self._ended: set[str] = set()
        self._pause: RunPause | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clear()

    def print_line(self, text: str) -> None:
        """Print a line of progress; an update is shown in the line of the running step, and left out without a terminal."""
        from pdkernel.packages import ProgressUpdate

        self._update = text if isinstance(text, ProgressUpdate) else ""
        if not self._update:
            self._clear()
            self._state.print_note(text)
        elif self._on:
            self._show(text)

    def update(self, execution: Execution) -> None:
        """Show the running step; print a pause and, with `--verbose`, each step that has ended."""
        if self._is_waiting and execution.pause not in (None, self._pause):
            from pdkernel.render.runs import explain_status

            self._pause = execution.pause
            self.print_line(explain_status(execution) or "")
        from pdkernel.render.formatting import STEP_LABELS

        for step in execution.steps:
            if step.duration_ms is not None and step.name not in self._ended:
                self._ended.add(step.name)
                self._clear()
                ended = STEP_LABELS["cancelled" if step.is_cancelled else step.status].word
                self._state.print_detail(f"Step {step.name}: {ended} in {step.duration_ms:.0f} ms.")
        self._running = next((step for step in execution.steps if step.status == "not_run" and step.started_at), None)
        if self._running is None:
            self._update = ""  # the installation has ended
        if self._on:
            self._draw()

    def _draw(self) -> None:
        """Draw the line, and again each second."""
        if self._clock is not None:
            self._clock.cancel()
        self._clock = asyncio.get_running_loop().call_later(1.0, self._draw)
        step = self._running
        if step is None or step.started_at is None or self._update:
            return
        from pdkernel.common.clock import SYSTEM_CLOCK
        from pdkernel.render.formatting import STEP_LABELS, format_elapsed

        elapsed = SYSTEM_CLOCK.now() - datetime.fromisoformat(step.started_at)
        text = f"{STEP_LABELS['running']} {step.name} {format_elapsed(elapsed.total_seconds() * 1000)}".rstrip()
        self._show(text)

    def _show(self, text: str) -> None:
        text = text[: max(20, shutil.get_terminal_size().columns - 1)]  # a line that wraps cannot be overwritten
        if text != self._shown:
            sys.stderr.write("\r" + text.ljust(len(self._shown)))
            sys.stderr.flush()
            self._shown = text

    def _clear(self) -> None:
        if self._on and self._shown:
            sys.stderr.write("\r" + " " * len(self._shown) + "\r")
            sys.stderr.flush()
            self._shown = ""


def resolve_exit_status(execution: Execution) -> int:
    """Return the exit status for an execution."""
    from pdkernel.errors import InternalError, exit_status_of

    if execution.status in ("success", "exited"):
        return 0
    if execution.status == "paused":
        return 4
    refused = execution.status == "error" and all(step.status == "not_run" for step in execution.steps)
    if refused and execution.error is not None:
        # only before the first step: the error of a failed step may have the code of a refusal
        return max(2, exit_status_of(execution.error.code))
    if execution.error is not None and exit_status_of(execution.error.code) == InternalError.exit_status:
        return InternalError.exit_status
    return 1


def print_next_command(state: CliContext, execution: Execution) -> None:
    """Print to standard error the command for a run that failed or is paused."""
    if execution.status == "paused":
        state.print_note(f"To end the pause: pdkernel runs resume {execution.id}")
    elif resolve_exit_status(execution) != 0:
        state.print_note(f"To look at this run: pdkernel runs show {execution.id}")


def print_execution(
    execution: Execution, workflow: Workflow, *, event_file: str | None = None, explain: bool = False
) -> None:
    """Print the timeline of a run; of a run that was refused, the reason."""
    from pdkernel.render import lookup, timeline

    error = execution.error
    ran = any(step.status != "not_run" for step in execution.steps)
    if resolve_exit_status(execution) in (2, 3) and error is not None and not ran:
        print_error(error.code, error.message)
        if explain and execution.lookup is not None:
            click.echo(lookup.render_text(execution.lookup), nl=False)
        return
    text = timeline.render_text(
        execution,
        timeline.TimelineContext(
            explain_lookup=explain,
            has_response=workflow.trigger.type == "http",
            workflow=workflow,
            event_name=Path(event_file).stem if event_file is not None and event_file != "-" else None,
        ),
    )
    click.echo(color_statuses(text), nl=False)


def print_progress(state: CliContext, *, is_shown: bool) -> Callable[[Execution], None]:
    """Return a function that prints a line on standard error for each run that has ended."""

    def print_run(execution: Execution) -> None:
        if not is_shown or state.quiet:
            return
        error = f": {execution.error.message}" if execution.error is not None else ""
        line = f"{execution.external_user}  {execution.status}  {execution.id}{error}"
        click.echo(color_statuses(line.splitlines()[0]), err=True)

    return print_run
