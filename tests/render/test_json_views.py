"""A JSON value is shown as a tree, a table and JSON, in part if it is large."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pdkernel.execution import RunTrigger
from pdkernel.language.shape import Segment, format_path
from pdkernel.model import JSON
from pdkernel.render.json_views import render_event, render_views
from tests.render.reading import EVIL, Page

ROWS: JSON = [{"id": 1, "name": "one"}, {"id": 2, "tags": []}]


def path_of(path: tuple[Segment, ...]) -> str:
    """The Node.js path of a part of the export `x` of the step `make`."""
    return format_path(("steps", "make", "x", *path), "node")


def titles(page: Page) -> list[str]:
    """What the parts copy."""
    return [element["title"] for element in page.attributes if "pd-k" in element.get("class", "").split()]


def test_every_part_of_the_tree_copies_its_path() -> None:
    """Each key, item and value of the tree copies the path of its part."""
    page = Page(render_views({"a b": {"c": [True]}}, path_of))

    assert titles(page)[:3] == [
        'Copy steps.make.x["a b"]',
        'Copy steps.make.x["a b"].c',
        'Copy steps.make.x["a b"].c[0]',
    ]
    assert "[0]: true" in page.text


def test_records_are_rows_of_a_table() -> None:
    """The table of a list of objects has a column for each key, and its cells copy their paths."""
    page = Page(render_views(ROWS, path_of))

    table = page.text.partition("as a table")[2].partition("as JSON")[0]
    assert "".join(table.split()) == 'idnametags1"one"2[]'
    assert titles(page)[-4:] == [f"Copy steps.make.x{at}" for at in ("[0].id", "[0].name", "[1].id", "[1].tags")]


def test_other_values_have_a_row_for_each_leaf() -> None:
    """The table of another value has the path and the value of each leaf."""
    page = Page(render_views({"a": {"b": 1}, "c": [None, "x"]}, path_of))

    table = page.text.partition("as a table")[2].partition("as JSON")[0]
    assert "".join(table.split()) == 'pathvaluea.b1c.0nullc.1"x"'


def test_a_value_without_paths_copies_nothing() -> None:
    """The parts of an input can be read and not copied."""
    page = Page(render_views(ROWS, None))

    assert titles(page) == []
    assert 'name: "one"' in page.text


def test_a_large_value_is_shown_in_part() -> None:
    """Of a large value, the first keys, items, rows and columns are shown, and the others are counted."""
    wide = {f"k{number}": number for number in range(70)}

    of_object, of_list = Page(render_views(wide, path_of)).text, Page(render_views([wide] * 30, path_of)).text

    assert "… 20 more keys not shown" in of_object
    assert "… 60 more rows not shown" in of_object
    assert "… 20 more items not shown" in of_list
    assert "… 62 more columns" in of_list
    assert "… 20 more rows not shown" in of_list


def test_a_deep_value_is_shown() -> None:
    """A value with more levels than the tree shows is shown in part."""
    deep: JSON = "end"
    for _ in range(200):
        deep = [deep]

    assert "… 1 more item not shown" in Page(render_views(deep, path_of)).text


def test_markup_is_shown_as_text() -> None:
    """Markup in keys and values is text in each view."""
    page = Page(render_views({EVIL: EVIL, "rows": [{EVIL: EVIL}]}, path_of))

    assert page.text.count("<b>bold</b>") >= 6


def test_one_hidden_row_is_counted() -> None:
    """A table has ten rows; an eleventh is counted."""
    shown = [Page(render_views([{"a": 1}] * count, path_of)).text for count in (10, 11)]

    assert ["… 1 more row not shown" in each for each in shown] == [False, True]


def test_very_many_rows_are_not_counted_to_the_end() -> None:
    """Of a value with very many leaves, the table says how many rows it has at least."""
    page = Page(render_views({"a": [[1, 2, 3]] * 10_000}, path_of))

    assert re.search(r"… at least 7,\d\d\d more rows not shown", page.text)
    assert "… 9,990 more items not shown" in page.text


def read(html: str) -> str:
    """The text that a browser shows."""
    return Page(html).text


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        ({"method": "POST", "path": "/", "body": {"amount": 12}}, ["body", "amount: 12", "request: POST /"]),
        (
            {"method": "POST", "path": "/x", "body": "plain <b>text</b>"},
            ["body", "plain <b>text</b>", "request: POST /x"],
        ),
        ({"method": "GET", "path": "/", "body": None}, ["body", "empty", "request: GET /"]),
        ({"method": "GET", "path": "/"}, ["body", "empty", "request: GET /"]),
        ({"timestamp": 1700000000}, ["timestamp", "1700000000"]),
        ({}, ["The event is empty."]),
    ],
)
def test_the_body_comes_first(event: dict[str, Any], shown: list[str]) -> None:
    """The body, or the values of an event without a request, come before the request; markup is text."""
    text = read(render_event(RunTrigger(event, {})))

    places = [text.index(each) for each in shown]
    assert places == sorted(places)


def test_a_sealed_event() -> None:
    """Of an event that could not be searched for secrets, nothing is shown."""
    assert "sealed" in read(render_event(RunTrigger({}, {}, sealed=True)))


def test_a_large_body_is_cut() -> None:
    """A text that would not fit on a page is cut."""
    assert len(render_event(RunTrigger({"body": "x" * 10**6}, {}))) < 20_000
