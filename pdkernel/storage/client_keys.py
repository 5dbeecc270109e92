"""
Public keys of OAuth clients, and the assertions that clients have used.

This module checks that a key may be registered, and that an assertion is used only once. The server checks the claims of an
assertion.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from pdkernel.common.clock import Clock
from pdkernel.errors import RequestError
from pdkernel.storage.database import Database
from pdkernel.storage.schema import client_keys, used_assertions

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
_MIN_RSA_BITS = 2048


class ClientKeyTable:
    """The keys of a project's clients."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def find(self, client_id: str) -> PublicKey | None:
        """The public key of the client *client_id*, or None."""
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
