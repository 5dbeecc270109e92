"""The token endpoint, asked by a client that signs with its private key (RFC 7523)."""

from __future__ import annotations

from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pdkernel.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.project.oauth_clients import OAuthClient
from pdkernel.server.oauth.authorization import authorize
from tests.server.served import Served

HERE = "http://127.0.0.1:4000"
EC, RSA = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def pem(key: PrivateKey) -> str:
    """The public key of *key*."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def keyed(site: Served, key: PrivateKey = EC, *scopes: str) -> OAuthClient:
    """A client that proves itself with *key*."""
    return site.project.oauth_clients.create_with_key(pem(key), "tests", scopes or ("*",))


def moved(site: Served) -> ManualClock:
    """The clock of the project."""
    assert isinstance(site.context.clock, ManualClock)
    return site.context.clock


def signed(
    site: Served,
    client: OAuthClient,
    key: PrivateKey = EC,
    typ: str | None = "client-authentication+jwt",
    **change: Any,
) -> str:
    """An assertion of *client* as the official SDK writes it, but for *change*; a claim of None is left out."""
    now = int(moved(site).now().timestamp())
    claims = {"iss": client.id, "sub": client.id, "aud": HERE, "iat": now, "exp": now + 60, "jti": "one", **change}
    claims = {name: value for name, value in claims.items() if value is not None}
    algorithm = "ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256"
    return jwt.encode(claims, key, algorithm=algorithm, headers={"typ": typ})


async def ask(site: Served, assertion: str, **fields: Any) -> httpx.Response:
    """Ask for a token with *assertion*."""
    asked = {"grant_type": "client_credentials", "client_assertion_type": TYPE, "client_assertion": assertion, **fields}
    return await site.http.post("/v1/oauth/token", json=asked)


@pytest.mark.parametrize("key", [EC, RSA], ids=["ES256", "RS256"])
async def test_a_client_signs(site: Served, key: PrivateKey) -> None:
    """An assertion is as good as a secret, for what the client may have."""
    client = keyed(site, key, "connect:users:read")

    answer = await ask(site, signed(site, client, key), client_id=client.id)

    assert answer.status_code == 200, answer.text
    caller = authorize(site.context, f"Bearer {answer.json()['access_token']}")
    assert (caller.client_id, caller.scopes) == (client.id, ("connect:users:read",))


async def test_an_assertion_is_used_once(site: Served) -> None:
    """The same one is refused from then on, also by another process; another client may have the same id for one of its own."""
    client, other = keyed(site), keyed(site, RSA)
    assertion = signed(site, client)

    first, again = await ask(site, assertion), await ask(site, assertion)
    others = await ask(site, signed(site, other, RSA))

    assert (first.status_code, again.status_code, others.status_code) == (200, 401, 200)
    assert again.json()["error"] == "invalid_client"


async def test_a_public_address_is_an_audience(site: Served) -> None:
    """A client that reaches the server through a proxy names the address that it knows, by any path below it."""
    client = keyed(site)
    moved_url = "https://work.example.com"
    object.__setattr__(site.context.settings, "base_url", f"{moved_url}/below")

    by_public = await ask(site, signed(site, client, aud=moved_url, jti="a"))
    by_address = await ask(site, signed(site, client, aud=[HERE], jti="b"))

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
async def test_what_is_no_proof(site: Served, change: dict[str, Any]) -> None:
    """One for another server, of somebody else, without an end, signed by another key or meant for something else is refused."""
    answer = await ask(site, signed(site, keyed(site), **change))

    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_its_time(site: Served) -> None:
    """It is good for its time and a little more, which may be five minutes at most; not before its time."""
    client, now = keyed(site), moved(site).now().timestamp()
    good = [signed(site, client, jti="a"), signed(site, client, jti="b", exp=int(now) + 300)]
    long = signed(site, client, jti="c", exp=int(now) + 3600)
    early = signed(site, client, jti="d", nbf=int(now) + 60)
    late = signed(site, client, jti="e")

    assert [(await ask(site, each)).status_code for each in (*good, long, early)] == [200, 200, 401, 401]
    moved(site).advance(71)
    assert (await ask(site, late)).status_code == 401


async def test_forged_algorithms(site: Served) -> None:
    """Unsigned ones, and ones signed with the public key as if it were a secret, are refused."""
    client = keyed(site)
    header, claims, _ = signed(site, client).split(".")
    unsigned = jwt.encode({}, "", "none", {"typ": "client-authentication+jwt"}).split(".")[0]

    for forged in (f"{unsigned}.{claims}.", f"{header}.{claims}.", f"{header}.{claims}.AAAA", "x", "a.b.c", "é"):
        assert (await ask(site, forged)).status_code == 401


async def test_who_else_may_not(site: Served) -> None:
    """A removed client, one that has a secret, a request that names another, a secret beside it, and a type that is none."""
    client = keyed(site)
    with_secret = site.client.client

    named = await ask(site, signed(site, client), client_id=with_secret.id)
    secret = await ask(site, signed(site, with_secret))
    both = await ask(site, signed(site, client), client_id=client.id, client_secret="x")
    kind = await ask(site, signed(site, client), client_assertion_type="saml")
    by_secret = await site.http.post(
        "/v1/oauth/token", json={"grant_type": "client_credentials", "client_id": client.id, "client_secret": ""}
    )
    site.project.oauth_clients.remove(client.id)
    removed = await ask(site, signed(site, client))

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
        "no key",
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 1024)),
    ],
    ids=["nothing", "text", "P-384", "RSA 1024"],
)
def test_keys_that_cannot_be_used(site: Served, text: str) -> None:
    """Only keys that sign ES256 or a safe RS256 are registered, and no client is made without one."""
    before = site.project.oauth_clients.list_clients()

    with pytest.raises(RequestError):
        site.project.oauth_clients.create_with_key(text)

    assert site.project.oauth_clients.list_clients() == before
