"""The reader of jq filters."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.contract import contract_of
from pdkernel.contract.jq_syntax import JqError, parse
from tests.builders import a_workflow, bash_step


def fields(filter_: str) -> dict[str, bool]:
    """The fields that a filter reads, with whether each is required."""
    contract = contract_of(a_workflow(bash_step("b", f"jq '{filter_}' $PIPEDREAM_STEPS")))
    return {field.path.removeprefix("body."): field.required for field in contract.fields}


@pytest.mark.parametrize(
    ("filter_", "found"),
    [
        (".trigger.event.body.a.b", {"a.b": True}),
        ('.trigger.event["body"]."a b"', {'body["a b"]': True}),
        (".trigger.event.body | .a, .b", {"a": True, "b": True}),
        (".trigger.event.body | (.a // .b // 1)", {"a": False, "b": False}),
        (".trigger.event.body.list[0].x", {"list[].x": True}),
        (".trigger.event.body.list[-1].x", {"list[].x": True}),
        (".trigger.event.body.list[1:3] | .[] | .x", {"list[].x": True}),
        ('.trigger.event.body | "\\(.a) and \\(.b | tostring)"', {"a": True, "b": True}),
        (".trigger.event.body | {a, b: .c, (.d): 1}", {"a": True, "c": True, "d": True}),
        (".trigger.event.body as {a: $x, $b} | $x + $b", {"a": True, "b": True}),
        (".trigger.event.body | reduce .list[] as $i (0; . + $i.n)", {"list[].n": True}),
        (".trigger.event.body | def f(g): .a | g; f(.b)", {"a.b": True}),
        (".trigger.event.body | try .a catch .b", {"a": False}),
        (
            ".trigger.event.body | if .a then .b elif .c then .d else .e end",
            {"a": False, "b": False, "c": False, "d": False, "e": False},
        ),
        (".trigger.event.body | .a == null or (.b | not)", {"a": False, "b": False}),
        ('.trigger.event.body.list | map(select(.kind == "x")) | length', {"list[].kind": True}),
        (".trigger.event.body | .a.b? // empty", {"a.b": False}),
        (".trigger.event.body.list | group_by(.k) | map({k: .[0].k, n: length})", {"list[].k": True}),
        (".trigger.event.body | with_entries(.value |= tostring)", {}),
        (".trigger.context.id", {}),
        ("..", {}),
    ],
)
def test_filters(filter_: str, found: dict[str, bool]) -> None:
    """What each filter reads of the event."""
    assert fields(filter_) == found


@pytest.mark.parametrize("text", ["", ".a |", "(.a", '"\\(.a"', ".[", "{a b}", "if .a then .b", ".a as x | .", "%"])
def test_what_is_no_filter_is_refused(text: str) -> None:
    """A text that jq would refuse is no filter."""
    with pytest.raises(JqError):
        parse(text)


def test_a_filter_that_cannot_be_read_is_unknown() -> None:
    """The step that has it may read anything of its input."""
    contract = contract_of(a_workflow(bash_step("b", "jq '.trigger.event.body |' $PIPEDREAM_STEPS")))
    assert [use.path for use in contract.unknown] == ["event"]


@given(st.text(alphabet='.[]{}()|,:;"\\ab1$@?/=<>+-*%# \n', max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a filter or the error comes of a text."""
    with suppress(JqError):
        assert parse(text).kind
