"""
Lists in pages: `after`, `before` and `limit` in the query; `{"data", "page_info"}` in the answer.

Knows that SDKs ask on until `end_cursor` is null, and that an item may vanish between two pages.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pdkernel.server.api.api_call import ApiCall, ApiError

T = TypeVar("T")

# parity[page-sizes]: the SDKs name the parameters, and nothing says how long a page is
DEFAULT_LIMIT = 10
MAX_LIMIT = 100
"""Items of a page."""


class Page(Generic[T]):
    """
    A page of *items*.

    Args:
        call: Whose query says which.
        items: All of them, in order.
        key_of: What an item is known by.

    Attributes:
        items: Those of this page.

    Raises:
        ApiError: The query is wrong.
    """

    def __init__(self, call: ApiCall, items: Sequence[T], key_of: Callable[[T], str]) -> None:
        limit = _limit(call.query_param("limit"))
        keys = [key_of(item) for item in items]
        after, before = call.query_param("after"), call.query_param("before")
        first, last = 0, len(items)
        if after is not None:
            first = _after(after, keys)
        if before is not None:
            last = _before(before, keys)
            first = max(first, last - limit) if after is None else first
        last = min(last, first + limit)
        self.items = items[first:last]
        self._total = len(items)
        self._start = _cursor(first, keys[first]) if first < last else None
        # parity[end-cursor]: null on the last page, so that nobody asks for an empty one more
        self._end = _cursor(last - 1, keys[last - 1]) if first < last < len(items) else None

    def to_json(self, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The answer whose items are *data*."""
        return {
            "page_info": {
                "count": len(data),
                "total_count": self._total,
                "start_cursor": self._start,
                "end_cursor": self._end,
            },
            "data": list(data),
        }


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    # longer numbers are no limit, and Python refuses the longest
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise ApiError(400, f"limit is a number from 1 to {MAX_LIMIT}.")
    return min(int(text), MAX_LIMIT)


def _cursor(index: int, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([index, key]).encode()).decode("ascii").rstrip("=")


def _read(cursor: str) -> tuple[int, str]:
    try:
        index, key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ApiError(400, "The cursor is none of this list's.") from None
    if not isinstance(index, int) or not isinstance(key, str):
        raise ApiError(400, "The cursor is none of this list's.")
    return index, key


def _before(cursor: str, keys: Sequence[str]) -> int:
    """How many items come before the one that *cursor* names; of one that is gone, as many as did."""
    index, key = _read(cursor)
    return keys.index(key) if key in keys else min(max(index, 0), len(keys))


def _after(cursor: str, keys: Sequence[str]) -> int:
    """The place of the item after the one that *cursor* names; if that is gone, the next has its place."""
    _, key = _read(cursor)
    return _before(cursor, keys) + (key in keys)
