"""A page as a person reads it: its words, and what its form asks for."""

from __future__ import annotations

from html.parser import HTMLParser

import httpx


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
