"""
Tokens that expire soon: Connect tokens, logins of the console, sign-ins at an app that are in progress, and cached tokens of Pipedream.

Of a token that pdkernel issues, only its digest is stored.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import delete, func, insert, select, update

from pdkernel.common.clock import Clock
from pdkernel.common.identity import Environment
from pdkernel.storage.database import Database
from pdkernel.storage.schema import clients, connect_tokens, console_logins, issued_tokens, link_visits
from pdkernel.storage.statements import upsert_row
from pdkernel.storage.vault import Vault, locate

EXPIRED_RETENTION_S = 24 * 3600.0
"""Seconds for which an expired token is kept, so that its use can be answered with the reason."""


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """
    The settings of a token from its creation.

    Attributes:
        session: The id of the session for the product's back end (`connect_session_id`).
        allowed_origins: Origins whose pages may use the token and embed the page; empty allows no page.
        success_redirect_uri: The URL that the browser opens after an account was connected, or None.
        error_redirect_uri: The URL that the browser opens after a final failure, or None.
        webhook_uri: The URL that receives a request after both outcomes, or None.
        scope: API scopes of the token, separated by blanks; None for a link of the project's owner.
        client_id: The OAuth client that created the token, or None for a link of the project's owner.
    """

    session: str
    allowed_origins: tuple[str, ...] = ()
    success_redirect_uri: str | None = field(default=None, repr=False)
    error_redirect_uri: str | None = field(default=None, repr=False)
    webhook_uri: str | None = field(default=None, repr=False)
    scope: str | None = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class ConnectToken:
    """
    A token, without its text.

    Attributes:
        digest: SHA-256 of the token's text.
        external_user_id: The external user who connects an account.
        environment: The user's environment.
        created_at: When the token was created.
        expires_at: When the token expires.
        used_at: When an account was connected with the token, or None.
        terms: The token's settings.
    """

    digest: str = field(repr=False)
    external_user_id: str
    environment: Environment
    created_at: datetime
    expires_at: datetime
    terms: TokenTerms
    used_at: datetime | None = None


def hash_token(token: str) -> str:
    """Return the digest that is stored for a token. A fast hash is enough, because a token has 128 random bits."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class ConnectTokenTable:
    """The Connect tokens of a project, by digest."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(self, token: ConnectToken) -> None:
        """Store *token*, and remove tokens that expired more than `EXPIRED_RETENTION_S` ago."""
        now = self._clock.now().timestamp()
        row = insert(connect_tokens).values(
            digest=token.digest,
            external_user=token.external_user_id,
            environment=token.environment,
            created=token.created_at.timestamp(),
            expires=token.expires_at.timestamp(),
            sealed_terms=self._vault.seal_json(token.terms, _vault_context(token.digest)),
        )
        with self._database.write() as connection:
            connection.execute(delete(connect_tokens).where(connect_tokens.c.expires < now - EXPIRED_RETENTION_S))
            connection.execute(row)

    def find(self, token: str) -> ConnectToken | None:
        """Return the stored token with the text *token*, even if it is expired or used; None also if its OAuth client was removed."""
        return self.find_by_digest(hash_token(token))

    def find_by_digest(self, digest: str) -> ConnectToken | None:
        """As `find`, by the digest."""
        with self._database.read() as connection:
            row = connection.execute(select(connect_tokens).where(connect_tokens.c.digest == digest)).first()
            if row is None or not hmac.compare_digest(row.digest, digest):
                return None
            terms = self._vault.unseal_json(row.sealed_terms, _vault_context(digest), TokenTerms)
            if terms.client_id is not None:
                active = select(clients.c.id).where(clients.c.id == terms.client_id, clients.c.removed.is_(None))
                if connection.execute(active).first() is None:
                    return None
        return ConnectToken(
            digest=row.digest,
            external_user_id=row.external_user,
            environment=row.environment,
            created_at=datetime.fromtimestamp(row.created, UTC),
            expires_at=datetime.fromtimestamp(row.expires, UTC),
            terms=terms,
            used_at=None if row.used is None else datetime.fromtimestamp(row.used, UTC),
        )

    def claim(self, digest: str) -> bool:
        """Mark the token as used, which succeeds for one caller only; False if it was used or has expired."""
        now = self._clock.now().timestamp()
        free = (connect_tokens.c.digest == digest, connect_tokens.c.used.is_(None), connect_tokens.c.expires > now)
        with self._database.write() as connection:
            return connection.execute(update(connect_tokens).where(*free).values(used=now)).rowcount > 0

    def count_since(self, external_user_id: str, environment: Environment, moment: datetime) -> int:
        """Return the number of tokens created for that user since *moment*."""
        query = select(func.count()).where(
            connect_tokens.c.external_user == external_user_id,
            connect_tokens.c.environment == environment,
            connect_tokens.c.created >= moment.timestamp(),
        )
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()


def _vault_context(digest: str) -> str:
    return locate(connect_tokens.c.sealed_terms, digest=digest)


_CODE, _SESSION = "code", "session"


class ConsoleLoginTable:
    """The codes and sessions that have not expired."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add_code(self, code: str, lifetime_s: float, *, interval_s: float) -> bool:
        """Store a one-time code; False, without a change, if another code was stored in the last *interval_s* seconds."""
        now = self._clock.now().timestamp()
        newest = select(func.max(console_logins.c.created)).where(console_logins.c.kind == _CODE)
        with self._database.write() as connection:
            self._database.lock(connection, "console_logins")
            last = connection.execute(newest).scalar_one()
            if last is not None and now - last < interval_s:
                return False
            connection.execute(delete(console_logins).where(console_logins.c.expires <= now))
            row = {"digest": hash_token(code), "kind": _CODE, "created": now, "expires": now + lifetime_s}
            connection.execute(insert(console_logins).values(row))
        return True

    def use_code(self, code: str) -> bool:
        """Remove a code; False if it was not stored, was used or has expired."""
        return self._remove(code, _CODE)

    def add_session(self, token: str, lifetime_s: float) -> None:
        """Store the session of *token*."""
        now = self._clock.now().timestamp()
        row = {"digest": hash_token(token), "kind": _SESSION, "created": now, "expires": now + lifetime_s}
        with self._database.write() as connection:
            connection.execute(insert(console_logins).values(row))

    def find_session(self, token: str) -> float | None:
        """Return the end of the session of *token* in seconds since 1970; None if it has ended."""
        query = select(console_logins.c.expires).where(
            console_logins.c.digest == hash_token(token),
            console_logins.c.kind == _SESSION,
            console_logins.c.expires > self._clock.now().timestamp(),
        )
        with self._database.read() as connection:
            expires: float | None = connection.execute(query).scalar_one_or_none()
        return expires

    def end_session(self, token: str) -> None:
        """End the session of *token*."""
        self._remove(token, _SESSION)

    def _remove(self, text: str, kind: str) -> bool:
        table, now = console_logins, self._clock.now().timestamp()
        found = delete(table).where(table.c.digest == hash_token(text), table.c.kind == kind, table.c.expires > now)
        with self._database.write() as connection:
            return connection.execute(found).rowcount > 0


SIGN_IN_TIMEOUT_S = 15 * 60.0
"""Seconds within which a person must sign in at the app."""


@dataclass(frozen=True, slots=True)
class PendingSignIn:
    """
    The data for the callback of a sign-in.

    Attributes:
        token: The connect token.
        app: The app's slug.
        verifier: The PKCE code verifier.
        browser: Digest of the cookie that identifies the browser.
        redirect_uri: The callback URL.
        account: The id of the account to reconnect, or None.
        framed: Whether the sign-in is in a popup of an embedded page, which waits for a message from the popup.
    """

    token: str = field(repr=False)
    app: str
    verifier: str = field(repr=False)
    browser: str = field(repr=False)
    redirect_uri: str
    account: str | None = None
    framed: bool = False


class PendingSignInTable:
    """Pending sign-ins by OAuth state; only the digest of the state is stored."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    def add(self, state: str, visit: PendingSignIn) -> None:
        """Store a sign-in under *state*; expired ones are removed."""
        digest, now = hash_token(state), self._clock.now().timestamp()
        sealed = self._vault.seal_json(visit, _sign_in_context(digest))
        with self._database.write() as connection:
            connection.execute(delete(link_visits).where(link_visits.c.expires <= now))
            connection.execute(
                insert(link_visits).values(digest=digest, expires=now + SIGN_IN_TIMEOUT_S, sealed_visit=sealed)
            )

    def consume(self, state: str, browser: str) -> PendingSignIn | None:
        """
        Remove and return the sign-in of *state*; None if it does not exist, has expired, or was started in another browser.

        *browser* is the hash of the browser's id. Another browser does not use the sign-in up.
        """
        digest, now = hash_token(state), self._clock.now().timestamp()
        is_state = link_visits.c.digest == digest
        with self._database.write() as connection:
            row = connection.execute(select(link_visits).where(is_state)).first()
            if row is None or row.expires <= now:
                return None
            found = self._vault.unseal_json(row.sealed_visit, _sign_in_context(digest), PendingSignIn)
            if not hmac.compare_digest(browser, found.browser):
                return None
            # on Postgres, another process may have removed it meanwhile
            return found if connection.execute(delete(link_visits).where(is_state)).rowcount > 0 else None


def _sign_in_context(digest: str) -> str:
    return locate(link_visits.c.sealed_visit, digest=digest)


@dataclass(frozen=True, slots=True)
class PipedreamToken:
    """
    The stored data of a token.

    Attributes:
        client_id: The client that received the token.
        workspace: The workspace that the token names (`o_...`), or None.
        scopes: The granted scopes.
    """

    client_id: str
    workspace: str | None
    scopes: tuple[str, ...]


class PipedreamTokenTable:
    """The tokens that have not expired."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def add(self, token: str, client_id: str, workspace: str | None, scopes: Sequence[str], lifetime_s: float) -> None:
        """Store *token* for *lifetime_s* seconds; expired tokens are removed."""
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            connection.execute(delete(issued_tokens).where(issued_tokens.c.expires <= now))
            upsert_row(
                connection,
                issued_tokens,
                "digest",
                digest=hash_token(token),
                client=client_id,
                workspace=workspace,
                scope=" ".join(scopes),
                expires=now + lifetime_s,
            )

    def find(self, token: str) -> PipedreamToken | None:
        """Return the stored data of *token*, or None."""
        query = select(issued_tokens).where(
            issued_tokens.c.digest == hash_token(token), issued_tokens.c.expires > self._clock.now().timestamp()
        )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else PipedreamToken(row.client, row.workspace, tuple(row.scope.split()))

    def remove(self, token: str) -> None:
        """Remove *token*."""
        with self._database.write() as connection:
            connection.execute(delete(issued_tokens).where(issued_tokens.c.digest == hash_token(token)))
