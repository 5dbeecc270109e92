"""Substitution of expressions by their results, with the platform's rules for types and text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from pdkernel.language.expression.template import OPENING_BRACES, Template, parse_template
from pdkernel.model import JSON


class _Undefined:
    """JavaScript's `undefined`, which JSON does not have."""

    def __repr__(self) -> str:
        return "UNDEFINED"

    def __bool__(self) -> bool:
        return False


UNDEFINED: Final = _Undefined()
"""The result of an expression that evaluated to `undefined`: the prop counts as not set."""


def substitute_results(value: JSON | Mapping[str, JSON], results: Sequence[Any]) -> Any:
    """
    *value* with every expression replaced by its result.

    If an expression is the whole text, its result keeps its type. Inside other text, a result becomes text.
    A key whose value is `UNDEFINED` is dropped.

    Args:
        value: Props, or any JSON.
        results: One result for each expression, in the order of `iter_templates(value)`; JSON or `UNDEFINED`.
    """
    rest = iter(results)
    assembled = _assemble(value, rest, depth=0)
    if next(rest, rest) is not rest:
        raise ValueError("more results than expressions")
    return None if assembled is UNDEFINED else assembled


def _assemble(value: Any, results: Iterator[Any], *, depth: int) -> Any:
    if isinstance(value, str):
        return _fill(parse_template(value), results) if OPENING_BRACES in value else value
    if isinstance(value, Mapping):
        filled = {key: _assemble(item, results, depth=depth + 1) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item is not UNDEFINED}
    if isinstance(value, list):
        items = [_assemble(item, results, depth=depth + 1) for item in value]
        # parity[expression-list]: synced workflows store a list prop as a list of one expression, whose result is the
        # whole list. Applies to the prop's own value only: deeper, a list in a list may be intended.
        if depth <= 1 and len(items) == 1 and isinstance(items[0], list) and isinstance(value[0], str):
            return items[0]
        return [None if item is UNDEFINED else item for item in items]
    return value


def _fill(template: Template, results: Iterator[Any]) -> Any:
    if template.sole_expression is not None:
        return next(results)
    return "".join(part if isinstance(part, str) else format_result(next(results)) for part in template.parts)


def format_result(result: Any) -> str:
    """
    A result as text: as JavaScript writes it, with null and undefined as empty text and objects as JSON.

    # parity[expression-text]: only the whole-text rule is observed; text for null and objects is assumed.
    """
    if result is None or result is UNDEFINED:
        return ""
    if isinstance(result, str):
        return result
    return _stringify(result)


def _stringify(value: Any) -> str:
    """Return *value* as `JSON.stringify` writes it: `json.dumps` writes numbers in another way."""
    if isinstance(value, float):
        return _format_number(value)
    if isinstance(value, list):
        return "[" + ",".join(map(_stringify, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_stringify(key)}:{_stringify(item)}" for key, item in value.items()) + "}"
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()  # escapes a lone surrogate


def _format_number(number: float) -> str:
    """Return *number* with the notation that JavaScript chooses for its size (ECMAScript, `Number::toString`)."""
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int), "JSON has no infinite numbers"
    written = "".join(map(str, digits))
    point = len(written) + exponent
    if len(written) <= point <= 21:
        text = written.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{written[:point]}.{written[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{written}"
    else:
        fraction = f".{written[1:]}" if len(written) > 1 else ""
        text = f"{written[0]}{fraction}e{point - 1:+}"
    return f"-{text}" if sign and number else text
