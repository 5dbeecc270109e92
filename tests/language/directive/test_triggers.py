"""The setting `for_each` of a schedule: the external users for whom each tick runs the workflow."""

from __future__ import annotations

import pytest

from pdkernel.errors import DirectiveError
from pdkernel.language.directive import build_trigger_mapping, dump_yaml, parse_trigger, parse_yaml
from pdkernel.model import ForEach, Trigger


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
