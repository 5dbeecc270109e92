"""
The plan of a move: each workflow with its state, who decides, the licence of its actions, the last day to record, and a day to move.

The rows are those of the report; the plan adds the order by who calls whom, and days. It is drawn as text, table, CSV and calendar file.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

from pdkernel.actions.component import ActionReference
from pdkernel.actions.source_lookup import load_builtin_actions
from pdkernel.annex.migration.items import find_invoked
from pdkernel.annex.migration.migration_report import (
    DELETION_DAY,
    SHUTDOWN_DAY,
    ItemKind,
    MigrationItem,
    WorkflowMigration,
)
from pdkernel.annex.migration.report import ReportSettings, build_migration_report, find_surroundings
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.common.encode import JsonStruct
from pdkernel.errors import PdkernelError, RequestError, format_count
from pdkernel.render.markup import Html, Tone, escape_control_characters, join_lines, pill, tag
from pdkernel.storage.schedule import Schedule

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
        """Return the row in `COLUMNS`."""
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
        """Return the workflows by state, those with a licence to decide, and the number of waves."""
        return {
            "workflows": len(self.workflows),
            **{state: sum(each.state == state for each in self.workflows) for state in _TONES},
            "licence_to_decide": sum(bool(each.undecided_actions) for each in self.workflows),
            "waves": max((each.wave for each in self.workflows), default=0),
        }

    def json_form(self) -> object:
        """Return `{"created_on", "totals", "workflows"}`."""
        return {"created_on": self.created_on, "totals": self.totals(), "workflows": self.workflows}


def summarize(plan: MovePlan) -> list[str]:
    """Return the plan in sentences."""
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
    """Yield the parts of a content line, of at most 75 bytes each; a part after the first begins with a space."""
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


RESERVE = timedelta(days=14)
"""Days between the last suggested move and the end of Workflows."""
_DEVELOPER = "developer of the workflow"
_OWNER = "owner of the accounts"
_OPERATOR = "operator of the servers"
_LICENCE = "who may agree to a licence"
DECIDERS: Mapping[ItemKind, str] = {
    "account": _OWNER,
    "external_user": _OWNER,
    "secret": _OWNER,
    "variable": _OWNER,
    "interpreter": _OPERATOR,
    "network": _OPERATOR,
    "action": _LICENCE,
}
"""Who decides about an open answer of that kind; the developer of the workflow about all others."""


def build_plan(
    sources: Sequence[MigrationSource], settings: ReportSettings, *, first_day: date, last_day: date | None = None
) -> MovePlan:
    """
    Plan the move of *sources*.

    Args:
        sources: The workflows.
        settings: What the report reads besides them.
        first_day: The first day on which a workflow may move.
        last_day: The last one; None for two weeks before the end of Workflows.

    Raises:
        RequestError: The last day is before the first.
    """
    last = last_day or max(first_day, END_OF_WORKFLOWS - RESERVE)
    if last < first_day:
        raise RequestError(
            f"The last day, {last}, is before the first, {first_day}.", fix="Exchange --first-day and --last-day."
        )
    rows = build_migration_report(sources, settings).workflows
    around = find_surroundings(sources, settings)
    calls = {place: find_invoked(source, around) for place, source in enumerate(sources)}
    named: dict[str, list[int]] = {}
    for place, source in enumerate(sources):
        named.setdefault(source.name, []).append(place)
    called = {place: {other for name in names for other in named.get(name, ())} for place, names in calls.items()}
    waves, circles = _find_waves(called)
    order = sorted(range(len(sources)), key=lambda place: (waves[place], rows[place].state != "runs", place))
    days = _spread_days([waves[place] for place in order], first_day, last)
    planned = []
    for number, place in enumerate(order, start=1):
        source, row = sources[place], rows[place]
        actions = tuple(_find_actions(source, settings))
        blockers = tuple(item for item in row.items if item.group == "answer")
        deciders = [DECIDERS.get(item.kind, _DEVELOPER) for item in blockers]
        deciders += [_LICENCE] if any(each.licence in ("open", "no commercial use") for each in actions) else []
        planned.append(
            PlannedWorkflow(
                name=row.name,
                id=row.id,
                source=row.source,
                order=number,
                wave=waves[place],
                move_on=days[number - 1],
                record_until=_find_last_run(source, first_day),
                state=_find_state(row),
                blockers=blockers,
                deciders=tuple(dict.fromkeys(deciders)),
                actions=actions,
                calls=tuple(sorted(calls[place])),
                called_by=tuple(sorted({sources[other].name for other, callees in called.items() if place in callees})),
                in_circle=place in circles,
            )
        )
    return MovePlan(tuple(planned), first_day)


def _find_state(row: WorkflowMigration) -> PlanState:
    if row.state == "unreadable":
        return "unreadable"
    return "blocked" if row.state == "needs_answers" else "ready"


def _find_waves(called: Mapping[int, set[int]]) -> tuple[dict[int, int], set[int]]:
    """For each workflow its wave, from 1: after the workflows that it calls; and the workflows that call themselves in a circle."""
    reached = {place: _reach(place, called) for place in called}
    circles = {place for place, found in reached.items() if place in found}
    waves: dict[int, int] = {}

    def wave_of(place: int) -> int:
        if place not in waves:
            # workflows of one circle share a wave
            together = {place} | {other for other in reached[place] if place in reached[other]}
            below = {other for each in together for other in called[each]} - together
            found = 1 + max((wave_of(other) for other in below), default=0)
            waves.update(dict.fromkeys(together, found))
        return waves[place]

    for place in called:
        wave_of(place)
    return waves, circles


def _reach(place: int, called: Mapping[int, set[int]]) -> set[int]:
    found: set[int] = set()
    pending = [*called[place]]
    while pending:
        each = pending.pop()
        if each not in found:
            found.add(each)
            pending += called[each]
    return found


def _spread_days(waves: Sequence[int], first: date, last: date) -> list[date]:
    """Return a working day for each workflow in order, spread evenly; a wave begins after the day on which the one before ends, if there is time."""
    working = [day for day in (first + timedelta(days=n) for n in range((last - first).days + 1)) if day.weekday() < 5]
    working = working or [first]
    slots = max(1, len(waves) - 1)
    found: list[date] = []
    for number, wave in enumerate(waves):
        place = round(number * (len(working) - 1) / slots)
        if number and wave > waves[number - 1] and working[place] <= found[-1]:
            place = min(len(working) - 1, working.index(found[-1]) + 1)
        found.append(max(working[place], found[-1]) if found else working[place])
    return found


def _find_last_run(source: MigrationSource, today: date) -> date:
    """Return the day of the last run at Pipedream that can be recorded: that of the schedule, or the last day of Workflows."""
    end = datetime.combine(END_OF_WORKFLOWS + timedelta(days=1), time(), UTC)
    triggers = source.workflow.triggers if source.workflow is not None else ()
    timers = [each for each in triggers if each.type == "schedule" and each.config.get("cron")]
    if not timers or len(timers) != len(triggers):
        return END_OF_WORKFLOWS
    last = [
        found
        for each in timers
        if (found := _find_last_due(Schedule.from_trigger(each.config), today, end)) is not None
    ]
    return max(last).date() if last else END_OF_WORKFLOWS


def _find_last_due(schedule: Schedule, today: date, end: datetime) -> datetime | None:
    """Return the last due time before *end*; None for an invalid expression, or one that is not due before."""
    start = datetime.combine(today, time(), UTC)
    try:
        schedule.check(start)
        first = schedule.next_after(start)
    except RequestError:
        return None
    return schedule.latest(first, end - timedelta(seconds=1)) if first is not None and first < end else None


def _find_actions(source: MigrationSource, settings: ReportSettings) -> Iterable[PlannedAction]:
    """Return the pre-built actions of a workflow, each with the terms under which it runs after the move."""
    steps = source.workflow.steps if source.workflow is not None else ()
    used = [step for step in steps if step.uses is not None and not step.disabled]
    if not used:
        return
    catalog = settings.catalog(source)
    for step in used:
        uses = step.uses or ""
        licence: ActionLicence = "open"
        origin = ""
        try:
            reference = ActionReference.parse(uses)
        except RequestError:
            yield PlannedAction(step.name, uses, licence)
            continue
        if reference.is_private:
            licence = "own component"
        elif reference.key in load_builtin_actions():
            licence, origin = "built in", "pdkernel"
        else:
            try:
                component = catalog.resolve(reference.key, reference.version)
                licence, origin = "no commercial use", component.source
            except PdkernelError:
                remote = catalog.find_remote_sources(reference)
                if remote and remote[0].source == "connect":
                    licence, origin = "run by Connect", "Pipedream"
        yield PlannedAction(step.name, uses, licence, origin)
