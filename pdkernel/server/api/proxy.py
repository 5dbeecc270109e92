"""
The proxy route: sends a caller's request to an app's API with an external user's account.

Credentials are sent only to hosts of the account's app. The request passes the same gateway as a step's, under the same policy.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pdkernel.accounts.apps import APP_APIS, AppApi, default_auth_headers
from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import Account, Credentials
from pdkernel.common.redaction import Redactor
from pdkernel.egress import CallContext, OutboundPolicy, connection_owner, is_loopback
from pdkernel.egress.gateway import open_client
from pdkernel.egress.outbound_policy import is_host_name, is_inside
from pdkernel.egress.refusals import REFUSAL_HEADER
from pdkernel.engine.account_resolution import list_account_secrets
from pdkernel.server.access_log import add_access_log_note
from pdkernel.server.api.accounts import find_account
from pdkernel.server.api.api_call import ApiCall, ApiError, read_body
from pdkernel.server.http_protocol import filter_response_headers

if TYPE_CHECKING:
    import httpx

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
PROXY_HEADER_PREFIX = "x-pd-proxy-"
TIMEOUT_S = 30.0
"""Seconds to wait for the app; after that, the response has status 504 (platform documentation)."""
MAX_BODY_BYTES = 32 << 20

_DROPPED_REQUEST_HEADERS = frozenset(
    {"host", "content-length", "connection", "transfer-encoding", "proxy-authorization", "te"}
)
_DROPPED_RESPONSE_HEADERS = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"set-cookie", b"trailer", b"upgrade"}
)


async def proxy(call: ApiCall) -> Response:
    """Answer `{METHOD} .../proxy/{url_64}?external_user_id=&account_id=`."""
    user, account_id = call.resolve_user(call.query_param("external_user_id")), call.query_param("account_id")
    if account_id is None:
        raise ApiError(400, "account_id is missing. Send the id of the account for the request.")
    account = await find_account(call, account_id)
    if account.external_user_id != user:
        raise ApiError(404, f"There is no account {account_id[:80]!r} of this external user.")
    policy = call.policy
    directory = call.context.directory
    credentials = await run_blocking(directory.credentials, account.id)
    url = _resolve_url(_decode_url(call.path_param("url_64")), account, credentials)
    api = _find_api(account, _check_url(url, policy), policy)
    body = await read_body(call.request, MAX_BODY_BYTES)
    since = call.context.clock.now()
    answer, stack = await _send(call, url, api, account, credentials, body)
    # if the app rejects a token that can be refreshed, the request is sent once more with a new token
    if answer.status_code == 401 and await run_blocking(directory.report_unauthorized, account.id, since):
        await stack.aclose()
        credentials = await run_blocking(directory.credentials, account.id)
        answer, stack = await _send(call, url, api, account, credentials, body)
    return _AppResponse(answer, stack)


async def _send(
    call: ApiCall, url: str, api: AppApi, account: Account, credentials: Credentials, body: bytes
) -> tuple[httpx.Response, contextlib.AsyncExitStack]:
    """Return the app's response with its body unread, and the stack that closes the connection."""
    import httpx

    try:
        auth_headers = api.build_headers(credentials)
    except KeyError as missing:
        raise ApiError(400, f"The {account.app} account {account.id} has no credential {missing}.") from None
    try:
        headers = {**_given_headers(call, auth_headers), **auth_headers}
        request = httpx.Request(call.request.method, url, headers=headers, content=body)
    except (UnicodeEncodeError, httpx.InvalidURL):
        raise ApiError(400, "The request is invalid: a header contains a forbidden character.") from None
    failures: list[str] = []
    binding = _binding(call.policy, account, credentials, failures.append)
    stack = contextlib.AsyncExitStack()
    try:
        client = await stack.enter_async_context(
            open_client(url, call.context.engine.gateway, binding, timeout_s=TIMEOUT_S)
        )
        # redirects are not followed: they could send credentials to another host
        answer = await client.send(request, stream=True, follow_redirects=False)
        stack.push_async_callback(answer.aclose)
        if REFUSAL_HEADER.decode() in answer.headers:
            raise ApiError(answer.status_code, await _refusal(answer))
    except httpx.TimeoutException:
        await stack.aclose()
        raise ApiError(504, f"{request.url.host} did not answer within {TIMEOUT_S:g} seconds.") from None
    except httpx.HTTPError as fault:
        await stack.aclose()
        why = failures[0] if failures else f"{request.url.host} cannot be reached: {type(fault).__name__}."
        raise ApiError(502, why) from None
    except BaseException:
        await stack.aclose()
        raise
    return answer, stack


class _AppResponse(StreamingResponse):
    """Streams an app's response with its encoding unchanged. If the app closes the connection early, so does this server."""

    def __init__(self, answer: httpx.Response, stack: contextlib.AsyncExitStack) -> None:
        super().__init__(answer.aiter_raw(), status_code=answer.status_code)
        self.raw_headers = filter_response_headers(
            answer.headers.raw, status=answer.status_code, excluded=_DROPPED_RESPONSE_HEADERS
        )
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the response, and always release the connection."""
        import httpx

        try:
            await super().__call__(scope, receive, send)
        except* httpx.HTTPError:
            add_access_log_note(scope, "the app closed the connection too early")
        finally:
            await asyncio.shield(self._stack.aclose())


async def _refusal(answer: httpx.Response) -> str:
    await answer.aread()
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "The request was not sent."


def _decode_url(text: str) -> str:
    """Decode the URL from base64 in either alphabet, with or without padding: SDKs differ."""
    plain = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise ApiError(400, "The URL in the path is not base64.") from None


def _resolve_url(url: str, account: Account, credentials: Mapping[str, str]) -> str:
    """Return *url*, a relative one with the domain of the account or of its app. Its host is checked like any other."""
    if not url.startswith("/") or url.startswith("//"):
        return url
    api = APP_APIS.get(account.app)
    base = api.find_base_url(credentials) if api is not None else None
    if base is None:
        raise ApiError(
            400, f"The URL in the path is relative, and {account.app} has no single host: send an absolute URL."
        )
    return base + url


def _check_url(url: str, policy: OutboundPolicy) -> str:
    """Check and return the host of *url*, in lower case."""
    import httpx

    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").removesuffix("."), parts.port
        read = httpx.URL(url)
        # `host` decodes IDNA, which fails where `raw_host` does not
        written = read.raw_host.decode("ascii").removesuffix(".") if read.host else ""
    except (ValueError, httpx.InvalidURL):
        parts, host, port, written = SplitResult("", "", "", "", ""), "", None, ""
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise ApiError(400, "The URL in the path is not an absolute http or https URL.")
    if ":" not in host and not is_host_name(written):
        raise ApiError(
            400, f"The URL in the path is not an absolute http or https URL: {host[:80]!r} is not a host name."
        )
    named = policy.mode == "allow" and policy.allows_host(host)
    if policy.public_only and is_inside(host):
        raise ApiError(403, f"The proxy does not call {host} for a Connect token: it is not a public address.")
    if not named and (is_loopback(host) or _is_address(host)):
        raise ApiError(403, f"The proxy does not call {host}: the host does not belong to an app.")
    if not named and (parts.scheme != "https" or port not in (None, 443)):
        raise ApiError(403, "The proxy calls only https URLs on port 443.")
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # names that a resolver parses as an address: 2130706433, 0x7f.1
        return all(part.isdigit() or part.startswith("0x") for part in host.split("."))
    return True


def _find_api(account: Account, host: str, policy: OutboundPolicy) -> AppApi:
    """Return the API of the account's app; raises `ApiError` if *host* is not a host of the app."""
    api = APP_APIS.get(account.app)
    if api is None:
        if policy.mode not in ("allow", "stand-in", "replay"):
            # parity[proxy-apps]: the platform has the hosts and the authentication of every app
            raise ApiError(400, f"The hosts of {account.app} are unknown: the proxy does not send its credentials.")
        return AppApi((host,), default_auth_headers)
    if not api.has_host(host):
        raise ApiError(
            403, f"{host} is not a host of {account.app}: the proxy does not send the account's credentials."
        )
    return api


def _given_headers(call: ApiCall, auth_headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that the caller set for the app's API, without those that the proxy sets."""
    dropped = _DROPPED_REQUEST_HEADERS | {name.lower() for name in auth_headers}
    given = {
        name[len(PROXY_HEADER_PREFIX) :]: value
        for name, value in call.request.headers.items()
        if name.lower().startswith(PROXY_HEADER_PREFIX)
    }
    kind = call.request.headers.get("content-type")
    headers = {"content-type": kind} if kind else {}
    return headers | {name: value for name, value in given.items() if name and name.lower() not in dropped}


def _binding(
    policy: OutboundPolicy, account: Account, credentials: Mapping[str, str], on_failed: Callable[[str], None]
) -> CallContext:
    secrets = list_account_secrets(account, credentials)
    return CallContext(
        step="proxy",
        policy=policy,
        redactor=Redactor(secrets),
        owner=connection_owner(account.external_user_id, account.environment, f"with account {account.id}"),
        on_call_finished=lambda _: None,
        on_call_refused=lambda _: None,
        on_failed=on_failed,
        external_user_id=account.external_user_id,
        environment=account.environment,
        app_by_secret_ref={secret.ref: account.app for secret in secrets},
    )
