"""
A call of a workflow's endpoint for an external user: one request, sent once.

The official SDKs are not used: they append the endpoint's URL to the API's URL, form-encode the body, and repeat a failed
POST. The client's secret never appears in a URL, a message or a repr.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx

from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import PIPEDREAM_API_URL, PIPEDREAM_ENDPOINT_DOMAIN, Environment, check_external_user_id
from pdkernel.errors import InternalError, RequestError, describe_fault
from pdkernel.event import ENVIRONMENT_HEADER, EXTERNAL_USER_HEADER
from pdkernel.model import JSON
from pdkernel.render.snippets import Snippet, SnippetCall, build_snippets

TOKEN_PATH = "/v1/oauth/token"  # noqa: S105  # a path
TIMEOUT_S = 60.0
SHOWN_HEADERS = ("content-type", "location", "retry-after", "www-authenticate")
"""Response headers that are shown, besides headers that begin with `x-pd-`."""


class InvokeError(InternalError):
    """An endpoint cannot be reached, or does not answer in time."""

    code = "endpoint_unreachable"


@dataclass(frozen=True)
class ClientCredentials:
    """An OAuth client; *token_url* is its token endpoint, or None for the origin of the workflow's endpoint."""

    id: str
    secret: str = field(repr=False)
    token_url: str | None = None


@dataclass(frozen=True)
class InvokeRequest:
    """
    A request to an endpoint.

    Attributes:
        url: The endpoint's URL, which may have a query.
        external_user_id: The external user of the run, or None.
        environment: The external user's environment.
        body: The body, sent as JSON; None sends no body.
        method: The HTTP method in upper case.
        query: Names and values that are added to the URL's query.
        headers: Additional headers; they take precedence over the headers for user, environment and token.
        bearer: The token to send, or None.
        client: If *bearer* is None, the client whose token is fetched and sent; None sends no token.
    """

    url: str
    external_user_id: str | None = None
    environment: Environment = "development"
    body: JSON = None
    method: str = "POST"
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    bearer: str | None = field(default=None, repr=False)
    client: ClientCredentials | None = None


class InvokeResponse(JsonStruct, frozen=True):
    """The response; *body* is the parsed value if the content type is JSON and the body is valid JSON, else the text."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: JSON
    duration_ms: float

    def json_form(self) -> object:
        """Return `{"status", "headers", "body", "duration_ms"}`."""
        milliseconds = round(self.duration_ms, 1)
        return {"status": self.status, "headers": self.headers, "body": self.body, "duration_ms": milliseconds}

    @property
    def shown_headers(self) -> dict[str, str]:
        """The headers that are shown to a person."""
        return {n: v for n, v in self.headers.items() if n in SHOWN_HEADERS or n.startswith("x-pd-")}

    @property
    def exit_status(self) -> int:
        """0 for a status below 400, 2 for a refused request (4xx), 1 for a failed workflow or server (5xx)."""
        return 0 if self.status < 400 else 2 if self.status < 500 else 1


def build_client(client_id: str | None, secret: str | None, token_url: str | None = None) -> ClientCredentials | None:
    """
    Return the OAuth client with this id and secret; None without both.

    Raises:
        RequestError: Only one of both is given.
    """
    if not client_id and not secret:
        return None
    if not client_id or not secret:
        raise RequestError(
            "An OAuth client has an id and a secret, and only one of them is set.",
            fix="Set PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET; create a client with: pdkernel clients create",
        )
    return ClientCredentials(client_id, secret, token_url)


def invoke(request: InvokeRequest, *, timeout_s: float = TIMEOUT_S, ca_file: Path | None = None) -> InvokeResponse:
    """
    Send *request* once.

    Args:
        request: The request.
        timeout_s: Seconds for each of the two HTTP requests (token, endpoint).
        ca_file: A certificate authority to trust besides the public ones (`pdkernel serve --tls` prints its path).

    Raises:
        RequestError: The URL is invalid, or the token endpoint issues no token to the client.
        InvokeError: The endpoint cannot be reached or does not respond in time.
    """
    url = _checked(request.url)
    if request.external_user_id is not None:
        check_external_user_id(request.external_user_id)
    with httpx.Client(verify=_ssl_context(ca_file), timeout=timeout_s, follow_redirects=False) as http:
        token = request.bearer or (_token(http, request.client, url) if request.client else None)
        http_request = http.build_request(
            request.method,
            url.copy_merge_params(list(request.query)) if request.query else url,
            headers=_headers(request, token),
            content=None if request.body is None else json.dumps(request.body).encode(),
        )
        started = time.perf_counter()
        answer = _send(http, http_request)
        duration_ms = (time.perf_counter() - started) * 1e3
    return InvokeResponse(answer.status_code, answer.reason_phrase, dict(answer.headers), _body(answer), duration_ms)


def resolve_token_url(url: str) -> str:
    """Return the token URL for the endpoint at *url*: on the same origin, or at Pipedream's API for its endpoints."""
    parts = urlsplit(url)
    if (parts.hostname or "").endswith(f".{PIPEDREAM_ENDPOINT_DOMAIN}"):
        return PIPEDREAM_API_URL + TOKEN_PATH
    return f"{parts.scheme}://{parts.netloc}{TOKEN_PATH}"


def build_request_snippets(request: InvokeRequest, *, project_id: str, fix: str) -> tuple[Snippet, ...]:
    """
    Programs that send *request* for its external user in the project *project_id*. A POST always has a body.

    Raises:
        RequestError: No external user is chosen; *fix* says how to choose one.
    """
    if request.external_user_id is None:
        raise RequestError("Snippets invoke a workflow for an external user, and none is chosen.", fix=fix)
    parts = urlsplit(request.url)
    call = SnippetCall(
        parts._replace(query="").geturl(),  # the SDK passes the query separately
        request.external_user_id,
        request.environment,
        project_id,
        {} if request.body is None and request.method == "POST" else request.body,
        resolve_token_url(request.url).removesuffix(TOKEN_PATH),
        request.method,
        (*parse_qsl(parts.query, keep_blank_values=True), *request.query),
        request.bearer is not None,
    )
    return build_snippets(call)


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as fault:
        raise RequestError(f"{text!r} is not a URL: {fault}.", fix="Pass the URL that pdkernel serve prints.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise RequestError(
            f"{text!r} is not the URL of an endpoint.",
            fix="Pass the URL that pdkernel serve prints: http://127.0.0.1:8765/eo...",
        )
    return url


def _headers(call: InvokeRequest, token: str | None) -> dict[str, str]:
    headers: dict[str, str] = {ENVIRONMENT_HEADER: call.environment}
    if call.body is not None:
        headers["content-type"] = "application/json"
    if call.external_user_id is not None:
        headers[EXTERNAL_USER_HEADER] = call.external_user_id
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    given = {name.lower(): value for name, value in call.headers.items()}
    return {**headers, **given}


def _token(http: httpx.Client, client: ClientCredentials, url: httpx.URL) -> str:
    token_url = client.token_url or resolve_token_url(str(url))
    body = {"grant_type": "client_credentials", "client_id": client.id, "client_secret": client.secret}
    answer = _send(http, http.build_request("POST", token_url, json=body))
    try:
        token = answer.json().get("access_token") if answer.status_code == httpx.codes.OK else None
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str):
        raise RequestError(
            f"{token_url} returned no token for the client {client.id}: the status was {answer.status_code}.",
            fix="Check the client's id and secret; `pdkernel clients list` shows the clients of this project.",
        )
    return token


def explain_missing_token(request: InvokeRequest, response: InvokeResponse) -> str | None:
    """Return a hint if the endpoint refused the request because no token was sent; otherwise None."""
    if response.status != HTTPStatus.UNAUTHORIZED or request.client is not None or request.bearer is not None:
        return None
    return "No token was sent: set PDKERNEL_CLIENT_ID and PDKERNEL_CLIENT_SECRET."


def _send(http: httpx.Client, request: httpx.Request) -> httpx.Response:
    origin = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
    try:
        return http.send(request)
    except httpx.TimeoutException:
        raise InvokeError(
            f"{origin} did not respond in time.", fix="The run may still go on. To wait longer, pass --timeout."
        ) from None
    except httpx.HTTPError as fault:
        fix = "If the workflow is not served, start the server: pdkernel serve SOURCE"
        if "CERTIFICATE_VERIFY_FAILED" in str(fault):
            fix = (
                "For pdkernel serve --tls, pass the file that the command prints as NODE_EXTRA_CA_CERTS: --ca-file FILE"
            )
        raise InvokeError(f"Cannot reach {origin}: {describe_fault(fault)}.", fix=fix) from None


def _ssl_context(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError) as fault:
        raise RequestError(
            f"Cannot read certificates from {ca_file}: {describe_fault(fault)}.",
            fix="Pass a file with certificates in PEM format.",
        ) from None
    return context


def _body(answer: httpx.Response) -> JSON:
    if "json" in answer.headers.get("content-type", ""):
        try:
            parsed: JSON = answer.json()
        except ValueError:
            return answer.text
        return parsed
    return answer.text
