"""
Finds the workflow of a request, and the path and URL in the workflow's event.

The endpoint's key is in the host name or in the path. Python SDKs 1.1.12 to 2.3.0 send the whole URL as the path:
`/https:/KEY.m.pipedream.net/...`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.types import Scope

from pdkernel.server.app_context import ServedWorkflow, ServedWorkflows
from pdkernel.server.host_names import HostNames
from pdkernel.server.middleware import BASE_PATH_KEY

_SDK_MANGLED_PATH = re.compile(r"/(https?):/{1,2}([^/?#]+)(/[^?]*)?(?:\?(.*))?\Z", re.DOTALL | re.IGNORECASE)
_ESCAPED = re.compile("%3a|%3f", re.IGNORECASE)
_MAX_KEY_POSITION = 8
"""Number of path segments that are searched for the key."""


@dataclass(frozen=True, slots=True)
class EndpointRoute:
    """
    The route of a request.

    Attributes:
        workflow: The workflow of the endpoint.
        remaining_path: The path after the key, or `/`.
        url: The URL that the client requested.
        query: The query string.
    """

    workflow: ServedWorkflow
    remaining_path: str
    url: str
    query: str


def resolve_route(
    scope: Scope, *, scheme: str, host: str, workflows: ServedWorkflows, host_names: HostNames
) -> EndpointRoute | None:
    """The route of the request, or None if the request does not name an endpoint."""
    raw = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1")
    query = scope.get("query_string", b"").decode("latin-1")
    key = scope.get("pdkernel.key")
    base = scope.get(BASE_PATH_KEY, "")
    if key is not None:
        found = workflows.find(key)
        return (
            EndpointRoute(found, unquote(path) or "/", _url(scheme, host, base + path, query), query) if found else None
        )
    mangled = (
        _SDK_MANGLED_PATH.match(_ESCAPED.sub(lambda found: unquote(found[0]), path))
        if path[:5].lower() == "/http"
        else None
    )
    if mangled:
        scheme, host, path, nested = mangled[1].lower(), mangled[2], mangled[3] or "/", mangled[4] or ""
        query = "&".join(part for part in (nested, query) if part)
        key = host_names.find_endpoint_key(host)
        found = workflows.find(key) if key else None
        if found is not None:
            return EndpointRoute(found, unquote(path), _url(scheme, host, path, query), query)
    parts = path.split("/")
    for index, part in enumerate(parts[1 : _MAX_KEY_POSITION + 1], 1):
        found = workflows.find(unquote(part)) if part else None
        if found is not None:
            rest = "/" + "/".join(parts[index + 1 :])
            return EndpointRoute(found, unquote(rest), _url(scheme, host, base + path, query), query)
    return None


def _url(scheme: str, host: str, path: str, query: str) -> str:
    return f"{scheme}://{host}{path}" + (f"?{query}" if query else "")
