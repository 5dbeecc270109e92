"""
The rules of the platform's rule builder: `{t: and, r: [{a, op, b}]}`, whose operands may contain `{{ }}`.

The builder's Filter step holds them in its prop `_filter`, and Git has that step without a file.

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
class _Operator:
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


_OPERATORS: Mapping[str, _Operator] = {
    "exists": _Operator("exists", lambda a, _: a is not UNDEFINED, has_second=False),
    "!exists": _Operator("does not exist", lambda a, _: a is UNDEFINED, has_second=False),
    # parity[filter-values]: text that encodes a number or a boolean compares as that value, as in the filter actions
    "str=": _Operator("equals", lambda a, b: format_result(a) == format_result(b)),
    "str!=": _Operator("does not equal", lambda a, b: format_result(a) != format_result(b)),
    "str^": _Operator("starts with", lambda a, b: format_result(a).startswith(format_result(b))),
    "str/": _Operator("contains", lambda a, b: format_result(b) in format_result(a)),
    "str$": _Operator("ends with", lambda a, b: format_result(a).endswith(format_result(b))),
    "blank": _Operator("is blank", lambda a, _: _is_blank(a), has_second=False),
    "!blank": _Operator("is not blank", lambda a, _: not _is_blank(a), has_second=False),
    "num=": _Operator("is the number", lambda a, b: _parse_number(a) == _parse_number(b)),
    "num!=": _Operator("is not the number", lambda a, b: _parse_number(a) != _parse_number(b)),
    "num>": _Operator("is greater than", lambda a, b: _parse_number(a) > _parse_number(b)),
    "num>=": _Operator("is at least", lambda a, b: _parse_number(a) >= _parse_number(b)),
    "num<": _Operator("is less than", lambda a, b: _parse_number(a) < _parse_number(b)),
    "num<=": _Operator("is at most", lambda a, b: _parse_number(a) <= _parse_number(b)),
    "bool=": _Operator("is the boolean", _equals_boolean),
    "true": _Operator("is true", lambda a, _: _is_boolean(a, True), has_second=False),
    "false": _Operator("is false", lambda a, _: _is_boolean(a, False), has_second=False),
    "null": _Operator("is null", lambda a, _: a is None, has_second=False),
    "!null": _Operator("is not null", lambda a, _: a is not None, has_second=False),
    "str": _Operator("is a string", lambda a, _: isinstance(a, str), has_second=False),
    "!str": _Operator("is not a string", lambda a, _: not isinstance(a, str), has_second=False),
    "num": _Operator("is a number", lambda a, _: _is_number(a), has_second=False),
    "!num": _Operator("is not a number", lambda a, _: not _is_number(a), has_second=False),
    "bool": _Operator("is a boolean", lambda a, _: isinstance(a, bool), has_second=False),
    "!bool": _Operator("is not a boolean", lambda a, _: not isinstance(a, bool), has_second=False),
}


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
    operator = _OPERATORS.get(_get_code(rules))
    if operator is None:
        raise RuleError(
            f"has a rule with the operator {_get_code(rules)!r}, which pdkernel does not know. "
            f"Operators: {', '.join(_OPERATORS)}"
        )


def do_rules_hold(rules: Mapping[str, Any]) -> bool:
    """Return whether *rules*, which `check_rules` accepts, hold with the evaluated operands that they have; a missing one is `undefined`."""
    if "r" in rules:
        combine = all if rules["t"] == "and" else any
        return combine(map(do_rules_hold, rules["r"]))
    return _OPERATORS[_get_code(rules)].holds(rules.get("a", UNDEFINED), rules.get("b", UNDEFINED))


def describe_rules(rules: Mapping[str, Any]) -> str:
    """Return *rules*, which `check_rules` accepts, as text with their operands: `"a@b.c" contains "@" and 5 is greater than 3`."""
    if "r" not in rules:
        operator = _OPERATORS[_get_code(rules)]
        operands = [_shorten(rules.get("a", UNDEFINED)), operator.words]
        return " ".join([*operands, _shorten(rules.get("b", UNDEFINED))] if operator.has_second else operands)
    texts = [f"({describe_rules(rule)})" if len(rule.get("r", ())) > 1 else describe_rules(rule) for rule in rules["r"]]
    return f" {rules['t']} ".join(texts)


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
        holds = do_rules_hold(self.rules)
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
