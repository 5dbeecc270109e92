"""
The rest of a path, whatever it holds.

Knows that Starlette's own `{name:path}` stops at a line break, which a path may hold (`%0A`): such a request would meet no route
at all.
"""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor

_KIND = "rest"


class _Rest(Convertor[str]):
    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor(_KIND, _Rest())


def rest(name: str = "rest") -> str:
    """A parameter of a route that takes all that is left of the path, or stands before something fixed."""
    return f"{{{name}:{_KIND}}}"
