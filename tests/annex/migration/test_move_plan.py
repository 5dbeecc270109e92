"""The plan of a move as text, page, CSV and calendar file."""

from __future__ import annotations

import csv
import io
from datetime import date

from pdkernel.annex.migration.migration_report import MigrationItem
from pdkernel.annex.migration.move_plan import (
    COLUMNS,
    MovePlan,
    PlannedAction,
    PlannedWorkflow,
    render_calendar,
    render_csv,
    render_text,
)
from pdkernel.annex.migration.pages import render_plan_page
from tests.render.reading import EVIL


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
