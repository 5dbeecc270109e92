"""A Connect API on the loopback interface, as far as pdkernel uses a real project."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import jwt

from pdkernel.storage import Login
from tests.http_servers import serve

CLIENT_ID = "client-1"
CLIENT_SECRET = "planted-client-secret-0123456789"
OTHERS = {"client-of-ours": "o_ours", "client-of-others": "o_others"}
"""Workspaces of other clients with the same secret; the first workspace is the project's."""
PROJECT = "proj_real123"
HELD_S = 30.0
"""Seconds after which a held response goes on by itself."""
SLACK_TOKEN = "xoxb-planted-real-token-0123456789"


def token_of(workspace: str, *scopes: str, number: int = 0) -> str:
    """A signed token with a workspace and scopes, as the platform issues."""
    claims = {"sub": workspace, "scope": list(scopes), "jti": f"{number}", "token_type": "oauth_access_token"}
    return jwt.encode(claims, "a key of 32 bytes, never checked")


TOKEN = token_of("o_ours", "*")


def _app(slug: str, kind: str) -> dict[str, Any]:
    return {
        "id": f"app_{slug}",
        "name_slug": slug,
        "name": slug.title(),
        "auth_type": kind,
        "description": "",
        "img_src": "https://example.test/logo.png",
        "custom_fields_json": "[]",
        "categories": [],
        "featured_weight": 1,
    }


def build_account(key: str, user: str, slug: str, kind: str, day: int, credentials: Any) -> dict[str, Any]:
    """An account of *user*, as the API shows it."""
    return {
        "id": key,
        "name": f"{user}'s {slug}",
        "external_id": user,
        "healthy": True,
        "dead": False,
        "app": _app(slug, kind),
        "created_at": f"2026-01-{day:02}T00:00:00.000Z",
        "updated_at": f"2026-01-{day:02}T00:00:00.000Z",
        "credentials": credentials,
    }


ACCOUNTS = {
    "development": [
        build_account("apn_old", "ada", "slack", "oauth", 1, {"oauth_access_token": "xoxb-older-0123456789"}),
        build_account("apn_new", "ada", "slack", "oauth", 2, {"oauth_access_token": SLACK_TOKEN, "oauth_uid": "U1"}),
        build_account("apn_held", "ada", "github", "oauth", 3, None),
        build_account("apn_keys", "bob", "openai", "keys", 4, {"api_key": "sk-planted-real-key-0123456789"}),
    ],
    "production": [
        build_account("apn_prod", "eve", "slack", "oauth", 5, {"oauth_access_token": "xoxb-prod-0123456789"})
    ],
}
SOURCES = {
    "dc_1": ["https://mine.example.test/hook", "https://eoabc123.m.pipedream.net"],
    "dc_2": [],
}


class Upstream(ThreadingHTTPServer):
    """
    The API.

    Attributes:
        asked: Requests that the API received, in order.
        answered: The paths of the requests that it has answered, in order.
        proceed: A held response goes on when a test sets it.
        workflows: The workflow objects of the REST API, by id.
        page_size: The most items of a page.
        users: Further users by environment, who have no account.
        events: The lists of events of the REST API, newest first, by path: `workflows/p_1/$errors`, `sources/dc_1`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.accounts = json.loads(json.dumps(ACCOUNTS))
        self.webhooks = json.loads(json.dumps(SOURCES))
        self.asked: list[dict[str, Any]] = []
        self.answered: list[str] = []
        self.fault: dict[str, Any] = {}
        self.proceed = threading.Event()
        self.tokens: dict[str, tuple[str, str]] = {TOKEN: ("o_ours", "*")}
        self.scope_profiles = True
        self.page_size = 3
        self.users: dict[str, list[str]] = {"development": [], "production": []}
        self.workflows: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def login(self) -> Login:
        """A login that the API accepts."""
        return Login(CLIENT_ID, CLIENT_SECRET, PROJECT, base_url=self.url)

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables of the login."""
        return {
            "PDKERNEL_CLIENT_ID": CLIENT_ID,
            "PDKERNEL_CLIENT_SECRET": CLIENT_SECRET,
            "PDKERNEL_PROJECT_ID": PROJECT,
            "PDKERNEL_BASE_URL": self.url,
        }

    def set(
        self,
        *,
        fault: dict[str, Any] | None = None,
        scope_profiles: bool = True,
        held: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """
        Set the behaviour of the API from now on.

        Args:
            fault: A failure of matching requests.
            scope_profiles: Whether accounts have a field that newer SDKs require.
            held: Further accounts whose credentials are withheld (id, external user, app).
        """
        self.fault = fault or {}
        self.proceed.clear()
        self.scope_profiles = scope_profiles
        self.accounts["development"] += [build_account(key, user, app, "oauth", 30, None) for key, user, app in held]

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of clients that disconnect."""

    def end_connections(self) -> None:
        """End all connections, as at the end of a process."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self._body()
        request: dict[str, Any] = {
            "method": self.command,
            "path": parts.path,
            "query": {name: values[0] for name, values in parse_qs(parts.query).items()},
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": body[:100_000].decode("utf-8", "replace"),
        }
        if not parts.path.endswith("/digest"):
            self.server.asked.append(request)
        fault = self.server.fault
        matches = request["path"].endswith(fault.get("path", "")) and fault.get("within", "") in request["path"]
        matches = matches and fault.get("method", request["method"]) == request["method"]
        if fault and matches and self._fail(fault):
            return
        workspace, scope = self.server.tokens.get(
            self.headers.get("authorization", "").removeprefix("Bearer "), ("", "")
        )
        if parts.path == "/v1/oauth/token":
            self._token(body)
        elif parts.path == "/v1/oauth/revoke":
            self.server.tokens.pop(json.loads(body)["token"], None)
            self._answer(200, {})
        elif not workspace:
            self._answer(401, {"error": "unauthorized"})
        elif workspace != "o_ours" or scope not in ("*", "connect:*", "connect:accounts:read"):
            self._answer(403, {"error": "forbidden"})
        elif parts.path.startswith(("/v1/workflows/", "/v1/sources/")):
            self._rest(unquote(parts.path.removeprefix("/v1/")), request["query"])
        elif not parts.path.startswith(f"/v1/connect/{PROJECT}/"):
            self._answer(404, {"error": "project not found"})
        else:
            self._project(parts.path.removeprefix(f"/v1/connect/{PROJECT}/"), request, body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815  # the names that http.server looks for

    def _project(self, path: str, request: dict[str, Any], body: bytes) -> None:
        environment = request["headers"].get("x-pd-environment", "production")
        accounts = self.server.accounts[environment]
        query = request["query"]
        place, _, rest = path.partition("/")
        match (request["method"], place, rest):
            case ("GET", "accounts", ""):
                who, app = query.get("external_user_id"), query.get("app")
                found = [each for each in accounts if who in (None, each["external_id"])]
                found = [each for each in found if app in (None, each["app"]["name_slug"])]
                self._page([self._shown(each, query) for each in found], query)
            case ("GET", "accounts", key):
                found = [each for each in accounts if each["id"] == key]
                self._answer(200, self._shown(found[0], query)) if found else self._answer(404, {"error": "no account"})
            case ("DELETE", "accounts", key):
                accounts[:] = [each for each in accounts if each["id"] != key]
                self._answer(204, None)
            case ("POST", "accounts", ""):
                self._create(json.loads(request["body"]), query, accounts)
            case ("POST", "tokens", ""):
                url = "https://pipedream.com/_static/connect.html?token=ctok_1"
                self._answer(
                    200, {"token": "ctok_1", "expires_at": "2026-01-01T00:00:00.000Z", "connect_link_url": url}
                )
            case ("GET", "users", ""):
                names = sorted({*self.server.users[environment], *(each["external_id"] for each in accounts)})
                names = [name for name in names if query.get("q", "").lower() in name.lower()]
                self._page([{"id": f"exu_{name}", "external_id": name} for name in names], query)
            case ("DELETE", "users", name):
                accounts[:] = [each for each in accounts if each["external_id"] != unquote(name)]
                self._answer(204, None)
            case (_, "proxy", coded):
                self._proxied(coded, request)
            case (_, "deployed-triggers", _):
                self._sources(rest, request)
            case (_, "events" | "large" | "digest", _):
                self._of_bodies(place, rest, body)
            case _:
                self._answer(200, {"echo": request})

    def _rest(self, path: str, query: dict[str, str]) -> None:
        """Answer a request of the REST API for workflows and sources; `expand=event` shows an event of more than 1 KB."""
        owner, is_list = path.removesuffix("/event_summaries"), path.endswith("/event_summaries")
        if is_list and owner in self.server.events:
            events = self.server.events[owner]
            whole = query.get("expand") == "event"
            self._page(
                [each if whole or len(json.dumps(each)) <= 1024 else {**each, "event": {}} for each in events], query
            )
        elif not is_list and owner.removeprefix("workflows/") in self.server.workflows:
            self._answer(200, self.server.workflows[owner.removeprefix("workflows/")])
        elif is_list and owner.split("/")[1] in self.server.workflows:
            self._page([], query)
        else:
            self._answer(404, {"error": "record not found"})

    def _of_bodies(self, place: str, rest: str, body: bytes) -> None:
        if place == "events":
            self._events()
        elif place == "large":
            self._large(int(rest))
        else:
            self._answer(200, {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()})

    def _events(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("x-of-pipedream", "kept")
        self.end_headers()
        self.wfile.write(b"3\r\none\r\n")
        if self.server.proceed.wait(HELD_S):
            self.wfile.write(b"3\r\ntwo\r\n0\r\n\r\n")
        self.close_connection = True

    def _large(self, size: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(size))
        self.end_headers()
        for _ in range(size >> 20):
            self.wfile.write(bytes(1 << 20))

    def _sources(self, rest: str, request: dict[str, Any]) -> None:
        key, _, more = rest.partition("/")
        if not key:
            webhooks = self.server.webhooks if request["query"].get("external_user_id") == "ada" else ()
            self._page([_source(each) for each in webhooks], request["query"])
        elif more == "webhooks":
            if request["method"] == "PUT":
                self.server.webhooks[key] = json.loads(request["body"])["webhook_urls"]
            self._answer(200, {"webhook_urls": self.server.webhooks[key]})
        else:
            self._answer(404, {"error": "no such route"})

    def _proxied(self, coded: str, request: dict[str, Any]) -> None:
        coded = unquote(coded)
        target = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
        if urlsplit(target).hostname != "api.github.com":
            self._answer(403, {"error": "domain not allowed for this app"})
            return
        if "/slow" in target:
            self._answer(504, {"error": "timeout"})
            return
        headers = {name: text for name, text in request["headers"].items() if name != "authorization"}
        self._answer(201, {"target": target, **request, "headers": headers}, {"x-from-github": "yes"})

    def _create(self, body: dict[str, Any], query: dict[str, str], accounts: list[Any]) -> None:
        if body["app_slug"] == "github":
            self._answer(400, {"error": "github accounts are connected with OAuth"})
            return
        values = json.loads(body["cfmap_json"])
        again = [each for each in accounts if each["id"] == body.get("account_id")]
        if again:
            again[0]["credentials"] = values
            self._answer(200, self._shown(again[0], {}))
            return
        key = f"apn_made{len(accounts)}"
        accounts.append(build_account(key, query["external_user_id"], body["app_slug"], "keys", 20, values))
        self._answer(200, self._shown(accounts[-1], {}))

    def _shown(self, account: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        shown = {name: value for name, value in account.items() if name != "credentials"}
        if self.server.scope_profiles:
            shown["app"] = {**shown["app"], "scope_profiles": []}
        if query.get("include_credentials") in ("true", "1") and account["credentials"]:
            shown["credentials"] = account["credentials"]
        return shown

    def _page(self, items: list[Any], query: dict[str, str]) -> None:
        first = int(query.get("after") or 0)
        size = min(int(query.get("limit") or 10), self.server.page_size)
        end = first + size
        page = items[first:end]
        info = {
            "count": len(page),
            "total_count": len(items),
            "start_cursor": str(first),
            "end_cursor": str(end) if end < len(items) else None,
        }
        self._answer(200, {"data": page, "page_info": info})

    def _token(self, body: bytes) -> None:
        request = json.loads(body)
        client, scope = request.get("client_id"), request.get("scope") or "*"
        workspace = {CLIENT_ID: "o_ours", **OTHERS}.get(client)
        if workspace is None or request.get("client_secret") != CLIENT_SECRET:
            self._answer(401, {"error": "invalid_client"})
            return
        token = TOKEN
        if scope != "*" or client != CLIENT_ID:
            token = token_of(workspace, *scope.split(), number=len(self.server.tokens))
        self.server.tokens[token] = (workspace, scope)
        self._answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})

    def _fail(self, fault: dict[str, Any]) -> bool:
        match fault["kind"]:
            case "status":
                self._answer(fault["status"], {"error": fault.get("error", "made to fail")}, fault.get("headers"))
            case "slow":
                time.sleep(fault["seconds"])
                return False
            case "held":
                self.server.proceed.wait(HELD_S)
                return False
            case "cut":
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "1000")
                self.end_headers()
                self.wfile.write(b'{"data": [')
                self.close_connection = True
            case "close":
                self.close_connection = True
            case "html":
                self._answer(200, None, {"content-type": "text/html"})
        return True

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline().strip(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _answer(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, text)
        if status != 204:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        with suppress(OSError):  # the client has given up
            self.wfile.write(content)
        self.server.answered.append(urlsplit(self.path).path)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


def _source(key: str) -> dict[str, Any]:
    return {
        "type": "DeployedComponent",
        "id": key,
        "owner_id": "exu_ada",
        "component_id": "sc_1",
        "configurable_props": [],
        "configured_props": {},
        "active": True,
        "created_at": 1,
        "updated_at": 1,
        "name": f"Source {key}",
        "name_slug": key,
    }


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    """Run the API."""
    with serve(Upstream()) as api:
        try:
            yield api
        finally:
            api.end_connections()
