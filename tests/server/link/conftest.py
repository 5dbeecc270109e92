"""A served project, and a browser that visits its link pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.link.reading import Page
from tests.server.served import Served, served

PAGE = "/_static/connect.html"
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
"""The header of a browser that sends a form from a page of this server."""


@dataclass
class Visitor:
    """A browser with its own cookies."""

    site: Served
    http: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.AsyncClient(transport=self.site.http._transport, base_url="http://127.0.0.1:4000")

    async def open(self, url: str, **query: str) -> Page:
        """Open the page at *url*, with *query* added."""
        whole = httpx.URL(url).copy_merge_params(query)
        return Page(await self.http.get(whole))

    async def fill(self, page: Page, *, headers: Mapping[str, str] = SAME_ORIGIN, **fields: str) -> Page:
        """Fill in the page's form with credentials, and send it."""
        typed = {f"field:{name}": value for name, value in fields.items()}
        return await self.send({**page.hidden, **typed}, headers=headers)

    async def send(self, form: Mapping[str, str], *, headers: Mapping[str, str] = SAME_ORIGIN) -> Page:
        """Send a form."""
        return Page(await self.http.post(PAGE, data=dict(form), headers=dict(headers)))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """A new project that is served."""
    async with served(tmp_path) as site:
        yield site


@pytest.fixture
async def visitor(site: Served) -> Visitor:
    """A browser."""
    return Visitor(site)


async def make(site: Served, user: str = "ada", **fields: Any) -> dict[str, Any]:
    """Create a Connect token for *user*; returns the response."""
    answer = await site.call("POST", "/tokens", json={"external_user_id": user, **fields})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def token_of(url: str) -> str:
    """The token in a link."""
    return httpx.QueryParams(urlsplit(url).query)["token"]
