"""A project that is served, and a visitor of its link pages."""

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
OURS = {"sec-fetch-site": "same-origin"}
"""What a browser says of a form that stands in a page of ours."""


@dataclass
class Visitor:
    """A person with a browser of their own."""

    site: Served
    http: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.AsyncClient(transport=self.site.http._transport, base_url="http://127.0.0.1:4000")

    async def open(self, url: str, **query: str) -> Page:
        """The page at *url*."""
        whole = httpx.URL(url).copy_merge_params(query)
        return Page(await self.http.get(whole))

    async def fill(self, page: Page, *, says: Mapping[str, str] = OURS, **fields: str) -> Page:
        """Send the page's form; *says* is what the browser tells of the page that it is on."""
        typed = {f"field:{name}": value for name, value in fields.items()}
        return await self.send({**page.hidden, **typed}, says=says)

    async def send(self, form: Mapping[str, str], *, says: Mapping[str, str] = OURS) -> Page:
        """Send a form."""
        return Page(await self.http.post(PAGE, data=dict(form), headers=dict(says)))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """A fresh project, served."""
    async with served(tmp_path) as site:
        yield site


@pytest.fixture
async def visitor(site: Served) -> Visitor:
    """Somebody who opens a link."""
    return Visitor(site)


async def make(site: Served, user: str = "ada", **fields: Any) -> dict[str, Any]:
    """A token's answer."""
    answer = await site.call("POST", "/tokens", json={"external_user_id": user, **fields})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def token_of(url: str) -> str:
    """The token in a link."""
    return httpx.QueryParams(urlsplit(url).query)["token"]
