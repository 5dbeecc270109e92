"""
Access tokens of OAuth clients: signing, verification, revocation.

Tokens are signed with Ed25519 (`alg: EdDSA`), as on the platform. The keys are stored encrypted in the database, so that every
process of a project accepts the tokens of the others. Keys, clients and revocations are read from the database at most once in
`CACHE_TTL_S` seconds. `oauth_clients` authenticates clients.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import Connection, delete, insert, or_, select, update

from pdkernel.common.clock import Clock
from pdkernel.storage.database import Database
from pdkernel.storage.schema import clients, revoked_tokens, signing_keys
from pdkernel.storage.statements import insert_if_absent
from pdkernel.storage.vault import Vault, locate

if TYPE_CHECKING:
    from jwt.types import Options

TOKEN_LIFETIME_S = 3600
"""Seconds that a token is valid, as the platform's `expires_in`."""

CACHE_TTL_S = 5.0
"""Seconds for which a token may still be accepted after another process has revoked it."""

_MAX_VERIFIED_TOKENS = 1000
"""Number of tokens whose verified claims are cached; the cache has the SHA-256 of a token, not the token."""

_ALGORITHM = "EdDSA"
_AUDIENCE = "api"
_OPTIONS: Options = {
    "require": ["exp", "jti", "sub", "scope"],
    # `verify` checks times with the project's clock instead
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


@dataclass(frozen=True, slots=True)
class AccessToken:
    """
    The claims of a valid token.

    Attributes:
        id: The token's id (`jti`).
        client_id: The client that received the token.
        scopes: The granted scopes.
        expires: When the token expires, in seconds since 1970.
    """

    id: str
    client_id: str
    scopes: tuple[str, ...]
    expires: float


@dataclass(frozen=True)
class _DatabaseSnapshot:
    """Cached rows, and the monotonic time of the read."""

    at: float
    keys: Mapping[str, Ed25519PublicKey]
    clients: frozenset[str]
    revoked: frozenset[str]


@dataclass(frozen=True)
class _SigningKey:
    id: str
    key: Ed25519PrivateKey = field(repr=False)


class AccessTokens:
    """The access tokens of a project; thread-safe."""

    def __init__(self, database: Database, vault: Vault, clock: Clock, *, project_id: str) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock
        self._project_id = project_id
        self._known: _DatabaseSnapshot | None = None
        self._read: dict[bytes, AccessToken] = {}
        self._lock = threading.Lock()

    def issue(self, client_id: str, scopes: Sequence[str]) -> str:
        """A new token for *client_id* with *scopes*, valid for `TOKEN_LIFETIME_S` seconds."""
        now = int(self._clock.now().timestamp())
        signer = self._signer()
        claims = {
            "iss": self._project_id,
            "sub": client_id,
            "aud": [_AUDIENCE, "catcher"],  # the API and workflow endpoints, as in the platform's tokens
            "jti": secrets.token_hex(16),
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_LIFETIME_S,
            "token_type": "oauth_access_token",
            "scope": list(scopes),
        }
        return jwt.encode(claims, signer.key, algorithm=_ALGORITHM, headers={"kid": signer.id})

    def verify(self, token: str) -> AccessToken | None:
        """The claims of *token*; None if it has another issuer, is expired or revoked, or its client was removed."""
        known = self._snapshot()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found = self._read.get(digest) or self._verified(token, known)
        if found is None or found.expires <= self._clock.now().timestamp():
            return None
        if len(self._read) >= _MAX_VERIFIED_TOKENS:
            self._read.clear()
        self._read[digest] = found
        if found.client_id not in known.clients:
            known = self._refresh()  # another process may have just created the client
        return found if found.client_id in known.clients and found.id not in known.revoked else None

    def _verified(self, token: str, known: _DatabaseSnapshot) -> AccessToken | None:
        """The claims of *token*, if a key of this project signed it."""
        try:
            unchecked = jwt.decode(token, options={"verify_signature": False})
            if unchecked.get("iss") != self._project_id:
                return None  # another issuer: no database read for its key
            name = str(jwt.get_unverified_header(token).get("kid"))
            if name not in known.keys:
                known = self._refresh()  # another process may have just created the key
            claims: dict[str, Any] = jwt.decode(
                token,
                known.keys[name],
                algorithms=[_ALGORITHM],
                audience=_AUDIENCE,
                issuer=self._project_id,
                options=_OPTIONS,
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
            return None
        return AccessToken(claims["jti"], claims["sub"], tuple(claims["scope"]), claims["exp"])

    def revoke(self, token: AccessToken) -> None:
        """Refuse *token* from now on. Other processes refuse it within `CACHE_TTL_S` seconds."""
        now = self._clock.now().timestamp()
        with self._database.write() as connection:
            insert_if_absent(connection, revoked_tokens, id=token.id, expires=token.expires)
            connection.execute(delete(revoked_tokens).where(revoked_tokens.c.expires < now))
        self._refresh()

    def rotate_signing_key(self) -> str:
        """Sign with a new key from now on; returns the key's id. Issued tokens stay valid until they expire."""
        with self._database.write() as connection:
            self._database.lock(connection, "signing_keys")
            key_id = self.replace_signing_key(connection)
        self._refresh()
        return key_id

    def replace_signing_key(self, connection: Connection) -> str:
        """Do what `rotate_signing_key` does in the caller's transaction."""
        return self._make_signer(connection).id

    def _signer(self) -> _SigningKey:
        query = select(signing_keys).where(signing_keys.c.expires.is_(None)).order_by(signing_keys.c.number.desc())
        with self._database.read() as connection:
            row = connection.execute(query.limit(1)).first()
        if row is None:
            with self._database.write() as connection:
                self._database.lock(connection, "signing_keys")
                row = connection.execute(query.limit(1)).first()  # again: another process may have been first
                if row is None:
                    return self._make_signer(connection)
        return _SigningKey(row.id, self._decrypt_key(row))

    def _make_signer(self, connection: Connection) -> _SigningKey:
        now = self._clock.now().timestamp()
        signer = _SigningKey(secrets.token_hex(8), Ed25519PrivateKey.generate())
        text = base64.b64encode(signer.key.private_bytes_raw()).decode("ascii")
        connection.execute(delete(signing_keys).where(signing_keys.c.expires < now))
        retired = update(signing_keys).where(signing_keys.c.expires.is_(None))
        connection.execute(retired.values(expires=now + TOKEN_LIFETIME_S))
        connection.execute(
            insert(signing_keys).values(
                id=signer.id, sealed_key=self._vault.seal(text, _vault_context(signer.id)), created=now
            )
        )
        return signer

    def _snapshot(self) -> _DatabaseSnapshot:
        known = self._known
        if known is not None and self._clock.monotonic() - known.at < CACHE_TTL_S:
            return known
        return self._refresh()

    def _refresh(self) -> _DatabaseSnapshot:
        with self._lock:
            now = self._clock.now().timestamp()
            at = self._clock.monotonic()
            known_keys = self._known.keys if self._known is not None else {}
            good = or_(signing_keys.c.expires.is_(None), signing_keys.c.expires > now)
            with self._database.read() as connection:
                rows = connection.execute(select(signing_keys).where(good)).all()
                active = connection.execute(select(clients.c.id).where(clients.c.removed.is_(None))).scalars().all()
                revoked = connection.execute(
                    select(revoked_tokens.c.id).where(revoked_tokens.c.expires > now)
                ).scalars().all()  # fmt: skip
            keys = {row.id: known_keys.get(row.id) or self._decrypt_key(row).public_key() for row in rows}
            self._known = _DatabaseSnapshot(at, keys, frozenset(active), frozenset(revoked))
            return self._known

    def _decrypt_key(self, row: Any) -> Ed25519PrivateKey:
        raw = base64.b64decode(self._vault.unseal(row.sealed_key, _vault_context(row.id)))
        return Ed25519PrivateKey.from_private_bytes(raw)


def _vault_context(key_id: str) -> str:
    return locate(signing_keys.c.sealed_key, id=key_id)
