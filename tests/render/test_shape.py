"""The shape as a tree: every key can be copied for Node.js and for Python."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pdkernel.model import JSON
from pdkernel.render import shape as shape_view
from pdkernel.shape import infer_shape
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
    drawn = draw(infer_shape({f"key{number}": number for number in range(1250)}))

    assert "key199" in drawn
    assert "key200" not in drawn
    assert "… 1,050 more keys not shown" in drawn


def test_a_huge_tree_is_shown_level_by_level() -> None:
    """A huge branch does not hide its siblings, and the view stays small."""
    branch = {f"k{number}": {f"k{inner}": {"leaf": inner} for inner in range(100)} for number in range(100)}

    drawn = shape_view.render_html(infer_shape({"first": branch, "last": {"seen": True}}))

    assert "Copy steps.trigger.event.last.seen" in drawn
    assert len(drawn) < 1_500_000


def test_another_root_can_be_given() -> None:
    """The exports of a step have a shape too; its paths start with that step."""
    drawn = shape_view.render_html(infer_shape({"ok": True}), root=("steps", "send", "$return_value"))

    assert "Copy steps.send.$return_value.ok" in drawn
    assert "Copy pd.steps[&quot;send&quot;][&quot;$return_value&quot;][&quot;ok&quot;]" in drawn


def test_presence_of_paths_in_several_events() -> None:
    """Presence counts events, also below a key that only some events have; in a list it counts items."""
    events = [
        {"n": 1, "maybe": {"deep": number}, "items": [{"a": 1}, {}]} if number else {"n": "x"} for number in range(4)
    ]

    drawn = shape_view.render_text(infer_shape(*events))

    lines = [" ".join(line.split()) for line in drawn.splitlines()]
    assert lines == [
        "steps.trigger.event 4 events, object",
        'n string ×1, integer ×3: "x", 1',
        "maybe object, in 3 of 4 events (75%)",
        "deep integer, in 3 of 4 events (75%): 1, 2, 3",
        "items array, in 3 of 4 events (75%)",
        "[0] 6 items, object",
        "a integer, in 3 of 6: 1",
    ]
    assert "in 3 of 4 events (75%)" in shape_view.render_html(infer_shape(*events))
