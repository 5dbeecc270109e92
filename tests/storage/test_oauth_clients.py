"""OAuth clients: scopes, secrets, removal."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.storage import Project
from pdkernel.storage.oauth_clients import parse_public_key


def test_a_client_without_scopes_may_do_everything(sqlite_project: Project) -> None:
    """The default and an empty list of scopes mean `*`; given scopes are stored in their order."""
    table = sqlite_project.oauth_clients
    made = [table.create().client, table.create("b", ()).client, table.create("c", ("b:write", "a:read")).client]

    assert [client.scopes for client in made] == [("*",), ("*",), ("b:write", "a:read")]
    assert [table.find(client.id) for client in made] == made


@pytest.mark.parametrize("scope", ["", "a b", 'a"b', "a\\b", "é", "a\n"])
def test_an_invalid_scope_is_refused(sqlite_project: Project, scope: str) -> None:
    """A scope has printable ASCII without blanks, quotation marks and backslashes."""
    with pytest.raises(RequestError, match="is not a scope"):
        sqlite_project.oauth_clients.create("a", ("connect:*", scope))

    assert sqlite_project.oauth_clients.list_clients() == []


def test_clients_are_listed_by_creation_without_removed_ones(sqlite_project: Project, clock: ManualClock) -> None:
    """Clients are listed oldest first; a removed client is not listed, but is known."""
    table = sqlite_project.oauth_clients
    ids = []
    for name in ("c", "a", "b"):
        ids.append(table.create(name).client.id)
        clock.advance(1)

    assert [client.name for client in table.list_clients()] == ["c", "a", "b"]
    assert (table.remove(ids[1]), table.remove(ids[1])) == (True, False)
    assert [client.name for client in table.list_clients()] == ["c", "b"]
    assert table.find(ids[1]) is None
    assert (table.is_known(ids[1]), table.is_known("pdc_never")) == (True, False)


def test_a_secret_belongs_to_one_client(sqlite_project: Project) -> None:
    """A client authenticates with its own secret, until it is removed."""
    table = sqlite_project.oauth_clients
    first, second = table.create("a"), table.create("b")

    assert first.secret.startswith("pds_")
    assert first.secret != second.secret
    assert table.authenticate(first.client.id, first.secret) == first.client
    assert table.authenticate(first.client.id, second.secret) is None
    assert table.authenticate("pdc_never", first.secret) is None
    table.remove(first.client.id)
    assert table.authenticate(first.client.id, first.secret) is None


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    """The public key of *key* as text."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_key_of_2048_bits_is_enough() -> None:
    """An RSA key of 2048 bits is accepted, a shorter one is refused."""
    assert isinstance(parse_public_key(pem(rsa.generate_private_key(65537, 2048))), rsa.RSAPublicKey)
    with pytest.raises(RequestError, match="of a kind that is not supported"):
        parse_public_key(pem(rsa.generate_private_key(65537, 2040)))


def test_another_curve_is_refused() -> None:
    """An EC key is on P-256, for ES256; a text without a key is refused, too."""
    assert isinstance(parse_public_key(pem(ec.generate_private_key(ec.SECP256R1()))), ec.EllipticCurvePublicKey)
    with pytest.raises(RequestError, match="of a kind that is not supported"):
        parse_public_key(pem(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(RequestError, match="does not contain a public key in PEM"):
        parse_public_key("-----BEGIN PUBLIC KEY-----")


def test_a_client_has_a_key_or_a_secret(sqlite_project: Project) -> None:
    """The key of a client is found by the client's id; a client with a secret has no key."""
    text = pem(ec.generate_private_key(ec.SECP256R1()))
    client = sqlite_project.oauth_clients.create_with_key(text, "a")
    other = sqlite_project.oauth_clients.create("b").client
    found = sqlite_project.client_keys.find(client.id)

    assert found is not None
    assert found.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() == text
    assert sqlite_project.client_keys.find(other.id) is None


def test_an_assertion_is_used_once_by_each_client(sqlite_project: Project, clock: ManualClock) -> None:
    """An assertion's id counts for its client, until the assertion has expired."""
    table, expires = sqlite_project.client_keys, clock.now().timestamp() + 10

    assert table.consume_assertion("a", "1", expires)
    assert not table.consume_assertion("a", "1", expires)
    assert table.consume_assertion("b", "1", expires)
    assert table.consume_assertion("a", "2", expires)
    clock.advance(10)
    assert not table.consume_assertion("a", "1", expires)
    clock.advance(1)
    assert table.consume_assertion("a", "1", expires)
