"""
Values as JSON, the way they are kept and sent: compact, and quickly.

Knows what the quick encoder refuses. Knows nothing of what the values are.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

_encode_slowly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_json(value: Any) -> bytes:
    """
    *value* as JSON in one line of UTF-8.

    A number of more than 64 bits keeps every digit, half a surrogate pair is escaped. NaN and Infinity, which no value of JSON
    is, are null unless one of these stands beside them.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return _encode_slowly(value).encode("utf-8", "backslashreplace")  # which for a surrogate is JSON's escape
