"""The report on a move as text and as a page."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from pdkernel.annex.migration.migration_report import (
    MigrationItem,
    MigrationReport,
    MoveStep,
    SharedResource,
    WorkflowMigration,
    format_shared,
    render_text,
)
from pdkernel.annex.migration.pages import render_page
from tests.render.reading import EVIL

STORE = MigrationItem(
    "data_store", "ds_1", "The records of ds_1 are not in Git.", "Copy them.", "pdkernel migrate data ds_1"
)
VARIABLE = MigrationItem("variable", "KEY", "`KEY` is read by send.", command="pdkernel env set KEY", steps=("send",))
REPORT = MigrationReport(
    (
        WorkflowMigration("synced/orders-p_1", "Orders", "p_1", ("send", "read"), ("read",), (STORE, VARIABLE)),
        WorkflowMigration("synced/mails-p_2", "Mails", "p_2", ("send",), ("send",)),
        WorkflowMigration("bad", "bad", items=(MigrationItem("unreadable", "bad", "workflow.yaml is not YAML."),)),
    ),
    (SharedResource("data_store", "ds_1", ("Orders",), "Copy them.", "pdkernel migrate data ds_1"),),
    (MoveStep("Turn off", "Off there before on here.", ("Orders: ti_1",), ("pdkernel triggers enable orders",)),),
    "2026-11-27T10:00:00.000Z",
)


def hostile(text: str) -> MigrationReport:
    """A report with *text* in every field that comes from a source."""
    item = MigrationItem("account", text, text, text, text, (text,))
    row = WorkflowMigration(text, text, text, (text,), (text,), (item,))
    return MigrationReport(
        (row,), (SharedResource("account", text, (text,), text, text),), (MoveStep(text, text, (text,), (text,)),), ""
    )


def test_the_text_has_a_table_with_totals() -> None:
    """Each workflow has a line with its state and counts, and the last line has the sums."""
    lines = render_text(REPORT).splitlines()

    start = next(place for place, line in enumerate(lines) if line.startswith("workflow "))
    assert [line.split() for line in lines[start + 1 : start + 5]] == [
        ["Orders", "needs", "answers", "2", "1", "1", "1", "0"],
        ["Mails", "runs", "as", "it", "is", "1", "1", "0", "0", "0"],
        ["bad", "cannot", "be", "read", "0", "0", "1", "0", "0"],
        ["Total", "3", "2", "2", "1", "0"],
    ]
    assert "  1. Turn off" in lines
    assert "    - KEY is read by send." in lines
    assert "        pdkernel env set KEY" in lines


def test_the_page_says_what_the_text_says() -> None:
    """The page has every message, fix and command."""
    page = render_page(REPORT)

    for words in (
        "Orders",
        "The records of ds_1",
        "Copy them.",
        "pdkernel migrate data ds_1",
        "Off there before on here.",
        "<code>KEY</code>",
        "<pre>pdkernel triggers enable orders</pre>",
    ):
        assert words in page
    assert page.count("<details") == 3
    assert '<td class="count" data-label="answers">2</td>' in page


def test_the_page_loads_nothing() -> None:
    """The page has no script, no resource and no link to another page, and its policy forbids all requests."""
    page = render_page(REPORT)

    assert "default-src 'none'" in page
    assert not re.search(r"<(?:script|link|img|iframe|object)\b|\bsrc=|url\(|@import", page)
    assert set(re.findall(r'href="([^"]*)"', page)) == {"#workflow-0", "#workflow-1", "#workflow-2"}
    assert "color-scheme: light dark" in page
    assert 'name="viewport"' in page


@pytest.mark.parametrize("render", [render_text, render_page])
def test_hostile_text_is_shown_as_text(render: object) -> None:
    """Markup and control characters of a source change neither the page nor the terminal."""
    assert callable(render)
    shown = render(hostile(EVIL))

    assert "\x1b" not in shown
    assert "<b>" not in shown or render is render_text


def test_only_an_open_answer_stops_a_workflow() -> None:
    """A workflow whose items need no answer runs as it is; an unreadable one is not counted as open."""
    lost = replace(STORE, kind="optional_variable", name="DEBUG")
    rows = [WorkflowMigration("a", "A", items=(item,)) for item in (lost, VARIABLE)]

    assert [row.state for row in rows] == ["runs", "needs_answers"]
    unreadable = MigrationItem("unreadable", "bad", "No.")
    assert WorkflowMigration("a", "A", items=(VARIABLE, unreadable)).state == "unreadable"


def test_a_resource_is_named_with_its_kind() -> None:
    """The kind is written before the name, unless the name contains it."""
    shared = [
        SharedResource("data_store", "ds_1", ("A", "B"), ""),
        SharedResource("data_store", "the data store of orders", ("A",), ""),
        SharedResource("optional_variable", "DEBUG", ("A",), ""),
    ]

    assert [format_shared(each) for each in shared] == [
        "data store ds_1, used by A, B",
        "the data store of orders, used by A",
        "variable DEBUG, used by A",
    ]


def test_columns_of_the_table_are_aligned() -> None:
    """Names and states begin below their heads; numbers end below theirs."""
    lines = render_text(REPORT).splitlines()
    head, orders, *_ = (line for line in lines if line.startswith(("workflow ", "Orders ")))

    assert head.index("state") == orders.index("needs answers")
    assert head.index("steps") + len("steps") == orders.index("2") + 1
