"""
Encryption of values before they reach the database, and the list of the encrypted columns.

AES-256-GCM from `cryptography`, with the value's location (`accounts/apn_1/credentials`) as associated data: a value that
is copied to another row cannot be decrypted there. Fernet has no associated data and needs twice the space. Nonces are
random; 96 bits are safe for about 2^32 values per key, more than a project writes.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Column

from pdkernel.common.encode import decode_json, encode_json
from pdkernel.errors import DamagedRecordError
from pdkernel.storage.schema import (
    account_grants,
    accounts,
    answered_requests,
    connect_tokens,
    deployed_events,
    deployed_triggers,
    link_visits,
    notebooks,
    secrets,
    sent,
    signing_keys,
    source_state,
    trigger_events,
    variables,
    workflow_triggers,
)


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """
    A column of encrypted values.

    Attributes:
        column: The column.
        template: The location of a row's value; the names in braces are columns of the row.
    """

    column: Column[Any]
    template: str

    @property
    def names(self) -> Sequence[str]:
        """The columns that the location names."""
        return [name for _, name, _, _ in string.Formatter().parse(self.template) if name]

    def locate(self, row: Mapping[Any, Any]) -> str:
        """Return the location of the value in *row*."""
        return self.template.format_map(row)


SEALED_COLUMNS = (
    SealedColumn(accounts.c.sealed_credentials, "accounts/{id}/credentials"),
    SealedColumn(variables.c.sealed_value, "variables/{name}/value"),
    SealedColumn(notebooks.c.sealed_state, "notebooks/{notebook}/state"),
    SealedColumn(sent.c.sealed_answer, "sent/{request}/answer"),
    SealedColumn(source_state.c.sealed_state, "sources/{source}/state"),
    SealedColumn(secrets.c.sealed_value, "secrets/{name}/value"),
    SealedColumn(connect_tokens.c.sealed_terms, "connect_tokens/{digest}/terms"),
    SealedColumn(link_visits.c.sealed_visit, "link_visits/{digest}/visit"),
    SealedColumn(account_grants.c.sealed_refresh_token, "account_grants/{account}/refresh_token"),
    SealedColumn(signing_keys.c.sealed_key, "signing_keys/{id}/key"),
    SealedColumn(deployed_triggers.c.sealed_settings, "deployed_triggers/{id}/settings"),
    SealedColumn(deployed_events.c.sealed_event, "deployed_triggers/{trigger}/events"),
    SealedColumn(workflow_triggers.c.sealed_settings, "workflow_triggers/{workflow}/{trigger}/settings"),
    SealedColumn(trigger_events.c.sealed_event, "trigger_events/{dedupe_key}/event"),
    SealedColumn(answered_requests.c.sealed_event, "answered_requests/{id}/event"),
)
"""The encrypted columns of the project's own tables. A column that is not here is lost with the next rotation of the key."""

_TEMPLATES = {sealed.column: sealed.template for sealed in SEALED_COLUMNS}


def locate(column: Column[Any], **row: str) -> str:
    """Return the location for which the value of *column* is encrypted in the row with these values."""
    return _TEMPLATES[column].format_map(row)


T = TypeVar("T")

_FORMAT = b"\x01"
_NONCE_BYTES = 12


class Vault:
    """
    Encrypts and decrypts texts with the project's key.

    Attributes:
        fingerprint: Identifies the key without revealing it.
        signing_key: The key of `sign`. The project's key does not follow from it.
    """

    __slots__ = ("_cipher", "fingerprint", "signing_key")

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self.signing_key = hashlib.sha256(b"pdkernel signing key\0" + key).digest()
        self.fingerprint = hashlib.sha256(b"pdkernel key fingerprint\0" + key).hexdigest()[:32]

    def __repr__(self) -> str:
        return f"Vault(fingerprint={self.fingerprint[:8]}...)"

    def seal(self, text: str, location: str) -> bytes:
        """Encrypt *text* for *location*; each call returns a different result."""
        nonce = token_bytes(_NONCE_BYTES)
        # surrogatepass: an unpaired surrogate in a value from JSON is kept
        return _FORMAT + nonce + self._cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), location.encode())

    def unseal(self, sealed: bytes, location: str) -> str:
        """
        Decrypt a text that was encrypted for *location*.

        Raises:
            DamagedRecordError: The value was encrypted with another key or for another location, or is damaged.
        """
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            if sealed[:1] != _FORMAT or len(nonce) != _NONCE_BYTES:
                raise InvalidTag
            return self._cipher.decrypt(nonce, body, location.encode()).decode("utf-8", "surrogatepass")
        except InvalidTag:
            raise DamagedRecordError(
                f"A stored value cannot be decrypted ({location}): it is damaged, or was encrypted with another key.",
                fix="If `pdkernel keys rotate` has replaced the key since this process started, start the process again. "
                "Otherwise add the value again, or restore the project's database from a copy.",
            ) from None

    def sign(self, text: str) -> bytes:
        """Return the signature of *text*; see `sign_text`."""
        return sign_text(self.signing_key, text)

    def seal_json(self, value: object, location: str) -> bytes:
        """Encrypt the JSON of *value* for *location*."""
        return self.seal(encode_json(value).decode(), location)

    def unseal_json(self, sealed: bytes, location: str, kind: type[T]) -> T:
        """
        Decrypt a value of *kind* that `seal_json` encrypted for *location*.

        Raises:
            DamagedRecordError: The value cannot be decrypted, or does not fit *kind*.
        """
        text = self.unseal(sealed, location)
        try:
            return decode_json(text, kind)
        except (ValueError, RecursionError):
            raise DamagedRecordError(
                f"A stored value cannot be read ({location}): it is damaged, or another version of pdkernel wrote it.",
                fix="Set the value again, or restore the project's database from a copy.",
            ) from None


def sign_text(signing_key: bytes, text: str) -> bytes:
    """Return the signature of *text*, 32 bytes (keyed BLAKE2b). Compare it in constant time."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32, key=signing_key).digest()
