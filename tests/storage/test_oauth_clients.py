"""OAuth clients: scopes, secrets, removal."""

from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import func, select

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.storage import Project
from pdkernel.storage.oauth_clients import _MAX_VERIFIED_TOKENS, CACHE_TTL_S, TOKEN_LIFETIME_S, parse_public_key
from pdkernel.storage.schema import revoked_tokens


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


def issue_token(project: Project, *scopes: str) -> str:
    """A token of a new client of *project*."""
    return project.access_tokens.issue(project.oauth_clients.create().client.id, scopes or ("*",))


def test_a_token_expires_at_the_end_of_its_lifetime(sqlite_project: Project, clock: ManualClock) -> None:
    """A token is valid for an hour, and is expired in the second in which the hour ends."""
    token = issue_token(sqlite_project)

    clock.advance(TOKEN_LIFETIME_S - 1)
    assert sqlite_project.access_tokens.verify(token) is not None
    clock.advance(1)
    assert sqlite_project.access_tokens.verify(token) is None
    assert (TOKEN_LIFETIME_S, CACHE_TTL_S) == (3600, 5)


def test_the_claims_of_a_token(sqlite_project: Project, clock: ManualClock) -> None:
    """A token names the project, the client, both audiences and the scopes; its id is its own."""
    client = sqlite_project.oauth_clients.create().client.id
    texts = [sqlite_project.access_tokens.issue(client, ("connect:*", "a")) for _ in range(2)]
    first, second = (jwt.decode(text, options={"verify_signature": False}) for text in texts)
    now = int(clock.now().timestamp())

    assert (first["iss"], first["sub"], first["scope"]) == (sqlite_project.project_id, client, ["connect:*", "a"])
    assert (first["aud"], first["token_type"]) == (["api", "catcher"], "oauth_access_token")
    assert (first["iat"], first["nbf"], first["exp"]) == (now, now, now + 3600)
    assert first["jti"] != second["jti"]


def test_a_token_of_another_project_is_refused(sqlite_project: Project) -> None:
    """A token that the project's own key signed for another issuer is refused."""
    token = issue_token(sqlite_project)
    claims = jwt.decode(token, options={"verify_signature": False})
    signer = sqlite_project.access_tokens._signer()
    headers = {"kid": signer.id}

    own = jwt.encode(claims, signer.key, algorithm="EdDSA", headers=headers)
    other = jwt.encode({**claims, "iss": "proj_other"}, signer.key, algorithm="EdDSA", headers=headers)
    catcher_only = jwt.encode({**claims, "aud": ["catcher"]}, signer.key, algorithm="EdDSA", headers=headers)

    assert [sqlite_project.access_tokens.verify(each) is not None for each in (own, other, catcher_only)] == [
        True,
        False,
        False,
    ]


def test_a_revocation_of_another_process_is_seen_when_the_cache_ends(
    sqlite_project: Project, clock: ManualClock
) -> None:
    """A token that another process revoked is accepted for less than `CACHE_TTL_S` seconds."""
    token = issue_token(sqlite_project)
    with Project.open(sqlite_project.folder, clock=clock) as other:
        found = sqlite_project.access_tokens.verify(token)
        assert found is not None
        other.access_tokens.revoke(found)

    clock.advance(CACHE_TTL_S - 0.1)
    assert sqlite_project.access_tokens.verify(token) is not None
    clock.advance(0.1)
    assert sqlite_project.access_tokens.verify(token) is None


def test_a_revocation_applies_at_once_in_its_process(sqlite_project: Project) -> None:
    """The process that revokes a token refuses the token at once, and no other token of the client."""
    client = sqlite_project.oauth_clients.create().client.id
    revoked, valid = (sqlite_project.access_tokens.issue(client, ("*",)) for _ in range(2))
    found = sqlite_project.access_tokens.verify(revoked)
    assert found is not None

    sqlite_project.access_tokens.revoke(found)

    assert sqlite_project.access_tokens.verify(revoked) is None
    assert sqlite_project.access_tokens.verify(valid) is not None


def test_an_earlier_revocation_lasts_until_its_token_expires(sqlite_project: Project, clock: ManualClock) -> None:
    """A revoked token stays refused when later tokens are revoked; the project forgets the revocation when the token expires."""
    client = sqlite_project.oauth_clients.create().client.id
    tokens = []
    for _ in range(3):
        tokens.append(sqlite_project.access_tokens.issue(client, ("*",)))
        found = sqlite_project.access_tokens.verify(tokens[-1])
        assert found is not None
        sqlite_project.access_tokens.revoke(found)
        assert [sqlite_project.access_tokens.verify(token) for token in tokens] == [None] * len(tokens)
        clock.advance(TOKEN_LIFETIME_S / 2 + 1)

    with sqlite_project.sqlalchemy_engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(revoked_tokens)).scalar_one() == 2


def test_the_new_signing_key_signs(sqlite_project: Project) -> None:
    """After a rotation, tokens name the new key, and a second rotation gives a third key; earlier tokens stay valid."""
    first = issue_token(sqlite_project)
    keys = [jwt.get_unverified_header(first)["kid"]]
    for _ in range(2):
        keys.append(sqlite_project.access_tokens.rotate_signing_key())
        assert jwt.get_unverified_header(issue_token(sqlite_project))["kid"] == keys[-1]

    assert len(set(keys)) == 3
    assert sqlite_project.access_tokens.verify(first) is not None


def test_a_retired_key_does_not_get_a_longer_life(sqlite_project: Project, clock: ManualClock) -> None:
    """A second rotation does not extend the life of a key that the first one retired."""
    token = issue_token(sqlite_project)
    claims = jwt.decode(token, options={"verify_signature": False})
    old = sqlite_project.access_tokens._signer()
    sqlite_project.access_tokens.rotate_signing_key()
    clock.advance(TOKEN_LIFETIME_S - 10)
    sqlite_project.access_tokens.rotate_signing_key()
    clock.advance(11)

    late = {**claims, "exp": claims["exp"] + 1000, "jti": "late"}
    forged = jwt.encode(late, old.key, algorithm="EdDSA", headers={"kid": old.id})

    assert sqlite_project.access_tokens.verify(forged) is None


def test_a_new_client_of_another_process_is_accepted_at_once(sqlite_project: Project, clock: ManualClock) -> None:
    """A token of a client that another process has just created is accepted, although the clients are cached."""
    assert sqlite_project.access_tokens.verify(issue_token(sqlite_project)) is not None

    with Project.open(sqlite_project.folder, clock=clock) as other:
        token = issue_token(other)

    assert sqlite_project.access_tokens.verify(token) is not None


def test_more_tokens_than_the_cache_holds_are_accepted(sqlite_project: Project) -> None:
    """A full cache of verified tokens is emptied, and refuses no token."""
    claims = jwt.decode(issue_token(sqlite_project), options={"verify_signature": False})
    signer = sqlite_project.access_tokens._signer()

    for number in range(_MAX_VERIFIED_TOKENS + 2):
        token = jwt.encode({**claims, "jti": f"{number}"}, signer.key, algorithm="EdDSA", headers={"kid": signer.id})
        assert sqlite_project.access_tokens.verify(token) is not None
