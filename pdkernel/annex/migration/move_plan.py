"""The plan of a move, for the person who names the dates: as text, HTML page, CSV and calendar file."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final, Literal

from pdkernel.annex.migration.migration_report import DELETION_DAY, SHUTDOWN_DAY, MigrationItem
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import format_count
from pdkernel.render.markup import Html, Tone, escape_control_characters, join_lines, pill, tag

PlanState = Literal["ready", "blocked", "unreadable"]
ActionLicence = Literal["built in", "run by Connect", "own component", "no commercial use", "open"]
_TONES: Final[dict[PlanState, Tone]] = {"ready": "good", "blocked": "warn", "unreadable": "bad"}
END_OF_WORKFLOWS: Final = date(2027, 3, 31)
END_OF_DATA: Final = date(2027, 4, 30)
COLUMNS: Final = (
    "order",
    "wave",
    "move on",
    "workflow",
    "id",
    "state",
    "blocked by",
    "who decides",
    "actions",
    "licence to decide",
    "record until",
    "calls",
    "called by",
)
_LINE_BYTES = 75
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class PlannedAction(JsonStruct, frozen=True):
    """
    A pre-built action of a workflow.

    Attributes:
        step: The step.
        uses: KEY@VERSION.
        licence: Under which terms it runs after the move: `built in`, `run by Connect`, `own component`, `no commercial use` (the
            licence of Pipedream's components, which is accepted or the folder holds), or `open`: not decided.
        source: Where it runs, as a text, or the empty string.
    """

    step: str
    uses: str
    licence: ActionLicence
    source: str = ""


class PlannedWorkflow(JsonStruct, frozen=True):
    """
    One workflow of the plan.

    Attributes:
        name: The workflow's name.
        id: Pipedream's id, or None.
        source: Its path or id.
        order: Its place in the order of moving, from 1.
        wave: Workflows of one wave do not call each other, and may move on one day.
        move_on: The suggested day.
        record_until: The last day on which a run at Pipedream can be recorded.
        state: `ready`, `blocked` or `unreadable`.
        blockers: What keeps it from running here.
        deciders: Who decides about the blockers.
        actions: Its pre-built actions.
        calls: Workflows that it starts.
        called_by: Workflows that start it.
        in_circle: Whether it calls, through others, itself: these move together.
    """

    name: str
    id: str | None
    source: str
    order: int
    wave: int
    move_on: date
    record_until: date
    state: PlanState
    blockers: tuple[MigrationItem, ...] = ()
    deciders: tuple[str, ...] = ()
    actions: tuple[PlannedAction, ...] = ()
    calls: tuple[str, ...] = ()
    called_by: tuple[str, ...] = ()
    in_circle: bool = False

    @property
    def undecided_actions(self) -> tuple[PlannedAction, ...]:
        """Actions whose licence is open, or which exclude commercial use."""
        return tuple(each for each in self.actions if each.licence in ("open", "no commercial use"))

    def cells(self) -> tuple[str, ...]:
        """The row in `COLUMNS`."""
        actions = ", ".join(f"{each.uses} ({each.licence})" for each in self.actions)
        undecided = ", ".join(dict.fromkeys(each.uses for each in self.undecided_actions))
        return (
            str(self.order),
            f"{self.wave}{' (in a circle)' if self.in_circle else ''}",
            self.move_on.isoformat(),
            self.name,
            self.id or "",
            self.state,
            "; ".join(dict.fromkeys(item.message for item in self.blockers)),
            ", ".join(self.deciders),
            actions,
            undecided,
            self.record_until.isoformat(),
            ", ".join(self.calls),
            ", ".join(self.called_by),
        )


class MovePlan(JsonStruct, frozen=True):
    """
    The plan of a move.

    Attributes:
        workflows: The workflows in the order of moving.
        created_on: The day of the plan.
    """

    workflows: tuple[PlannedWorkflow, ...]
    created_on: date

    def totals(self) -> dict[str, int]:
        """Workflows by state, those with a licence to decide, and the number of waves."""
        return {
            "workflows": len(self.workflows),
            **{state: sum(each.state == state for each in self.workflows) for state in _TONES},
            "licence_to_decide": sum(bool(each.undecided_actions) for each in self.workflows),
            "waves": max((each.wave for each in self.workflows), default=0),
        }

    def json_form(self) -> object:
        """`{"created_on", "totals", "workflows"}`."""
        return {"created_on": self.created_on, "totals": self.totals(), "workflows": self.workflows}


def summarize(plan: MovePlan) -> list[str]:
    """The plan in sentences."""
    totals = plan.totals()
    lines = [
        (
            f"{format_count(totals['workflows'], 'workflow')} in {format_count(totals['waves'], 'wave')}: {totals['ready']} ready, "
            f"{totals['blocked']} blocked, {totals['unreadable']} unreadable. Workflows end on {SHUTDOWN_DAY}; their data is deleted on "
            f"{DELETION_DAY}."
        )
    ]
    if totals["licence_to_decide"]:
        lines.append(
            f"{format_count(totals['licence_to_decide'], 'workflow')} with actions of Pipedream's registry, whose licence excludes "
            "commercial use: let Connect run them, write your own, or get a licence."
        )
    return lines


def render_text(plan: MovePlan) -> str:
    """Render the plan as text: a line for each workflow in the order of moving, with what blocks it."""
    lines = [*summarize(plan), ""]
    for each in plan.workflows:
        circle = ", in a circle of calls: move these together" if each.in_circle else ""
        lines.append(
            f"{each.order}. {each.name}: {each.state}, move on {each.move_on.isoformat()} (wave {each.wave}{circle})"
        )
        if each.record_until != END_OF_WORKFLOWS:
            lines.append(f"   Last run to record at Pipedream: {each.record_until.isoformat()}")
        if each.calls:
            lines.append(f"   Calls {', '.join(each.calls)}, which move before it.")
        if each.called_by:
            lines.append(f"   Called by {', '.join(each.called_by)}.")
        lines += [f"   - {item.message}" for item in each.blockers]
        if each.deciders:
            lines.append(f"   Who decides: {', '.join(each.deciders)}")
        lines += [
            f"   Licence: {action.uses} of step {action.step}: {action.licence}" for action in each.undecided_actions
        ]
    return escape_control_characters("".join(f"{line.replace('`', '')}\n" for line in lines))


def render_csv(plan: MovePlan) -> str:
    """Render the plan as CSV with `COLUMNS`; a spreadsheet does not take a cell for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    writer.writerows([_plain(cell) for cell in each.cells()] for each in plan.workflows)
    return out.getvalue()


def render_table(plan: MovePlan) -> Html:
    """Render the plan as an HTML table with its summary, for a page."""
    rows = [tag("tr", *(tag("th", name, scope="col") for name in COLUMNS))]
    for each in plan.workflows:
        cells = list(each.cells())
        state = COLUMNS.index("state")
        rows.append(
            tag(
                "tr",
                *(
                    tag("td", pill(cell, _TONES[each.state]) if place == state else cell)
                    for place, cell in enumerate(cells)
                ),
            )
        )
    return join_lines([*(tag("p", line) for line in summarize(plan)), tag("table", join_lines(rows))])


def render_calendar(plan: MovePlan) -> str:
    """Render the plan as an iCalendar file (RFC 5545): a day for each workflow, the last days to record, and the two ends."""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//pdkernel//migrate plan//EN", "CALSCALE:GREGORIAN"]
    stamp = f"{plan.created_on:%Y%m%d}T000000Z"
    for each in plan.workflows:
        key = each.id or each.source
        note = "; ".join([each.state, *(item.message for item in each.blockers)])
        lines += _build_event(f"move {key}", stamp, each.move_on, f"Move {each.name}", note)
        if each.record_until != END_OF_WORKFLOWS:
            lines += _build_event(
                f"record {key}",
                stamp,
                each.record_until,
                f"Last run of {each.name} to record at Pipedream",
                "See migrate record.",
            )
    lines += _build_event(
        "end of workflows", stamp, END_OF_WORKFLOWS, "Pipedream's Workflows end", "Last day to record."
    )
    lines += _build_event(
        "end of data", stamp, END_OF_DATA, "Pipedream deletes the data of workflows", "Data stores, files, events."
    )
    return "".join(f"{part}\r\n" for line in [*lines, "END:VCALENDAR"] for part in _fold(line))


def _build_event(key: str, stamp: str, day: date, title: str, note: str) -> list[str]:
    uid = hashlib.sha256(key.encode()).hexdigest()[:32]
    return [
        "BEGIN:VEVENT",
        f"UID:{uid}@pdkernel",
        f"DTSTAMP:{stamp}",
        f"DTSTART;VALUE=DATE:{day:%Y%m%d}",
        f"DTEND;VALUE=DATE:{day + timedelta(days=1):%Y%m%d}",
        f"SUMMARY:{_escape(title)}",
        f"DESCRIPTION:{_escape(note)}",
        "TRANSP:TRANSPARENT",
        "END:VEVENT",
    ]


def _escape(text: str) -> str:
    clean = escape_control_characters(" ".join(text.split()))
    return clean.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,")


def _fold(line: str) -> Iterator[str]:
    """The parts of a content line, of at most 75 bytes each; a part after the first begins with a space."""
    part, size = "", 0
    for letter in line:
        length = len(letter.encode())
        if size + length > _LINE_BYTES:
            yield part
            part, size = " ", 1
        part, size = part + letter, size + length
    yield part


def _plain(cell: str) -> str:
    text = escape_control_characters(cell)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
