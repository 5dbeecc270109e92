"""The setting `for_each` of a schedule: the external users for whom each tick runs the workflow."""

from __future__ import annotations

import pytest

from pdkernel.errors import DirectiveError
from pdkernel.language.directive import build_trigger_mapping, dump_yaml, parse_trigger
from pdkernel.language.directive.located_yaml import parse_yaml
from pdkernel.language.directive.workflow_header import YamlChecker, check_keys
from pdkernel.model import JSON, ForEach, Trigger


def parse(for_each: str, kind: str = "schedule, interval_seconds: 60") -> Trigger:
    """The trigger with that setting."""
    text = f"trigger: {{type: {kind}, for_each: {for_each}}}"
    return parse_trigger(
        parse_yaml(text, allow_expressions=False, error_class=DirectiveError, document_name="%%pdworkflow"),
        ("trigger",),
    )


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("external_user", ForEach()),
        ("{external_user: all}", ForEach()),
        ("{external_user: [ada, grace], at_once: 3}", ForEach(("ada", "grace"), at_once=3)),
        (
            "{external_user: all, having: [slack, github], except: [eve], environment: production}",
            ForEach(None, ("slack", "github"), ("eve",), "production"),
        ),
    ],
)
def test_forms_of_the_setting(setting: str, expected: ForEach) -> None:
    """The word alone selects all users; a mapping names or filters them, and the trigger is written as it was read."""
    trigger = parse(setting)

    assert trigger.for_each == expected
    written = dump_yaml(build_trigger_mapping(trigger))
    assert (
        parse_trigger(
            parse_yaml(written, allow_expressions=False, error_class=DirectiveError, document_name="%%pdworkflow"), ()
        )
        == trigger
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("user", "expected external_user, or a mapping"),
        ("[ada]", "expected external_user, or a mapping"),
        ("{at_once: 3}", "expected all, or a list of ids"),
        ("{external_user: ada}", "expected all, or a list of ids"),
        ("{external_user: []}", "expected all, or a list of ids"),
        ("{external_user: [1]}", "expected all, or a list of ids"),
        ("{external_user: all, having: slack}", "expected a list of apps"),
        ("{external_user: all, except: eve}", "expected a list of ids"),
        ("{external_user: all, environment: staging}", "one of development, production"),
        ("{external_user: all, at_once: 0}", "a whole number from 1 to 1000"),
        ("{external_user: all, at_once: true}", "a whole number from 1 to 1000"),
        ("{external_user: all, atonce: 3}", "at_once"),
    ],
)
def test_an_invalid_setting_is_refused(setting: str, message: str) -> None:
    """The error names the key and what it may be."""
    with pytest.raises(DirectiveError) as caught:
        parse(setting)

    assert message in str(caught.value)


def test_only_schedules_have_the_setting() -> None:
    """Another trigger has the user of its request or its sender."""
    with pytest.raises(DirectiveError, match="for_each"):
        parse("external_user", "email")


def checker(text: str) -> YamlChecker:
    """A checker of the document *text*."""
    return YamlChecker(parse_yaml(text, allow_expressions=False), DirectiveError, "doc")


@pytest.mark.parametrize(("length", "shown"), [(58, "x" * 58 + '"'), (59, "x" * 56 + "...")])
def test_a_long_value_in_a_message(length: int, shown: str) -> None:
    """A value of 60 characters is shown, a longer one is cut to 60."""
    found = YamlChecker.format_value("x" * length)

    assert found == '"' + shown
    assert len(found) == 60
    assert YamlChecker.format_value("é") == '"é"'


def test_a_value_at_a_path() -> None:
    """A path leads through mappings and lists; a missing key, an index after the end and a path below text have no value."""
    check = checker("a:\n- b: 1\n- text\n")

    assert check.get_value(("a", 0, "b")) == 1
    for path in (("a", 2), ("a", "0"), ("a", 1, "b"), ("x",)):
        assert check.get_value(path) is None


@pytest.mark.parametrize("text", ["a: ''", "a: ' '", "a: 5", "b: 1"])
def test_text_is_not_blank(text: str) -> None:
    """A blank text, a number and a missing value are refused."""
    with pytest.raises(DirectiveError, match=r"doc has a: .*expected text"):
        checker(text).require_text(("a",))


@pytest.mark.parametrize(("value", "is_mapping"), [("{}", True), ("[]", False), ("x", False)])
def test_a_mapping_and_a_list(value: str, is_mapping: bool) -> None:
    """An empty mapping is a mapping, an empty list is a list, and neither is the other."""
    check = checker(f"a: {value}")
    if is_mapping:
        assert check.require_mapping(("a",)) == {}
    else:
        with pytest.raises(DirectiveError, match="expected a mapping of keys"):
            check.require_mapping(("a",))
    if value == "[]":
        assert check.require_list(("a",)) == []
    else:
        with pytest.raises(DirectiveError, match="expected a list"):
            check.require_list(("a",))


def test_an_unknown_key_names_its_place() -> None:
    """The error of an unknown key has its line, the path above it, and the nearest known key."""
    check = checker("a:\n  b: 1\n  nmae: 2\n")
    with pytest.raises(DirectiveError, match=r"unknown key 'nmae' under a \(line 3\)") as caught:
        check_keys(check, ("a",), ("b", "name"))

    assert (caught.value.line, caught.value.fix) == (3, "Did you mean name?")


def test_a_document_of_another_kind() -> None:
    """The message of a wrong document has no path."""
    value: JSON = [1]
    with pytest.raises(DirectiveError, match=r"^doc has \[1\]; expected a mapping of keys"):
        checker(f"{value}").require_mapping(())
