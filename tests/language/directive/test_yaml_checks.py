"""Checks of a YAML document: values in messages, blank text, suggestions."""

from __future__ import annotations

import pytest

from pdkernel.errors import DirectiveError
from pdkernel.language.directive.located_yaml import parse_yaml
from pdkernel.language.directive.yaml_checks import YamlChecker, check_keys
from pdkernel.model import JSON


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
