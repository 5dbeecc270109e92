"""The token and revocation endpoints, as SDKs call them."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pdkernel.errors import RequestError
from pdkernel.server import create_app
from pdkernel.server.authorization import UnauthorizedError, authorize
from pdkernel.storage import Project
from pdkernel.storage.oauth_clients import OAuthClient
from tests.server.served import Served

TOKEN = "/v1/oauth/token"


def credentials(site: Served, **change: Any) -> dict[str, Any]:
    """The fields of a request of the site's client."""
    client = {"client_id": site.client.client.id, "client_secret": site.client.secret}
    return {**client, "grant_type": "client_credentials", **change}


async def test_credentials_as_json(site: Served) -> None:
    """Python and JS SDKs 2.x and 3.x send JSON."""
    fields = credentials(site)

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
    assert authorize(site.project, f"Bearer {answer.json()['access_token']}").scopes == ("*",)


async def test_credentials_as_a_form(site: Served) -> None:
    """JS SDKs 1.6 and 1.8 send a form, with fields that have no meaning here."""
    scope = "connect:accounts:read connect:proxy"
    fields = credentials(site, project_id="proj_x", environment="development", scope=scope)

    answer = await site.http.post(TOKEN, data=fields)

    caller = authorize(site.project, f"Bearer {answer.json()['access_token']}")
    assert caller.scopes == ("connect:accounts:read", "connect:proxy")
    assert (caller.client_id, caller.project_id) == (site.client.client.id, site.project.project_id)


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
async def test_invalid_credentials_are_rejected(
    shared_site: Served, change: dict[str, Any], status: int, error: str
) -> None:
    """A wrong secret, an unknown client and another grant type get the errors of OAuth 2."""
    fields = credentials(shared_site, **change)

    answer = await shared_site.http.post(
        TOKEN, content=json.dumps(fields), headers={"Content-Type": "application/json"}
    )

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert shared_site.client.secret not in answer.text


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
async def test_parts_of_basic_credentials(shared_site: Served, authorization: str, status: int) -> None:
    """The scheme has no case, each part is form-encoded (RFC 6749, section 2.3.1), and the form may repeat the client's id."""
    repeated = {} if authorization == "Basic {id}:{secret}" else {"client_id": shared_site.client.client.id}
    scheme, _, pair = authorization.partition(" ")
    id_, secret = shared_site.client.client.id, shared_site.client.secret
    encoded, encoded_secret = ("".join(f"%{ord(character):02X}" for character in part) for part in (id_, secret))
    pair = pair.format(id=id_, secret=secret, encoded=encoded, encoded_secret=encoded_secret)
    header = f"{scheme} {base64.b64encode(pair.encode()).decode()}"

    answer = await shared_site.http.post(
        TOKEN, data={"grant_type": "client_credentials", **repeated}, headers={"Authorization": header}
    )

    assert answer.status_code == status


@pytest.mark.parametrize(("size", "count", "status"), [(65_536, 2, 401), (65_537, 2, 413), (0, 50, 401), (0, 51, 400)])
async def test_limits_of_a_body(shared_site: Served, size: int, count: int, status: int) -> None:
    """A body has at most 64 KB, and a form at most 50 fields."""
    form = "&".join(f"f{number}=x" for number in range(count))

    answer = await shared_site.http.post(
        TOKEN, content=form.ljust(size, "x"), headers={"Content-Type": "application/x-www-form-urlencoded"}
    )

    assert answer.status_code == status


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/x+json", None])
async def test_media_types_of_json(shared_site: Served, kind: str | None) -> None:
    """JSON is recognized by its media type, and without a media type by its first character."""
    fields = credentials(shared_site)
    content = f"\n{json.dumps({**fields, 'scope': ['a', 'b', 'a']})}".encode()

    answer = await shared_site.http.post(TOKEN, content=content, headers={"Content-Type": kind} if kind else {})

    assert (answer.status_code, answer.json()["scope"]) == (200, "a b")


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", ""])
async def test_an_invalid_body_is_rejected(shared_site: Served, kind: str) -> None:
    """A body that cannot be parsed is answered with a 4xx error of OAuth 2."""
    for body in (b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        answer = await shared_site.http.post(TOKEN, content=body, headers={"Content-Type": kind})

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
            authorize(site.project, f"Bearer {bad}")


async def test_a_token_expires(site: Served) -> None:
    """A token is rejected after an hour."""
    header = site.headers()["Authorization"]
    site.clock.advance(3599)
    assert authorize(site.project, header).client_id

    site.clock.advance(1)

    with pytest.raises(UnauthorizedError):
        authorize(site.project, header)


async def test_a_revoked_token(site: Served) -> None:
    """A client revokes its own token; a token of another client stays valid."""
    token = site.project.access_tokens.issue(site.client.client.id, ("*",))
    other = site.project.access_tokens.issue(site.project.oauth_clients.create().client.id, ("*",))
    fields = {"client_id": site.client.client.id, "client_secret": site.client.secret}

    answers = [await site.http.post("/v1/oauth/revoke", data={**fields, "token": each}) for each in (token, other, "x")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert authorize(site.project, f"Bearer {other}").client_id
    with pytest.raises(UnauthorizedError):
        authorize(site.project, f"Bearer {token}")
    assert [(answer.json(), answer.headers["cache-control"]) for answer in answers] == [({}, "no-store")] * 3


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"token": ""}, 400, "invalid_request"),
        ({"client_secret": "x"}, 401, "invalid_client"),
    ],
)
async def test_an_invalid_request_to_revoke(
    shared_site: Served, change: dict[str, str], status: int, error: str
) -> None:
    """A request without a token is invalid, and so is a client with another secret."""
    fields = {"client_id": shared_site.client.client.id, "client_secret": shared_site.client.secret, **change}

    answer = await shared_site.http.post("/v1/oauth/revoke", json=fields)

    assert (answer.status_code, answer.json()["error"]) == (status, error)


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
    assert authorize(site.project, header).client_id

    site.project.oauth_clients.remove(site.client.client.id)
    site.clock.advance(5.1)

    with pytest.raises(UnauthorizedError):
        authorize(site.project, header)
    assert site.project.oauth_clients.authenticate(site.client.client.id, site.client.secret) is None


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic eA==", "Token x", "bearer \udc80"])
async def test_a_missing_token(shared_site: Served, header: str | None) -> None:
    """An empty Authorization header, which the Python SDK sends, counts as a missing token."""
    with pytest.raises(UnauthorizedError):
        authorize(shared_site.project, header)


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
async def test_a_large_body_is_not_read(shared_site: Served, path: str) -> None:
    """The rest of a body above the limit is not read."""
    read = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"a" * 16_384

    answer = await shared_site.http.post(path, content=pieces(), headers={"content-type": "application/json"})

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
async def test_basic_credentials_that_are_not_base64(shared_site: Served, encoded: str) -> None:
    """Credentials that are not UTF-8 in base64 are answered 400, at both routes."""
    headers = {"Authorization": f"Basic {encoded}"}
    answers = [
        await shared_site.http.post(path, data={"token": "x"}, headers=headers) for path in (TOKEN, "/v1/oauth/revoke")
    ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == {"error": "invalid_request", "error_description": "The Basic credentials are invalid."}


async def test_a_repeated_field_is_rejected(shared_site: Served) -> None:
    """A form with two client ids is rejected (RFC 6749, section 3.2)."""
    fields = credentials(shared_site, client_id=["other", shared_site.client.client.id])

    answer = await shared_site.http.post(TOKEN, data=fields)

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


HERE = "http://127.0.0.1:4000"
EC, RSA = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def pem(key: PrivateKey) -> str:
    """The public part of *key* as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def keyed(site: Served, key: PrivateKey = EC, *scopes: str) -> OAuthClient:
    """Create a client that authenticates with *key*."""
    return site.project.oauth_clients.create_with_key(pem(key), "tests", scopes or ("*",))


def signed(
    site: Served,
    client: OAuthClient,
    key: PrivateKey = EC,
    typ: str | None = "client-authentication+jwt",
    **change: Any,
) -> str:
    """Sign an assertion of *client*, as the official SDK does, with *change*; a claim of None is omitted."""
    now = int(site.clock.now().timestamp())
    claims = {"iss": client.id, "sub": client.id, "aud": HERE, "iat": now, "exp": now + 60, "jti": "one", **change}
    claims = {name: value for name, value in claims.items() if value is not None}
    algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    return jwt.encode(claims, key, algorithm=algorithm, headers={"typ": typ})


async def request_token(site: Served, assertion: str, **fields: Any) -> httpx.Response:
    """Request a token with *assertion*."""
    sent = {"client_assertion_type": TYPE, "client_assertion": assertion}
    return await site.http.post(TOKEN, json={"grant_type": "client_credentials", **sent, **fields})


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES256", "RS256"])
async def test_a_signed_assertion_gets_a_token(site: Served, key: PrivateKey) -> None:
    """A signed assertion gets a token with the client's scopes."""
    client = keyed(site, key, "connect:users:read")

    answer = await request_token(site, signed(site, client, key), client_id=client.id)

    assert answer.status_code == 200, answer.text
    caller = authorize(site.project, f"Bearer {answer.json()['access_token']}")
    assert (caller.client_id, caller.scopes) == (client.id, ("connect:users:read",))


async def test_an_assertion_is_used_once(site: Served) -> None:
    """A repeated assertion is rejected; another client may use the same `jti`."""
    client, other = keyed(site), keyed(site, RSA)
    assertion = signed(site, client)

    first, again = await request_token(site, assertion), await request_token(site, assertion)
    others = await request_token(site, signed(site, other, RSA))

    assert (first.status_code, again.status_code, others.status_code) == (200, 401, 200)
    assert again.json()["error"] == "invalid_client"
    site.clock.advance(69)  # the assertion has expired, and is within the tolerance
    assert (await request_token(site, assertion)).status_code == 401


async def test_the_public_url_is_an_audience(site: Served) -> None:
    """The audience may be the origin of the public URL or of the request's URL."""
    client = keyed(site)
    public_url = "https://work.example.com"
    object.__setattr__(site.context.settings, "base_url", f"{public_url}/below")

    by_public = await request_token(site, signed(site, client, aud=public_url, jti="a"))
    by_address = await request_token(site, signed(site, client, aud=[HERE], jti="b"))

    assert (by_public.status_code, by_address.status_code) == (200, 200)


async def test_an_invalid_assertion_is_rejected(shared_site: Served) -> None:
    """A wrong audience, issuer, subject, expiry, type or key is rejected."""
    changes: list[dict[str, Any]] = [
        *({name: None} for name in ("aud", "iss", "sub", "exp", "jti", "typ")),
        *({"aud": "https://api.pipedream.com"}, {"iss": "pdc_other"}, {"sub": "pdc_other"}, {"exp": "soon"}),
        *({"jti": 7}, {"typ": "JWT"}, {"key": ec.generate_private_key(ec.SECP256R1())}, {"key": RSA}),
    ]
    for change in changes:
        answer = await request_token(shared_site, signed(shared_site, keyed(shared_site), **change))

        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), change


async def test_the_time_of_an_assertion(site: Served) -> None:
    """An assertion is valid in its lifetime, which is at most five minutes, with a tolerance."""
    client, now = keyed(site), site.clock.now().timestamp()
    good = [signed(site, client, jti="a"), signed(site, client, jti="b", exp=int(now) + 300, nbf=int(now) + 10)]
    long = signed(site, client, jti="c", exp=int(now) + 311)
    early = signed(site, client, jti="d", nbf=int(now) + 60)
    late = signed(site, client, jti="e")

    assert [(await request_token(site, each)).status_code for each in (*good, long, early)] == [200, 200, 401, 401]
    site.clock.advance(71)
    assert (await request_token(site, late)).status_code == 401


async def test_forged_algorithms_are_rejected(site: Served) -> None:
    """Unsigned assertions, and assertions signed with the public key as a secret, are rejected."""
    client = keyed(site)
    header, claims, _ = signed(site, client).split(".")
    unsigned = jwt.encode({}, "", "none", {"typ": "client-authentication+jwt"}).split(".")[0]

    for forged in (f"{unsigned}.{claims}.", f"{header}.{claims}.", f"{header}.{claims}.AAAA", "x", "a.b.c", "é"):
        assert (await request_token(site, forged)).status_code == 401


async def test_an_assertion_of_another_client_is_rejected(site: Served) -> None:
    """The request must name the client of the assertion, without a secret; a removed client is rejected."""
    client = keyed(site)
    with_secret = site.client.client

    named = await request_token(site, signed(site, client), client_id=with_secret.id)
    secret = await request_token(site, signed(site, with_secret))
    both = await request_token(site, signed(site, client), client_id=client.id, client_secret="x")
    kind = await request_token(site, signed(site, client), client_assertion_type="saml")
    by_secret = await site.http.post(
        "/v1/oauth/token", json={"grant_type": "client_credentials", "client_id": client.id, "client_secret": ""}
    )
    site.project.oauth_clients.remove(client.id)
    removed = await request_token(site, signed(site, client))

    statuses = [each.status_code for each in (named, secret, both, kind, by_secret, removed)]
    assert statuses == [401, 401, 400, 400, 401, 401]


@pytest.mark.parametrize(
    "text",
    ["", "not a key", pem(ec.generate_private_key(ec.SECP384R1())), pem(rsa.generate_private_key(65537, 1024))],
    ids=["nothing", "text", "P-384", "RSA 1024"],
)
def test_an_unusable_key_is_rejected(site: Served, text: str) -> None:
    """Only keys for ES256 or a safe RS256 are registered; with another key, no client is created."""
    before = site.project.oauth_clients.list_clients()

    with pytest.raises(RequestError):
        site.project.oauth_clients.create_with_key(text)

    assert site.project.oauth_clients.list_clients() == before
