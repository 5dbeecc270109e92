"""The `props` of a step in `workflow.yaml`: accounts, stores, picked options, and their order."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.files.definition.step_props import (
    build_props_mapping,
    get_explicit_app,
    has_valid_cursor,
    parse_props,
    strip_labels,
)
from pdkernel.model import JSON, ROUND_TRIP_KEY, AppBinding, Step, StoreBinding


def parse(raw: dict[str, Any], *, action: str | None = None, **slugs: str) -> tuple[Any, ...]:
    """The apps, stores and values of a file's props; *slugs* are those of the step's code."""
    found = parse_props(raw, slugs=slugs, action=action)
    return found.apps, found.stores, found.values


@pytest.mark.parametrize(
    ("raw", "action", "slugs", "app"),
    [
        ({"a": {"authProvisionId": "apn_1"}}, None, {}, "a"),
        ({"a": {"authProvisionId": "apn_1"}}, None, {"a": "slack"}, "slack"),
        ({"a": {"authProvisionId": "apn_1"}}, "github-new-issue", {}, "github"),
        ({"a": {"authProvisionId": "apn_1"}}, "github-new-issue", {"a": "slack"}, "slack"),
        (
            {"__configurableProps": [{"name": "a", "type": "app", "app": "trello"}], "a": {"authProvisionId": "apn_1"}},
            "github-new-issue",
            {"a": "slack"},
            "trello",
        ),
    ],
    ids=["the prop", "the code", "the action", "the code before the action", "the definition first"],
)
def test_the_app_of_an_account(raw: dict[str, Any], action: str | None, slugs: dict[str, str], app: str) -> None:
    """The app is that of the definition, else of the code, else of the action's key, else the prop's name."""
    assert parse(raw, action=action, **slugs)[0] == (AppBinding("a", app, "apn_1"),)


def test_definitions_of_removed_props_are_not_written() -> None:
    """Definitions of apps and stores that the step has keep their keys, others are gone, and new ones are added."""
    kept: list[JSON] = [
        {"name": "slack", "type": "app", "app": "slack", "appId": "app_1"},
        {"name": "gone", "type": "app", "app": "github"},
        {"name": "old", "type": "data_store"},
        {"name": "text", "type": "string"},
        None,
    ]
    step = Step(
        "a",
        source="def handler(pd): ...",
        stores=(StoreBinding("new"),),
        extra={ROUND_TRIP_KEY: {"configurable": kept}},
    )

    written = build_props_mapping(step, (AppBinding("slack", "slack"), AppBinding("mail", "gmail")))

    assert written == {
        "__configurableProps": [
            kept[0],
            kept[3],
            None,
            {"app": "gmail", "name": "mail", "type": "app"},
            {"name": "new", "type": "data_store"},
        ]
    }


def test_props_without_an_account_or_a_store() -> None:
    """A definition without a value has no account; an empty id counts as missing; a null among the definitions is ignored."""
    definitions = [
        {"name": "a", "type": "app"},
        {"name": "d", "type": "data_store"},
        {"name": "n", "type": "string"},
        None,
    ]
    raw = {"__configurableProps": definitions, "b": {"authProvisionId": ""}, "s": {"storeId": ""}, "v": 0}

    assert parse(raw) == (
        (AppBinding("a", "a", None), AppBinding("b", "b", None)),
        (StoreBinding("d", None), StoreBinding("s", None)),
        {"v": 0},
    )


def test_a_picked_option_is_its_value() -> None:
    """A label is dropped at any depth; a mapping with another key beside the label stays."""
    picked = {"__lv": {"label": "A", "value": {"__lv": {"label": "B", "value": 1}}}}

    assert strip_labels([picked, {"x": picked}, "t"]) == [1, {"x": 1}, "t"]
    both = {"__lv": {"label": "A", "value": 1}, "y": 2}
    assert strip_labels(both) == {"__lv": {"label": "A", "value": 1}, "y": 2}
    assert strip_labels({"__lv": "text"}) == {"__lv": "text"}


def test_a_file_is_written_as_it_was() -> None:
    """Picked options and the order of a file are written again; a value that changed is written plain."""
    raw = {
        "z": 1,
        "s": {"storeId": "ds_1"},
        "p": {"__lv": {"label": "A", "value": "a"}},
        "a": {"authProvisionId": "apn_1"},
    }
    found = parse_props(raw, slugs={}, action=None)
    step = Step(
        "s", "node", apps=found.apps, stores=found.stores, props=found.values, extra={ROUND_TRIP_KEY: found.bookkeeping}
    )

    assert list(build_props_mapping(step, found.apps).items()) == list(raw.items())
    changed = Step("s", "node", props={**found.values, "p": "b"}, extra={ROUND_TRIP_KEY: found.bookkeeping})
    assert build_props_mapping(changed, ()) == {"z": 1, "p": "b"}


def test_only_the_platforms_stores_are_written() -> None:
    """A store with a local name, a store without a name and an app without an account are not written."""
    stores = (StoreBinding("a", "ds_1"), StoreBinding("b", "local"), StoreBinding("c", None))
    step = Step("s", "node", stores=stores)

    assert build_props_mapping(step, (AppBinding("x", "slack", None),)) == {"a": {"storeId": "ds_1"}}


@pytest.mark.parametrize(
    ("step", "count"),
    [(Step("s"), 2), (Step("s", "node"), 0), (Step("s", uses="slack-send@1.0.0"), 0)],
    ids=["python", "node", "action"],
)
def test_a_python_step_declares_its_props(step: Step, count: int) -> None:
    """A Python step, whose code cannot declare props, has a definition for each app and store."""
    step = Step(step.name, step.language, uses=step.uses, stores=(StoreBinding("d", None),))
    written = build_props_mapping(step, (AppBinding("a", "slack", None),)).get("__configurableProps", [])

    expected = [{"app": "slack", "name": "a", "type": "app"}, {"name": "d", "type": "data_store"}]
    assert written == expected[:count]


@pytest.mark.parametrize(
    ("app", "action", "slug"),
    [
        (AppBinding("slack", "slack"), None, None),
        (AppBinding("chat", "slack"), None, "slack"),
        (AppBinding("slack", "slack"), "slack-send-message", None),
        (AppBinding("slack", "slack"), "github-new-issue", "slack"),
        (AppBinding("slack", "slack"), "@acme/send", "slack"),
    ],
)
def test_a_slug_is_written_if_the_prop_does_not_tell(app: AppBinding, action: str | None, slug: str | None) -> None:
    """A slug is left out if it is the prop's name, and that of the action's key."""
    assert get_explicit_app(app, action) == slug


@pytest.mark.parametrize(
    ("extra", "is_valid"),
    [
        ({}, False),
        ({"_props_cursor": "x"}, True),
        ({"_props_cursor": "x", ROUND_TRIP_KEY: {"cursor_of": "a-b@1.0.0"}}, True),
        ({"_props_cursor": "x", ROUND_TRIP_KEY: {"cursor_of": "a-b@1.0.1"}}, False),
    ],
)
def test_a_cursor_belongs_to_one_version(extra: dict[str, Any], is_valid: bool) -> None:
    """A cursor of another version of the action is not valid; without a note of its action it is."""
    assert has_valid_cursor(Step("s", "node", uses="a-b@1.0.0", extra=extra)) == is_valid
