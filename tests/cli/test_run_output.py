"""The output of commands that run a workflow: exit status, progress, and the command that follows."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from typing import Any

import pytest

from pdkernel.cli.app import CliContext
from pdkernel.cli.run_output import Progress, print_execution, print_next_command, resolve_exit_status
from pdkernel.execution import ErrorRecord, Execution, RunPause, StepResult
from pdkernel.packages import ProgressUpdate
from tests.builders import a_workflow, python_step
from tests.render.builders import an_execution

ID = "2abcdefghijklmnopqrstuvwxyz"
DONE, FAILED = StepResult("one", "success", duration_ms=3.0), StepResult("one", "error")
NOT_RUN = StepResult("one", "not_run")


def execution(status: str, *steps: StepResult, code: str | None = None, **changes: Any) -> Execution:
    """A run with these steps, and an error with *code*."""
    error = None if code is None else ErrorRecord(code, "E", "What happened.\nWhat to do.")
    return an_execution(status=status, steps=steps, error=error, **changes)


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (execution("success", DONE), 0),
        (execution("exited", DONE), 0),
        (execution("paused", DONE, pause=RunPause("one", "delay", None)), 4),
        (execution("error", FAILED, code="step_failed"), 1),
        (execution("error", FAILED, code="a-code-of-the-step"), 1),
        (execution("error", FAILED, code="external_user_required"), 1),  # the code of a refusal, set by a step
        (execution("error", FAILED, code="internal"), 3),
        (execution("error", NOT_RUN, code="external_user_required"), 2),
        (execution("error", NOT_RUN, code="a-code-of-the-step"), 2),
        (execution("error", NOT_RUN, code="project"), 3),
        (execution("error", DONE, NOT_RUN, code="external_user_required"), 1),
        (execution("cancelled", NOT_RUN, code="cancelled"), 1),
        (execution("cancelled", NOT_RUN), 1),
    ],
)
def test_the_exit_status_of_a_run(run: Execution, status: int) -> None:
    """A refusal before the first step is 2, a failed step 1 whatever the code of its error, an internal error 3, a pause 4."""
    assert resolve_exit_status(run) == status


@pytest.mark.parametrize(
    ("run", "line"),
    [
        (execution("success", DONE), ""),
        (execution("paused", DONE), f"To end the pause: pdkernel runs resume {ID}\n"),
        (execution("error", FAILED, code="step_failed"), f"To look at this run: pdkernel runs show {ID}\n"),
        (execution("cancelled", NOT_RUN), f"To look at this run: pdkernel runs show {ID}\n"),
    ],
)
def test_the_command_that_follows(run: Execution, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A paused, failed or cancelled run names the next command, unless --quiet is set."""
    quiet = CliContext()
    quiet.quiet = True
    print_next_command(quiet, run)
    print_next_command(CliContext(), run)

    assert (capsys.readouterr().err) == line


def test_a_refused_run_prints_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was refused before its first step has no timeline, but its reason on standard error."""
    print_execution(execution("error", NOT_RUN, code="external_user_required"), a_workflow(python_step()))

    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "Error: What happened.\nWhat to do.\n")


def test_a_run_that_stopped_in_a_step_prints_its_timeline(capsys: pytest.CaptureFixture[str]) -> None:
    """A run whose steps have run has a timeline, also if pdkernel failed."""
    print_execution(execution("error", DONE, NOT_RUN, code="internal"), a_workflow(python_step("one")))

    shown = capsys.readouterr()
    assert (re.search(r"✓ success +one", shown.out) is not None, shown.err) == (True, "")


@pytest.mark.parametrize(
    ("file", "line"),
    [("events/order.json", "  order (POST /github)"), ("-", "  POST /github"), (None, "  POST /github")],
)
def test_the_event_of_a_timeline(file: str | None, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The timeline names the file of the event, and nothing for standard input."""
    print_execution(execution("success", DONE), a_workflow(python_step("one")), event_file=file)

    assert line in capsys.readouterr().out.splitlines()


class Terminal(io.StringIO):
    """A stream of a person."""

    def isatty(self) -> bool:
        """It is a terminal."""
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put standard error on a terminal."""
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


async def test_a_line_is_printed_over_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of an installation replaces the one before; a lasting line and the end remove the update."""
    shown = terminal(monkeypatch)
    with Progress(CliContext()) as progress:
        progress.print_line(ProgressUpdate("installing tiny 10 %"))
        progress.print_line(ProgressUpdate("installing tiny 9 %"))
        progress.print_line("installed tiny@1.0.0")
        progress.print_line(ProgressUpdate("installing more"))

    first, blank = "installing tiny 10 %", " " * len("installing tiny 9 %")
    assert shown.getvalue() == (
        f"\r{first}\r{'installing tiny 9 %'.ljust(len(first))}\r{blank}\rinstalled tiny@1.0.0\n"
        f"\rinstalling more\r{' ' * len('installing more')}\r"
    )


def test_a_pipe_gets_lasting_lines_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal, updates are left out."""
    with Progress(CliContext()) as progress:
        progress.print_line(ProgressUpdate("installing tiny 10 %"))
        progress.print_line("installed tiny@1.0.0")

    assert capsys.readouterr().err == "installed tiny@1.0.0\n"


async def test_ended_steps_are_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    """With --verbose each step that has ended has one line, with its status."""
    state = CliContext()
    state.verbosity = 1
    cancelled = StepResult("two", "error", duration_ms=8.6, error=ErrorRecord("cancelled", "Cancelled", "..."))
    with Progress(state) as progress:
        progress.update(execution("running", DONE))
        progress.update(execution("running", DONE, cancelled))

    assert capsys.readouterr().err == "Step one: success in 3 ms.\nStep two: cancelled in 9 ms.\n"


async def test_each_pause_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that waits prints each pause when it begins; another command prints none."""
    pauses = [RunPause("one", "delay", "2026-01-02T12:00:00Z"), RunPause("two", "suspend", "2026-01-02T12:00:00Z")]
    for is_waiting in (True, False):
        with Progress(CliContext(), is_waiting=is_waiting) as progress:
            for pause in (None, pauses[0], pauses[0], pauses[1], None):
                progress.update(execution("running" if pause is None else "paused", DONE, pause=pause))

    lines = capsys.readouterr().err.splitlines()
    assert ["in one (delay)" in lines[0], "in two (suspend)" in lines[1], len(lines)] == [True, True, 2]


async def test_a_running_step_is_drawn_after_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of the running step waits for the end of an installation, and has at most the width of the terminal."""
    monkeypatch.setenv("COLUMNS", "60")
    shown = terminal(monkeypatch)
    running = StepResult("work" * 100, "not_run", started_at="2999-01-02T12:00:00+00:00")
    with Progress(CliContext()) as progress:
        progress.print_line(ProgressUpdate("installing tiny"))
        progress.update(execution("running", running))
        assert "work" not in shown.getvalue()
        progress.update(execution("running", NOT_RUN))
        progress.update(execution("running", running))
        await asyncio.sleep(0)

    (line,) = re.findall(r"\r(▶ running work[^\r]*)", shown.getvalue())
    assert len(line.rstrip()) == 59
