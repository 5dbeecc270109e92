"""
The official `pipedream` SDK: creates the client, iterates over pages, and translates failures into pdkernel's errors.

Hides differences between SDK releases. A response that the SDK cannot parse is used as plain JSON, because releases require
different fields of an app. Error messages never contain a token or a secret.

`WorkflowApi` sends requests that the SDK lacks: a workflow's definition, and the events of workflows and sources. The API has no
list of workflows.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from pdkernel.common.identity import Environment
from pdkernel.common.redaction import mask_values
from pdkernel.errors import ConnectSettingsError, ProjectError, RequestError, describe_fault
from pdkernel.storage import Login

TIMEOUT_S = 20.0
PAGE_SIZE = 100
_MAX_MESSAGE_CHARS = 200
_READABLE_KEYS = frozenset({"data", "id"})
"""A usable response has at least one of these keys: a page, an account, a deployed trigger."""

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SdkPage:
    """
    A page of a list.

    Attributes:
        items: The items of the page.
        total: The number of items of all pages; None if the API does not report it.
        is_last: Whether there is no further page.
    """

    items: Sequence[JsonObject]
    total: int | None
    is_last: bool


class Sdk:
    """
    An SDK client for one project, created at the first call. Safe from any thread.

    Args:
        login: Login at the project.
        timeout_s: Seconds until a request times out.
    """

    def __init__(self, login: Login, *, timeout_s: float = TIMEOUT_S) -> None:
        self.login = login
        self._timeout_s = timeout_s
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The client object of the SDK."""
        if self._client is None:
            self._client = self._make()
        return self._client

    def build_request_options(self, environment: Environment) -> JsonObject:
        """Request options: the environment, the timeout, and no retries."""
        return {
            "additional_headers": {"x-pd-environment": environment},
            "max_retries": 0,
            "timeout_in_seconds": self._timeout_s,
        }

    def fetch_access_token(self) -> str:
        """Return an access token of the project's OAuth client. Raises the errors of `call`."""
        token: str = self.call(lambda client: client.raw_access_token)
        return token

    def call(self, request: Callable[[Any], Any], *, default: Any = None, secrets: Collection[str] = ()) -> Any:
        """
        Return the result of *request* with the client, or *default* (if not None) for a 404. Error messages mask *secrets*.

        Raises:
            ConnectSettingsError: The API rejects the OAuth client, or the client lacks a permission.
            ProjectError: The API does not respond, or the response is unusable.
            RequestError: The API rejects the request.
        """
        client = self._client
        try:
            return self._call(request, default, secrets)
        except _RevokedTokenError as fault:
            if client is None:  # the token is new
                raise self._refused(401, fault.body, {}, secrets) from None
            # the SDK reuses a token until it expires; a new client requests a new token
            if self._client is client:
                self._client = None
        try:
            return self._call(request, default, secrets)
        except _RevokedTokenError as fault:
            raise self._refused(401, fault.body, {}, secrets) from None

    def _call(self, send: Callable[[Any], Any], default: Any, secrets: Collection[str]) -> Any:
        import httpx

        try:
            return send(self.client)
        except (httpx.HTTPError, OSError) as fault:
            raise self._unreachable(fault) from None
        except Exception as fault:  # noqa: BLE001  # exception classes differ between releases; all have a status
            status = getattr(fault, "status_code", None)
            body = getattr(fault, "body", None)
            if status is None:
                raise self._unreadable(fault) from None
            if status == 401:
                raise _RevokedTokenError(body) from None
            if status == 404 and default is not None:
                return default
            if status < 400:
                if isinstance(body, dict) and _READABLE_KEYS & body.keys():
                    return body
                raise self._unreadable(fault) from None
            headers = {name.lower(): value for name, value in (getattr(fault, "headers", None) or {}).items()}
            raise self._refused(int(status), body, headers, secrets) from None

    def iter_pages(self, request_page: Callable[[Any, str | None], Any]) -> Iterator[SdkPage]:
        """
        Yield every page; *request_page* receives the client and the page's cursor.

        Raises:
            ConnectSettingsError, ProjectError, RequestError: As for `call`.
        """
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            page = self.call(_at_cursor(request_page, cursor))
            items, cursor, total = _parse_page(page)
            is_last = not items or not cursor or cursor in seen
            yield SdkPage(items, total, is_last)
            if is_last:
                return
            seen.add(str(cursor))

    def iter_items(self, request_page: Callable[[Any, str | None], Any]) -> Iterator[JsonObject]:
        """Yield the items of every page, as `iter_pages` requests them."""
        for page in self.iter_pages(request_page):
            yield from page.items

    @property
    def _api_host(self) -> str:
        parts = urlsplit(self.login.base_url)
        return parts.netloc

    def _make(self) -> Any:
        from pipedream import Pipedream  # reads defaults from the environment: pass every argument

        login = self.login
        arguments: JsonObject = {
            "access_token": "",
            "client_id": login.client_id,
            "client_secret": login.client_secret,
            "project_id": login.project_id,
            "project_environment": login.environment,
            "base_url": login.base_url,
            "timeout": self._timeout_s,
            "max_retries": 0,
            "httpx_client": self._http(),
        }
        accepted = inspect.signature(Pipedream).parameters
        if "base_url" not in accepted:
            raise ProjectError(
                "The installed release of the pipedream SDK does not accept the API's URL.",
                fix="Install a newer release: pip install --upgrade pipedream",
            )
        try:
            return Pipedream(**{name: value for name, value in arguments.items() if name in accepted})
        except ValueError as fault:
            raise ConnectSettingsError(
                f"The pipedream SDK rejects these settings: {self._mask(str(fault))}",
                fix="Check the environment variables that begin with PIPEDREAM_.",
            ) from None

    def _http(self) -> Any:
        """Return the HTTP client of the SDK, closed with this object; releases before 2.0 create their own."""
        import httpx

        http = httpx.Client(timeout=self._timeout_s)
        weakref.finalize(self, http.close)
        return http

    def _mask(self, text: str, secrets: Collection[str] = ()) -> str:
        return " ".join(mask_values(text, (self.login.client_secret, *secrets)).split())[:_MAX_MESSAGE_CHARS]

    def _unreachable(self, fault: Exception) -> ProjectError:
        import httpx

        if isinstance(fault, httpx.TimeoutException):
            return ProjectError(
                f"Pipedream Connect at {self._api_host} did not answer within {self._timeout_s:g} s.",
                fix="Try again. If the error persists, check the network and Pipedream's status page.",
            )
        cut = isinstance(fault, httpx.RemoteProtocolError | httpx.ReadError)
        what = "closed the connection too early" if cut else "is unreachable"
        return ProjectError(
            f"Pipedream Connect at {self._api_host} {what}: {self._mask(describe_fault(fault))}",
            fix="Check the network, then try again. To work offline: pdkernel logout",
        )

    def _unreadable(self, fault: Exception) -> ProjectError:
        return ProjectError(
            f"Pipedream Connect at {self._api_host} sent a response that the SDK cannot parse ({type(fault).__name__}).",
            fix="Check the API's URL, or install another release: pip install --upgrade pipedream",
        )

    def _refused(self, status: int, body: Any, headers: Mapping[str, str], secrets: Collection[str]) -> Exception:
        detail = self._format_api_message(body, secrets)
        login = self.login
        if status == 401 or (status == 400 and "invalid_client" in detail):
            return ConnectSettingsError(
                f"Pipedream rejects the OAuth client {login.client_id} ({status}).{detail}",
                fix="Create a client in your workspace's settings, then log in with its id and secret: pdkernel login",
            )
        if status == 403:
            return ConnectSettingsError(
                f"The OAuth client {login.client_id} lacks a permission in the project {login.project_id} (403).{detail}",
                fix="Check the client's scopes, the project's id and your plan, then log in again: pdkernel login",
            )
        if status == 404:
            return ConnectSettingsError(
                f"Pipedream at {self._api_host} found nothing at this URL in the project {login.project_id} (404).{detail}",
                fix="Check the project's id and environment: pdkernel project show",
            )
        if status == 429:
            wait = headers.get("retry-after", "")
            when = f"Try again in {wait} s." if wait.isdigit() else "Try again in a minute."
            return ProjectError(f"The project has reached Pipedream's rate limit (429).{detail}", fix=when)
        if status >= 500:
            return ProjectError(
                f"Pipedream reports a server error ({status}).{detail}",
                fix="Try again. If the error persists, check Pipedream's status page.",
            )
        return RequestError(f"Pipedream rejects the request ({status}).{detail}")

    def _format_api_message(self, body: Any, secrets: Collection[str]) -> str:
        if hasattr(body, "error"):
            body = body.error
        if isinstance(body, dict):
            body = body.get("error") or body.get("message") or ""
        text = self._mask(str(body or ""), secrets)
        return f" Pipedream's message: {text}" if text and "<" not in text else ""


class _RevokedTokenError(Exception):
    """The API rejects the token, or does not issue a token."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body


def to_json_object(value: Any) -> JsonObject:
    """Convert a response of the SDK to a JSON object; times may be `datetime` objects."""
    if isinstance(value, dict):
        return value
    converted: JsonObject = value.dict()
    return converted


def _at_cursor(request_page: Callable[[Any, str | None], Any], cursor: str | None) -> Callable[[Any], Any]:
    return lambda client: request_page(client, cursor)


def _parse_page(page: Any) -> tuple[list[JsonObject], str | None, int | None]:
    """Return the items of a page, the cursor of the next page, and the number of all items, if it is known."""
    if isinstance(page, dict):  # the SDK could not parse the page
        info = page.get("page_info") or {}
        return [dict(item) for item in page.get("data") or ()], info.get("end_cursor") or None, info.get("total_count")
    info = getattr(getattr(page, "response", None), "page_info", None)
    cursor = getattr(info, "end_cursor", None) if getattr(page, "has_next", False) else None
    return [to_json_object(item) for item in page.items or ()], cursor, getattr(info, "total_count", None)


EventListKind = Literal["errors", "emits", "source"]
MAX_API_EVENTS = 100
"""The number of events that the API keeps for a workflow or a source."""


class WorkflowApi:
    """
    Workflows of the workspace of an OAuth client. Every method sends requests and raises the errors of `Sdk.call`.

    Args:
        sdk: The SDK client, for its token and its errors.
        org_id: The workspace (`o_...`), which the API needs for some clients; None leaves it out.
    """

    def __init__(self, sdk: Sdk, *, org_id: str | None = None) -> None:
        self._sdk = sdk
        self._query = {"org_id": org_id} if org_id else {}

    def fetch_workflow(self, workflow_id: str) -> JsonObject:
        """
        Return the workflow object.

        Raises:
            RequestError: The workspace has no such workflow.
        """
        found = self._get(f"workflows/{quote(workflow_id, safe='')}", {})
        if found is None:
            raise RequestError(
                f"The workspace has no workflow {workflow_id}.",
                fix="The id is at the end of the workflow's URL and of its folder in Git. For another workspace: --org-id o_...",
            )
        return found

    def iter_events(self, kind: EventListKind, owner_id: str) -> Iterator[JsonObject]:
        """
        Yield the newest events, at most `MAX_API_EVENTS`; nothing for an unknown *owner_id*.

        Args:
            kind: `errors` (of runs that failed), `emits` (which a workflow emitted) or `source` (which a source emitted).
            owner_id: A workflow, or a source for `source`.
        """
        owner = quote(owner_id, safe="")
        path = {
            "errors": f"workflows/{owner}/$errors/event_summaries",
            "emits": f"workflows/{owner}/event_summaries",
            "source": f"sources/{owner}/event_summaries",
        }[kind]
        cursor: str | None = None
        seen: set[str] = set()
        while len(seen) < MAX_API_EVENTS:
            page = self._get(
                path, {"expand": "event", "limit": str(PAGE_SIZE), **({"after": cursor} if cursor else {})}
            )
            items = [item for item in (page or {}).get("data") or () if isinstance(item, dict)]
            new = [item for item in items if str(item.get("id")) not in seen]
            for item in new[: MAX_API_EVENTS - len(seen)]:
                seen.add(str(item.get("id")))
                yield item
            info = (page or {}).get("page_info")
            cursor = info.get("end_cursor") if isinstance(info, dict) else None
            if not new or not cursor:
                return

    def _get(self, path: str, query: Mapping[str, str]) -> JsonObject | None:
        """Return the response as an object, or None for a 404."""
        import httpx

        def request(client: Any) -> JsonObject:
            response = httpx.get(
                f"{self._sdk.login.base_url}/v1/{path}",
                params={**self._query, **query},
                headers={"authorization": f"Bearer {client.raw_access_token}"},
                timeout=TIMEOUT_S,
            )
            try:
                body = response.json()
            except ValueError:
                body = None
            if response.status_code >= 300 or not isinstance(body, dict):
                raise _ApiResponseError(response.status_code, body, dict(response.headers))
            return body

        found = self._sdk.call(request, default=_NOT_FOUND)
        return None if found is _NOT_FOUND else found


_NOT_FOUND = object()


class _ApiResponseError(Exception):
    """A response that is not a JSON object of success; has the attributes of the SDK's errors."""

    def __init__(self, status_code: int, body: object, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.status_code = status_code
        self.body = body
        self.headers = headers
