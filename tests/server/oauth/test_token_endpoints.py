"""The token and revocation endpoints, as SDKs call them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from pdkernel.server import create_app
from pdkernel.server.oauth.authorization import UnauthorizedError, authorize
from pdkernel.storage import Project
from tests.server.served import Served

TOKEN = "/v1/oauth/token"


async def test_credentials_as_json(site: Served) -> None:
    """Python and JS SDKs 2.x and 3.x send JSON."""
    fields = {
        "client_id": site.client.client.id,
        "client_secret": site.client.secret,
        "grant_type": "client_credentials",
    }

    answer = await site.http.post(TOKEN, json=fields)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert {**answer.json(), "access_token": ""} == {
        "access_token": "",
        "token_type": "Bearer",
        "expires_in": 3600,
        "created_at": int(site.clock.now().timestamp()),
        "scope": "*",
    }
    assert authorize(site.context, f"Bearer {answer.json()['access_token']}").scopes == ("*",)


async def test_credentials_as_a_form(site: Served) -> None:
    """JS SDKs 1.6 and 1.8 send a form, with fields that have no meaning here."""
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
    """JS SDK 1.0 sends HTTP Basic, and a form with only the grant type."""
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
        ({"client_secret": "a\0"}, 400, "invalid_request"),
        ({"client_assertion": "e30.e30."}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": None}, 400, "unsupported_grant_type"),
    ],
)
async def test_invalid_credentials_are_rejected(site: Served, change: dict[str, Any], status: int, error: str) -> None:
    """A wrong secret, an unknown client and another grant type get the errors of OAuth 2."""
    fields = {
        "client_id": site.client.client.id,
        "client_secret": site.client.secret,
        "grant_type": "client_credentials",
        **change,
    }

    answer = await site.http.post(TOKEN, content=json.dumps(fields), headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert site.client.secret not in answer.text


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Basic {id}:{secret}", 200),
        ("bASIC {id}:{secret}", 200),
        ("Basic {encoded}:{secret}", 200),
        ("Basic {id}:{encoded_secret}", 200),
        ("Basic {id}:wrong", 401),
        ("Basic {id}", 401),
        ("Bearer {id}:{secret}", 401),
    ],
)
async def test_parts_of_basic_credentials(site: Served, authorization: str, status: int) -> None:
    """The scheme has no case, each part is form-encoded (RFC 6749, section 2.3.1), and the form may repeat the client's id."""
    scheme, _, pair = authorization.partition(" ")
    id_, secret = site.client.client.id, site.client.secret
    encoded, encoded_secret = ("".join(f"%{ord(character):02X}" for character in part) for part in (id_, secret))
    pair = pair.format(id=id_, secret=secret, encoded=encoded, encoded_secret=encoded_secret)
    header = f"{scheme} {base64.b64encode(pair.encode()).decode()}"

    answer = await site.http.post(
        TOKEN, data={"grant_type": "client_credentials", "client_id": id_}, headers={"Authorization": header}
    )

    assert answer.status_code == status


@pytest.mark.parametrize(("size", "count", "status"), [(65_536, 2, 401), (65_537, 2, 413), (0, 50, 401), (0, 51, 400)])
async def test_limits_of_a_body(site: Served, size: int, count: int, status: int) -> None:
    """A body has at most 64 KB, and a form at most 50 fields."""
    form = "&".join(f"f{number}=x" for number in range(count))

    answer = await site.http.post(
        TOKEN, content=form.ljust(size, "x"), headers={"Content-Type": "application/x-www-form-urlencoded"}
    )

    assert answer.status_code == status


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", None])
async def test_media_types_of_json(site: Served, kind: str | None) -> None:
    """JSON is recognized by its media type, and without a media type by its first character."""
    fields = {
        "client_id": site.client.client.id,
        "client_secret": site.client.secret,
        "grant_type": "client_credentials",
    }
    content = f"\n{json.dumps({**fields, 'scope': ['a', 'b', 'a']})}".encode()

    answer = await site.http.post(TOKEN, content=content, headers={"Content-Type": kind} if kind else {})

    assert (answer.status_code, answer.json()["scope"]) == (200, "a b")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", ""])
async def test_an_invalid_body_is_rejected(site: Served, body: bytes, kind: str) -> None:
    """A body that cannot be parsed is answered with a 4xx error of OAuth 2."""
    answer = await site.http.post(TOKEN, content=body, headers={"Content-Type": kind})

    assert answer.status_code in (400, 401, 413)
    assert set(answer.json()) == {"error", "error_description"}


async def test_a_token_never_has_more_scopes_than_its_client(site: Served) -> None:
    """A narrower scope is granted, `*` means all scopes of the client, and another scope is rejected."""
    new = site.project.oauth_clients.create("reader", ("connect:accounts:*",))
    fields = {"client_id": new.client.id, "client_secret": new.secret, "grant_type": "client_credentials"}

    narrower = await site.http.post(TOKEN, json={**fields, "scope": "connect:accounts:read"})
    everything = await site.http.post(TOKEN, json={**fields, "scope": "*"})
    wider = [
        await site.http.post(TOKEN, json={**fields, "scope": scope}) for scope in ("connect:proxy", "* connect:proxy")
    ]

    assert narrower.json()["scope"] == "connect:accounts:read"
    assert everything.json()["scope"] == "connect:accounts:*"
    assert [(each.status_code, each.json()["error"]) for each in wider] == [(400, "invalid_scope")] * 2


async def test_a_token_is_signed(site: Served) -> None:
    """A token has its client and expiry, is signed with EdDSA, and an altered token is rejected."""
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
    """A token is rejected after an hour."""
    header = site.headers()["Authorization"]
    site.clock.advance(3599)
    assert authorize(site.context, header).client_id

    site.clock.advance(1)

    with pytest.raises(UnauthorizedError):
        authorize(site.context, header)


async def test_a_revoked_token(site: Served) -> None:
    """A client revokes its own token; a token of another client stays valid."""
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    other = site.project.access_tokens.issue(site.project.oauth_clients.create().client.id, ("*",))
    fields = {"client_id": site.client.client.id, "client_secret": site.client.secret}

    answers = [await site.http.post("/v1/oauth/revoke", data={**fields, "token": each}) for each in (token, other, "x")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert authorize(site.context, f"Bearer {other}").client_id
    with pytest.raises(UnauthorizedError):
        authorize(site.context, f"Bearer {token}")
    assert [(answer.json(), answer.headers["cache-control"]) for answer in answers] == [({}, "no-store")] * 3


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"token": ""}, 400, "invalid_request"),
        ({"client_secret": "x"}, 401, "invalid_client"),
    ],
)
async def test_an_invalid_request_to_revoke(site: Served, change: dict[str, str], status: int, error: str) -> None:
    """A request without a token is invalid, and so is a client with another secret."""
    fields = {"client_id": site.client.client.id, "client_secret": site.client.secret, **change}

    answer = await site.http.post("/v1/oauth/revoke", json=fields)

    assert (answer.status_code, answer.json()["error"]) == (status, error)


async def test_another_process_has_the_same_tokens(site: Served, tmp_path: Path) -> None:
    """A second process on the same database accepts a token, and rejects it after a revocation."""
    clock = site.clock
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    with Project.open(tmp_path / ".pdkernel", clock=clock) as other:
        found = other.access_tokens.verify(token)
        assert found is not None

        site.project.access_tokens.revoke(found)
        clock.advance(5.1)

        assert other.access_tokens.verify(token) is None


async def test_a_signing_key_of_another_process(site: Served, tmp_path: Path) -> None:
    """A token that is signed with a new key of another process is valid at once."""
    with Project.open(tmp_path / ".pdkernel", clock=site.context.clock) as other:
        before = site.project.access_tokens.issue(site.client.client.id, ("*",))
        assert other.access_tokens.verify(before)

        site.project.access_tokens.rotate_signing_key()
        after = site.project.access_tokens.issue(site.project.oauth_clients.create().client.id, ("*",))

        assert other.access_tokens.verify(after)
        assert other.access_tokens.verify(before)


async def test_a_token_outlives_its_signing_key(site: Served, tmp_path: Path) -> None:
    """A process that starts after the rotation accepts a token of the earlier key until the token expires."""
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    site.project.access_tokens.rotate_signing_key()

    with Project.open(tmp_path / ".pdkernel", clock=site.context.clock) as other:
        site.clock.advance(3599)
        assert other.access_tokens.verify(token)
        site.clock.advance(1)
        assert other.access_tokens.verify(token) is None


async def test_a_removed_client(site: Served) -> None:
    """A removed client gets no token, and its tokens are rejected within five seconds."""
    header = site.headers()["Authorization"]
    assert authorize(site.context, header).client_id

    site.project.oauth_clients.remove(site.client.client.id)
    site.clock.advance(5.1)

    with pytest.raises(UnauthorizedError):
        authorize(site.context, header)
    assert site.project.oauth_clients.authenticate(site.client.client.id, site.client.secret) is None


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic eA==", "Token x", "bearer \udc80"])
async def test_a_missing_token(site: Served, header: str | None) -> None:
    """An empty Authorization header, which the Python SDK sends, counts as a missing token."""
    with pytest.raises(UnauthorizedError):
        authorize(site.context, header)


async def test_no_secret_is_stored_in_plain_text(site: Served, tmp_path: Path) -> None:
    """The database files contain neither the client's secret nor the token's signature."""
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    site.project.access_tokens.revoke(site.project.access_tokens.verify(token))  # type: ignore[arg-type]

    kept = b"".join(path.read_bytes() for path in (tmp_path / ".pdkernel").glob("project.db*"))

    assert site.client.client.id.encode() in kept
    assert site.client.secret.encode() not in kept
    assert token.rpartition(".")[2].encode() not in kept
    assert site.client.secret not in repr(site.client)


@pytest.mark.parametrize("path", [TOKEN, "/v1/oauth/revoke"])
async def test_a_large_body_is_not_read(site: Served, path: str) -> None:
    """The rest of a body above the limit is not read."""
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"a" * 16_384

    answer = await site.http.post(path, content=pieces(), headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["error"]) == (413, "invalid_request")
    assert read < 10


async def test_a_client_that_disconnects(site: Served) -> None:
    """A request that ends before its body is answered 400 without an error of the server."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": TOKEN, "raw_path": TOKEN.encode(), "query_string": b""}
    headers = [(b"host", b"localhost"), (b"content-length", b"10")]
    await create_app(site.context)({**scope, "headers": headers, "client": ("127.0.0.1", 1)}, receive, send)

    assert sent[0]["status"] == 400


@pytest.mark.parametrize("encoded", ["!!!", "%%%=", "/w=="])
async def test_basic_credentials_that_are_not_base64(site: Served, encoded: str) -> None:
    """Credentials that are not UTF-8 in base64 are answered 400, at both routes."""
    headers = {"Authorization": f"Basic {encoded}"}
    answers = [await site.http.post(path, data={"token": "x"}, headers=headers) for path in (TOKEN, "/v1/oauth/revoke")]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == {
        "error": "invalid_request",
        "error_description": "The Basic credentials are invalid.",
    }


async def test_a_repeated_field_is_rejected(site: Served) -> None:
    """A form with two client ids is rejected (RFC 6749, section 3.2)."""
    fields = {
        "client_id": ["other", site.client.client.id],
        "client_secret": site.client.secret,
        "grant_type": "client_credentials",
    }

    answer = await site.http.post(TOKEN, data=fields)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
