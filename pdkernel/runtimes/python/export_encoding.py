"""
Encodes the exports of a Python step as JSON; an error names the part of the value that is not JSON.

The encoder refuses NaN and keys that are neither strings nor integers: `json.dumps` would encode them as values that decode
differently.
"""

from __future__ import annotations

import json
import math
from typing import Any

_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_MAX_INT_BITS = 14_000  # bits; Python writes no longer ones in decimal (sys.set_int_max_str_digits)
_SCALARS = (str, int, float, bool, type(None))
_MAX_DEPTH = 256
"""Maximum number of levels, as on the platform ("JSON Nested Property Limit Exceeded")."""


class ExportNotJSONError(TypeError):
    """An export cannot be written as JSON."""

    pdkernel_code = "export_not_json"


def encode_json(value: Any, path: str) -> str:
    """
    Encode *value* as JSON on one line.

    Raises:
        ExportNotJSONError: *value* is not JSON. The message names the invalid part by its path, which begins with *path*.
    """
    try:
        _check_keys(value, 0)
        return _ENCODE(value)
    except (TypeError, ValueError, RecursionError):
        raise ExportNotJSONError(_explain(value, path, [])) from None


def _check_keys(value: Any, depth: int) -> None:
    if depth == _MAX_DEPTH and isinstance(value, dict | list | tuple):
        raise RecursionError
    if isinstance(value, dict):
        for key, item in value.items():
            # parity[integer-keys]: an integer key becomes text, as in `df.to_dict()`
            if type(key) is not str and (type(key) is not int or str(key) in value):
                raise TypeError
            if type(item) not in _SCALARS:
                _check_keys(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            if type(item) not in _SCALARS:
                _check_keys(item, depth + 1)


def _explain(value: Any, path: str, above: list[Any]) -> str:
    return _fault(value, path, above) or f"{path} cannot be written as JSON."


def _fault(value: Any, path: str, above: list[Any]) -> str | None:
    if isinstance(value, str | bool | None):
        return None
    if isinstance(value, int):
        return (
            f"{path} is an integer with too many digits for JSON. Use str(...)."
            if value.bit_length() > _MAX_INT_BITS
            else None
        )
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path} is {value}, which JSON does not support."
    if any(value is other for other in above):
        return f"{path} contains itself, so it cannot be written as JSON."
    if isinstance(value, dict | list | tuple):
        if len(above) == _MAX_DEPTH:
            return f"JSON Nested Property Limit Exceeded: {path[:80]}... is nested more than {_MAX_DEPTH} deep."
        return _fault_inside(value, path, [*above, value])
    return f"{path} is {_kind(value)}, which JSON does not support.{_hint(value)}"


def _fault_inside(value: Any, path: str, above: list[Any]) -> str | None:
    if isinstance(value, dict):
        for key in value:
            if type(key) is int:
                if str(key) in value:
                    return f'{path} has the keys {key} and "{key}", which are one key in JSON. Use one of them.'
            elif not isinstance(key, str):
                return f"{path} has the key {key!r:.60}, {_kind(key)}, but keys in JSON are texts. Use str(key)."
        inside = [(_segment(str(key)), item) for key, item in value.items()]
    else:
        inside = [(f"[{index}]", item) for index, item in enumerate(value)]
    for segment, item in inside:  # a generator would use a third frame for each level: a deep value has hundreds
        if fault := _fault(item, path + segment, above):
            return fault
    return None


def _segment(key: str) -> str:
    return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def _hint(value: Any) -> str:
    name = type(value).__name__
    if name in ("datetime", "date", "time"):
        return " Use .isoformat()."
    if name in (
        "set",
        "frozenset",
        "generator",
        "StoreView",
        "dict_keys",
        "dict_values",
        "dict_items",
        "map",
        "filter",
        "range",
    ):
        return " Use list(...)."
    if name in ("bytes", "bytearray"):
        return " Use .decode(), or base64."
    if name in ("Decimal", "UUID"):
        return " Use str(...)."
    if name == "coroutine":
        return " Use await."
    return ""
