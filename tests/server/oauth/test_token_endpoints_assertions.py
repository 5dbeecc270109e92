"""Client authentication by a signed assertion (RFC 7523)."""

from __future__ import annotations

from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pdkernel.errors import RequestError
from pdkernel.server.oauth.authorization import authorize
from pdkernel.storage.oauth_clients import OAuthClient
from tests.server.served import Served

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
    fields_sent = {
        "grant_type": "client_credentials",
        "client_assertion_type": TYPE,
        "client_assertion": assertion,
        **fields,
    }
    return await site.http.post("/v1/oauth/token", json=fields_sent)


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES256", "RS256"])
async def test_a_signed_assertion_gets_a_token(site: Served, key: PrivateKey) -> None:
    """A signed assertion gets a token with the client's scopes."""
    client = keyed(site, key, "connect:users:read")

    answer = await request_token(site, signed(site, client, key), client_id=client.id)

    assert answer.status_code == 200, answer.text
    caller = authorize(site.context, f"Bearer {answer.json()['access_token']}")
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


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "https://api.pipedream.com"},
        {"aud": None},
        {"iss": "pdc_other"},
        {"iss": None},
        {"sub": "pdc_other"},
        {"sub": None},
        {"exp": None},
        {"exp": "soon"},
        {"jti": None},
        {"jti": 7},
        {"typ": "JWT"},
        {"typ": None},
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"key": RSA},
    ],
    ids=lambda change: " ".join(change),
)
async def test_an_invalid_assertion_is_rejected(site: Served, change: dict[str, Any]) -> None:
    """A wrong audience, issuer, subject, expiry, type or key is rejected."""
    answer = await request_token(site, signed(site, keyed(site), **change))

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


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

    assert [each.status_code for each in (named, secret, both, kind, by_secret, removed)] == [
        401,
        401,
        400,
        400,
        401,
        401,
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a key",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 1024)),
    ],
    ids=["nothing", "text", "P-384", "RSA 1024"],
)
def test_an_unusable_key_is_rejected(site: Served, text: str) -> None:
    """Only keys for ES256 or a safe RS256 are registered; with another key, no client is created."""
    before = site.project.oauth_clients.list_clients()

    with pytest.raises(RequestError):
        site.project.oauth_clients.create_with_key(text)

    assert site.project.oauth_clients.list_clients() == before
