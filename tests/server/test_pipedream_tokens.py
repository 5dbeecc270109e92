"""Tokens that Pipedream issued: what is stored, what a check finds, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pdkernel.common.clock import ManualClock
from pdkernel.server.pipedream_tokens import BAD_CACHE_S, GOOD_CACHE_S, PipedreamTokenVerifier, TokenStatus
from pdkernel.storage import Login, Project
from pdkernel.storage.short_lived_tokens import PipedreamToken

REQUEST = Request({"type": "http", "method": "POST", "path": "/v1/oauth/token", "headers": []})
SCOPE = "connect:workflow:invoke"


def token_of(**claims: Any) -> str:
    """A JWT with *claims*."""
    return jwt.encode(claims, "a key of Pipedream that nobody here knows", algorithm="HS256")


class Pipedream:
    """Pipedream's answers, and the number of checks that were sent to it."""

    login = Login("client", "a-secret-0123456789", "proj_1")
    response: dict[str, Any]
    status = 200
    own_token: str | None = None
    accounts: int | None = 200

    def __init__(self) -> None:
        self.forwarded = 0
        self.checks = 0
        self.own_tokens = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def forward(self, request: Request) -> Response:
        """An empty response."""
        self.forwarded += 1
        return Response()

    async def forward_and_parse(self, request: Request) -> tuple[Response, dict[str, Any]]:
        """The response with a token."""
        return JSONResponse(self.response, self.status), self.response

    async def probe_accounts(self, token: str, *, timeout_s: float) -> int | None:
        """The status for the token of a check."""
        self.checks += 1
        accounts = self.accounts
        await asyncio.sleep(0)
        await self.answers.wait()
        return accounts

    async def fetch_own_token(self, *, timeout_s: float) -> str | None:
        """The token of the login."""
        self.own_tokens += 1
        return self.own_token


class Verifier:
    """A verifier with its project, clock and Pipedream."""

    def __init__(self, project: Project, clock: ManualClock) -> None:
        self.clock = clock
        self.table = project.pipedream_tokens
        self.pipedream = Pipedream()
        self.tokens = PipedreamTokenVerifier(self.pipedream, self.table, clock)

    async def issue(
        self, response: dict[str, Any], fields: dict[str, str] | None = None, *, status: int = 200
    ) -> PipedreamToken | None:
        """The stored token of a *response* of Pipedream to `client`."""
        self.pipedream.response, self.pipedream.status = response, status
        answer = await self.tokens.issue(REQUEST, fields or {}, "client")
        assert answer.status_code == status
        return self.table.find(str(response.get("access_token")))


@pytest.fixture
def verifier(tmp_path: Path) -> Iterator[Verifier]:
    """A verifier of a new project."""
    clock = ManualClock()
    with Project.open(tmp_path / ".pdkernel", clock=clock) as project:
        yield Verifier(project, clock)


@pytest.mark.parametrize(
    ("response", "fields", "scopes"),
    [
        ({"scope": "a b"}, {"scope": "d"}, ("a", "b")),
        ({"scope": ["a", "b"]}, {}, ("a", "b")),
        ({}, {"scope": "d"}, ("c",)),
    ],
)
async def test_scopes_of_an_issued_token(
    verifier: Verifier, response: dict[str, Any], fields: dict[str, str], scopes: tuple[str, ...]
) -> None:
    """The scopes are those of the response, else those of the token."""
    token = token_of(sub="o_1", scope="c")

    stored = await verifier.issue({"access_token": token, "expires_in": 60, **response}, fields)

    assert stored == PipedreamToken("client", "o_1", scopes)


@pytest.mark.parametrize(("fields", "scopes"), [({"scope": "d e"}, ("d", "e")), ({}, ("*",))])
async def test_requested_scopes_are_the_last_source(
    verifier: Verifier, fields: dict[str, str], scopes: tuple[str, ...]
) -> None:
    """If neither the response nor the token names scopes, they are those of the request, else all."""
    opaque = await verifier.issue({"access_token": "opaque", "expires_in": 60}, fields)
    user = await verifier.issue({"access_token": token_of(sub="u_1"), "expires_in": 60}, fields)

    assert opaque == user == PipedreamToken("client", None, scopes)


@pytest.mark.parametrize(
    ("expires_in", "lifetime"), [(60, 60), (0.5, 0.5), (86400, 86400), (86401, 86400), (0, 0), (-1, 0), ("60", 0)]
)
async def test_lifetime_of_an_issued_token(verifier: Verifier, expires_in: Any, lifetime: float) -> None:
    """A token is stored for its lifetime, at most for a day; without a valid lifetime, the token is not found."""
    response = {"access_token": "opaque", "expires_in": expires_in}
    assert (await verifier.issue(response) is not None) == (lifetime > 0)

    if lifetime:
        verifier.clock.advance(lifetime - 0.25)
        assert verifier.table.find("opaque") is not None
        verifier.clock.advance(0.25)

    assert verifier.table.find("opaque") is None


@pytest.mark.parametrize(("status", "token"), [(401, "opaque"), (201, "opaque"), (200, 1), (200, None)])
async def test_a_refused_request_stores_nothing(verifier: Verifier, status: int, token: Any) -> None:
    """A response that is not 200 with a token is forwarded and not stored."""
    assert await verifier.issue({"access_token": token, "expires_in": 60}, status=status) is None


async def test_a_revoked_token_is_forgotten(verifier: Verifier) -> None:
    """The request to revoke is forwarded; the stored token and the cached result are removed."""
    await verifier.issue({"access_token": "opaque", "expires_in": 60})
    assert await verifier.tokens.check("opaque") == "good"
    verifier.pipedream.accounts = 401

    await verifier.tokens.revoke(REQUEST, "opaque")

    assert verifier.table.find("opaque") is None
    assert verifier.pipedream.forwarded == 1
    assert await verifier.tokens.check("opaque") == "unknown"


@pytest.mark.parametrize(
    ("issued", "own_token", "accounts", "status", "checks"),
    [
        (("client", None, ("*",)), None, 401, "good", 0),
        (("client", None, (SCOPE,)), None, 401, "good", 0),
        (("client", None, ("connect:accounts:*",)), None, 200, "scope", 0),
        (("other", "o_1", ("*",)), token_of(sub="o_1"), 401, "good", 0),
        (("other", "o_2", ("*",)), token_of(sub="o_1"), 401, "unknown", 1),
        (("other", None, ("*",)), token_of(sub="u_1"), 401, "unknown", 1),
        (("other", None, ("*",)), None, 401, "unknown", 1),
        (("other", "o_1", ("*",)), None, 200, "good", 1),
        (None, None, 200, "good", 1),
        (None, None, 401, "unknown", 1),
        (None, None, 403, "unknown", 1),
        (None, None, 404, "unknown", 1),
        (None, None, 400, "unchecked", 1),
        (None, None, 500, "unchecked", 1),
        (None, None, None, "unchecked", 1),
    ],
)
async def test_the_status_of_a_token(
    verifier: Verifier,
    issued: tuple[str, str | None, tuple[str, ...]] | None,
    own_token: str | None,
    accounts: int | None,
    status: TokenStatus,
    checks: int,
) -> None:
    """A stored token of the login's client or workspace is accepted; Pipedream is asked about every other token."""
    if issued is not None:
        verifier.table.add("opaque", *issued, 60.0)
    verifier.pipedream.own_token, verifier.pipedream.accounts = own_token, accounts

    assert (await verifier.tokens.check("opaque"), verifier.pipedream.checks) == (status, checks)


@pytest.mark.parametrize(("scope", "status"), [("connect:*", "good"), ("connect:users:read", "scope"), ("", "good")])
async def test_scopes_in_an_accepted_token(verifier: Verifier, scope: str, status: TokenStatus) -> None:
    """If Pipedream accepts a token, the token's own scopes decide, if it names scopes."""
    assert await verifier.tokens.check(token_of(scope=scope)) == status


@pytest.mark.parametrize(("token", "checks"), [("ctok_1", 0), ("é", 0), ("a\n", 0), ("a" * 8192, 1), ("a" * 8193, 0)])
async def test_what_cannot_be_a_token_is_not_checked(verifier: Verifier, token: str, checks: int) -> None:
    """Connect tokens, and texts with other characters or of more than 8192, are not sent to Pipedream."""
    status = await verifier.tokens.check(token)

    assert (status, verifier.pipedream.checks) == ("good" if checks else "unknown", checks)


@pytest.mark.parametrize(
    ("accounts", "seconds"), [(200, GOOD_CACHE_S), (401, BAD_CACHE_S), (500, 0)], ids=["good", "bad", "unchecked"]
)
async def test_a_result_is_cached(verifier: Verifier, accounts: int, seconds: float) -> None:
    """A good token is checked once a minute, a bad one every five seconds, and again at once after a failed check."""
    verifier.pipedream.accounts = accounts
    first = await verifier.tokens.check("opaque")
    if seconds:
        verifier.clock.advance(seconds - 0.25)
        assert (await verifier.tokens.check("opaque"), verifier.pipedream.checks) == (first, 1)
        verifier.clock.advance(0.25)

    await verifier.tokens.check("opaque")

    assert verifier.pipedream.checks == 2
    assert (GOOD_CACHE_S, BAD_CACHE_S) == (60, 5)


async def test_concurrent_checks_share_one_request(verifier: Verifier) -> None:
    """Checks of one token at the same time send one request; the login's own token is fetched once."""
    verifier.pipedream.own_token = token_of(sub="o_1")
    for token in ("a", "b"):
        verifier.table.add(token, "other", "o_1", ("*",), 60.0)

    assert await asyncio.gather(*(verifier.tokens.check("opaque") for _ in range(3))) == ["good"] * 3
    assert [await verifier.tokens.check(token) for token in "ab"] == ["good", "good"]
    assert (verifier.pipedream.checks, verifier.pipedream.own_tokens) == (1, 1)


async def test_the_result_of_a_check_is_not_kept_after_a_revocation(verifier: Verifier) -> None:
    """A check that began before the token was revoked is not cached, and later checks do not share it."""
    verifier.pipedream.answers.clear()
    before = asyncio.create_task(verifier.tokens.check("opaque"))
    while not verifier.pipedream.checks:
        await asyncio.sleep(0)
    verifier.pipedream.accounts = 401

    await verifier.tokens.revoke(REQUEST, "opaque")
    after = asyncio.create_task(verifier.tokens.check("opaque"))
    verifier.pipedream.answers.set()

    assert await before == "good"
    assert await after == "unknown"
    assert await verifier.tokens.check("opaque") == "unknown"


async def test_a_token_that_is_revoked_while_it_is_checked_is_checked_again(verifier: Verifier) -> None:
    """The result of a check that ends after the revocation is not the answer to a later check."""
    verifier.pipedream.answers.clear()
    before = asyncio.create_task(verifier.tokens.check("opaque"))
    while not verifier.pipedream.checks:
        await asyncio.sleep(0)
    await verifier.tokens.revoke(REQUEST, "opaque")
    verifier.pipedream.accounts = 401
    verifier.pipedream.answers.set()
    await before

    assert await verifier.tokens.check("opaque") == "unknown"


async def test_the_oldest_results_leave_the_cache(verifier: Verifier) -> None:
    """The cache has the results of the last thousand tokens."""
    for number in range(1001):
        await verifier.tokens.check(f"token{number}")

    await verifier.tokens.check("token1")
    assert verifier.pipedream.checks == 1001
    await verifier.tokens.check("token0")
    assert verifier.pipedream.checks == 1002
