"""The shape as a tree: every key can be copied for Node.js and for Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from pdkernel.language.shape import compare_values, infer_shape
from pdkernel.model import JSON
from pdkernel.render import shape as shape_view
from tests.render.reading import EVIL, Page, assert_view

EVENT: JSON = {
    "method": "POST",
    "headers": {"x-github-event": "issues", "authorization": "***"},
    "body": {
        "issue": {"title": "Spelling error", "assignee": None, "labels": [{"name": "bug"}, {"name": "ui", "id": 7}]},
        "numbers": [1, 0.5, "x", {}],
        "empty": [],
    },
}


def titles(page: Page) -> list[str]:
    """The texts that a click on each key copies."""
    return [element["title"] for element in page.attributes if "pd-k" in element.get("class", "").split()]


def test_text_matches_the_golden_file() -> None:
    """The text of a sample event's shape equals its golden file."""
    assert_view("shape.txt", shape_view.render_text(infer_shape(EVENT)))


def test_html_matches_the_golden_file() -> None:
    """The HTML of a sample event's shape equals its golden file."""
    assert_view("shape.html", shape_view.render_html(infer_shape(EVENT)))


def test_every_key_copies_its_path_for_both_languages() -> None:
    """A key's titles are the expressions for a Node.js and a Python step."""
    page = Page(shape_view.render_html(infer_shape(EVENT)))

    copied = titles(page)

    assert "Copy steps.trigger.event.body.issue.labels[0].name" in copied
    assert 'Copy pd.steps["trigger"]["event"]["body"]["issue"]["labels"][0]["name"]' in copied
    assert 'Copy steps.trigger.event.headers["x-github-event"]' in copied
    assert len(copied) == 2 * 16


def test_keys_copy_the_path_of_the_languages_of_the_steps_below() -> None:
    """A key copies its path for the first step below, and the buttons beside it those for other languages, once each."""
    drawn = shape_view.render_html(infer_shape({"a": 1}), kinds=["bash", "python", "bash"])

    assert titles(Page(drawn))[2:] == [
        """Copy jq -r '.trigger.event.a' "$PIPEDREAM_STEPS\"""",
        'Copy pd.steps["trigger"]["event"]["a"]',
    ]


def test_a_key_reads_as_key_type_and_sample() -> None:
    """Without the Lab extension, the button for Python has no text that a reader could take for a type."""
    page = Page(shape_view.render_html(infer_shape(EVENT)))

    assert 'method string "POST"' in page.text
    assert "Python" not in page.text


def test_a_key_is_not_a_button_without_the_extension() -> None:
    """The HTML names what a click copies, and leaves the role of a button to the Lab extension, which copies."""
    page = Page(shape_view.render_html(infer_shape(EVENT)))

    keys = [element for element in page.attributes if "pd-k" in element.get("class", "").split()]

    assert keys
    assert all(
        key["title"].startswith("Copy steps.trigger.event") or key["title"].startswith("Copy pd.steps") for key in keys
    )
    assert not any({"role", "tabindex"} & key.keys() for key in keys)


@pytest.mark.parametrize("draw", [shape_view.render_text, shape_view.render_html])
def test_presence_and_types_are_shown(draw: Callable[..., str]) -> None:
    """A key that some records lack shows its count; a path of several types lists them."""
    drawn = draw(infer_shape(EVENT))

    assert "in 1 of 2" in drawn
    assert "integer ×1, number ×1, string ×1, object ×1" in drawn


def test_markup_in_keys_and_values_is_shown_as_text() -> None:
    """Markup in keys and values of an event is escaped."""
    page = Page(shape_view.render_html(infer_shape({EVIL: {EVIL: EVIL}})))

    assert page.text.count("<b>bold</b></script>") == 3
    assert any("onclick" in title for title in titles(page))


@pytest.mark.parametrize("draw", [shape_view.render_text, shape_view.render_html])
def test_hidden_keys_of_a_wide_object_are_counted(draw: Callable[..., str]) -> None:
    """Of very many keys the first are shown and the others counted."""
    names = ["".join(letters) for letters in itertools.product("abcdefghij", repeat=3)]

    drawn = draw(infer_shape(dict.fromkeys(names[:750], 1)))

    assert names[199] in drawn
    assert names[200] not in drawn
    assert "… 550 more keys not shown" in drawn


def test_a_huge_tree_is_shown_level_by_level() -> None:
    """A huge branch does not hide its siblings, and the view stays small."""
    branch = {f"k{number}": {f"k{inner}": {"leaf": inner} for inner in range(100)} for number in range(100)}

    drawn = shape_view.render_html(infer_shape({"first": branch, "last": {"seen": True}}))

    assert "Copy steps.trigger.event.last.seen" in drawn
    assert len(drawn) < 1_500_000


def test_presence_of_paths_in_several_events() -> None:
    """Presence counts events, also below a key that only some events have; in a list it counts items."""
    events = [
        {"n": 1, "maybe": {"deep": number}, "items": [{"a": 1}, {}]} if number else {"n": "x"} for number in range(4)
    ]

    drawn = shape_view.render_text(infer_shape(*events))

    lines = [" ".join(line.split()) for line in drawn.splitlines()]
    assert lines == [
        "4 events: 1 field always there, 3 in some, 1 of varying type",
        "steps.trigger.event 4 events, object",
        'n string ×1, integer ×3: 1, "x"',
        "maybe object, in 3 of 4 events (75%)",
        "deep integer, in 3 of 4 events (75%): 1, 2, 3",
        "items array, in 3 of 4 events (75%)",
        "[0] 6 items, object",
        "a integer, in 3 of 6: 1",
    ]
    assert "in 3 of 4 events (75%)" in shape_view.render_html(infer_shape(*events))


ORDERS: tuple[JSON, ...] = tuple(
    {
        "method": "POST",
        "path": "/orders",
        "query": {},
        "headers": {"content-type": "application/json", "x-shop": f"shop-{number % 3}", "authorization": "***"},
        "body": {
            "id": f"ord_{number}",
            "total": number * 10 if number % 10 else f"{number}.00",
            "currency": "EUR",
            **({"coupon": "SPRING"} if number % 8 == 0 else {}),
            "customer": {"name": "Ada", "email": None if number % 2 else "ada@example.com", "password": "made-up"},
            "lines": [
                {"sku": f"sku-{line}", "count": line, **({"gift": True} if line == 2 else {})} for line in (1, 2)
            ],
            "stock": {f"wh_{number}_{place}": {"left": place} for place in range(9)},
        },
        "client_ip": "192.0.2.1",
        "url": "https://example.com/orders",
    }
    for number in range(1, 51)
)
"""50 orders: a field in some, a field of two types, a list, a map with ids as keys, and a secret."""


@pytest.mark.parametrize("form", ["txt", "html"])
def test_the_preview_of_many_events_matches_the_golden_file(form: str) -> None:
    """The first lines of the shape of 50 events: the body before the headers, counts of what is folded, and the line for the rest."""
    view = shape_view.render_output(
        infer_shape(*ORDERS), more="%pdshape --runs --full", title="Events of 50 recorded runs."
    )

    assert_view(f"shape-preview.{form}", f"{view.text}" if form == "txt" else view.html)


def test_the_text_of_many_events_matches_the_golden_file() -> None:
    """The whole text names the share of the events that have a field, types with counts, and keys that are ids as one line."""
    drawn = shape_view.render_text(infer_shape(*ORDERS))

    assert_view("shape-events.txt", drawn)
    assert "made-up" not in drawn


@pytest.mark.parametrize("form", ["txt", "html"])
def test_the_difference_matches_the_golden_file(form: str) -> None:
    """The difference of two events lists each change with both values, and folds all but the first ten."""
    view = shape_view.render_difference(
        compare_values(ORDERS[0], ORDERS[9]), ("one", "ten"), more="%pdshape one ten --diff --full"
    )

    assert_view(f"shape-difference.{form}", f"{view.text}\n" if form == "txt" else view.html)


@pytest.mark.parametrize("width", [1, 9, 10, 11, 12, 500])
def test_a_preview_has_ten_lines(width: int) -> None:
    """Text shows ten lines and one with the number of the others; a value of eleven lines is shown whole."""
    shape = infer_shape(
        {"body": {f"{'abcdefghij'[number % 10]}{'xyz' * (number // 10)}": 1 for number in range(width)}}
    )

    lines = shape_view.render_text(shape, max_lines=10, more="%pdshape --full").splitlines()

    if width + 2 <= 11:
        assert len(lines) == width + 2
        assert "more" not in lines[-1]
    else:
        assert len(lines) == 11
        assert lines[-1] == f"… {width + 2 - 10:,} more fields: %pdshape --full"


@pytest.mark.parametrize("draw", [shape_view.render_text, shape_view.render_html])
def test_a_hostile_event_is_drawn_in_bounds(draw: Callable[..., str]) -> None:
    """Very many keys, very deep values, huge numbers and keys with markup or control characters end in a small, escaped view."""
    deep: JSON = 1
    for _ in range(5000):
        deep = {"d": [deep]}
    body: JSON = {
        **{f"key {number}": number for number in range(100_000)},
        EVIL: {EVIL: EVIL},
        "\ud800": "\udfff",
        "": "",
        "n" * 100_000: "v" * 100_000,
        "big": 10**4000,
    }

    drawn = draw(infer_shape({"body": body, "deep": deep, EVIL: {EVIL: [EVIL]}}))

    assert len(drawn) < 3_000_000
    assert "\x1b" not in drawn
    assert "\ud800" not in drawn
    assert "{*}" in drawn
