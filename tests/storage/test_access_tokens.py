"""Access tokens at the limits of their lifetime, and what the cache of a process keeps."""

from __future__ import annotations

import jwt
from sqlalchemy import func, select

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project
from pdkernel.storage.access_tokens import _MAX_VERIFIED_TOKENS, CACHE_TTL_S, TOKEN_LIFETIME_S
from pdkernel.storage.schema import revoked_tokens


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
