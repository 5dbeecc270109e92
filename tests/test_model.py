"""The workflow model: names, versions, limits, and the places of props."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pdkernel.errors import DuplicateStepError, StepNameError, UnknownStepError
from pdkernel.model import (
    ROUND_TRIP_KEY,
    AppBinding,
    Step,
    StoreBinding,
    Trigger,
    TriggerType,
    UnsupportedEntry,
    Workflow,
    check_step_name,
    get_app_slug,
)

STEP = Step(
    "a",
    "node",
    "code",
    uses="slack-send@1.0.0",
    apps=(AppBinding("chat", "slack", "apn_1"),),
    stores=(StoreBinding("db", "mine"),),
    props={"x": 1},
    timeout_s=5.0,
    notes="Note",
    line_offset=3,
)
WHOLE = Workflow(
    "W",
    triggers=(Trigger("http", "bearer", "TOKEN", "custom", {"id": "hi_1"}),),
    steps=(STEP, Step("b")),
    settings={"lambda_timeout": 40},
    variables=("A",),
)


def test_the_versioned_content() -> None:
    """The content has every field that affects a run."""
    assert WHOLE.versioned_content() == {
        "name": "W",
        "triggers": [
            {"type": "http", "auth": "bearer", "token_env": "TOKEN", "response": "custom", "config": {"id": "hi_1"}}
        ],
        "settings": {"lambda_timeout": 40},
        "steps": [
            {
                "name": "a",
                "language": "node",
                "source": "code",
                "uses": "slack-send@1.0.0",
                "apps": [["chat", "slack", "apn_1"]],
                "stores": [["db", "mine"]],
                "props": {"x": 1},
                "timeout_s": 5.0,
                "disabled": False,
                "notes": "Note",
                "line_offset": 3,
            },
            {
                "name": "b",
                "language": "python",
                "source": "",
                "uses": None,
                "apps": [],
                "stores": [],
                "props": {},
                "timeout_s": None,
                "disabled": False,
                "notes": None,
                "line_offset": 0,
            },
        ],
        "variables": ["A"],
    }


def test_the_version_is_a_hash_of_the_content() -> None:
    """The version has twelve hex digits, changes with the content, and does not depend on the order of keys."""
    one, other = Workflow("W", settings={"a": 1, "b": 2}), Workflow("W", settings={"b": 2, "a": 1})

    assert one.version == other.version == "".join(c for c in one.version if c in "0123456789abcdef")
    assert len(one.version) == 12
    assert replace(one, name="V").version != one.version
    changed = ({"source": "other"}, {"disabled": True}, {"timeout_s": 6.0}, {"files": {"./x.mjs": "1"}}, {"uses": None})
    versions = [replace(WHOLE, steps=(replace(STEP, **each), Step("b"))).version for each in changed]
    assert len({WHOLE.version, *versions}) == 6
    assert replace(WHOLE, origin="x", extra={"k": 1}, steps=(replace(STEP, cell_index=7, extra={"k": 1}), Step("b"))).version == WHOLE.version  # fmt: skip


@pytest.mark.parametrize(
    ("path", "lines", "file", "found"),
    [
        (("x", "y", 0), {("x", "y", 0): 5, ("x",): 4}, None, (5, "")),
        (("x", "y", 0), {("x", "y"): 6, ("x",): 4}, None, (6, "")),
        (("x", "y", 0), {("x",): 4, (): 1, ("y",): 9}, None, (4, "")),
        (("x",), {}, None, (3, "")),
        (("x",), {("x",): 4}, "workflow.yaml", (None, " (workflow.yaml, line 4)")),
        (("x",), {}, "workflow.yaml", (None, " (workflow.yaml)")),
    ],
)
def test_the_place_of_a_prop(
    path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], file: str | None, found: Any
) -> None:
    """A value has its own line, or that of the nearest value around it, or that of the directive."""
    step = replace(STEP, prop_lines=lines, props_file=file)

    assert step.locate_prop(*path) == found
    assert Step("b").locate_prop("x") == (None, "")


@pytest.mark.parametrize(
    ("kept", "source", "missing"),
    [({"missing": True}, "", True), ({"missing": True}, "x", False), ({"missing": 1}, "", False), ({}, "", False), ("text", "", False)],
)  # fmt: skip
def test_missing_code(kept: Any, source: str, missing: bool) -> None:
    """A step lacks its code if its entry file was missing and no code was written since."""
    assert Step("a", source=source, extra={ROUND_TRIP_KEY: kept}).is_code_missing == missing


@pytest.mark.parametrize(
    ("kept", "options"),
    [
        ({"picked": {"x": {"value": 1, "written": {"__lv": {"label": "One", "value": 1}}}}}, {"x": {"__lv": {"label": "One", "value": 1}}}),
        ({"picked": {"x": {"value": 2, "written": 2}}}, {}),
        ({"picked": {"y": {"value": None, "written": 2}}}, {}),
        ({"picked": {"x": 1}}, {}),
        ({"picked": 1}, {}),
        (1, {}),
    ],
)  # fmt: skip
def test_picked_options(kept: Any, options: dict[str, Any]) -> None:
    """A picked option is known as long as the prop has its value."""
    assert replace(STEP, extra={ROUND_TRIP_KEY: kept}).picked_options == options


@pytest.mark.parametrize(
    ("entry", "name", "reason"),
    [
        ({"namespace": "n"}, "n", "has no uses: it is control flow"),
        ({"namespace": 1, "uses": ""}, "an entry without a name", "has no uses"),
        ({"namespace": "", "uses": "./a/entry.rb"}, "an entry without a name", "is in a language that is not supported: ./a/entry.rb"),
        ({"uses": "../a"}, "an entry without a name", "is in a language"),
        ({"uses": "/a"}, "an entry without a name", "is in a language"),
        ({"uses": ["x"]}, "an entry without a name", 'uses ["x"], which is not KEY@VERSION'),
    ],
)  # fmt: skip
def test_an_unsupported_entry(entry: dict[str, Any], name: str, reason: str) -> None:
    """An entry has a name and the reason for which it does not run."""
    found = UnsupportedEntry(None, entry)

    assert (found.name, found.unsupported_reason[: len(reason)]) == (name, reason)


def test_unsupported_entries_are_stored_beside_other_bookkeeping() -> None:
    """The entries are read back in order, and other data of the definition stays."""
    entries = (UnsupportedEntry(None, {"a": 1}), UnsupportedEntry("a", {}))
    workflow = replace(WHOLE, extra={"k": 1, ROUND_TRIP_KEY: {"n": 1, "kept": []}})

    kept = workflow.with_unsupported_entries(entries)

    assert kept.unsupported_entries == entries
    assert kept.extra == {"k": 1, ROUND_TRIP_KEY: {"n": 1, "kept": [{"after": None, "entry": {"a": 1}}, {"after": "a", "entry": {}}]}}  # fmt: skip
    assert WHOLE.with_unsupported_entries([]) is WHOLE
    assert WHOLE.unsupported_entries == ()


def test_steps_of_a_workflow() -> None:
    """A step is found by its name, with the steps above and below it; two steps of one name are refused."""
    steps = tuple(map(Step, "abc"))
    workflow = Workflow("W", steps=steps)

    assert workflow.step("b") is steps[1]
    assert (workflow.steps_before("b"), workflow.steps_after("b")) == (steps[:1], steps[2:])
    assert (workflow.steps_before("a"), workflow.steps_after("c")) == ((), ())
    assert workflow.trigger == Trigger("http", "none", None, "default", {})
    assert Workflow("W", triggers=()).trigger.type == "emit"  # other workflows start it
    with pytest.raises(UnknownStepError, match="Known: a, b, c"):
        workflow.step("d")
    with pytest.raises(DuplicateStepError):
        Workflow("W", steps=(*steps, steps[0]))


@pytest.mark.parametrize(
    ("kind", "settings", "own", "limit"),
    [
        ("http", {}, None, 30),
        ("email", {}, None, 30),
        ("schedule", {}, None, 60),
        ("source", {}, None, 60),
        ("http", {"lambda_timeout": 40}, None, 40),
        ("http", {"lambda_timeout": 0.5}, None, 0.5),
        ("http", {"lambda_timeout": True}, None, 30),
        ("http", {"lambda_timeout": "40"}, None, 30),
        ("http", {"lambda_timeout": 40}, 0.5, 0.5),
    ],
)
def test_the_time_limit_of_a_step(kind: TriggerType, settings: dict[str, Any], own: float | None, limit: float) -> None:
    """The limit is the step's, else the workflow's, else that of the first trigger's type."""
    workflow = Workflow("W", triggers=(Trigger(kind), Trigger("email")), settings=settings)

    assert workflow.timeout_s(Step("a", timeout_s=own)) == limit


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("1st", "'step_1st'"),
        ("my step!", "'my_step'"),
        ("é", "'my_step'"),
        ("", "'my_step'"),
        ("a\n", "'a'"),
        ("trigger", "Choose another name."),
    ],
)
def test_an_invalid_step_name(name: str, fix: str) -> None:
    """A name that `steps.NAME` cannot hold is refused, with a name that fits."""
    with pytest.raises(StepNameError) as caught:
        check_step_name(name)

    assert fix in caught.value.fix
    assert caught.value.step == name
    assert [check_step_name(each) for each in ("_", "A1", "triggers")] == ["_", "A1", "triggers"]


@pytest.mark.parametrize(
    ("key", "slug"),
    [("google_sheets-add-row@2.1.2", "google_sheets"), ("@me/slack-send@1", ""), ("slack", "slack")],
)
def test_the_app_of_a_key(key: str, slug: str) -> None:
    """The slug is the part before the first dash; the key of a private component does not name an app."""
    assert get_app_slug(key) == slug
