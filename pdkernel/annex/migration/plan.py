"""
The plan of a move: each workflow with its state, who decides, the licence of its actions, the last day to record, and a day to move.

The rows are those of the report; the plan adds the order by who calls whom, and days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta

from pdkernel.actions.action_reference import ActionReference
from pdkernel.actions.builtin_source import load_builtin_actions
from pdkernel.annex.migration.migration_report import ItemKind, WorkflowMigration
from pdkernel.annex.migration.move_plan import (
    END_OF_WORKFLOWS,
    ActionLicence,
    MovePlan,
    PlannedAction,
    PlannedWorkflow,
    PlanState,
)
from pdkernel.annex.migration.report import ReportSettings, build_migration_report, find_surroundings
from pdkernel.annex.migration.sources import MigrationSource
from pdkernel.annex.migration.step_items import find_invoked
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.storage.schedule import Schedule

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
    """A working day for each workflow in order, spread evenly; a wave begins after the day on which the one before ends, if there is time."""
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
    """The day of the last run at Pipedream that can be recorded: that of the schedule, or the last day of Workflows."""
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
    """The last due time before *end*; None for an invalid expression, or one that is not due before."""
    start = datetime.combine(today, time(), UTC)
    try:
        schedule.check(start)
        first = schedule.next_after(start)
    except RequestError:
        return None
    return schedule.latest(first, end - timedelta(seconds=1)) if first is not None and first < end else None


def _find_actions(source: MigrationSource, settings: ReportSettings) -> Iterable[PlannedAction]:
    """The pre-built actions of a workflow, each with the terms under which it runs after the move."""
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
