"""Pages of the product that call the API with a Connect token."""

from __future__ import annotations

import httpx
import pytest

from pdkernel.connect.providers import origin_of
from tests.server.link.conftest import make
from tests.server.served import Served

ORIGIN = "https://app.example.com"


async def ask(site: Served, origin: str | None, *, allowed: list[str]) -> httpx.Response:
    """Ask for the user's accounts as a page of *origin* does."""
    made = await make(site, allowed_origins=allowed)
    headers = {"authorization": f"Bearer {made['token']}", **({"origin": origin} if origin else {})}
    return await site.http.get("/v1/connect/accounts", headers=headers)


async def test_an_allowed_origin_reads(site: Served) -> None:
    """The page that the token was made for may read the answer."""
    answer = await ask(site, ORIGIN, allowed=[ORIGIN])

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["vary"] == "Origin"


@pytest.mark.parametrize("allowed", [[], ["https://other.example.com"], ["http://app.example.com"]])
async def test_another_origin_is_refused(site: Served, allowed: list[str]) -> None:
    """A token that was carried to another page is good for nothing there."""
    answer = await ask(site, ORIGIN, allowed=allowed)

    assert answer.status_code == 403
    assert "allowed_origins" in answer.json()["error"]
    assert "access-control-allow-origin" not in answer.headers


async def test_a_program_is_not_concerned(site: Served) -> None:
    """Without an origin nothing is checked."""
    answer = await ask(site, None, allowed=[])

    assert answer.status_code == 200


async def test_a_client_s_token_is_not_for_pages(site: Served) -> None:
    """With a back end's token a page gets no leave to read."""
    answer = await site.call("GET", "/accounts", headers={"origin": ORIGIN})

    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


async def test_what_a_browser_asks_first(site: Served) -> None:
    """The preflight allows what SDKs send, and nothing that was not asked for by them."""
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": "GET",
        "access-control-request-headers": "authorization,x-fern-language,x-odd",
    }

    answer = await site.http.options("/v1/connect/accounts", headers=asked)

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "content-type", "x-pd-environment", "x-fern-language"} <= set(allowed)
    assert "x-odd" not in allowed


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://App.Example.com:443/settings?a=1", "https://app.example.com"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:80/", "http://[::1]"),
        ("https://user:pw@example.com:8443", "https://example.com:8443"),
    ],
)
def test_origins_are_written_as_browsers_do(given: str, origin: str) -> None:
    """A URL may be given where an origin is meant."""
    assert origin_of(given) == origin
