"""
What is sealed before it reaches the database.

AES-256-GCM from `cryptography`, with the value's place (`accounts/apn_1/credentials`) as associated data:
a sealed value copied to another row does not open there, which Fernet cannot say. It is also half Fernet's
size. Nonces are random; 96 bits are safe for some 2^32 values a key, more than a project writes.

Knows bytes and keys. Knows nothing of tables.
"""

from __future__ import annotations

import hashlib
import json
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pdkernel.errors import ProjectError
from pdkernel.model import JSON

_FORMAT = b"\x01"
_NONCE_BYTES = 12


class Vault:
    """Seals and opens text with the project's key, which no repr shows."""

    __slots__ = ("_cipher", "fingerprint")

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self.fingerprint = hashlib.sha256(b"pdkernel key fingerprint\0" + key).hexdigest()[:32]

    def __repr__(self) -> str:
        return f"Vault(fingerprint={self.fingerprint[:8]}...)"

    def seal(self, text: str, location: str) -> bytes:
        """*text* sealed for the place *location*; sealing twice gives two different results."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        # surrogatepass: a lone surrogate in a value from JSON is kept, not an error
        return _FORMAT + nonce + self._cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), location.encode())

    def unseal(self, sealed: bytes, location: str) -> str:
        """
        The text that was sealed for the place *location*.

        Raises:
            ProjectError: Sealed with another key or for another place, or damaged.
        """
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _FORMAT or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            return self._cipher.decrypt(nonce, body, location.encode()).decode("utf-8", "surrogatepass")
        except InvalidTag:
            raise ProjectError(
                f"A stored value cannot be decrypted ({location}): it is damaged, or was sealed with another key.",
                fix="Set the value again, or restore the project's database from a copy.",
            ) from None

    def seal_json(self, value: JSON, location: str) -> bytes:
        """*value* as JSON, sealed."""
        return self.seal(json.dumps(value, separators=(",", ":")), location)

    def unseal_json(self, sealed: bytes, location: str) -> JSON:
        """The reverse of `seal_json`."""
        value: JSON = json.loads(self.unseal(sealed, location))
        return value
