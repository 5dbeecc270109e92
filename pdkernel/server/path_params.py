"""
Path parameters that Starlette lacks: the rest of a path, and a segment that may be empty.

Starlette's own `{name:path}` stops at a line break (`%0A`), so that such a request would match no route.
"""

from __future__ import annotations

from starlette.convertors import PathConvertor, register_url_convertor

_REST, _PART = "rest", "part"


class _Rest(PathConvertor):
    regex = "(?s:.*)"


class _Part(PathConvertor):
    regex = "[^/]*"


register_url_convertor(_REST, _Rest())
register_url_convertor(_PART, _Part())


def rest_of_path(name: str = "rest") -> str:
    """Return a route parameter that matches the rest of the path, also before a fixed suffix."""
    return f"{{{name}:{_REST}}}"


def path_segment(name: str) -> str:
    """Return a route parameter that matches one segment, which may be empty."""
    return f"{{{name}:{_PART}}}"
