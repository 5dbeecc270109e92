"""
Pages of lists: `after`, `before` and `limit` in the query; `{"data", "page_info"}` in the response.

SDKs request pages until `end_cursor` is null. An item may vanish between two requests.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pdkernel.server.api.api_call import ApiCall, ApiError

T = TypeVar("T")

# parity[page-sizes]: the SDKs name the parameters, and the length of a page is not documented
DEFAULT_LIMIT = 10
MAX_LIMIT = 100
"""Maximum items of a page."""


class Page(Generic[T]):
    """
    A page of *items*.

    Args:
        call: The request with the page's parameters.
        items: All items, in order.
        key_of: Returns an item's key.

    Attributes:
        items: Items of this page.

    Raises:
        ApiError: A parameter is invalid.
    """

    def __init__(self, call: ApiCall, items: Sequence[T], key_of: Callable[[T], str]) -> None:
        limit = _limit(call.query_param("limit"))
        keys = [key_of(item) for item in items]
        after, before = call.query_param("after"), call.query_param("before")
        first, last = 0, len(items)
        if after is not None:
            first = _index_after(after, keys)
        if before is not None:
            last = _index_of(before, keys)
            first = max(first, last - limit) if after is None else first
        last = min(last, first + limit)
        self.items = items[first:last]
        self._total = len(items)
        self._start = _cursor(first, keys[first]) if first < last else None
        # parity[end-cursor]: null on the last page, so that SDKs do not request an empty page
        self._end = _cursor(last - 1, keys[last - 1]) if first < last < len(items) else None

    def to_json(self, data: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The response with the serialized items *data*."""
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
    # Python refuses to parse very long numbers
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < 1:
        raise ApiError(400, f"limit must be a number from 1 to {MAX_LIMIT}.")
    return min(int(text), MAX_LIMIT)


def _cursor(index: int, key: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([index, key]).encode()).decode("ascii").rstrip("=")


def _parse_cursor(cursor: str) -> tuple[int, str]:
    try:
        index, key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise ApiError(400, "The cursor does not belong to this list.") from None
    if not isinstance(index, int) or not isinstance(key, str):
        raise ApiError(400, "The cursor does not belong to this list.")
    return index, key


def _index_of(cursor: str, keys: Sequence[str]) -> int:
    """The index of the cursor's item; if the item is gone, its former index."""
    index, key = _parse_cursor(cursor)
    return keys.index(key) if key in keys else min(max(index, 0), len(keys))


def _index_after(cursor: str, keys: Sequence[str]) -> int:
    """The index after the cursor's item; if the item is gone, its former index."""
    _, key = _parse_cursor(cursor)
    return _index_of(cursor, keys) + (key in keys)
