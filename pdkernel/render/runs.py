"""View of recorded runs: one line for each; and why a run has not succeeded, in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from pdkernel.errors import format_count
from pdkernel.execution import ErrorRecord, Execution
from pdkernel.render import formatting
from pdkernel.render.markup import (
    BORDER_STYLE,
    CONTAINER_STYLE,
    Html,
    RichOutput,
    escape_control_characters,
    join_lines,
    muted,
    pill,
    tag,
)
from pdkernel.render.timeline.view_model import format_total_duration

_NAME_WIDTH = 32
_ERROR_WIDTH = 60
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


def render_text(executions: Sequence[Execution]) -> str:
    """Render *executions* as a table: status, id, start, duration, external user and workflow, and the error of a failed run."""
    if not executions:
        return "No runs.\n"
    rows = [(str(formatting.EXECUTION_LABELS[execution.status]), *_cells(execution)) for execution in executions]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [format_count(len(executions), "run")]
    for execution, row in zip(executions, rows, strict=True):
        lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if execution.error is not None:
            lines.append(f"      {format_error(execution.error)}")
    return escape_control_characters("\n".join(lines) + "\n")


def render_html(executions: Sequence[Execution]) -> str:
    """Render *executions* as an HTML table with the columns of `render_text`."""
    if not executions:
        return tag("div", "No runs.", style=CONTAINER_STYLE, class_="pd-view pd-runs")
    head_style = f"{_CELL};{BORDER_STYLE};border-width:0 0 1px 0"
    heads = ("status", "run", "started", "duration", "external user", "workflow", "error")
    rows = [tag("tr", *(tag("th", text, style=head_style) for text in heads))]
    for execution in executions:
        label = formatting.EXECUTION_LABELS[execution.status]
        run_id, *rest = _cells(execution)
        error = muted(format_error(execution.error)) if execution.error is not None else Html("")
        cells = [pill(str(label), label.tone), tag("code", run_id), *(cell.strip() for cell in rest), error]
        rows.append(tag("tr", *(tag("td", cell, style=_CELL) for cell in cells)))
    title = tag("strong", format_count(len(executions), "run"))
    table = tag("table", join_lines(rows), style="border-collapse:collapse;margin:4px 0")
    return tag("div", join_lines([title, table]), style=CONTAINER_STYLE, class_="pd-view pd-runs")


def render_output(executions: Sequence[Execution]) -> RichOutput:
    """Return the table of *executions* for a notebook."""
    return RichOutput(text=render_text(executions), html=render_html(executions))


def explain_status(
    execution: Execution, *, now: datetime | None = None, resume_command: str = "pdkernel runs resume"
) -> str | None:
    """
    Why a run is not finished or has not succeeded, and what goes on next, in one line; None for a run that has succeeded.

    Args:
        execution: The record of the run.
        now: The time, for the rest of a pause; or None.
        resume_command: The command that ends a pause, without the id of the run.
    """
    waiting = sum(sent.outcome == "waiting" for sent in execution.sends)
    verb = "waits" if waiting == 1 else "wait"
    messages = f"{format_count(waiting, 'message')} of the run {verb} for delivery." if waiting else None
    match execution.status:
        case "success" | "exited":
            return messages
        case "paused" if execution.pause is not None:
            pause = execution.pause
            until = f" until {formatting.format_timestamp(pause.until)}" if pause.until else ""
            left = None if now is None or not pause.until else datetime.fromisoformat(pause.until) - now
            if left is not None and timedelta() < left < timedelta(minutes=1):
                until += f" (in {math.ceil(left.total_seconds())} s)"
            then = {
                "delay": "Then the run goes on.",
                "rerun": "Then the step runs again.",
                "retry": "Then the step runs again.",
                "suspend": "Then the run is cancelled, unless it is resumed before.",
            }[pause.kind]
            if left is not None and left < -timedelta(seconds=5) and pause.kind != "suspend":
                then = "The time has come, but the process of the run has ended."
            others = "".join(f", and in {each.step} ({each.kind})" for each in execution.other_pauses)
            option = f" --step {pause.step}" if others and resume_command.startswith("pdkernel") else ""
            reason = (
                f"Paused in {pause.step} ({pause.kind}){until}{others}. {then} "
                f"To resume it now: {resume_command} {execution.id}{option}"
            )
        case "queued":
            reason = "The run waits for a process that starts it."
        case "resumed":
            reason = "The pause or the process of the run has ended, and the run waits for a process that continues it."
        case "executing":
            reason = "The run is in progress."
        case _ if execution.error is not None:
            reason = f"The run was not completed: {format_error(execution.error, width=200)}"
        case _:
            reason = f"The run was not completed: its status is {execution.status}."
    return " ".join(part for part in (reason, messages) if part)


def _cells(execution: Execution) -> tuple[str, ...]:
    user = f"{execution.external_user} ({execution.environment})" if execution.external_user else "-"
    return (
        execution.id,
        formatting.format_timestamp(execution.started_at),
        f"{format_total_duration(execution) or '':>9}",
        formatting.truncate_line(user, _NAME_WIDTH),
        formatting.truncate_line(execution.workflow, _NAME_WIDTH),
    )


def format_error(error: ErrorRecord, width: int = _ERROR_WIDTH) -> str:
    """Return step, name and the first line of the message, in at most *width* characters after the step."""
    where = f"{error.step}: " if error.step else ""
    first = error.message.partition("\n")[0]
    return f"{where}{formatting.truncate_line(f'{error.name}: {first}', width)}"
