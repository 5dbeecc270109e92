"""The token endpoint, in the three ways that SDKs ask it."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from pdkernel.clock import ManualClock
from pdkernel.project import Project
from pdkernel.server import create_app
from pdkernel.server.oauth.authorization import UnauthorizedError, authorize
from tests.server.served import Served

TOKEN = "/v1/oauth/token"


def moved(site: Served) -> ManualClock:
    """The clock of the project."""
    assert isinstance(site.context.clock, ManualClock)
    return site.context.clock


async def test_credentials_as_json(site: Served) -> None:
    """Python and JS 2.x and 3.x send JSON."""
    fields = {
        "client_id": site.client.client.id,
        "client_secret": site.client.secret,
        "grant_type": "client_credentials",
    }

    answer = await site.http.post(TOKEN, json=fields)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("Bearer", 3600)
    assert authorize(site.context, f"Bearer {answer.json()['access_token']}").scopes == ("*",)


async def test_credentials_as_a_form(site: Served) -> None:
    """JS 1.6 and 1.8 send a form, with fields that say nothing here."""
    fields = {
        "project_id": "proj_x",
        "environment": "development",
        "grant_type": "client_credentials",
        "client_id": site.client.client.id,
        "client_secret": site.client.secret,
        "scope": "connect:accounts:read connect:proxy",
    }

    answer = await site.http.post(TOKEN, data=fields)

    caller = authorize(site.context, f"Bearer {answer.json()['access_token']}")
    assert caller.scopes == ("connect:accounts:read", "connect:proxy")
    assert (caller.client_id, caller.project_id) == (site.client.client.id, site.project.project_id)


async def test_credentials_as_basic(site: Served) -> None:
    """JS 1.0 sends HTTP Basic and a form that holds the grant only."""
    pair = base64.b64encode(f"{site.client.client.id}:{site.client.secret}".encode()).decode()

    answer = await site.http.post(
        TOKEN, data={"grant_type": "client_credentials"}, headers={"Authorization": f"Basic {pair}"}
    )

    assert authorize(site.context, f"Bearer {answer.json()['access_token']}").client_id


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({"client_secret": "pds_wrong"}, 401, "invalid_client"),
        ({"client_id": "pdc_nobody"}, 401, "invalid_client"),
        ({"client_id": 7}, 401, "invalid_client"),
        ({"client_id": "\ud800"}, 400, "invalid_request"),
        ({"client_assertion": "e30.e30."}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
async def test_what_is_refused(site: Served, change: dict[str, Any], status: int, error: str) -> None:
    """A wrong secret, an unknown client and a grant of another kind are refused in OAuth's words."""
    fields = {
        "client_id": site.client.client.id,
        "client_secret": site.client.secret,
        "grant_type": "client_credentials",
        **change,
    }

    answer = await site.http.post(TOKEN, content=json.dumps(fields), headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert site.client.secret not in answer.text


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_is_nothing(site: Served, body: bytes, kind: str) -> None:
    """Whatever cannot be read is the caller's fault."""
    answer = await site.http.post(TOKEN, content=body, headers={"Content-Type": kind})

    assert answer.status_code in (400, 401, 413)
    assert set(answer.json()) == {"error", "error_description"}


async def test_a_scope_that_the_client_may_not_have(site: Served) -> None:
    """A token is never good for more than its client."""
    new = site.project.oauth_clients.create("reader", ("connect:accounts:*",))
    fields = {"client_id": new.client.id, "client_secret": new.secret, "grant_type": "client_credentials"}

    narrower = await site.http.post(TOKEN, json={**fields, "scope": "connect:accounts:read"})
    everything = await site.http.post(TOKEN, json={**fields, "scope": "*"})
    wider = await site.http.post(TOKEN, json={**fields, "scope": "connect:proxy"})

    assert narrower.json()["scope"] == "connect:accounts:read"
    assert everything.json()["scope"] == "connect:accounts:*"
    assert (wider.status_code, wider.json()["error"]) == (400, "invalid_scope")


async def test_a_token_is_a_signed_one(site: Served) -> None:
    """A token names its client and its end, is signed with EdDSA, and one of an altered text is refused."""
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))

    head = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})

    assert head["alg"] == "EdDSA"
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["sub"] == site.client.client.id
    forged = jwt.encode(claims, "", algorithm="none", headers={"kid": head["kid"]})
    for bad in (forged, token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB"), "", "a.b.c"):
        with pytest.raises(UnauthorizedError):
            authorize(site.context, f"Bearer {bad}")


async def test_a_token_expires(site: Served) -> None:
    """An hour later a token is no good."""
    header = site.headers()["Authorization"]
    moved(site).advance(3599)
    assert authorize(site.context, header).client_id

    moved(site).advance(1)

    with pytest.raises(UnauthorizedError):
        authorize(site.context, header)


async def test_a_revoked_token(site: Served) -> None:
    """A client takes a token of its own back; another client's stays good."""
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    other = site.project.access_tokens.issue(site.project.oauth_clients.create().client.id, ("*",))
    fields = {"client_id": site.client.client.id, "client_secret": site.client.secret}

    answers = [await site.http.post("/v1/oauth/revoke", data={**fields, "token": each}) for each in (token, other, "x")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert authorize(site.context, f"Bearer {other}").client_id
    with pytest.raises(UnauthorizedError):
        authorize(site.context, f"Bearer {token}")


async def test_another_process_has_the_same_tokens(site: Served, tmp_path: Path) -> None:
    """A token of one process is good at another on the same database, and what one revokes the other refuses in time."""
    clock = moved(site)
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    with Project.open(tmp_path / ".pdkernel", clock=clock) as other:
        found = other.access_tokens.verify(token)
        assert found is not None

        site.project.access_tokens.revoke(found)
        clock.advance(5.1)

        assert other.access_tokens.verify(token) is None


async def test_a_key_that_was_just_made_elsewhere(site: Served, tmp_path: Path) -> None:
    """A token signed with a new key, for a new client, is good at once where both were not known yet."""
    with Project.open(tmp_path / ".pdkernel", clock=site.context.clock) as other:
        before = site.project.access_tokens.issue(site.client.client.id, ("*",))
        assert other.access_tokens.verify(before)

        site.project.access_tokens.rotate_signing_key()
        after = site.project.access_tokens.issue(site.project.oauth_clients.create().client.id, ("*",))

        assert other.access_tokens.verify(after)
        assert other.access_tokens.verify(before)


async def test_a_removed_client(site: Served) -> None:
    """A client that was removed gets no token, and those it has are refused within five seconds."""
    header = site.headers()["Authorization"]
    assert authorize(site.context, header).client_id

    site.project.oauth_clients.remove(site.client.client.id)
    moved(site).advance(5.1)

    with pytest.raises(UnauthorizedError):
        authorize(site.context, header)
    assert site.project.oauth_clients.authenticate(site.client.client.id, site.client.secret) is None


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic eA==", "Token x", "bearer \udc80"])
async def test_no_token(site: Served, header: str | None) -> None:
    """An empty header is none, as the Python SDK sends one."""
    with pytest.raises(UnauthorizedError):
        authorize(site.context, header)


async def test_nothing_secret_is_kept(site: Served, tmp_path: Path) -> None:
    """Neither a secret nor a token nor a signing key stands in the database's files."""
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    site.project.access_tokens.revoke(site.project.access_tokens.verify(token))  # type: ignore[arg-type]

    kept = b"".join(path.read_bytes() for path in (tmp_path / ".pdkernel").glob("project.db*"))

    assert site.client.client.id.encode() in kept
    assert site.client.secret.encode() not in kept
    assert token.rpartition(".")[2].encode() not in kept
    assert site.client.secret not in repr(site.client)


@pytest.mark.parametrize("path", [TOKEN, "/v1/oauth/revoke"])
async def test_a_body_without_end(site: Served, path: str) -> None:
    """Whoever has no token yet cannot fill the memory: the rest of a large body is not read."""
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"a" * 16_384

    answer = await site.http.post(path, content=pieces(), headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["error"]) == (413, "invalid_request")
    assert read < 10


async def test_whoever_goes_away(site: Served) -> None:
    """A request that ends before its body is no error of ours."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": TOKEN, "raw_path": TOKEN.encode(), "query_string": b""}
    headers = [(b"host", b"localhost"), (b"content-length", b"10")]
    await create_app(site.context)({**scope, "headers": headers, "client": ("127.0.0.1", 1)}, receive, send)

    assert sent[0]["status"] == 400


async def test_a_field_that_is_there_twice(site: Served) -> None:
    """A form with two ids of a client is refused: which is meant nobody can say (RFC 6749, section 3.2)."""
    fields = {
        "client_id": ["other", site.client.client.id],
        "client_secret": site.client.secret,
        "grant_type": "client_credentials",
    }

    answer = await site.http.post(TOKEN, data=fields)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
