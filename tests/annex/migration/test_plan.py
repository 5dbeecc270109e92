"""The plan of a move: order by calls, days, blockers with who decides, licences, and the last run to record."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.annex.migration.migration_report import MigrationItem
from pdkernel.annex.migration.pages import render_plan_page
from pdkernel.annex.migration.plan import (
    COLUMNS,
    END_OF_WORKFLOWS,
    MovePlan,
    PlannedAction,
    PlannedWorkflow,
    build_plan,
    render_calendar,
    render_csv,
    render_text,
)
from pdkernel.annex.migration.report import ReportSettings
from pdkernel.annex.migration.sources import MigrationSource, read_sources
from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.model import Trigger
from pdkernel.storage import Project
from tests.render.reading import EVIL

FIRST = date(2027, 1, 4)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ReportSettings]:
    """A project without accounts."""
    with Project.open(tmp_path / ".pdkernel", clock=ManualClock()) as project:
        catalog = Catalog.for_project(project, environ={})
        yield ReportSettings(LocalDirectory(project), lambda _: catalog, lambda _: {}, "development", project.clock)


def write(root: Path, name: str, *, code: str = "", uses: str | None = None) -> MigrationSource:
    """A workflow of one step, with the id p_NAME."""
    folder = root / f"{name.lower()}-p_{name}"
    (folder / "work").mkdir(parents=True)
    step = f"uses: {uses}" if uses else "uses: ./work/entry.js"
    (folder / "workflow.yaml").write_text(
        f"schema: workflow/2022.04\nname: {name}\ntriggers:\n- id: hi_{name}\nsteps:\n- namespace: work\n  {step}\n"
    )
    (folder / "work" / "entry.js").write_text(f"export default defineComponent({{ async run({{ $ }}) {{ {code} }} }});")
    (source,) = read_sources([str(folder)], lambda _: {})
    return source


def calls(*names: str) -> str:
    """Code that starts workflows."""
    return " ".join(f'await $.flow.trigger("p_{name}", {{}});' for name in names)


def order(plan: MovePlan) -> list[tuple[str, int]]:
    """The names and waves, in order."""
    return [(each.name, each.wave) for each in plan.workflows]


def test_called_workflows_move_first(tmp_path: Path, settings: ReportSettings) -> None:
    """The order follows the calls, and a wave begins after the day of the one before."""
    sources = [
        write(tmp_path, "Front", code=calls("Middle", "Alone")),
        write(tmp_path, "Middle", code=calls("Bottom")),
        write(tmp_path, "Bottom"),
        write(tmp_path, "Alone"),
    ]

    plan = build_plan(sources, settings, first_day=FIRST)

    assert order(plan) == [("Bottom", 1), ("Alone", 1), ("Middle", 2), ("Front", 3)]
    front, bottom = plan.workflows[3], plan.workflows[0]
    assert (front.calls, bottom.called_by) == (("Alone", "Middle"), ("Middle",))
    days = {each.name: each.move_on for each in plan.workflows}
    assert FIRST <= days["Bottom"] <= days["Alone"] < days["Middle"] < days["Front"] <= date(2027, 3, 17)
    assert all(day.weekday() < 5 for day in days.values())


def test_a_circle_of_calls_moves_together(tmp_path: Path, settings: ReportSettings) -> None:
    """Workflows that call one another share a wave and are marked, and their callers come later."""
    sources = [
        write(tmp_path, "Caller", code=calls("Ping")),
        write(tmp_path, "Ping", code=calls("Pong")),
        write(tmp_path, "Pong", code=calls("Ping")),
    ]

    plan = build_plan(sources, settings, first_day=FIRST)

    assert order(plan) == [("Ping", 1), ("Pong", 1), ("Caller", 2)]
    assert [each.in_circle for each in plan.workflows] == [True, True, False]


def test_a_blocked_workflow_names_who_decides(tmp_path: Path, settings: ReportSettings) -> None:
    """A variable without a value blocks, and the owner of the accounts decides; a ready workflow comes first."""
    sources = [write(tmp_path, "Blocked", code="return process.env.SOME_KEY;"), write(tmp_path, "Ready")]

    ready, blocked = build_plan(sources, settings, first_day=FIRST).workflows

    assert (ready.name, ready.state, ready.deciders) == ("Ready", "ready", ())
    assert (blocked.state, blocked.deciders) == ("blocked", ("owner of the accounts",))
    assert "SOME_KEY" in blocked.blockers[0].message


@pytest.mark.parametrize(
    ("uses", "licence"),
    [
        ("filter-continue-based-on-condition@0.0.2", "built in"),
        ("slack-send-message@0.0.20", "open"),
        ("'@acme/own_thing@0.0.9'", "own component"),
    ],
)
def test_each_action_has_its_licence(tmp_path: Path, settings: ReportSettings, uses: str, licence: str) -> None:
    """Built-in and private actions are free to run; one of the registry waits for a decision."""
    (planned,) = build_plan([write(tmp_path, "Acts", uses=uses)], settings, first_day=FIRST).workflows

    assert [each.licence for each in planned.actions] == [licence]
    assert bool(planned.undecided_actions) == ("who may agree to a licence" in planned.deciders) == (licence == "open")


def test_a_component_of_the_registry_excludes_commercial_use(tmp_path: Path, settings: ReportSettings) -> None:
    """A folder of components that has the action has the registry's licence."""
    place = tmp_path / "checkout" / "components" / "depot" / "actions" / "put"
    place.mkdir(parents=True)
    (place.parents[1] / "depot.app.mjs").write_text('export default { type: "app", app: "depot" };')
    (place / "put.mjs").write_text(
        'export default { key: "depot-put", name: "Put", version: "0.0.1", type: "action", props: {}, async run() {} };'
    )
    source = write(tmp_path, "Acts", uses="depot-put@0.0.1")
    catalog = settings.catalog(source).with_sources([str(tmp_path / "checkout")], base=tmp_path)

    (planned,) = build_plan([source], replace(settings, catalog=lambda _: catalog), first_day=FIRST).workflows

    assert [each.licence for each in planned.actions] == ["no commercial use"]


def test_the_last_run_of_a_schedule_is_the_last_to_record(tmp_path: Path, settings: ReportSettings) -> None:
    """A job of the first day of each month runs for the last time on March 1, and another until the end."""
    source = write(tmp_path, "Monthly")
    assert source.workflow is not None

    def with_trigger(trigger: Trigger) -> MigrationSource:
        assert source.workflow is not None
        return replace(source, workflow=replace(source.workflow, triggers=(trigger,)))

    found = [
        build_plan([with_trigger(trigger)], settings, first_day=FIRST).workflows[0].record_until
        for trigger in (
            Trigger("schedule", config={"cron": "0 6 1 * *"}),
            Trigger("schedule", config={"cron": "0 6 30 6 *"}),
            Trigger("schedule", config={"cron": "no cron"}),
            Trigger("http"),
        )
    ]

    assert found == [date(2027, 3, 1), END_OF_WORKFLOWS, END_OF_WORKFLOWS, END_OF_WORKFLOWS]


def test_the_last_day_follows_the_first(tmp_path: Path, settings: ReportSettings) -> None:
    """Days in the wrong order are refused."""
    with pytest.raises(RequestError, match="is before the first"):
        build_plan([write(tmp_path, "A")], settings, first_day=FIRST, last_day=date(2027, 1, 1))


def test_a_workflow_that_cannot_be_read_is_in_the_plan(tmp_path: Path, settings: ReportSettings) -> None:
    """Its row has the reason."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "workflow.yaml").write_text("name: [")

    (planned,) = build_plan(read_sources([str(tmp_path / "bad")], lambda _: {}), settings, first_day=FIRST).workflows

    assert (planned.state, planned.blockers[0].kind) == ("unreadable", "unreadable")


def a_plan(name: str = "Orders", message: str = "KEY has no value.") -> MovePlan:
    """A plan of two workflows."""
    item = MigrationItem("variable", "KEY", message, steps=("send",))
    action = PlannedAction("send", "slack-send-message@0.0.20", "open")
    first = PlannedWorkflow(
        name,
        "p_1",
        "synced/orders-p_1",
        1,
        1,
        date(2027, 1, 4),
        date(2027, 3, 1),
        "blocked",
        (item,),
        ("owner",),
        (action,),
    )
    second = PlannedWorkflow(
        "Front", None, "front", 2, 2, date(2027, 1, 5), date(2027, 3, 31), "ready", calls=(name,), in_circle=True
    )
    return MovePlan((first, second), date(2026, 12, 1))


def unfold(text: str) -> list[str]:
    """The content lines of a calendar file."""
    return text.replace("\r\n ", "").split("\r\n")


def test_the_text_has_what_blocks_and_who_decides() -> None:
    """Each workflow has its day, and the blocked one what blocks it, who decides and the licence."""
    lines = render_text(a_plan()).splitlines()

    assert "1. Orders: blocked, move on 2027-01-04 (wave 1)" in lines
    assert "   - KEY has no value." in lines
    assert "   Who decides: owner" in lines
    assert "   Licence: slack-send-message@0.0.20 of step send: open" in lines
    assert "   Last run to record at Pipedream: 2027-03-01" in lines
    assert any("in a circle of calls" in line for line in lines)


def test_a_spreadsheet_takes_no_cell_for_a_formula() -> None:
    """A name that begins like a formula is text, and each row has all columns."""
    rows = list(csv.reader(io.StringIO(render_csv(a_plan('=HYPERLINK("http://x")', 'a, "b"\nc')))))

    assert rows[0] == list(COLUMNS)
    assert rows[1][COLUMNS.index("workflow")] == '\'=HYPERLINK("http://x")'
    assert [len(row) for row in rows] == [len(COLUMNS)] * 3


def test_the_calendar_has_each_day() -> None:
    """A day for each workflow, the last run of a schedule, and the two ends; identifiers stay the same for a new plan."""
    text = render_calendar(a_plan())
    lines = unfold(text)

    assert [line for line in lines if line.startswith("SUMMARY")] == [
        "SUMMARY:Move Orders",
        "SUMMARY:Last run of Orders to record at Pipedream",
        "SUMMARY:Move Front",
        "SUMMARY:Pipedream's Workflows end",
        "SUMMARY:Pipedream deletes the data of workflows",
    ]
    assert lines.count("BEGIN:VEVENT") == lines.count("END:VEVENT") == 5
    assert "DTSTART;VALUE=DATE:20270104" in lines
    uids = [line for line in lines if line.startswith("UID:")]
    assert len(set(uids)) == 5
    assert uids == [line for line in unfold(render_calendar(a_plan(message="Another."))) if line.startswith("UID:")]


def test_the_calendar_escapes_and_folds() -> None:
    """Commas, line breaks and long names stay inside their line, of at most 75 bytes."""
    text = render_calendar(a_plan("Bestellungen; größer, schöner " * 5, "one\r\nBEGIN:VEVENT"))

    assert all(len(line.encode()) <= 75 for line in text.split("\r\n"))
    assert unfold(text).count("BEGIN:VEVENT") == 5
    assert any(line.startswith("SUMMARY:Move Bestellungen\\; größer\\, schöner") for line in unfold(text))


def test_the_page_escapes_what_comes_from_a_source() -> None:
    """A name with markup is text."""
    page = render_plan_page(a_plan(EVIL, EVIL))

    assert EVIL not in page
    assert "2027-01-04" in page
