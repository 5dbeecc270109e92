"""Rules of the platform's rule builder: every operator, groups, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pdkernel.language.expression import (
    RULE_OPERATORS,
    RuleError,
    RuleFilter,
    check_rules,
    describe_rules,
    evaluate_rules,
)

MISSING = object()

HOLDS = [
    ("exists", None, MISSING),
    ("!exists", MISSING, MISSING),
    ("str=", 5, "5"),
    ("str=", MISSING, ""),
    ("str!=", "a", "b"),
    ("str^", "hello", "he"),
    ("str/", "hello", "ell"),
    ("str/", ["Proof"], "Proof"),
    ("str$", "hello", "lo"),
    ("blank", " ", MISSING),
    ("blank", MISSING, MISSING),
    ("!blank", 0, MISSING),
    ("num=", "1.0", 1),
    ("num!=", 1, "2"),
    ("num>", "10", "9"),
    ("num>=", 1, "1"),
    ("num<", "9", 10),
    ("num<=", "1e1", 10),
    ("bool=", True, "true"),
    ("bool=", "False", False),
    ("true", "true", MISSING),
    ("false", False, MISSING),
    ("null", None, MISSING),
    ("!null", MISSING, MISSING),
    ("str", "5", MISSING),
    ("!str", 5, MISSING),
    ("num", 5.5, MISSING),
    ("!num", True, MISSING),
    ("bool", False, MISSING),
    ("!bool", "true", MISSING),
]
FAILS = [
    ("exists", MISSING, MISSING),
    ("!exists", None, MISSING),
    ("str=", "a", "A"),
    ("str/", "hello", "x"),
    ("num>", "ten", "9"),
    ("num=", "", 0),
    ("num<", None, 1),
    ("num=", "1_0", 10),
    ("bool=", "yes", True),
    ("true", 1, MISSING),
    ("false", None, MISSING),
    ("null", MISSING, MISSING),
    ("num", "5", MISSING),
]


def rule(op: Any, first: Any = MISSING, second: Any = MISSING) -> dict[str, Any]:
    """One rule; an operand that is missing has no key."""
    operands = {"a": first, "b": second}
    return {"op": op, **{key: value for key, value in operands.items() if value is not MISSING}}


@pytest.mark.parametrize(("op", "first", "second"), HOLDS)
def test_rule_holds(op: str, first: Any, second: Any) -> None:
    """Each operator holds for values that it describes; text that encodes a number or boolean counts as that value."""
    rules = {"t": "and", "r": [rule(op, first, second)]}

    check_rules(rules)

    assert evaluate_rules(rules)["holds"]


@pytest.mark.parametrize(("op", "first", "second"), FAILS)
def test_rule_does_not_hold(op: str, first: Any, second: Any) -> None:
    """An operator does not hold for other values, and no comparison of numbers holds for text that is not a number."""
    assert not evaluate_rules({"t": "and", "r": [rule(op, first, second)]})["holds"]


def test_groups_are_combined() -> None:
    """A group holds if all of its rules hold (and), or one of them (or); groups may be nested."""
    yes, no = rule("true", True), rule("true", False)
    either = {"t": "or", "r": [no, yes]}

    assert evaluate_rules({"t": "and", "r": [yes, either]})["holds"]
    assert not evaluate_rules({"t": "and", "r": [no, either]})["holds"]
    assert not evaluate_rules({"t": "or", "r": [no, {"t": "and", "r": [yes, no]}]})["holds"]


def test_the_evaluated_operands() -> None:
    """Each rule and group says whether it holds, beside its operands; an operand that is undefined, or not used, has no key."""
    rules = {"t": "or", "r": [rule("num>", 5, "3"), {"t": "and", "r": [rule("exists"), rule("true", False, 1)]}]}

    assert evaluate_rules(rules) == {
        "t": "or",
        "r": [
            {"a": 5, "op": "num>", "b": "3", "holds": True},
            {
                "t": "and",
                "r": [{"op": "exists", "holds": False}, {"a": False, "op": "true", "holds": False}],
                "holds": False,
            },
        ],
        "holds": True,
    }
    assert evaluate_rules({"t": "and", "r": [rule("str=", MISSING, "x")]}, value="x")["r"][0]["a"] == "x"


def test_every_operator_is_tried() -> None:
    """Each operator has values for which it holds, and others for which its opposite or the table says that it does not."""
    assert {op for op, *_ in HOLDS} == RULE_OPERATORS.keys()


def test_the_documentation_has_every_operator() -> None:
    """The table of operators in the documentation has each code with its words."""
    page = Path(__file__).parents[3] / "docs" / "how-to" / "branches.md"
    rows = re.findall(r"^\| (`.*`) \| (.*) \|$", page.read_text().partition("## Operators of rules")[2], re.MULTILINE)
    described = {code: meaning for codes, meaning in rows for code in re.findall("`([^`]+)`", codes)}

    assert described.keys() == RULE_OPERATORS.keys()
    assert [code for code, operator in RULE_OPERATORS.items() if operator.words not in described[code]] == []


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (None, "has no rules"),
        ({"t": "and", "r": []}, "has no rules"),
        ({"t": "xor", "r": [rule("true", 1)]}, "'xor'"),
        ({"t": "and", "r": [rule("str~", "a", "b")]}, "operator 'str~', which pdkernel does not know"),
        ({"t": "and", "r": [{"t": "or", "r": [rule("date>", "a", "b")]}]}, "'date>'"),
        ({"t": "and", "r": [{"a": "x"}]}, "operator ''"),
        ({"t": "and", "r": [rule(["str="], "a", "b")]}, "does not know"),
        ({"t": "and", "r": ["x"]}, "has no rules"),
    ],
)
def test_rules_that_cannot_be_evaluated_are_refused(rules: Any, message: str) -> None:
    """Rules without a known operator are refused, and the message names the operator."""
    with pytest.raises(RuleError, match=message.replace("(", r"\(")):
        check_rules(rules)


def test_deeply_nested_groups_are_refused() -> None:
    """A group in more than fifty levels is an error, and not a crash."""
    rules: dict[str, Any] = {"t": "and", "r": [rule("true", True)]}
    for _ in range(5000):
        rules = {"t": "and", "r": [rules]}

    with pytest.raises(RuleError, match="50 levels"):
        check_rules(rules)


@pytest.mark.parametrize("op", [False, True, None])
def test_operators_that_yaml_reads_as_values(op: Any) -> None:
    """`op: false`, `true` and `null` without quotes are the operators of these names."""
    check_rules({"t": "and", "r": [rule(op, op)]})

    assert evaluate_rules({"t": "and", "r": [rule(op, op)]})["holds"]


@pytest.mark.parametrize(
    ("continues", "first", "ends"),
    [("true", "Proof", False), ("true", "x", True), (False, "Proof", True), ("false", "x", False), (None, "x", True)],
)
def test_filter_ends_or_continues(continues: Any, first: str, ends: bool) -> None:
    """With `continue: true`, its default, the workflow ends if the rules do not hold; with false, if they hold."""
    choice = {} if continues is None else {"continue": continues}
    value = {**choice, "rules": {"t": "and", "r": [rule("str/", first, "Proof")]}}

    assert (RuleFilter.parse(value).find_end_reason() is not None) == ends


def test_filter_with_another_choice_is_refused() -> None:
    """A `continue` that is neither true nor false is refused."""
    with pytest.raises(RuleError, match="continue: maybe"):
        RuleFilter.parse({"continue": "maybe", "rules": {"t": "and", "r": [rule("true", True)]}})


def test_description_has_the_operands() -> None:
    """The description of rules has the evaluated operands, shortened, and groups in parentheses."""
    inner = {"t": "or", "r": [rule("num>", 5, "3"), rule("exists")]}
    rules = {"t": "and", "r": [rule("str/", "a" * 100, "@"), inner]}

    assert describe_rules(rules) == (f'"{"a" * 56}... contains "@" and (5 is greater than "3" or undefined exists)')
