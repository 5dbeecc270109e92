"""
Which workflow a request is for, and what its path and URL are without our own way of addressing it.

Knows the three ways: a host of its own, its key in the path, and the path that Python SDKs 1.1.12 to 2.3.0 make of the
whole URL (`/https:/KEY.m.pipedream.net/...`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import Scope

from pdkernel.server.guard import BASE
from pdkernel.server.hosts import HostNames
from pdkernel.server.serving import ServedWorkflow, ServedWorkflows

_MANGLED = re.compile(r"/(https?):/{1,2}([^/?#]+)(/[^?]*)?(?:\?(.*))?\Z", re.DOTALL | re.IGNORECASE)
_ESCAPED = re.compile("%3a|%3f", re.IGNORECASE)
_DEEPEST = 8
"""Parts of a path that may be a key."""


@dataclass(frozen=True, slots=True)
class Address:
    """
    Where a request goes.

    Attributes:
        workflow: Which.
        path: What comes after the key: `/` if nothing.
        url: The URL that the client asked for.
        query: The query string.
    """

    workflow: ServedWorkflow
    path: str
    url: str
    query: str


def find_address(
    scope: Scope, *, scheme: str, host: str, workflows: ServedWorkflows, names: HostNames
) -> Address | None:
    """The workflow that is asked for, or None."""
    raw = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    key = scope.get("pdkernel.key")
    base = scope.get(BASE, "")
    if key is not None:
        found = workflows.find(key)
        return Address(found, unquote(path) or "/", _url(scheme, host, base + path, query), query) if found else None
    mangled = (
        _MANGLED.match(_ESCAPED.sub(lambda found: unquote(found[0]), path)) if path[:5].lower() == "/http" else None
    )
    if mangled:
        scheme, host, path, nested = mangled[1].lower(), mangled[2], mangled[3] or "/", mangled[4] or ""
        query = "&".join(part for part in (nested, query) if part)
        key = names.endpoint(host)
        found = workflows.find(key) if key else None
        if found is not None:
            return Address(found, unquote(path), _url(scheme, host, path, query), query)
    parts = path.split("/")
    for place, part in enumerate(parts[1 : _DEEPEST + 1], 1):
        found = workflows.find(unquote(part)) if part else None
        if found is not None:
            rest = "/" + "/".join(parts[place + 1 :])
            return Address(found, unquote(rest), _url(scheme, host, base + path, query), query)
    return None


def _url(scheme: str, host: str, path: str, query: str) -> str:
    return f"{scheme}://{host}{path}" + (f"?{query}" if query else "")
