"""
The proxy: a request of a caller's to an app's API, sent with an external user's account.

Knows that the account goes to hosts of its app only, and how callers write URL and headers. Whether anything goes out at
all is for the mode of outside calls to say: the request passes the same gateway as a step's.
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

from pdkernel.connect.app_calls import APPS, AppCalls, any_bearer
from pdkernel.egress import Binding, Policy, is_loopback
from pdkernel.egress.client import client_for
from pdkernel.egress.policy import is_host_name
from pdkernel.egress.public import is_inside
from pdkernel.egress.refusals import MARK
from pdkernel.engine.end_users import account_secrets
from pdkernel.identity import Account, Credentials
from pdkernel.redaction import Redactor
from pdkernel.server.api.accounts import find_account
from pdkernel.server.api.door import ApiError, Call, read_body
from pdkernel.server.guard import note
from pdkernel.server.http1 import passed_on

if TYPE_CHECKING:
    import httpx

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
PREFIX = "x-pd-proxy-"
TIMEOUT_S = 30.0
"""Seconds that an app may take; then the answer is 504 (platform documentation)."""
MAX_BODY = 32 << 20

_NOT_SENT = frozenset({"host", "content-length", "connection", "transfer-encoding", "proxy-authorization", "te"})
_NOT_RETURNED = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"set-cookie", b"trailer", b"upgrade"})


async def proxy(call: Call) -> Response:
    """`{METHOD} .../proxy/{url_64}?external_user_id=&account_id=`."""
    user, account_id = call.user(call.query("external_user_id")), call.query("account_id")
    if account_id is None:
        raise ApiError(400, "account_id is missing: whose account the request is made with.")
    account = await find_account(call, account_id)
    if account.external_user_id != user:
        raise ApiError(404, f"There is no account {account_id[:80]!r} of this external user.")
    url = _decoded(call.path("url_64"))
    policy = call.policy
    calls = _calls_of(account, _checked(url, policy), policy)
    body = await read_body(call.request, MAX_BODY)
    directory = call.serving.directory
    credentials = await call.ask(directory.credentials, account.id)
    since = call.serving.clock.now()
    answer, stack = await _send(call, url, calls, account, credentials, body)
    # an app that refuses a token that can be renewed is asked once more, with a new one
    if answer.status_code == 401 and await call.ask(directory.refuse_token, account.id, since):
        await stack.aclose()
        credentials = await call.ask(directory.credentials, account.id)
        answer, stack = await _send(call, url, calls, account, credentials, body)
    return _Passed(answer, stack)


async def _send(
    call: Call, url: str, calls: AppCalls, account: Account, credentials: Credentials, body: bytes
) -> tuple[httpx.Response, contextlib.AsyncExitStack]:
    """The app's answer, its body still to come, and what ends the connection."""
    import httpx

    try:
        carried = calls.headers(credentials)
    except KeyError as missing:
        raise ApiError(400, f"The {account.app} account {account.id} has no credential {missing}.") from None
    try:
        request = httpx.Request(call.request.method, url, headers={**_headers(call, carried), **carried}, content=body)
    except (UnicodeEncodeError, httpx.InvalidURL):
        raise ApiError(400, "The request cannot be written: a header holds characters that no header may.") from None
    failures: list[str] = []
    binding = _binding(call.policy, account, credentials, failures.append)
    stack = contextlib.AsyncExitStack()
    try:
        client = await stack.enter_async_context(
            client_for(url, call.serving.runtime.gateway, binding, timeout_s=TIMEOUT_S)
        )
        # not followed: a redirect may lead away from the app, with the account
        answer = await client.send(request, stream=True, follow_redirects=False)
        stack.push_async_callback(answer.aclose)
        if MARK.decode() in answer.headers:
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


class _Passed(StreamingResponse):
    """An app's answer as it comes, encoded as it was; one that breaks off breaks off here, too."""

    def __init__(self, answer: httpx.Response, stack: contextlib.AsyncExitStack) -> None:
        super().__init__(answer.aiter_raw(), status_code=answer.status_code)
        self.raw_headers = passed_on(answer.headers.raw, status=answer.status_code, without=_NOT_RETURNED)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on; the connection is let go whatever becomes of it, and of a caller who has gone before."""
        import httpx

        try:
            await super().__call__(scope, receive, send)
        except* httpx.HTTPError:
            note(scope, "the app's answer broke off")
        finally:
            await asyncio.shield(self._stack.aclose())


async def _refusal(answer: httpx.Response) -> str:
    await answer.aread()
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "The request was not sent."


def _decoded(text: str) -> str:
    """The URL: base64 of either alphabet, padded or not (SDKs differ)."""
    plain = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise ApiError(400, "The URL in the path is not base64.") from None


def _checked(url: str, policy: Policy) -> str:
    """The host of *url*, lower case."""
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
        raise ApiError(400, "The URL in the path is not a whole http or https URL.")
    if ":" not in host and not is_host_name(written):
        raise ApiError(400, f"The URL in the path is not a whole http or https URL: {host[:80]!r} is not a host name.")
    named = policy.mode == "allow" and policy.goes_out(host)
    if policy.public_only and is_inside(host):
        raise ApiError(403, f"The proxy does not call {host} for a Connect token: it is not a public address.")
    if not named and (is_loopback(host) or _is_address(host)):
        raise ApiError(403, f"The proxy does not call {host}: it is no app's host.")
    if not named and (parts.scheme != "https" or port not in (None, 443)):
        raise ApiError(403, "The proxy calls https URLs at their usual port only.")
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # a name that a resolver reads as an address: 2130706433, 0x7f.1
        return all(part.isdigit() or part.startswith("0x") for part in host.split("."))
    return True


def _calls_of(account: Account, host: str, policy: Policy) -> AppCalls:
    calls = APPS.get(account.app)
    if calls is None:
        if policy.mode not in ("allow", "stand-in", "replay"):
            # parity[proxy-apps]: the platform knows the hosts and the auth of every app
            raise ApiError(400, f"Which hosts are {account.app}'s is not known here: its account is sent nowhere.")
        return AppCalls((host,), any_bearer)
    if not calls.reaches(host):
        raise ApiError(403, f"{host} is no host of {account.app}: its account is not sent there.")
    return calls


def _headers(call: Call, carried: Mapping[str, str]) -> dict[str, str]:
    kept = _NOT_SENT | {name.lower() for name in carried}
    given = {
        name[len(PREFIX) :]: value for name, value in call.request.headers.items() if name.lower().startswith(PREFIX)
    }
    kind = call.request.headers.get("content-type")
    headers = {"content-type": kind} if kind else {}
    return headers | {name: value for name, value in given.items() if name and name.lower() not in kept}


def _binding(
    policy: Policy, account: Account, credentials: Mapping[str, str], on_failed: Callable[[str], None]
) -> Binding:
    secrets = account_secrets(account, credentials)
    return Binding(
        step="proxy",
        policy=policy,
        redactor=Redactor(secrets),
        on_call=lambda _: None,
        on_refused=lambda _: None,
        on_failed=on_failed,
        external_user=account.external_user_id,
        apps={secret.ref: account.app for secret in secrets},
    )
