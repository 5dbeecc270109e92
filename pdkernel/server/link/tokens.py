"""
Connect tokens: creation, lookup, and the platform's messages for invalid tokens.

The parameters of a Connect Link page have the names of the platform's browser SDK.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from pdkernel.accounts.apps import format_origin
from pdkernel.common.blocking import run_blocking
from pdkernel.common.identity import Environment, check_external_user_id
from pdkernel.errors import RequestError
from pdkernel.server.app_context import LinkContext, LinkEvent, LinkStatus
from pdkernel.server.authorization import CONNECT_SCOPE, AuthorizedClient, scope_covers
from pdkernel.storage import ConnectToken
from pdkernel.storage.short_lived_tokens import TokenTerms, hash_token

TOKEN_PARAM, APP_PARAM, ACCOUNT_PARAM, HIDE_CLOSE_PARAM, FRAMED_PARAM = (
    "token",
    "app",
    "accountId",
    "hideClose",
    "framed",
)


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """
    A request for a Connect Link page.

    Attributes:
        token_text: Text of the Connect token.
        app: Slug of the app, or "".
        account_id: Id of the account to reconnect, or None for a new account.
        hides_close_button: Whether the page has no close button because the product has its own.
        is_framed: Whether the page is in a frame of the product's page; the page's script sets this form field.
    """

    token_text: str = field(repr=False)
    app: str
    account_id: str | None = None
    hides_close_button: bool = False
    is_framed: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, str]) -> Self:
        """Parse the parameters of a query or a form."""
        return cls(
            params.get(TOKEN_PARAM, ""),
            params.get(APP_PARAM, ""),
            params.get(ACCOUNT_PARAM) or None,
            params.get(HIDE_CLOSE_PARAM) == "true",
            params.get(FRAMED_PARAM) == "true",
        )

    def to_form_fields(self) -> dict[str, str]:
        """Return the parameters as hidden fields of a form."""
        return {
            TOKEN_PARAM: self.token_text,
            APP_PARAM: self.app,
            **({ACCOUNT_PARAM: self.account_id} if self.account_id else {}),
            **({HIDE_CLOSE_PARAM: "true"} if self.hides_close_button else {}),
            FRAMED_PARAM: "true" if self.is_framed else "",
        }


MAX_TOKEN_LIFETIME_S = 4 * 3600
"""Default and maximum lifetime of a token in seconds (platform documentation)."""
INVALID_MESSAGE = "The Pipedream Connect token is invalid. Please generate a new one and try again."
EXPIRED_MESSAGE = "This link has expired. Please request a new one and try again."
USED_MESSAGE = "This session has expired. Please request a new link and try again."
APP_NOT_FOUND_MESSAGE = "App not found. Please check your app id."
PAGE_PATH = "/_static/connect.html"
TOKEN_PREFIX = "ctok_"  # noqa: S105 - a prefix

_MAX_URL_CHARACTERS = 2000
_MAX_ORIGINS = 50


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token and its text, which the project does not store."""

    text: str = field(repr=False)
    token: ConnectToken

    def link_url(self, base: str, app: str | None = None, account_id: str | None = None) -> str:
        """Return the page where a user connects an account of *app*, or reconnects *account_id*."""
        query = {TOKEN_PARAM: self.text, "connectLink": "true"}
        chosen = {APP_PARAM: app, ACCOUNT_PARAM: account_id}
        return f"{base}{PAGE_PATH}?{urlencode({**query, **{name: value for name, value in chosen.items() if value}})}"


@dataclass(frozen=True, slots=True)
class ConnectLink:
    """
    A new Connect Link.

    Attributes:
        url: URL of the page. A client that has the URL can connect an account.
        digest: Digest of the token.
    """

    url: str = field(repr=False)
    digest: str


def create_token(
    context: LinkContext,
    *,
    external_user_id: str,
    environment: Environment,
    terms: TokenTerms,
    lifetime_s: float = MAX_TOKEN_LIFETIME_S,
) -> CreatedToken:
    """
    Create a token; the project stores only the token's digest.

    Raises:
        RequestError: The user's id is invalid.
    """
    check_external_user_id(external_user_id)
    text = TOKEN_PREFIX + hashlib.sha256(context.ids.new("", 43).encode()).hexdigest()[:32]
    now = context.clock.now()
    token = ConnectToken(
        hash_token(text), external_user_id, environment, now, now + timedelta(seconds=lifetime_s), terms
    )
    context.project.connect_tokens.add(token)
    return CreatedToken(text, token)


def create_link(
    context: LinkContext,
    *,
    external_user_id: str,
    environment: Environment,
    app: str | None = None,
    account_id: str | None = None,
    lifetime_s: float = MAX_TOKEN_LIFETIME_S,
) -> ConnectLink:
    """
    Create a link where the user connects an account of *app* or of a chosen app, or reconnects *account_id*.

    Raises:
        RequestError: The user's id is invalid.
    """
    made = create_token(
        context,
        external_user_id=external_user_id,
        environment=environment,
        terms=TokenTerms(session=new_session_id(context)),
        lifetime_s=lifetime_s,
    )
    return ConnectLink(made.link_url(context.settings.base_url, app, account_id), made.token.digest)


async def publish_link_event(context: LinkContext, token: ConnectToken, status: LinkStatus, detail: str = "") -> None:
    """Report a status change of *token* to `on_link_event`, in a thread: a form that is updated reads accounts."""
    if context.on_link_event is not None:
        await run_blocking(context.on_link_event, LinkEvent(token.digest, status, detail))


def new_session_id(context: LinkContext) -> str:
    """Create a new session id for the product's back end."""
    return context.ids.new("cs_", 12)


def find_token(context: LinkContext, token: str) -> ConnectToken | None:
    """
    Return the token with that text, or None if the token is unknown or has expired.

    A used token is returned too: it authorizes reading until it expires, but does not connect another account.
    """
    found = context.project.connect_tokens.find(token)
    return found if found is not None and not is_expired(context, found) else None


def is_expired(context: LinkContext, token: ConnectToken) -> bool:
    """Return whether the token has expired."""
    return token.expires_at <= context.clock.now()


def find_token_problem(context: LinkContext, token: ConnectToken | None) -> str | None:
    """Return the platform's message why *token* cannot connect an account, or None."""
    if token is None:
        return INVALID_MESSAGE
    if is_expired(context, token):
        return EXPIRED_MESSAGE
    return None if token.used_at is None else USED_MESSAGE


def parse_terms(context: LinkContext, body: Mapping[str, Any], client: AuthorizedClient) -> tuple[TokenTerms, float]:
    """
    Parse a request of *client* for a token into the token's terms and its lifetime in seconds.

    Raises:
        RequestError: A field has the wrong type, a URL is invalid, the lifetime is too long, or *client* cannot give a scope.
    """
    origins = body.get("allowed_origins") or []
    if not isinstance(origins, list) or not all(isinstance(origin, str) for origin in origins):
        raise RequestError("allowed_origins must be a list of origins, for example https://example.com.")
    if len(origins) > _MAX_ORIGINS:
        raise RequestError(f"allowed_origins has at most {_MAX_ORIGINS} entries.")
    terms = TokenTerms(
        session=new_session_id(context),
        allowed_origins=tuple(format_origin(_check_url(origin, "allowed_origins")) for origin in origins),
        success_redirect_uri=_url(body, "success_redirect_uri"),
        error_redirect_uri=_url(body, "error_redirect_uri"),
        webhook_uri=_url(body, "webhook_uri"),
        scope=" ".join(_grant_scopes(client, _text(body, "scope") or "*")),
        client_id=client.client_id,
    )
    return terms, _parse_lifetime(body.get("expires_in"))


def _grant_scopes(client: AuthorizedClient, requested: str) -> Sequence[str]:
    """
    Return the scopes of a Connect token: scopes of Connect that *client* has; for `*`, all of them.

    Raises:
        RequestError: *client* does not have a scope, or it is not a scope of Connect.
    """
    # parity[connect-token-scope]: a client that may only create tokens could otherwise act for every user
    scopes = [*dict.fromkeys(CONNECT_SCOPE if scope == "*" else scope for scope in requested.split())]
    if CONNECT_SCOPE in scopes and not client.has_scope(CONNECT_SCOPE):
        return [scope for scope in client.scopes if scope_covers([CONNECT_SCOPE], scope)]
    for scope in scopes:
        if not client.has_scope(scope) or not scope_covers([CONNECT_SCOPE], scope):
            raise RequestError(
                f"The client's access token cannot give the scope {scope} to a Connect token.",
                fix=f"Ask for scopes that the access token has, below {CONNECT_SCOPE}.",
            )
    return scopes


def _parse_lifetime(given: object) -> float:
    if given is None:
        return MAX_TOKEN_LIFETIME_S
    if isinstance(given, bool) or not isinstance(given, int | float) or not 1 <= given <= MAX_TOKEN_LIFETIME_S:
        raise RequestError(f"expires_in must be a number of seconds from 1 to {MAX_TOKEN_LIFETIME_S}.")
    return float(given)


def _text(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a string.")
    return value


def _url(body: Mapping[str, Any], name: str) -> str | None:
    text = _text(body, name)
    return None if text is None else _check_url(text, name)


def _check_url(text: str, name: str) -> str:
    """Return *text* if it is an http or https URL in ASCII. Other schemes, such as `javascript:`, are rejected."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    odd = any(not 32 < ord(letter) < 127 for letter in text) or any(letter in ";,'\"*" for letter in parts.netloc)
    if parts.scheme not in ("http", "https") or not host or odd or len(text) > _MAX_URL_CHARACTERS:
        raise RequestError(f"{name} is not an http or https URL of at most {_MAX_URL_CHARACTERS} characters.")
    return text
