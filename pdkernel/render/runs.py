"""View of recorded runs: one line for each."""

from __future__ import annotations

from collections.abc import Sequence

from pdkernel.execution import Execution
from pdkernel.render import formatting
from pdkernel.render.markup import escape_control_characters
from pdkernel.render.timeline.view_model import format_total_duration

_NAME_WIDTH = 32
_ERROR_WIDTH = 60


def render_text(executions: Sequence[Execution]) -> str:
    """Render *executions* as a table: status, id, start, duration, external user and workflow, and the error of a failed run."""
    if not executions:
        return "No runs.\n"
    rows = [
        (
            str(formatting.EXECUTION_LABELS[execution.status]),
            execution.id,
            formatting.format_timestamp(execution.started_at),
            f"{format_total_duration(execution) or '':>9}",
            formatting.truncate_line(
                f"{execution.external_user} ({execution.environment})" if execution.external_user else "-", _NAME_WIDTH
            ),
            formatting.truncate_line(execution.workflow, _NAME_WIDTH),
        )
        for execution in executions
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [formatting.format_count(len(executions), "run")]
    for execution, row in zip(executions, rows, strict=True):
        lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if execution.error is not None:
            where = f"{execution.error.step}: " if execution.error.step else ""
            first = execution.error.message.partition("\n")[0]
            lines.append(f"      {where}{formatting.truncate_line(f'{execution.error.name}: {first}', _ERROR_WIDTH)}")
    return escape_control_characters("\n".join(lines) + "\n")
