"""Reads HTML as a browser would: its elements, and the visible text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from tests.golden import assert_golden

_GOLDEN = Path(__file__).parent / "golden"

_KNOWN = frozenset({
    "div", "span", "strong", "code", "pre", "ol", "ul", "li", "details", "summary", "table", "tr", "th", "td", "wbr", "img",
})  # fmt: skip
_BLOCKS = frozenset({"div", "pre", "ol", "ul", "li", "details", "summary", "table", "tr"})
_KNOWN_ATTRIBUTES = frozenset({
    "style", "class", "title", "role", "tabindex", "open", "aria-hidden", "aria-label", "src", "alt", "width", "height",
})  # fmt: skip


EVIL = "<b>bold</b></script>\" onclick='x'\x1b[2J"
"""A text with markup, quotes and a control character."""


class Page(HTMLParser):
    """Parsed HTML; raises an error for unbalanced elements, and for elements and attributes that pdkernel does not use."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self._texts: list[str] = []
        self._lines: list[str] = []
        self.attributes: list[dict[str, str]] = []
        self.feed(source)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    @property
    def text(self) -> str:
        """All text of the page."""
        return "".join(self._texts)

    @property
    def lines(self) -> str:
        """The visible text, a line for each block, as a page without styles shows the text."""
        lines = "".join(self._lines).split("\n")
        return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Store an element."""
        assert tag in _KNOWN, f"<{tag}> is not used by pdkernel"
        assert {name for name, _ in attrs} <= _KNOWN_ATTRIBUTES, attrs
        assert tag != "img" or (dict(attrs)["src"] or "").startswith("data:"), attrs  # loads nothing
        self.attributes.append({name: value or "" for name, value in attrs})
        if tag in ("wbr", "img"):  # have no end
            return
        self._open.append(tag)
        self._lines.append("\n" if tag in _BLOCKS else "  " if tag in ("td", "th") else "")

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        assert self._open.pop() == tag
        self._lines.append("\n" if tag in _BLOCKS else "")

    def handle_data(self, data: str) -> None:
        """Store a text."""
        self._texts.append(data)
        self._lines.append(data)

    def handle_comment(self, data: str) -> None:
        """Raise an error: pdkernel writes no comments."""
        raise AssertionError(data)


def assert_view(name: str, drawn: str) -> None:
    """
    Fail unless *drawn* equals the golden file *name*.

    Each renderer has one sample of its whole HTML. Of further samples, `NAME.html.txt`, the visible text is compared.
    """
    assert_golden(_GOLDEN / name, Page(drawn).lines if name.endswith(".html.txt") else drawn)
