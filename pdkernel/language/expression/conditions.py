"""
The conditions of branches: what to evaluate, what the results decide, and why a condition cannot be evaluated.

A condition is JavaScript without braces, rules of the rule builder, or the value of a case. To run a block, evaluate the `{{ }}`
of `get_switch_template` once, and of `get_condition_template` for one branch after the other, and give the results to
`judge_branch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tree_sitter import Node

from pdkernel.errors import ExpressionError
from pdkernel.language.expression import javascript
from pdkernel.language.expression.rules import RuleError, check_rules, describe_rules, evaluate_rules, is_rules
from pdkernel.language.expression.substitution import UNDEFINED, evaluate_plain_paths, format_result, is_plain_path
from pdkernel.language.expression.template import (
    CLOSING_BRACES,
    OPENING_BRACES,
    ValuePath,
    iter_templates,
    parse_template,
)
from pdkernel.model import JSON, Block, Branch

EXPRESSION_KEY = "expression"
"""The key of a switch block's expression beside its cases."""


def wrap_expression(source: str) -> str:
    """
    Return the template `{{source}}`, whose result keeps its type, for JavaScript that has no braces.

    Raises:
        ExpressionError: *source* is not exactly one synchronous expression.
    """
    end = "\n" if "//" in source else ""  # ends a comment
    template = parse_template(f"{OPENING_BRACES}{source}{end}{CLOSING_BRACES}")
    if template.sole_expression is None:
        raise ExpressionError(
            f"{' '.join(source.split())} is not exactly one JavaScript expression.", fix=f"Remove {CLOSING_BRACES}."
        )
    return template.text


def get_switch_template(block: Block) -> str:
    """Return the template of a switch block's expression; `ExpressionError` as for `wrap_expression`."""
    return wrap_expression(block.expression or "")


def get_condition_template(block: Block, branch: Branch) -> JSON:
    """
    Return what to evaluate of the condition of *branch*: JSON whose texts contain `{{ }}`, as a prop has; None for always and never.

    Raises:
        ExpressionError: JavaScript is not exactly one synchronous expression.
    """
    if branch.runs != "when":
        return None
    if block.type != "switch" and isinstance(branch.condition, str):
        return wrap_expression(branch.condition)
    return branch.condition


def has_rules(block: Block, condition: JSON) -> bool:
    """Return whether *condition* of a branch of *block* is rules; one rule needs no group, except in a case, which may be any object."""
    return isinstance(condition, Mapping) and (block.type != "switch" or is_rules(condition))


def judge_branch(block: Block, branch: Branch, evaluated: Any = UNDEFINED, value: Any = UNDEFINED) -> dict[str, Any]:
    """
    Return whether *branch* applies, with the evaluated operands, as JSON for the record.

    Args:
        block: The block of *branch*.
        branch: The branch to judge; for an if or switch block, the first that applies runs.
        evaluated: The result of `get_condition_template`, or `UNDEFINED`.
        value: For a switch block, the result of `get_switch_template`.

    Returns:
        `{"branch": NAME, "holds": BOOLEAN}` with `result` (of JavaScript), `rules` (as `evaluate_rules` returns them), or `value`
        and `case` (of a switch block). An operand that is `undefined` has no key.
    """
    found: dict[str, Any] = {"branch": branch.name}
    if branch.runs != "when":
        return {**found, "holds": branch.runs == "always"}
    if has_rules(block, branch.condition):
        rules = evaluate_rules(evaluated, value=value)
        return {**found, "holds": rules["holds"], "rules": rules}
    if block.type != "switch":
        return {**found, "holds": is_truthy(evaluated), **_with("result", evaluated)}
    return {**found, "holds": is_case(value, evaluated), **_with("value", value), **_with("case", evaluated)}


def _with(key: str, value: Any) -> dict[str, Any]:
    return {} if value is UNDEFINED else {key: value}


def is_truthy(result: Any) -> bool:
    """Return whether JavaScript takes *result*, JSON or `UNDEFINED`, for true: empty lists and objects are."""
    return isinstance(result, list | dict) or bool(result)


def is_case(value: Any, case: Any) -> bool:
    """
    Return whether the *value* of a switch block is that of *case*: the same JSON, or the same text of a number, boolean or text.

    # parity[switch-cases]: whether the platform compares values with their types is not documented; a query has texts only.
    """
    if any(each is None or each is UNDEFINED or isinstance(each, list | dict) for each in (value, case)):
        return value is not UNDEFINED and case is not UNDEFINED and _canonical(value) == _canonical(case)
    return format_result(value) == format_result(case)


def _canonical(value: Any) -> str:
    return json.dumps(_without_fractions(value), sort_keys=True)


def _without_fractions(value: Any) -> Any:
    """Return *value* with whole numbers as integers: JavaScript does not distinguish 1 and 1.0."""
    if isinstance(value, list):
        return [_without_fractions(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _without_fractions(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_operands(source: str, steps: Mapping[str, Any]) -> dict[str, JSON]:
    """
    Return the values that JavaScript reads by plain paths into *steps*, by path: `{"steps.check.$return_value.amount": 1200}`.

    Paths whose value is `undefined`, cannot be read, or needs Node.js are left out, and so is `process.env`.
    """
    found: dict[str, JSON] = {}
    for path in _iter_paths(source):
        evaluated = evaluate_plain_paths([path], steps, {})
        if evaluated and "value" in evaluated[0]:
            found[path] = evaluated[0]["value"]
    return found


def _iter_paths(source: str) -> Iterator[str]:
    """Yield the longest plain paths in *source* that start with `steps` or `event`, in order."""
    root = javascript.parse_expression(source)
    waiting: list[Node] = [] if root is None else [root]
    while waiting:
        node = waiting.pop()
        text = javascript.get_source(node)
        if node.type in {"member_expression", "subscript_expression"} and is_plain_path(text):
            if text.startswith(("steps", "event")):
                yield text
            continue
        function = node.child_by_field_name("function") if node.type == "call_expression" else None
        if function is not None and function.type == "member_expression":  # of `text.includes(x)`, the text is read
            waiting += filter(None, (node.child_by_field_name("arguments"), function.child_by_field_name("object")))
        elif node.type not in javascript.FUNCTION_NODE_TYPES:
            waiting.extend(reversed(node.named_children))


def describe_condition(block: Block, branch: Branch) -> str:
    """Return when *branch* runs, on one line: its JavaScript, its rules, `= "free"` of a case, or `always`, `never`, `otherwise`."""
    if branch.runs == "always" and block.type != "parallel":
        return "otherwise"
    if branch.runs != "when":
        return branch.runs
    if has_rules(block, branch.condition):
        assert isinstance(branch.condition, Mapping)
        try:
            check_rules(branch.condition)
        except RuleError as fault:
            return str(fault)
        return describe_rules(branch.condition, is_evaluated=False)
    if block.type != "switch" and isinstance(branch.condition, str):
        return " ".join(branch.condition.split())
    return f"= {json.dumps(branch.condition, ensure_ascii=False)}"


def iter_condition_sources(block: Block) -> Iterator[tuple[ValuePath, str]]:
    """
    Yield the JavaScript of *block*, each with its path: the expression of a switch block, and what its conditions evaluate.

    Raises:
        ExpressionError: A text is not a valid template, or not exactly one expression; the error has its path.
    """
    for key, condition in _iter_conditions(block):
        yield from _iter_sources(block, key, condition)


def find_condition_errors(block: Block) -> Iterator[ExpressionError]:
    """Yield why conditions of *block* cannot be evaluated, at most one error a branch, each with its path."""
    for key, condition in _iter_conditions(block):
        try:
            if has_rules(block, condition):
                check_rules(condition)
                if block.type == "switch" and _has_first_operand(condition):
                    raise RuleError("has a rule with `a`, but a rule of a case compares the value of the switch block")
            for _ in _iter_sources(block, key, condition):
                pass
        except RuleError as fault:
            yield ExpressionError(f"{key} {fault}.", fix="Change the rule.", path=(key,))
        except ExpressionError as error:
            yield error


def _iter_conditions(block: Block) -> Iterator[tuple[str, JSON]]:
    if block.type == "switch":
        yield EXPRESSION_KEY, block.expression
    yield from ((branch.name, branch.condition) for branch in block.branches if branch.runs == "when")


def _iter_sources(block: Block, key: str, condition: JSON) -> Iterator[tuple[ValuePath, str]]:
    if isinstance(condition, str) and (block.type != "switch" or key == EXPRESSION_KEY):
        try:
            wrap_expression(condition)
        except ExpressionError as error:
            raise ExpressionError(f"{key}: {error.message}", fix=error.fix, path=(key,)) from None
        yield (key,), condition
        return
    for path, template in iter_templates(condition, (key,)):
        yield from ((path, expression.source) for expression in template.expressions)


def _has_first_operand(rules: Any) -> bool:
    return any(map(_has_first_operand, rules["r"])) if "r" in rules else "a" in rules
