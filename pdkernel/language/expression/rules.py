"""
The rules of the platform's rule builder: `{t: and, r: [{a, op, b}]}`, whose operands may contain `{{ }}`.

They are a condition of a branch. The builder's Filter step holds them in its prop `_filter`, and Git has that step without a file.

parity[filter-rules]: the codes `str/`, `str=` and `false` were seen in synced workflows. The documentation names the other
operators, and their codes are derived from these three, so an unknown code is refused by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pdkernel.language.expression.substitution import UNDEFINED, format_result
from pdkernel.model import JSON

RULE_FILTER = "filter-rules@0.0.1"
"""The built-in action that is the builder's Filter step."""
RULE_FILTER_PROP = "_filter"
OBSERVED_OPERATORS = frozenset({"str/", "str=", "false"})
"""The codes of operators that were seen in synced workflows."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z", re.ASCII)
_MAX_OPERAND_CHARS = 60
_MAX_DEPTH = 50


class RuleError(ValueError):
    """A rule that cannot be evaluated. The message is the rest of a sentence that begins with the step's name."""


@dataclass(frozen=True, slots=True)
class RuleOperator:
    """
    A comparison of the rule builder.

    Attributes:
        words: The operator in a sentence, between its operands.
        holds: Takes both operands; a missing one is `UNDEFINED`.
        has_second: Whether the operator has a second operand.
    """

    words: str
    holds: Callable[[Any, Any], bool]
    has_second: bool = True


def _is_boolean(value: Any, wanted: bool) -> bool:
    return value is wanted or (isinstance(value, str) and value.strip().lower() == str(wanted).lower())


def _parse_number(value: Any) -> float:
    """Return *value* as a number, also from text; any other value is NaN, for which no comparison holds."""
    if isinstance(value, bool | int | float):
        return float(value)
    return float(value) if isinstance(value, str) and _NUMBER.match(value := value.strip()) else float("nan")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equals_boolean(first: Any, second: Any) -> bool:
    return any(_is_boolean(first, wanted) and _is_boolean(second, wanted) for wanted in (True, False))


def _is_blank(value: Any) -> bool:
    return not format_result(value).strip()


RULE_OPERATORS: Mapping[str, RuleOperator] = {
    "exists": RuleOperator("exists", lambda a, _: a is not UNDEFINED, has_second=False),
    "!exists": RuleOperator("does not exist", lambda a, _: a is UNDEFINED, has_second=False),
    # parity[filter-values]: text that encodes a number or a boolean compares as that value, as in the filter actions
    "str=": RuleOperator("equals", lambda a, b: format_result(a) == format_result(b)),
    "str!=": RuleOperator("does not equal", lambda a, b: format_result(a) != format_result(b)),
    "str^": RuleOperator("starts with", lambda a, b: format_result(a).startswith(format_result(b))),
    "str/": RuleOperator("contains", lambda a, b: format_result(b) in format_result(a)),
    "str$": RuleOperator("ends with", lambda a, b: format_result(a).endswith(format_result(b))),
    "blank": RuleOperator("is blank", lambda a, _: _is_blank(a), has_second=False),
    "!blank": RuleOperator("is not blank", lambda a, _: not _is_blank(a), has_second=False),
    "num=": RuleOperator("is the number", lambda a, b: _parse_number(a) == _parse_number(b)),
    "num!=": RuleOperator("is not the number", lambda a, b: _parse_number(a) != _parse_number(b)),
    "num>": RuleOperator("is greater than", lambda a, b: _parse_number(a) > _parse_number(b)),
    "num>=": RuleOperator("is at least", lambda a, b: _parse_number(a) >= _parse_number(b)),
    "num<": RuleOperator("is less than", lambda a, b: _parse_number(a) < _parse_number(b)),
    "num<=": RuleOperator("is at most", lambda a, b: _parse_number(a) <= _parse_number(b)),
    "bool=": RuleOperator("is the boolean", _equals_boolean),
    "true": RuleOperator("is true", lambda a, _: _is_boolean(a, True), has_second=False),
    "false": RuleOperator("is false", lambda a, _: _is_boolean(a, False), has_second=False),
    "null": RuleOperator("is null", lambda a, _: a is None, has_second=False),
    "!null": RuleOperator("is not null", lambda a, _: a is not None, has_second=False),
    "str": RuleOperator("is a string", lambda a, _: isinstance(a, str), has_second=False),
    "!str": RuleOperator("is not a string", lambda a, _: not isinstance(a, str), has_second=False),
    "num": RuleOperator("is a number", lambda a, _: _is_number(a), has_second=False),
    "!num": RuleOperator("is not a number", lambda a, _: not _is_number(a), has_second=False),
    "bool": RuleOperator("is a boolean", lambda a, _: isinstance(a, bool), has_second=False),
    "!bool": RuleOperator("is not a boolean", lambda a, _: not isinstance(a, bool), has_second=False),
}
"""The operators by their codes."""


def is_rules(value: JSON) -> bool:
    """Return whether *value* has the form of rules: a group `{t, r}`."""
    return isinstance(value, Mapping) and "t" in value and "r" in value


def check_rules(rules: JSON, *, depth: int = 0) -> None:
    """
    Check that *rules* can be evaluated, whatever the values of their operands.

    Raises:
        RuleError: There is no rule, or an operator is unknown.
    """
    if not isinstance(rules, Mapping):
        raise RuleError("has no rules")
    if "r" in rules or "t" in rules:
        each = rules.get("r")
        if rules.get("t") not in ("and", "or"):
            raise RuleError(f"combines its rules with {rules.get('t')!r}; pdkernel knows 'and' and 'or'")
        if not isinstance(each, list) or not each:
            raise RuleError("has no rules")
        if depth == _MAX_DEPTH:
            raise RuleError(f"has groups of rules in more than {_MAX_DEPTH} levels")
        for rule in each:
            check_rules(rule, depth=depth + 1)
        return
    operator = RULE_OPERATORS.get(_get_code(rules))
    if operator is None:
        raise RuleError(
            f"has a rule with the operator {_get_code(rules)!r}, which pdkernel does not know. "
            f"Operators: {', '.join(RULE_OPERATORS)}"
        )


def evaluate_rules(rules: Mapping[str, Any], *, value: Any = UNDEFINED) -> dict[str, Any]:
    """
    Return *rules*, which `check_rules` accepts, with `holds` in each rule and group, as JSON.

    Args:
        rules: The rules with evaluated operands; a missing operand is `undefined`.
        value: The first operand of rules that have none: the value of a switch block.

    Returns:
        `{"t": "and", "r": [{"a": 5, "op": "num>", "b": 3, "holds": True}], "holds": True}`. An operand that is `undefined` has no
        key. Every rule is evaluated, also one that can no longer change the result.
    """
    if "r" in rules:
        parts = [evaluate_rules(rule, value=value) for rule in rules["r"]]
        combine = all if rules["t"] == "and" else any
        return {"t": rules["t"], "r": parts, "holds": combine(part["holds"] for part in parts)}
    code = _get_code(rules)
    operator = RULE_OPERATORS[code]
    first, second = rules.get("a", value), rules.get("b", UNDEFINED)
    return {
        **({} if first is UNDEFINED else {"a": first}),
        "op": code,
        **({} if second is UNDEFINED or not operator.has_second else {"b": second}),
        "holds": operator.holds(first, second),
    }


def describe_rules(rules: Mapping[str, Any], *, is_evaluated: bool = True) -> str:
    """
    Return *rules*, which `check_rules` accepts, as text with their operands: `"a@b.c" contains "@" and 5 is greater than 3`.

    With *is_evaluated* false, an operand `{{x}}` is `x`, and a missing one is left out.
    """
    if "r" not in rules:
        operator = RULE_OPERATORS[_get_code(rules)]
        first, second = (
            _shorten(rules.get(key, UNDEFINED)) if is_evaluated else _describe_template(rules.get(key, UNDEFINED))
            for key in ("a", "b")
        )
        return " ".join(filter(None, (first, operator.words, second if operator.has_second else "")))
    texts = [
        f"({text})" if len(rule.get("r", ())) > 1 else text
        for rule in rules["r"]
        for text in (describe_rules(rule, is_evaluated=is_evaluated),)
    ]
    return f" {rules['t']} ".join(texts)


def _describe_template(operand: Any) -> str:
    if operand is UNDEFINED:
        return ""
    inner = operand[2:-2] if isinstance(operand, str) and operand[:2] == "{{" and operand[-2:] == "}}" else "{{"
    return _shorten(operand) if "{{" in inner or "}}" in inner else inner.strip()


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """
    The builder's Filter step.

    Attributes:
        continues: Whether the workflow continues, and not ends, if the rules hold.
        rules: The rules.
    """

    continues: bool
    rules: Mapping[str, Any]

    @classmethod
    def parse(cls, value: JSON) -> RuleFilter:
        """
        Parse the prop `_filter`: `{"continue": "true", "rules": {...}}`.

        Raises:
            RuleError: The rules cannot be evaluated, or `continue` is neither true nor false.
        """
        if not isinstance(value, Mapping):
            raise RuleError("has no rules")
        continues = value.get("continue", True)
        if not _is_boolean(continues, True) and not _is_boolean(continues, False):
            raise RuleError(f"has `continue: {continues}`; pdkernel knows true and false")
        rules = value.get("rules")
        check_rules(rules)
        assert isinstance(rules, Mapping)
        return cls(_is_boolean(continues, True), rules)

    @property
    def operator_codes(self) -> tuple[str, ...]:
        """The codes of the operators of the rules, each once."""
        return tuple(dict.fromkeys(_iter_codes(self.rules)))

    def find_end_reason(self) -> str | None:
        """Return why the workflow ends at this step, whose operands are evaluated; None if it continues."""
        holds = evaluate_rules(self.rules)["holds"]
        if holds == self.continues:
            return None
        return f"{'this rule holds' if holds else 'this rule does not hold'}: {describe_rules(self.rules)}"


def _iter_codes(rules: Mapping[str, Any]) -> Iterator[str]:
    if "r" not in rules:
        yield _get_code(rules)
    for rule in rules.get("r", ()):
        yield from _iter_codes(rule)


def _get_code(rule: Mapping[str, Any]) -> str:
    """Return the operator of *rule*; YAML reads the codes `true`, `false` and `null` without quotes as values."""
    code = rule.get("op", "")
    return code if isinstance(code, str) else json.dumps(code)


def _shorten(value: Any) -> str:
    text = "undefined" if value is UNDEFINED else "null" if value is None else format_result(value)
    text = f'"{text}"' if isinstance(value, str) else text
    return text if len(text) <= _MAX_OPERAND_CHARS else f"{text[: _MAX_OPERAND_CHARS - 3]}..."
