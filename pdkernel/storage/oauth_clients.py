"""
OAuth clients of the endpoint, their public keys, and the access tokens that are issued to them.

A secret is shown once and stored as its SHA-256. A slow hash (argon2, scrypt) would only slow down requests, because a secret
has 256 random bits. An assertion by a key is used only once; the server checks its claims.

Tokens are signed with Ed25519 (`alg: EdDSA`), as on the platform. The keys are stored encrypted in the database, so that every
process of a project accepts the tokens of the others. Keys, clients and revocations are read from the database at most once in
`CACHE_TTL_S` seconds.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from sqlalchemy import Connection, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.errors import RequestError
from pdkernel.storage.database import Database
from pdkernel.storage.schema import client_keys, clients, revoked_tokens, signing_keys, used_assertions
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
        """Return a new token for *client_id* with *scopes*, valid for `TOKEN_LIFETIME_S` seconds."""
        import jwt  # for servers only, and slow to import

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
        """Return the claims of *token*; None if it has another issuer, is expired or revoked, or its client was removed."""
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
        """Return the claims of *token*, if a key of this project signed it."""
        import jwt

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
                id=signer.id, sealed_key=self._vault.seal(text, _signing_key_context(signer.id)), created=now
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
        raw = base64.b64decode(self._vault.unseal(row.sealed_key, _signing_key_context(row.id)))
        return Ed25519PrivateKey.from_private_bytes(raw)


def _signing_key_context(key_id: str) -> str:
    return locate(signing_keys.c.sealed_key, id=key_id)


PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_MIN_RSA_BITS = 2048


class ClientKeyTable:
    """The keys of a project's clients."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def find(self, client_id: str) -> PublicKey | None:
        """Return the public key of the client *client_id*, or None."""
        query = select(client_keys.c.public_key).where(client_keys.c.client == client_id)
        with self._database.read() as connection:
            text = connection.execute(query).scalar_one_or_none()
        return None if text is None else parse_public_key(text)

    def consume_assertion(self, client_id: str, assertion_id: str, expires: float) -> bool:
        """Mark an assertion as used until it *expires* (seconds since 1970); False if it was used before."""
        mark = hashlib.sha256(f"{client_id}\n{assertion_id}".encode("utf-8", "surrogatepass")).hexdigest()
        now = self._clock.now().timestamp()
        try:
            with self._database.write() as connection:
                connection.execute(delete(used_assertions).where(used_assertions.c.expires < now))
                connection.execute(insert(used_assertions).values(id=mark, expires=expires))
        except IntegrityError:
            return False
        return True


def insert_key(connection: Connection, client_id: str, key: PublicKey) -> None:
    """Store the public key of a client in the transaction that creates the client."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    connection.execute(insert(client_keys).values(client=client_id, public_key=pem))


def parse_public_key(text: str) -> PublicKey:
    """
    Parse a public key in PEM: EC on P-256 (for ES256) or RSA (for RS256).

    Raises:
        RequestError: The text is not such a key, or is a private key. The message does not show the text.
    """
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise RequestError(
            "The file does not contain a public key in PEM.",
            fix="Write the public key of your private key to a file: openssl pkey -in private.pem -pubout",
        ) from None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise RequestError(
        "The key is of a kind that is not supported: expected an EC key on P-256, or an RSA key of 2048 bits or more.",
        fix="Create a key: openssl ecparam -name prime256v1 -genkey -noout -out private.pem",
    )


ALL_SCOPES = ("*",)
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")  # RFC 6749, section 3.3
_SECRET_BYTES = 32
_DUMMY_HASH = hashlib.sha256(b"no client").digest()


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """
    A client, without its secret.

    Attributes:
        id: The client's id.
        name: The display name.
        scopes: The scopes that its tokens may have; `*` allows all.
        created_at: When the client was created.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewClient:
    """A new client with its secret, which cannot be read again."""

    client: OAuthClient
    secret: str = field(repr=False)


class OAuthClientTable:
    """The clients of a project."""

    def __init__(self, database: Database, clock: Clock, ids: IdGenerator) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids

    def create(self, name: str = "", scopes: Sequence[str] = ALL_SCOPES) -> NewClient:
        """
        Create a client with a secret.

        Raises:
            RequestError: A scope is invalid.
        """
        return self._create(name, scopes, None)

    def create_with_key(self, public_key: str, name: str = "", scopes: Sequence[str] = ALL_SCOPES) -> OAuthClient:
        """
        Create a client that authenticates with the private key of *public_key* (PEM) and has no secret.

        Raises:
            RequestError: A scope or the key is invalid.
        """
        return self._create(name, scopes, parse_public_key(public_key)).client

    def _create(self, name: str, scopes: Sequence[str], key: PublicKey | None) -> NewClient:
        for scope in scopes:
            if not _SCOPE.match(scope):
                raise RequestError(
                    f"{scope!r} is not a scope.", fix="Use a scope such as connect:accounts:read, or * for all."
                )
        # not from `ids`: a secret must be random, whatever id generator the caller passes
        secret = f"pds_{secrets.token_urlsafe(_SECRET_BYTES)}"
        now = self._clock.now()
        client = OAuthClient(self._ids.new("pdc_", 24), name, tuple(scopes) or ALL_SCOPES, now)
        with self._database.write() as connection:
            connection.execute(
                insert(clients).values(
                    id=client.id,
                    name=name,
                    secret_hash=_hash(secret),
                    scope=" ".join(client.scopes),
                    created=now.timestamp(),
                )
            )
            if key is not None:
                insert_key(connection, client.id, key)
        return NewClient(client, secret)

    def list_clients(self) -> Sequence[OAuthClient]:
        """Return all clients that were not removed, oldest first."""
        query = select(clients).where(clients.c.removed.is_(None)).order_by(clients.c.created, clients.c.id)
        with self._database.read() as connection:
            return [_client(row) for row in connection.execute(query)]

    def authenticate(self, client_id: str, secret: str) -> OAuthClient | None:
        """Return the client with the id *client_id* if *secret* is correct; an unknown id takes as long as a wrong secret."""
        query = select(clients).where(clients.c.id == client_id, clients.c.removed.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).first()
        same = hmac.compare_digest(_hash(secret), _DUMMY_HASH if row is None else row.secret_hash)
        return _client(row) if same and row is not None else None

    def find(self, client_id: str) -> OAuthClient | None:
        """Return the client with the id *client_id*; None if it does not exist or was removed."""
        query = select(clients).where(clients.c.id == client_id, clients.c.removed.is_(None))
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else _client(row)

    def is_known(self, client_id: str) -> bool:
        """Return whether this project has or had a client with the id *client_id*; a removed client counts."""
        with self._database.read() as connection:
            return connection.execute(select(clients.c.id).where(clients.c.id == client_id)).first() is not None

    def remove(self, client_id: str) -> bool:
        """Remove the client; its tokens are refused within seconds. False if the client does not exist."""
        now = self._clock.now().timestamp()
        query = update(clients).where(clients.c.id == client_id, clients.c.removed.is_(None)).values(removed=now)
        with self._database.write() as connection:
            return connection.execute(query).rowcount > 0


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _client(row: Any) -> OAuthClient:
    return OAuthClient(row.id, row.name, tuple(row.scope.split()), datetime.fromtimestamp(row.created, UTC))
