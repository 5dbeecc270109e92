"""Encryption and decryption of values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.errors import ProjectError
from pdkernel.execution import StoredResponse
from pdkernel.storage import Vault

VAULT = Vault(bytes(range(32)))
ANY_TEXT = st.text(st.characters(exclude_categories=()))


@given(ANY_TEXT)
def test_encrypted_text_is_decrypted(text: str) -> None:
    """Any text is decrypted unchanged, unpaired surrogates and NUL included."""
    assert VAULT.unseal(VAULT.seal(text, "place"), "place") == text


def test_sealing_twice_differs() -> None:
    """Equal values have different encrypted forms."""
    assert VAULT.seal("same", "place") != VAULT.seal("same", "place")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b"", lambda b: b"\x02" + b[1:]]
)
def test_damaged_value_is_refused(damage: object) -> None:
    """An encrypted value with a changed bit, a missing part or another format is refused."""
    assert callable(damage)
    sealed = damage(VAULT.seal("value", "place"))

    with pytest.raises(ProjectError, match=r"cannot be decrypted \(place\): it is damaged"):
        VAULT.unseal(sealed, "place")


def test_value_is_read_as_its_type() -> None:
    """A value with a JSON form is decrypted as the type that is asked for, bytes included."""
    answer = StoredResponse(200, "OK", (("a", "1"), ("a", "2")), b"\x00\xff", "2026-11-24")

    assert VAULT.unseal_json(VAULT.seal_json(answer, "place"), "place", StoredResponse) == answer
    assert VAULT.unseal_json(VAULT.seal_json({"a": "\ud800"}, "place"), "place", dict) == {"a": "\ud800"}


def test_value_of_another_type_is_refused() -> None:
    """A value that does not fit its type is an error without a part of the value."""
    with pytest.raises(ProjectError, match=r"A stored value cannot be read \(place\)") as refused:
        VAULT.unseal_json(VAULT.seal_json({"status": "planted"}, "place"), "place", StoredResponse)

    assert "planted" not in str(refused.value)


def test_another_location_is_refused() -> None:
    """A value that was encrypted for one location cannot be decrypted for another."""
    with pytest.raises(ProjectError, match="cannot be decrypted"):
        VAULT.unseal(VAULT.seal("value", "accounts/apn_1"), "accounts/apn_2")


def test_repr_does_not_show_the_key() -> None:
    """The vault's repr does not contain the key."""
    key = bytes(range(32))

    assert repr(Vault(key)) == f"Vault(fingerprint={Vault(key).fingerprint[:8]}...)"
    assert key.hex()[:16] not in repr(Vault(key))
