"""View of the readiness matrix: a row for each external user, a column for each step; without credentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pdkernel.encode import JsonStruct
from pdkernel.errors import format_count
from pdkernel.render import formatting
from pdkernel.render.apps import format_app_name
from pdkernel.render.markup import (
    CELL_STYLE,
    Tone,
    breakable,
    escape_control_characters,
    join_lines,
    multiline,
    pill,
    scrolling_region,
    tag,
)

CellState = Literal["ready", "proxy", "error"]

_ERROR_LABELS = {
    "external_user_required": "no user",
    "external_user_not_found": "no such user",
    "production_plan": "plan",
}
_TONES: dict[CellState, Tone] = {"ready": "good", "proxy": "busy", "error": "bad"}
_WORKFLOW_HEADING = "whole workflow"


class MatrixCell(JsonStruct, frozen=True):
    """
    The readiness of one step for one user.

    Attributes:
        step: The step; the empty string for the whole workflow.
        state: `ready`, `proxy` (ready, with outbound calls through Connect's proxy) or `error`.
        accounts: Ids of the accounts that a run would use.
        unhealthy: Ids of accounts that are known not to work.
        apps: For an error, the apps without an account.
        code: For an error, its code.
        message: For an error, the platform's message.
        fix: For an error, how to correct it.
    """

    step: str
    state: CellState
    accounts: tuple[str, ...] = ()
    unhealthy: tuple[str, ...] = ()
    apps: tuple[str, ...] = ()
    code: str | None = None
    message: str = ""
    fix: str = ""

    def json_form(self) -> object:
        """`{"step", "state", "accounts", "unhealthy", "error"}`; the error is null or `{"code", "message", "fix"}`."""
        error = {"code": self.code, "message": self.message, "fix": self.fix} if self.state == "error" else None
        return {
            "step": self.step or None,
            "state": self.state,
            "accounts": self.accounts,
            "unhealthy": self.unhealthy,
            "error": error,
        }

    @property
    def label(self) -> str:
        """The text that the table shows."""
        if self.state == "proxy":
            return "ready by proxy"
        if self.state == "ready":
            return "not working" if self.unhealthy else "ready"
        if self.code == "account_not_found":
            return f"no {' or '.join(map(format_app_name, self.apps))}"
        return _ERROR_LABELS.get(self.code or "", "own account")


class MatrixRow(JsonStruct, frozen=True):
    """The cells of one external user (None: a caller without a user): the whole workflow and each step."""

    external_user: str | None
    workflow_cell: MatrixCell
    cells: tuple[MatrixCell, ...]

    def json_form(self) -> object:
        """`{"external_user", "workflow", "steps"}`."""
        return {
            "external_user": self.external_user,
            "workflow": self.workflow_cell.json_form(),
            "steps": [cell.json_form() for cell in self.cells],
        }


class ReadinessMatrix(JsonStruct, frozen=True):
    """The readiness of each external user; *has_more_users* is True if further users were not checked."""

    workflow: str
    environment: str
    steps: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    has_more_users: bool = False

    def json_form(self) -> object:
        """`{"workflow", "environment", "steps", "users", "more"}`."""
        return {
            "workflow": self.workflow,
            "environment": self.environment,
            "steps": self.steps,
            "users": [row.json_form() for row in self.rows],
            "more": self.has_more_users,
        }


def render_text(matrix: ReadinessMatrix) -> str:
    """Render the matrix as text, with fixes for errors below."""
    heads = ["external user", _WORKFLOW_HEADING, *matrix.steps]
    table = [heads, *([_user(row), *(cell.label for cell in (row.workflow_cell, *row.cells))] for row in matrix.rows)]
    widths = [max(len(line[place]) for line in table) for place in range(len(heads))]
    lines = [_title(matrix)]
    lines += ["  " + "  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)) for line in table]
    lines += [f"  {line}" for footnote in _footnotes(matrix) for line in ("", *footnote.split("\n"))]
    return escape_control_characters("".join(f"{line.rstrip()}\n" for line in lines))


def render_html(matrix: ReadinessMatrix) -> str:
    """Render the matrix as HTML, with fixes for errors below."""
    heads = [
        tag("th", breakable(head), style=CELL_STYLE) for head in ("external user", _WORKFLOW_HEADING, *matrix.steps)
    ]
    rows = [tag("tr", *heads)]
    for row in matrix.rows:
        cells = [tag("td", pill(cell.label, _tone(cell)), style=CELL_STYLE) for cell in (row.workflow_cell, *row.cells)]
        rows.append(tag("tr", tag("th", _user(row), style=CELL_STYLE), *cells))
    parts = [tag("strong", _title(matrix)), tag("table", join_lines(rows))]
    parts += [multiline(footnote, style="margin-top:4px") for footnote in _footnotes(matrix)]
    return tag("div", join_lines(parts), class_="pd-view pd-matrix", **scrolling_region("Readiness"))


def _footnotes(matrix: ReadinessMatrix) -> Iterator[str]:
    """Each error of a whole run once, with its fix; and a note about further users."""
    seen = {
        f"{row.workflow_cell.message}\n{row.workflow_cell.fix}"
        for row in matrix.rows
        if row.workflow_cell.state == "error"
    }
    shown = [text for row in matrix.rows if (text := f"{row.workflow_cell.message}\n{row.workflow_cell.fix}") in seen]
    yield from dict.fromkeys(shown)
    if matrix.has_more_users:
        yield f"There are more external users than these {len(matrix.rows)}. To check one of them, name the user."


def _title(matrix: ReadinessMatrix) -> str:
    ready = sum(row.workflow_cell.state != "error" for row in matrix.rows)
    if matrix.rows[0].external_user is None:
        return f"{matrix.workflow}, {matrix.environment}: there are no external users yet. No code was run."
    users = format_count(len(matrix.rows), "external user")
    return f"{matrix.workflow}, {matrix.environment}: {ready} of {users} can run it. No code was run."


def _user(row: MatrixRow) -> str:
    return "(no user)" if row.external_user is None else formatting.truncate_line(row.external_user, 40)


def _tone(cell: MatrixCell) -> Tone:
    return "warn" if cell.unhealthy else _TONES[cell.state]
