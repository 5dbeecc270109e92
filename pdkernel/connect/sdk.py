"""
The official `pipedream` SDK, as far as it differs from release to release, and its failures as sentences.

Knows how a client is made, that pages are asked for one by one, and that an answer which the SDK cannot parse is read as it
is: releases disagree on what an app must have. Knows nothing of users and accounts. No sentence holds a token or a secret.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from pdkernel.errors import ConnectSettingsError, ProjectError, RequestError
from pdkernel.identity import Environment
from pdkernel.project import Login
from pdkernel.redaction import mask_values

TIMEOUT_S = 20.0
PAGE_SIZE = 100
_MAX_MESSAGE_CHARS = 200
_READABLE_KEYS = frozenset({"data", "id"})
"""What an answer has that is one of ours to read: a page, an account, a deployed trigger."""

JsonObject = dict[str, Any]


class Sdk:
    """
    A client of the SDK for one project, made at the first call. Safe from any thread.

    Args:
        login: Which project.
        timeout_s: Seconds that one answer may take.
    """

    def __init__(self, login: Login, *, timeout_s: float = TIMEOUT_S) -> None:
        self.login = login
        self._timeout_s = timeout_s
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The SDK's own client."""
        if self._client is None:
            self._client = self._make()
        return self._client

    def build_request_options(self, environment: Environment) -> JsonObject:
        """What each call is given besides: its environment, and that a failed one is told at once."""
        return {
            "additional_headers": {"x-pd-environment": environment},
            "max_retries": 0,
            "timeout_in_seconds": self._timeout_s,
        }

    def fetch_access_token(self) -> str:
        """An access token of the project's client. Raises as `call` does."""
        token: str = self.call(lambda client: client.raw_access_token)
        return token

    def call(self, request: Callable[[Any], Any], *, default: Any = None, secrets: Collection[str] = ()) -> Any:
        """
        What *request* gets from the client; *default* where the API knows no such thing; no sentence shows what is to *secrets*.

        Raises:
            ConnectSettingsError: The API does not accept the client, or it may not do this.
            ProjectError: It does not answer, or not as it should.
            RequestError: It refuses the request itself.
        """
        kept = self._client
        try:
            return self._call(request, default, secrets)
        except _RevokedTokenError as fault:
            if kept is None:  # the token is new
                raise self._refused(401, fault.body, {}, secrets) from None
            # the SDK keeps a token until it ends; a new client asks for another
            if self._client is kept:
                self._client = None
        try:
            return self._call(request, default, secrets)
        except _RevokedTokenError as fault:
            raise self._refused(401, fault.body, {}, secrets) from None

    def _call(self, ask: Callable[[Any], Any], missing: Any, hide: Collection[str]) -> Any:
        import httpx

        try:
            return ask(self.client)
        except (httpx.HTTPError, OSError) as fault:
            raise self._unreachable(fault) from None
        except Exception as fault:  # noqa: BLE001  # each release has classes of its own; what they share is a status
            status = getattr(fault, "status_code", None)
            body = getattr(fault, "body", None)
            if status is None:
                raise self._unreadable(fault) from None
            if status == 401:
                raise _RevokedTokenError(body) from None
            if status == 404 and missing is not None:
                return missing
            if status < 400:
                if isinstance(body, dict) and _READABLE_KEYS & body.keys():
                    return body
                raise self._unreadable(fault) from None
            headers = {name.lower(): value for name, value in (getattr(fault, "headers", None) or {}).items()}
            raise self._refused(int(status), body, headers, hide) from None

    def iter_items(self, request_page: Callable[[Any, str | None], Any]) -> Iterator[JsonObject]:
        """
        The items of every page; *request_page* gets the client and the cursor of a page.

        Raises:
            ConnectSettingsError, ProjectError, RequestError: As `call` does.
        """
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            page = self.call(partial(_request_at, request_page, cursor))
            items, cursor = _page(page)
            yield from items
            if not items or not cursor or cursor in seen:
                return
            seen.add(cursor)

    @property
    def _api_host(self) -> str:
        parts = urlsplit(self.login.base_url)
        return parts.netloc

    def _make(self) -> Any:
        from pipedream import Pipedream  # reads the environment for defaults: every one is given here

        login = self.login
        given: JsonObject = {
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
        takes = inspect.signature(Pipedream).parameters
        if "base_url" not in takes:
            raise ProjectError(
                "The installed release of the pipedream SDK cannot be told where the API is.",
                fix="Install a newer one: pip install --upgrade pipedream",
            )
        try:
            return Pipedream(**{name: value for name, value in given.items() if name in takes})
        except ValueError as fault:
            raise ConnectSettingsError(
                f"The pipedream SDK does not take these settings: {self._mask(str(fault))}",
                fix="Look at the environment variables whose names begin with PIPEDREAM_.",
            ) from None

    def _http(self) -> Any:
        """The SDK's way out, closed when this is gone; releases before 2.0 make their own."""
        import httpx

        http = httpx.Client(timeout=self._timeout_s)
        weakref.finalize(self, http.close)
        return http

    def _mask(self, text: str, hide: Collection[str] = ()) -> str:
        return " ".join(mask_values(text, (self.login.client_secret, *hide)).split())[:_MAX_MESSAGE_CHARS]

    def _unreachable(self, fault: Exception) -> ProjectError:
        import httpx

        if isinstance(fault, httpx.TimeoutException):
            return ProjectError(
                f"Pipedream Connect at {self._api_host} did not answer within {self._timeout_s:g} s.",
                fix="Try again; if it stays so, look at the network and at Pipedream's status page.",
            )
        cut = isinstance(fault, httpx.RemoteProtocolError | httpx.ReadError)
        what = "broke off its answer" if cut else "cannot be reached"
        return ProjectError(
            f"Pipedream Connect at {self._api_host} {what}: {self._mask(str(fault) or type(fault).__name__)}",
            fix="Look at the network, then try again. To work without it: pdkernel login --remove",
        )

    def _unreadable(self, fault: Exception) -> ProjectError:
        return ProjectError(
            f"Pipedream Connect at {self._api_host} gave an answer that the SDK cannot read ({type(fault).__name__}).",
            fix="Look at the address, or install another release: pip install --upgrade pipedream",
        )

    def _refused(self, status: int, body: Any, headers: Mapping[str, str], hide: Collection[str]) -> Exception:
        said = self._format_api_message(body, hide)
        login = self.login
        if status == 401 or (status == 400 and "invalid_client" in said):
            return ConnectSettingsError(
                f"Pipedream does not accept the OAuth client {login.client_id} ({status}).{said}",
                fix="Make a client in your workspace's settings, then log in with its id and secret: pdkernel login",
            )
        if status == 403:
            return ConnectSettingsError(
                f"The OAuth client {login.client_id} may not do this in the project {login.project_id} (403).{said}",
                fix="Look at the client's scopes, at the project's id and at your plan, then log in again: pdkernel login",
            )
        if status == 404:
            return ConnectSettingsError(
                f"Pipedream at {self._api_host} does not have this in the project {login.project_id} (404).{said}",
                fix="Look at the project's id and its environment: pdkernel project show",
            )
        if status == 429:
            wait = headers.get("retry-after", "")
            when = f"Try again in {wait} s." if wait.isdigit() else "Try again in a minute."
            return ProjectError(f"Pipedream takes no more requests of this project for now (429).{said}", fix=when)
        if status >= 500:
            return ProjectError(
                f"Pipedream failed to answer ({status}).{said}",
                fix="Try again; if it stays so, look at its status page.",
            )
        return RequestError(f"Pipedream refuses the request ({status}).{said}")

    def _format_api_message(self, body: Any, hide: Collection[str]) -> str:
        if hasattr(body, "error"):
            body = body.error
        if isinstance(body, dict):
            body = body.get("error") or body.get("message") or ""
        text = self._mask(str(body or ""), hide)
        return f" It says: {text}" if text and "<" not in text else ""


class _RevokedTokenError(Exception):
    """The API does not take the token, or gives none."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body


def to_json_object(value: Any) -> JsonObject:
    """An answer of the SDK as the JSON object that it was; times may be `datetime`s."""
    if isinstance(value, dict):
        return value
    made: JsonObject = value.dict()
    return made


def _request_at(ask: Callable[[Any, str | None], Any], cursor: str | None, client: Any) -> Any:
    return ask(client, cursor)


def _page(page: Any) -> tuple[list[JsonObject], str | None]:
    if isinstance(page, dict):  # as it came: the SDK could not parse it
        info = page.get("page_info") or {}
        return [dict(item) for item in page.get("data") or ()], info.get("end_cursor") or None
    info = getattr(getattr(page, "response", None), "page_info", None)
    cursor = getattr(info, "end_cursor", None) if getattr(page, "has_next", False) else None
    return [to_json_object(item) for item in page.items or ()], cursor
