"""A browser that visits link pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.server.served import Served

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

    async def start(
        self, app: str = "slack", user: str = "ada", *, query: Mapping[str, str] | None = None, **terms: Any
    ) -> Page:
        """Open a new link of *user* for *app*."""
        made = await make(self.site, user, **terms)
        return await self.open(made["connect_link_url"], app=app, **(query or {}))

    async def fill(self, page: Page, *, headers: Mapping[str, str] = SAME_ORIGIN, **fields: str) -> Page:
        """Fill in the page's form with credentials, and send it."""
        typed = {f"field:{name}": value for name, value in fields.items()}
        return await self.send({**page.hidden, **typed}, headers=headers)

    async def send(self, form: Mapping[str, str], *, headers: Mapping[str, str] = SAME_ORIGIN) -> Page:
        """Send a form."""
        return Page(await self.http.post(PAGE, data=dict(form), headers=dict(headers)))


async def make(site: Served, user: str = "ada", **fields: Any) -> dict[str, Any]:
    """Create a Connect token for *user*; returns the response."""
    answer = await site.call("POST", "/tokens", json={"external_user_id": user, **fields})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


def token_of(url: str) -> str:
    """The token in a link."""
    return httpx.QueryParams(urlsplit(url).query)["token"]


class Page(HTMLParser):
    """
    A page.

    Attributes:
        url: URL of the page.
        status: Status of the response.
        headers: Headers of the response.
        html: The HTML.
        hidden: Hidden fields of the form, by name.
        inputs: Types of the visible fields, by name.
        links: Targets of links.
        refresh: Target of the automatic redirect, or None.
        body: Attributes of the body.
        words: The text, with single spaces.
    """

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.url = str(answer.url)
        self.status = answer.status_code
        self.headers = answer.headers
        self.html = answer.text
        self.hidden: dict[str, str] = {}
        self.inputs: dict[str, str] = {}
        self.links: list[str] = []
        self.refresh: str | None = None
        self.body: dict[str, str | None] = {}
        self._texts: list[str] = []
        self.feed(answer.text)
        self.words = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect fields, links, the redirect and the body's attributes."""
        given = {name: value or "" for name, value in attrs}
        if tag == "body":
            self.body = dict(attrs)
        elif tag == "input" and given.get("type") == "hidden":
            self.hidden[given["name"]] = given["value"]
        elif tag in ("input", "textarea"):
            self.inputs[given["name"]] = given.get("type", tag)
        elif tag == "a":
            self.links.append(given["href"])
        elif tag == "meta" and given.get("http-equiv") == "refresh":
            self.refresh = given["content"].partition("url=")[2]

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self._texts.append(data)
