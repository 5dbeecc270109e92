"""
Requests to an app's OAuth 2 provider: authorization code, refresh (RFC 6749) and PKCE (RFC 7636), and the refresh of stored tokens.

Accepts common deviations from these standards: GitHub reports errors with status 200, some providers answer in form encoding, and
some have other fields for the reason. Tokens are refreshed before they expire or after an API rejected them, by one process at a time; a
refresh blocks until the provider responds.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import queue
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pdkernel.accounts.apps import OAuthProvider, find_provider
from pdkernel.common.identity import ACCESS_TOKEN_FIELD, Account, Credentials
from pdkernel.common.redaction import mask_values
from pdkernel.errors import InternalError
from pdkernel.storage import Grant, Project

if TYPE_CHECKING:
    import httpx

TIMEOUT_S = 15.0
_MAX_ANSWER = 1 << 18
_MAX_REASON_CHARS = 300
_SECRET_FORM_FIELDS = ("code", "code_verifier", "refresh_token")
_REFUSAL_STATUSES = frozenset({400, 401, 403})
"""Statuses by which a provider rejects the request. Other statuses are faults of the provider or of the URL."""
_RETRYABLE_ERRORS = frozenset(
    {
        "invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope",
        "temporarily_unavailable", "server_error", "slow_down",
        "incorrect_client_credentials", "bad_client_secret", "invalid_client_id", "ratelimited",
    }
)  # fmt: skip
"""Errors after which the same code or token may succeed: a wrong client setting or overload (RFC 6749, GitHub, Slack)."""


class ProviderError(InternalError):
    """The provider rejected the request or did not respond. The message has the provider's reason, without tokens and codes."""

    code = "oauth_provider"
    exit_status = 2

    def __init__(self, message: str, *, is_permanent: bool) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent
        """Whether every retry would fail, because the provider rejected the code or the token."""


@dataclass(frozen=True, slots=True)
class OAuthTokens:
    """
    Tokens that a provider issued.

    Attributes:
        access_token: The token for API calls.
        refresh_token: The token that gets the next access token, or None.
        expires_in: Seconds until the access token expires, or None if the provider does not report them.
    """

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    expires_in: float | None


def authorize_url(provider: OAuthProvider, *, state: str, verifier: str, redirect_uri: str) -> str:
    """Return the URL where the user signs in at the app."""
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        **({"scope": " ".join(provider.scopes)} if provider.scopes else {}),
    }
    parts = urlsplit(provider.authorize_url)
    # keep the URL's own query: some providers require `access_type=offline` or `prompt=consent`
    whole_query = "&".join(filter(None, (parts.query, urlencode(query))))
    return urlunsplit((parts.scheme, parts.netloc, parts.path, whole_query, ""))


def exchange_code(provider: OAuthProvider, *, code: str, verifier: str, redirect_uri: str) -> OAuthTokens:
    """
    Exchange the code of a finished sign-in for tokens.

    Raises:
        ProviderError: The provider issued no tokens.
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
    Request new tokens. The provider may rotate the refresh token or leave it unchanged.

    Raises:
        ProviderError: The provider issued no tokens.
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
        raise ProviderError(f"{where} is unreachable: {type(fault).__name__}.", is_permanent=False) from None
    except OSError as fault:  # httpx reads the certificates before it connects
        reason = f"The certificates cannot be read ({fault.strerror or fault}). Correct SSL_CERT_FILE or SSL_CERT_DIR."
        raise ProviderError(f"{where} was not asked for a token. {reason}", is_permanent=False) from None
    fields = _parse_answer(answer)
    token, error = fields.get("access_token"), fields.get("error")
    if answer.is_success and not error and isinstance(token, str) and token.strip():
        return _tokens(fields)
    refused = bool(error) if answer.is_success else bool(fields) and answer.status_code in _REFUSAL_STATUSES
    values = [value for value in (provider.client_secret, *map(form.get, _SECRET_FORM_FIELDS)) if value]
    raise ProviderError(
        f"{where} issued no token ({answer.status_code}): {mask_values(_reason(fields), values)[:_MAX_REASON_CHARS]}",
        is_permanent=refused and str(error) not in _RETRYABLE_ERRORS,
    )


def _post(url: str, form: dict[str, str], auth: httpx.Auth, timeout_s: float) -> httpx.Response:
    """Return the response, cut after `_MAX_ANSWER` bytes, within *timeout_s* seconds in total."""
    import httpx

    result: queue.SimpleQueue[httpx.Response | Exception] = queue.SimpleQueue()

    def send() -> None:
        try:
            result.put(_read_from(client, url, form, auth))
        except Exception as fault:  # noqa: BLE001  # the waiting thread raises it
            result.put(fault)

    with httpx.Client(timeout=timeout_s, follow_redirects=False) as client:
        # a thread: the timeout of httpx limits the time between two chunks, not the whole response
        threading.Thread(target=send, name="pdkernel-oauth", daemon=True).start()
        try:
            answer = result.get(timeout=timeout_s)
        except queue.Empty:
            raise httpx.ReadTimeout("The response did not end.") from None
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
        fields = answer.json()
    except (ValueError, RecursionError):
        fields = (
            dict(parse_qsl(answer.text)) if "x-www-form-urlencoded" in answer.headers.get("content-type", "") else {}
        )
    return fields if isinstance(fields, dict) else {}


def _tokens(fields: dict[str, Any]) -> OAuthTokens:
    refreshing, lasting = fields.get("refresh_token"), fields.get("expires_in")
    try:
        seconds = None if lasting is None else float(lasting)
    except (TypeError, ValueError, OverflowError):
        seconds = None
    return OAuthTokens(
        access_token=str(fields["access_token"]),
        refresh_token=refreshing if isinstance(refreshing, str) and refreshing else None,
        expires_in=seconds if seconds is not None and 0 < seconds < 1e9 else None,
    )


def _reason(fields: dict[str, Any]) -> str:
    error = fields.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    reasons = [
        each
        for each in (inner, fields.get("error_description"), fields.get("message"))
        if isinstance(each, str) and each
    ]
    return ": ".join(reasons) or "no reason given."


REFRESH_MARGIN = timedelta(minutes=5)
"""A token is refreshed this long before it expires, so that a run that starts now can finish with it."""
_MAX_WAIT_S = 20.0

_log = logging.getLogger(__name__)


def build_oauth_credentials(tokens: OAuthTokens) -> dict[str, str]:
    """Return the account's credentials; the refresh token stays in the project."""
    # parity[oauth-credentials]: credentials of the platform also have the refresh token and the client's id
    return {ACCESS_TOKEN_FIELD: tokens.access_token}


def store_grant(project: Project, account_id: str, tokens: OAuthTokens) -> None:
    """Store the refresh token of an account that was just connected."""
    project.grants.set(account_id, _grant(project, tokens))


def refresh_due_at(grant: Grant) -> datetime | None:
    """When the token is due for a refresh; None for a token that cannot be refreshed or does not expire."""
    if grant.refresh_token is None or grant.expires_at is None:
        return None
    # a token with a lifetime shorter than the margin is refreshed in the last fifth of its lifetime
    return grant.expires_at - min(REFRESH_MARGIN, (grant.expires_at - grant.renewed_at) / 5)


def is_refresh_due(project: Project, account_id: str) -> bool:
    """Return whether `refresh_credentials` would request a new access token, or wait for another process that requests a token."""
    grant = project.grants.find(account_id)
    return grant is not None and _is_due(project, grant)


def refresh_credentials(project: Project, account_id: str, credentials: Credentials) -> Credentials:
    """
    Return *credentials*, for which `is_refresh_due` is true, with a new access token.

    If the provider is unreachable, the credentials stay unchanged. If the provider rejects the refresh token, the account becomes
    unhealthy.
    """
    claim = project.grants.claim_renewal(account_id)
    if claim is None:
        return _wait_for_refresh(project, account_id)
    # another process may have refreshed the token, or removed the account, before this process claimed the refresh
    grant, account = project.grants.find(account_id), project.accounts.find(account_id)
    if grant is None or account is None or not _is_due(project, grant):
        if grant is not None:
            project.grants.finish_renewal(account_id, claim, grant)
        return project.accounts.credentials(account_id)
    return _renew(project, account, grant, claim, credentials)


def _is_due(project: Project, grant: Grant) -> bool:
    if grant.refresh_token is None or grant.error is not None:
        return False
    due = refresh_due_at(grant)
    return grant.is_refused or (due is not None and project.clock.now() >= due)


def _renew(project: Project, account: Account, grant: Grant, claim: float, credentials: Credentials) -> Credentials:
    provider = find_provider(project, account.app)
    last = grant.refresh_token
    if provider is None or last is None:
        project.grants.finish_renewal(account.id, claim, grant)
        return credentials
    try:
        tokens = refresh_tokens(provider, last)
    except ProviderError as fault:
        _log.warning("The token of %s (%s) could not be renewed: %s", account.id, account.app, fault)
        with project.one_transaction():
            if fault.is_permanent:
                project.accounts.mark_unhealthy(account.id, renewal_claim=claim)
                grant = replace(grant, error=str(fault))
            finished = project.grants.finish_renewal(account.id, claim, grant)
        return credentials if finished else project.accounts.credentials(account.id)
    fresh = {**credentials, **build_oauth_credentials(tokens)}
    with project.one_transaction():  # a provider that rotates refresh tokens does not accept the last one again
        is_current = project.accounts.replace_credentials(account.id, fresh, renewal_claim=claim)
        if is_current:
            project.grants.finish_renewal(account.id, claim, _grant(project, tokens, last=last))
    # if the account was removed or reconnected meanwhile, the new token is dropped
    return Credentials(fresh) if is_current else project.accounts.credentials(account.id)


def _grant(project: Project, tokens: OAuthTokens, *, last: str | None = None) -> Grant:
    now = project.clock.now()
    ends = None if tokens.expires_in is None else now + timedelta(seconds=tokens.expires_in)
    return Grant(tokens.refresh_token or last, ends, now)


def _wait_for_refresh(project: Project, account_id: str) -> Credentials:
    """Return the account's credentials after another process has refreshed them, or unchanged after `_MAX_WAIT_S` seconds."""
    for _ in range(round(_MAX_WAIT_S / 0.05)):
        time.sleep(0.05)
        if not project.grants.is_renewing(account_id):
            break
    return project.accounts.credentials(account_id)
