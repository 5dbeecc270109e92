"""Evaluation of plain paths without Node.js, and substitution of expressions by their results, with the platform's rules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypedDict

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
    Return a result as text: as JavaScript writes it, with null and undefined as empty text and objects as JSON.

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


_MAX_DEPTH = 200
"""Deeper values are left to Node.js, which refuses a value of more than 256 levels with its own message."""

_INHERITED_NAMES = frozenset(
    {
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
    }
)
"""Names that every object of JavaScript has (`Object.prototype`)."""

_ROOT = re.compile(r"steps|event|process(?=\.env\b)")
_SEGMENT = re.compile(
    r"""(?P<optional>\?\.)?\[(?:(?P<index>0|[1-9][0-9]{0,14})|"(?P<double>[^"\\\r\n]*)"|'(?P<single>[^'\\\r\n]*)')\]"""
    r"""|(?P<dot>\?\.|\.)(?P<name>[\w$]+)"""
)
_ARRAY_INDEX = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_MAX_ARRAY_INDEX = 2**32 - 2
_MAX_SAFE_INTEGER = 2**53


class EvaluationError(TypedDict):
    """The error of an expression."""

    name: str
    message: str


class Evaluation(TypedDict, total=False):
    """The result of one expression: exactly one of the keys."""

    value: JSON
    undefined: bool
    error: EvaluationError


class _Segment(NamedTuple):
    key: str
    is_optional: bool


class _PlainPath(NamedTuple):
    root: str
    segments: tuple[_Segment, ...]


class _NeedsNodeError(Exception):
    """Only JavaScript can read the path: a method of a list, a text or a number, or a value that is nested too deeply."""


def is_plain_path(source: str) -> bool:
    """Return whether *source*, an expression, is a plain path."""
    return _parse(source) is not None


def evaluate_plain_paths(
    sources: Sequence[str], steps: Mapping[str, Any], variables: Mapping[str, str]
) -> list[Evaluation] | None:
    """
    Return the result of each expression in *sources*, or None if one of them needs Node.js.

    The result is never partial: in Node.js, an expression can change the values that later expressions read.

    Args:
        sources: The expressions.
        steps: The value of `steps`: the exports of each step, and `trigger`.
        variables: The value of `process.env`.
    """
    paths = [_parse(source) for source in sources]
    trigger = steps.get("trigger")
    scope: dict[str, Any] = {"steps": steps, "process": {"env": variables}}
    scope["event"] = trigger.get("event", UNDEFINED) if isinstance(trigger, Mapping) else UNDEFINED
    try:
        return [_evaluate(path, scope) for path in paths if path is not None] if None not in paths else None
    except _NeedsNodeError:
        return None


@lru_cache(maxsize=2000)
def _parse(source: str) -> _PlainPath | None:
    text = source.strip(" \t\r\n")
    root = _ROOT.match(text)
    if root is None:
        return None
    segments: list[_Segment] = []
    position = root.end()
    while position < len(text):
        found = _SEGMENT.match(text, position)
        if found is None:
            return None
        name = found["name"]
        if name is not None and not name.replace("$", "_").isidentifier():
            return None
        key = next(part for part in (name, found["index"], found["double"], found["single"]) if part is not None)
        if key in _INHERITED_NAMES:
            return None
        segments.append(_Segment(key, found["optional"] is not None or found["dot"] == "?."))
        position = found.end()
    return _PlainPath(root[0], tuple(segments))


def _evaluate(path: _PlainPath, scope: Mapping[str, Any]) -> Evaluation:
    value = scope[path.root]
    for key, is_optional in path.segments:
        if value is None or value is UNDEFINED:
            if is_optional:
                return {"undefined": True}
            kind = "null" if value is None else "undefined"
            return {"error": {"name": "TypeError", "message": f"Cannot read properties of {kind} (reading '{key}')"}}
        value = _get_property(value, key)
    return {"undefined": True} if value is UNDEFINED else {"value": _as_parsed(value, 0)}


def _get_property(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(key, UNDEFINED)
    if not isinstance(value, list | str):
        raise _NeedsNodeError
    units = value.encode("utf-16-le", "surrogatepass") if isinstance(value, str) else None
    length = len(value) if units is None else len(units) // 2
    if key == "length":
        return length
    if not _is_array_index(key):
        raise _NeedsNodeError
    index = int(key)
    if index >= length:
        return UNDEFINED
    return value[index] if units is None else units[2 * index : 2 * index + 2].decode("utf-16-le", "surrogatepass")


def _as_parsed(value: Any, depth: int) -> JSON:
    """Return *value* as it is after `JSON.parse` and `JSON.stringify` of JavaScript."""
    if value is None or isinstance(value, bool) or type(value) is str:
        return value
    if isinstance(value, int):
        return value if -_MAX_SAFE_INTEGER <= value <= _MAX_SAFE_INTEGER else _as_double(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NeedsNodeError
        return _as_double(value)
    if depth > _MAX_DEPTH:
        raise _NeedsNodeError
    if isinstance(value, list):
        return [_as_parsed(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        keys: list[str] = list(value)
        indexes = [key for key in keys if _is_array_index(key)]
        if indexes:  # JavaScript lists the array indexes of an object first
            keys = [*sorted(indexes, key=int), *(key for key in keys if not _is_array_index(key))]
        return {key: _as_parsed(value[key], depth + 1) for key in keys}
    raise _NeedsNodeError


def _as_double(number: float) -> JSON:
    """Return *number* as JavaScript writes it: a whole number below 1e21 without exponent, an infinite number as null."""
    try:
        double = float(number)
    except OverflowError:
        return None
    if double.is_integer() and abs(double) < 1e21:
        return int(Decimal(repr(double)))  # JavaScript pads the shortest digits with zeros
    return double


def _is_array_index(key: str) -> bool:
    return _ARRAY_INDEX.fullmatch(key) is not None and int(key) <= _MAX_ARRAY_INDEX
