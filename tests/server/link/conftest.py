"""A project that is served, and a visitor of its link pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.server.served import Served, served

PAGE = "/_static/connect.html"


class Page(HTMLParser):
    """What a page shows and asks for."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.status = answer.status_code
        self.headers = answer.headers
        self.html = answer.text
        self.hidden: dict[str, str] = {}
        self.asked: dict[str, str] = {}  # name and type
        self.links: list[str] = []
        self.refresh: str | None = None
        self.body: dict[str, str | None] = {}
        self._words: list[str] = []
        self.feed(answer.text)
        self.words = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what matters."""
        given = {name: value or "" for name, value in attrs}
        if tag == "body":
            self.body = dict(attrs)
        elif tag == "input" and given.get("type") == "hidden":
            self.hidden[given["name"]] = given["value"]
        elif tag in ("input", "textarea"):
            self.asked[given["name"]] = given.get("type", tag)
        elif tag == "a":
            self.links.append(given["href"])
        elif tag == "meta" and given.get("http-equiv") == "refresh":
            self.refresh = given["content"].partition("url=")[2]

    def handle_data(self, data: str) -> None:
        """Collect the words."""
        self._words.append(data)


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

    async def fill(self, page: Page, **fields: str) -> Page:
        """Send the page's form."""
        typed = {f"field:{name}": value for name, value in fields.items()}
        return Page(await self.http.post(PAGE, data={**page.hidden, **typed}))


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
