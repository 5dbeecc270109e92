"""Values of options at their limits."""

from __future__ import annotations

import argparse

import pytest

from pdkernel.language.directive.step_line import (
    format_app,
    format_timeout,
    format_value,
    is_action_reference,
    parse_app,
    parse_prop,
    parse_store,
    parse_timeout,
    parse_value,
)
from pdkernel.model import AppBinding, StoreBinding


@pytest.mark.parametrize(("text", "seconds"), [("0.001", 0.001), ("750", 750), ("7.5e2", 750), (" 5 ", 5)])
def test_a_time_limit(text: str, seconds: float) -> None:
    """A limit is more than 0 and at most 750 seconds."""
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "750.001", "nan", "inf", "", "5s"])
def test_a_time_limit_that_is_refused(text: str) -> None:
    """0, more than 750 and what is not a number are refused."""
    with pytest.raises(argparse.ArgumentTypeError, match="from 0 to 750"):
        parse_timeout(text)


@pytest.mark.parametrize(("seconds", "text"), [(5, "5"), (5.0, "5"), (0.5, "0.5"), (100.0, "100")])
def test_a_time_limit_as_text(seconds: float, text: str) -> None:
    """A whole number has no decimal point."""
    assert format_timeout(seconds) == text


@pytest.mark.parametrize(
    ("text", "binding"),
    [
        ("slack", AppBinding("slack", "slack", None)),
        ("chat:slack", AppBinding("chat", "slack", None)),
        ("slack=apn_1", AppBinding("slack", "slack", "apn_1")),
        ("$a:slack_v2.x=apn-1", AppBinding("$a", "slack_v2.x", "apn-1")),
    ],
)
def test_an_app(text: str, binding: AppBinding) -> None:
    """An app has an optional prop, which defaults to the slug, and an optional account."""
    assert parse_app(text) == binding
    assert format_app(binding) == text


@pytest.mark.parametrize("text", ["", "slack=", ":slack", "a:b:c", "sl ack", "1:slack", "é", "slack=a b"])
def test_an_app_that_is_refused(text: str) -> None:
    """An empty part, a second colon, and a character that is not ASCII are refused."""
    with pytest.raises(argparse.ArgumentTypeError):
        parse_app(text)


def test_a_store() -> None:
    """A store has a prop and an optional name; a name of blanks is refused."""
    assert parse_store("db") == StoreBinding("db", None)
    assert parse_store("db=my store=1") == StoreBinding("db", "my store=1")
    for text in ("", "=ds_1", "db=", "db= ", "1a"):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_store(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ('"5"', "5"),
        ("true", True),
        ("True", "True"),
        ("null", None),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("1e999", "1e999"),
        ("1e5", 1e5),
        ("[1", "[1"),
        ("[" * 100_000, "[" * 100_000),
        ("", ""),
    ],
)
def test_a_value(text: str, value: object) -> None:
    """A text that is JSON is its value; any other text, and a number that is not finite, is itself."""
    found = parse_value(text)

    assert (found, type(found)) == (value, type(value))
    assert parse_prop(f"a={text}") == ("a", value)


@pytest.mark.parametrize(
    ("value", "text"),
    [("a\nb", '"a\\nb"'), ("\u2028", '"\\u2028"'), ("é", "é"), ({"é": 1}, '{"é": 1}'), ("true", '"true"')],
)
def test_a_value_as_text(value: object, text: str) -> None:
    """A text that a line cannot hold has escapes; a text that would read as JSON is a JSON string."""
    assert format_value(value) == text  # type: ignore[arg-type]  # a parameter of the test is an object


@pytest.mark.parametrize(
    ("text", "is_reference"),
    [
        ("slack-send@0.0.20", True),
        ("slack@0.0.20", True),
        ("slack-send", True),
        ("slack", False),
        ("@acme/send", True),
        ("@acme/send@1.0.0", True),
        ("acme/send", False),
        ("slack-send@1.0", False),
        ("slack-send@1.0.0-rc.1", True),
        ("slack-send@", False),
    ],
)
def test_a_reference(text: str, is_reference: bool) -> None:
    """The version may be missing in a key with a workspace or a hyphen; a version has three numbers."""
    assert is_action_reference(text) == is_reference
