"""
OAuth 2 towards the provider of an app: the page where people sign in, and the tokens that follow.

Knows RFC 6749 (authorization code, refresh) and RFC 7636 (PKCE), and where providers stray from them: GitHub answers
errors with 200, some answer in form encoding, some give their reason under other names. Where tokens are kept is
`renewal`'s.
"""

from __future__ import annotations

import base64
import hashlib
import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pdkernel.connect.oauth_providers import OAuthProvider
from pdkernel.errors import InternalError
from pdkernel.redaction import mask_values

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 15.0
_MAX_ANSWER = 1 << 18
_MAX_REASON_CHARS = 300
_SECRET_FORM_FIELDS = ("code", "code_verifier", "refresh_token")
_REFUSAL_STATUSES = frozenset({400, 401, 403})
"""Statuses with which providers refuse what they were sent; others say that something is out of order, or somewhere else."""
_RETRYABLE_ERRORS = frozenset(
    {
        "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
        "temporarily_unavailable", "server_error", "slow_down",
        "incorrect_client_credentials", "bad_client_secret", "invalid_client_id", "ratelimited",
    }
)  # fmt: skip
"""Errors that are mended at the client or with time, and the code or the token is good again (RFC 6749, GitHub, Slack)."""


class ProviderError(InternalError):
    """The provider refused or could not be reached; says what it said, and shows no token and no code."""

    code = "oauth_provider"
    exit_status = 2

    def __init__(self, message: str, *, is_permanent: bool) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent
        """Whether asking again is of no use: the provider said that the code or the token is no good."""


@dataclass(frozen=True, slots=True)
class OAuthTokens:
    """
    What a provider hands out.

    Attributes:
        access_token: For calls.
        refresh_token: For the next access token, or None.
        expires_in: Seconds that the access token lasts, or None if it was not said.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: float | None


def authorize_url(provider: OAuthProvider, *, state: str, verifier: str, redirect_uri: str) -> str:
    """Where the person's browser goes to sign in at the app."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        **({"scope": " ".join(provider.scopes)} if provider.scopes else {}),
    }
    parts = urlsplit(provider.authorize_url)
    # what the URL holds already stays: some providers want `access_type=offline` or `prompt=consent`
    query = "&".join(filter(None, (parts.query, urlencode(asked))))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


def exchange_code(provider: OAuthProvider, *, code: str, verifier: str, redirect_uri: str) -> OAuthTokens:
    """
    The tokens for a code that the person came back with.

    Raises:
        ProviderError: No tokens.
    """
    return _request_tokens(
        provider,
        {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        },
    )


def refresh_tokens(provider: OAuthProvider, refresh_token: str, *, timeout_s: float = TIMEOUT_S) -> OAuthTokens:
    """
    The next tokens; the provider may keep the refresh token or give another.

    Raises:
        ProviderError: No tokens.
    """
    return _request_tokens(provider, {"grant_type": "refresh_token", "refresh_token": refresh_token}, timeout_s)


def _request_tokens(provider: OAuthProvider, form: dict[str, str], timeout_s: float = TIMEOUT_S) -> OAuthTokens:
    import httpx

    where = urlsplit(provider.token_url).netloc
    auth: httpx.Auth = httpx.Auth()
    if provider.client_auth == "basic" and provider.client_secret is not None:
        auth = httpx.BasicAuth(provider.client_id, provider.client_secret)
    else:
        form = {**form, "client_id": provider.client_id}
        if provider.client_secret is not None:
            form["client_secret"] = provider.client_secret
    try:
        answer = _post(provider.token_url, form, auth, timeout_s)
    except httpx.TimeoutException:
        raise ProviderError(f"{where} did not answer within {timeout_s:g} s.", is_permanent=False) from None
    except httpx.HTTPError as fault:
        raise ProviderError(f"{where} cannot be reached: {type(fault).__name__}.", is_permanent=False) from None
    told = _parse_answer(answer)
    token, error = told.get("access_token"), told.get("error")
    if answer.is_success and not error and isinstance(token, str) and token.strip():
        return _tokens(told)
    refused = bool(error) if answer.is_success else bool(told) and answer.status_code in _REFUSAL_STATUSES
    values = [value for value in (provider.client_secret, *map(form.get, _SECRET_FORM_FIELDS)) if value]
    raise ProviderError(
        f"{where} gave no token ({answer.status_code}): {mask_values(_reason(told), values)[:_MAX_REASON_CHARS]}",
        is_permanent=refused and str(error) not in _RETRYABLE_ERRORS,
    )


def _post(url: str, form: dict[str, str], auth: httpx.Auth, timeout_s: float) -> httpx.Response:
    """The answer, as far as it is one of tokens: no more than that, and no longer than *timeout_s* in all."""
    import httpx

    came: queue.SimpleQueue[httpx.Response | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            came.put(_read_from(client, url, form, auth))
        except Exception as fault:  # noqa: BLE001  # whoever waits raises it
            came.put(fault)

    with httpx.Client(timeout=timeout_s, follow_redirects=False) as client:
        # a thread: httpx counts the time between two pieces only, and a provider can send them one by one for ever
        threading.Thread(target=ask, name="pdkernel-oauth", daemon=True).start()
        try:
            answer = came.get(timeout=timeout_s)
        except queue.Empty:
            raise httpx.ReadTimeout("It goes on and on.") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _read_from(client: httpx.Client, url: str, form: dict[str, str], auth: httpx.Auth) -> httpx.Response:
    import httpx

    with client.stream("POST", url, data=form, auth=auth, headers={"accept": "application/json"}) as answer:
        body = bytearray()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > _MAX_ANSWER:
                break
        headers = {"content-type": answer.headers.get("content-type", "")}
        return httpx.Response(answer.status_code, headers=headers, content=bytes(body))


def _parse_answer(answer: httpx.Response) -> dict[str, Any]:
    if len(answer.content) > _MAX_ANSWER:
        return {}
    try:
        told = answer.json()
    except (ValueError, RecursionError):
        told = dict(parse_qsl(answer.text)) if "x-www-form-urlencoded" in answer.headers.get("content-type", "") else {}
    return told if isinstance(told, dict) else {}


def _tokens(told: dict[str, Any]) -> OAuthTokens:
    refreshing, lasting = told.get("refresh_token"), told.get("expires_in")
    try:
        seconds = None if lasting is None else float(lasting)
    except (TypeError, ValueError, OverflowError):
        seconds = None
    return OAuthTokens(
        access_token=str(told["access_token"]),
        refresh_token=refreshing if isinstance(refreshing, str) and refreshing else None,
        expires_in=seconds if seconds is not None and 0 < seconds < 1e9 else None,
    )


def _reason(told: dict[str, Any]) -> str:
    error = told.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    said = [
        each for each in (inner, told.get("error_description"), told.get("message")) if isinstance(each, str) and each
    ]
    return ": ".join(said) or "it did not say why."
