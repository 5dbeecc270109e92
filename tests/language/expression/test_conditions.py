"""Conditions of branches: what is evaluated, what the results decide, and which conditions are refused."""

from __future__ import annotations

from typing import Any

import pytest

from pdkernel.errors import ExpressionError
from pdkernel.language.expression import (
    UNDEFINED,
    describe_condition,
    find_condition_errors,
    get_condition_template,
    get_switch_template,
    is_truthy,
    iter_condition_sources,
    judge_branch,
    parse_template,
    read_operands,
    wrap_expression,
)
from pdkernel.model import JSON, Block, Branch

LARGE = {"t": "and", "r": [{"a": "{{steps.check.amount}}", "op": "num>=", "b": 1000}]}
TRIAGE = Block(
    "triage", "if", (Branch("urgent", "steps.check.ok"), Branch("large", LARGE), Branch("else", runs="always"))
)
ROUTE = Block("route", "switch", (Branch("free", "free"), Branch("default", runs="always")), "steps.user.plan")


@pytest.mark.parametrize(
    "source", ["steps.a.b > 1", "!steps.a.ok", '"}}" + steps.a', "({a: {b: 1}}).a.b", "1 // one", "\n a ? b : c\n"]
)
def test_javascript_in_braces(source: str) -> None:
    """The template of an expression is that one expression, so that its result keeps its type."""
    found = parse_template(wrap_expression(source)).sole_expression

    assert found is not None
    assert found.source.removesuffix("\n") == source.removesuffix("\n")


@pytest.mark.parametrize("source", ["", "a; b", "if (a) b", "a }} {{ b", "await x", "1 // }} x"])
def test_other_text_than_one_expression(source: str) -> None:
    """A text that is not exactly one synchronous expression is refused."""
    with pytest.raises(ExpressionError):
        wrap_expression(source)


def test_what_is_evaluated() -> None:
    """JavaScript is evaluated in braces, rules and cases as they are, and nothing for a branch without a condition."""
    templates = [get_condition_template(TRIAGE, branch) for branch in TRIAGE.branches]

    assert templates == ["{{steps.check.ok}}", LARGE, None]
    assert get_switch_template(ROUTE) == "{{steps.user.plan}}"
    assert get_condition_template(ROUTE, ROUTE.branch("free")) == "free"


@pytest.mark.parametrize(
    ("result", "truthy"),
    [
        (True, True),
        ([], True),
        ({}, True),
        ("0", True),
        (-1, True),
        (0, False),
        ("", False),
        (None, False),
        (UNDEFINED, False),
    ],
)
def test_truth_is_that_of_javascript(result: Any, truthy: bool) -> None:
    """Empty lists and objects are true, as in JavaScript; zero, empty text, null and undefined are not."""
    assert is_truthy(result) is truthy
    assert judge_branch(TRIAGE, TRIAGE.branch("urgent"), result)["holds"] is truthy


@pytest.mark.parametrize(
    ("value", "case", "same"),
    [
        ("free", "free", True),
        ("Free", "free", False),
        ("200", 200, True),
        (200.0, 200, True),
        ("true", True, True),
        (1, True, False),
        (None, None, True),
        (None, "", False),
        (UNDEFINED, None, False),
        (UNDEFINED, "", False),
        ([1, {"a": 2.0}], [1.0, {"a": 2}], True),
        (["a"], "a", False),
        ([True], [1], False),
    ],
)
def test_the_case_of_a_value(value: Any, case: JSON, same: bool) -> None:
    """A case is that of a value if both are the same JSON, or the same text of a number, a boolean or a text."""
    judged = judge_branch(ROUTE, Branch("free", case), case, value)

    assert judged == {"branch": "free", "holds": same, **({} if value is UNDEFINED else {"value": value}), "case": case}


def test_a_judged_branch_has_its_operands() -> None:
    """The record of a decision has the result of JavaScript, or each rule with its operands; nothing for always and never."""
    evaluated = {"t": "and", "r": [{"a": 900, "op": "num>=", "b": 1000}]}

    assert judge_branch(TRIAGE, TRIAGE.branch("urgent"), "yes") == {"branch": "urgent", "holds": True, "result": "yes"}
    assert judge_branch(TRIAGE, TRIAGE.branch("urgent")) == {"branch": "urgent", "holds": False}
    assert judge_branch(TRIAGE, TRIAGE.branch("large"), evaluated) == {
        "branch": "large",
        "holds": False,
        "rules": {"t": "and", "r": [{"a": 900, "op": "num>=", "b": 1000, "holds": False}], "holds": False},
    }
    assert judge_branch(TRIAGE, TRIAGE.branch("else")) == {"branch": "else", "holds": True}
    assert judge_branch(TRIAGE, Branch("sms", runs="never")) == {"branch": "sms", "holds": False}


def test_rules_of_a_case_compare_the_value_of_the_switch() -> None:
    """A case may be rules, whose first operand is the value of the switch block."""
    rules = {"t": "or", "r": [{"op": "str^", "b": "te"}, {"op": "str=", "b": "pro"}]}

    judged = judge_branch(ROUTE, Branch("paid", rules), rules, "team")

    assert judged["holds"]
    assert judged["rules"]["r"][0] == {"a": "team", "op": "str^", "b": "te", "holds": True}


def test_operands_of_javascript() -> None:
    """The values of the longest paths into steps are found, also of what a method is called; what is undefined, or in a function, is left out."""
    steps = {"check": {"$return_value": {"amount": 1200, "tags": ["a"]}}, "trigger": {"event": {"x": None}}}
    source = (
        "steps.check.$return_value.amount >= 1000 && !steps.missing?.y && steps.check['$return_value'].tags[0] && event.x "
        "&& steps.gone.z && process.env.SECRET && steps.check.$return_value.tags.map(tag => steps.check)"
    )

    assert read_operands(source, steps) == {
        "steps.check.$return_value.amount": 1200,
        "steps.check['$return_value'].tags[0]": "a",
        "event.x": None,
        "steps.check.$return_value.tags": ["a"],
    }
    assert read_operands("steps.check.$return_value.tags.includes(event.x)", steps) == {
        "steps.check.$return_value.tags": ["a"],
        "event.x": None,
    }
    assert read_operands("a b", steps) == {}


@pytest.mark.parametrize(
    ("block", "branch", "text"),
    [
        (TRIAGE, "urgent", "steps.check.ok"),
        (TRIAGE, "large", "steps.check.amount is at least 1000"),
        (TRIAGE, "else", "otherwise"),
        (ROUTE, "free", '= "free"'),
        (ROUTE, "default", "otherwise"),
        (
            Block(
                "s",
                "switch",
                (Branch("a", {"t": "or", "r": [{"op": "str^", "b": "{{x}} {{y}}"}, {"op": "!null"}]}),),
                "x",
            ),
            "a",
            'starts with "{{x}} {{y}}" or is not null',
        ),
        (Block("p", "parallel", (Branch("a", runs="always"),)), "a", "always"),
        (Block("p", "parallel", (Branch("a", runs="never"),)), "a", "never"),
        (Block("p", "parallel", (Branch("a", {"t": "and", "r": []}),)), "a", "has no rules"),
        (Block("p", "parallel", (Branch("a", "b\n  && c"),)), "a", "b && c"),
    ],
)
def test_the_condition_in_words(block: Block, branch: str, text: str) -> None:
    """A condition is one line: JavaScript, rules with their operators in words, a case, or when the branch runs without one."""
    assert describe_condition(block, block.branch(branch)) == text


def test_the_javascript_of_a_block() -> None:
    """The expression, conditions, and the braces in rules and cases are found with their paths."""
    cases = Block("s", "switch", (Branch("a", ["{{steps.b.c}}", "{{1}}{{2}}"]), Branch("b", "steps.no")), "steps.x")

    assert list(iter_condition_sources(TRIAGE)) == [
        (("urgent",), "steps.check.ok"),
        (("large", "r", 0, "a"), "steps.check.amount"),
    ]
    assert [(path, source) for path, source in iter_condition_sources(cases)] == [
        (("expression",), "steps.x"),
        (("a", 0), "steps.b.c"),
        (("a", 1), "1"),
        (("a", 1), "2"),
    ]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (Block("b", "if", (Branch("a", "x y"),)), "a: {{x y}} does not contain exactly one"),
        (Block("b", "switch", (), "x y"), "expression: {{x y}}"),
        (
            Block("b", "if", (Branch("a", {"t": "and", "r": [{"a": 1, "op": "~"}]}),)),
            "a has a rule with the operator '~'",
        ),
        (Block("b", "if", (Branch("a", {"t": "and", "r": [{"a": "{{x y}}", "op": "true"}]}),)), "a.r.0.a: {{x y}}"),
        (Block("b", "if", (Branch("a", {"x": 1}),)), "a has a rule with the operator ''"),
        (
            Block("b", "switch", (Branch("a", {"t": "and", "r": [{"a": 1, "op": "true"}]}),), "x"),
            "a has a rule with `a`",
        ),
        (Block("b", "switch", (Branch("a", "{{"),), "x"), "a: {{ is not closed"),
    ],
)
def test_conditions_that_cannot_be_evaluated(block: Block, message: str) -> None:
    """A condition that is not one expression, or has an unknown rule, is reported with its branch."""
    errors = list(find_condition_errors(block))

    assert [error.message[: len(message)] for error in errors] == [message]
    assert errors[0].path[0] in ("a", "expression")


def test_all_branches_with_errors_are_reported() -> None:
    """One error a branch is found, and none in a block that can be evaluated."""
    block = Block("b", "parallel", (Branch("a", "x y"), Branch("b", "1"), Branch("c", "}}")))

    assert [error.path for error in find_condition_errors(block)] == [("a",), ("c",)]
    assert not [*find_condition_errors(TRIAGE), *find_condition_errors(ROUTE)]
