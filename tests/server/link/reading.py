"""Parses a link page: its text, its form and its links."""

from __future__ import annotations

from html.parser import HTMLParser

import httpx


class Page(HTMLParser):
    """
    A page.

    Attributes:
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
