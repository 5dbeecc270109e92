"""
Fast, compact JSON encoding for storage and for messages to workers.

Values that `orjson` rejects are encoded by the standard library.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_encode_slowly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_json(value: Any) -> bytes:
    """
    Encode *value* as JSON: one line of UTF-8.

    An integer of more than 64 bits keeps every digit, and a lone surrogate is escaped. NaN and Infinity become null,
    unless *value* also holds such an integer or surrogate.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return _encode_slowly(value).encode("utf-8", "backslashreplace")  # for a surrogate this is JSON's own escape
