"""
Parameters of paths that Starlette has not: the rest of a path whatever it holds, and a part that may be empty.

Knows that Starlette's own `{name:path}` stops at a line break, which a path may hold (`%0A`): such a request would meet no route
at all.
"""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor

_REST, _PART = "rest", "part"


class _Rest(Convertor[str]):
    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


class _Part(_Rest):
    regex = "[^/]*"


register_url_convertor(_REST, _Rest())
register_url_convertor(_PART, _Part())


def rest_of_path(name: str = "rest") -> str:
    """A parameter of a route that takes all that is left of the path, or stands before something fixed."""
    return f"{{{name}:{_REST}}}"


def path_segment(name: str) -> str:
    """A parameter of a route that takes what stands between two slashes, be it nothing."""
    return f"{{{name}:{_PART}}}"
