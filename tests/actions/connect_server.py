"""
The part of a Connect API that running actions needs, on the loopback interface.

The server stores its requests, so that a test can check what a real project would have received.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.http_servers import JsonHandler, serve

CLIENT = {"client_id": "client-1", "client_secret": "secret-0123456789"}
TOKEN = "token-0123456789"
PROJECT = "proj_test123"
ACTION_PROPS: list[dict[str, object]] = [
    {"name": "hangar", "type": "app", "app": "hangar"},
    {"name": "door", "type": "string", "label": "Door", "remoteOptions": True, "useQuery": True},
    {"name": "wide", "type": "boolean", "optional": True, "reloadProps": True},
    {"name": "notice", "type": "alert", "content": "Mind the gap"},
]
ACTION = {
    "key": "hangar-open-door",
    "name": "Open a Door",
    "version": "1.2.3",
    "description": "Opens a door.",
    "component_type": "action",
    "configurable_props": ACTION_PROPS,
}


class ConnectServer(ThreadingHTTPServer):
    """
    The API of one project.

    Attributes:
        asked: Method, path, environment and body of each request, except requests for tokens.
        answer: The response to a run of the action.
        status: The status of that response.
        token_lifetime_s: The seconds for which a token is valid.
        token_count: The number of tokens that were issued.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, str | None, Any]] = []
        self.answer: dict[str, Any] = {"exports": {"$summary": "Opened A"}, "os": [], "ret": {"open": True}}
        self.status = 200
        self.token_lifetime_s = 3600
        self.token_count = 0
        self.accounts = [
            {"id": "apn_older01", "created_at": "2025-01-01T00:00:00.000Z"},
            {"id": "apn_newer01", "created_at": "2025-02-01T00:00:00.000Z"},
        ]

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables of a client."""
        return {
            "PIPEDREAM_CLIENT_ID": CLIENT["client_id"],
            "PIPEDREAM_CLIENT_SECRET": CLIENT["client_secret"],
            "PIPEDREAM_PROJECT_ID": PROJECT,
            "PIPEDREAM_BASE_URL": f"http://127.0.0.1:{self.server_port}",
        }

    def bodies(self, path: str) -> list[Any]:
        """The bodies of the requests to *path*."""
        return [body for _, asked, _, body in self.asked if asked == path]


class _Handler(JsonHandler):
    server: ConnectServer

    def answer(self, body: bytes) -> tuple[int, Any]:
        """The response of the route."""
        url = urlsplit(self.path)
        sent: Any = json.loads(body) if body else None
        if url.path == "/v1/oauth/token":
            known = all(sent.get(key) == value for key, value in CLIENT.items())
            good = {"access_token": TOKEN, "token_type": "Bearer", "expires_in": self.server.token_lifetime_s}
            self.server.token_count += known
            return (200, good) if known else (401, {"error": "invalid_client"})
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "unauthorized"}
        path = url.path.removeprefix(f"/v1/connect/{PROJECT}")
        self.server.asked.append((self.command, path, self.headers.get("x-pd-environment"), sent))
        return self._of(self.command, path, parse_qs(url.query))

    def _of(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        page = {"count": 1, "total_count": 1, "start_cursor": None, "end_cursor": None}
        match method, path:
            case "GET", "/actions/hangar-open-door" if query.get("version", ["1.2.3"]) == ["1.2.3"]:
                return 200, {"data": ACTION}
            case "GET", "/actions":
                if query.get("after") == ["second"]:
                    return 200, {"data": [{**ACTION, "key": "hangar-close-door"}], "page_info": page}
                return 200, {"data": [ACTION], "page_info": {**page, "end_cursor": "second"}}
            case "GET", "/accounts":
                of_ada = query["external_user_id"] == ["ada"] and query["app"] == ["hangar"]
                return 200, {"data": self.server.accounts if of_ada else [], "page_info": page}
            case "POST", "/actions/run":
                return self.server.status, self.server.answer
            case "POST", "/actions/props":
                width = {"name": "width", "type": "integer", "label": "Width"}
                return 200, {"dynamicProps": {"id": "dyp_123", "configurableProps": [*ACTION_PROPS, width]}}
            case "POST", "/actions/configure":
                return 200, {"options": [{"label": "Door A", "value": "a"}, "b"], "context": {"next": 2}}
            case _:
                return 404, {"error": "record not found"}


@contextmanager
def connect_api() -> Iterator[ConnectServer]:
    """The API, until the block ends."""
    with serve(ConnectServer()) as server:
        yield server
