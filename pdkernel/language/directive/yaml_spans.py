"""
Locates every value of a YAML document in its text, to the character.

A value's span ends before comments, blank lines and the line break after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

SpanKind = Literal["scalar", "mapping", "sequence", "alias"]
_GAP = r"(?:[ \t\r\n]|(?<![^\s])#[^\n]*\n)*"
_BLANK_LINES = re.compile(r"(?:\r?\n[ \t]*)+\Z")
_DASH = re.compile(_GAP + "-")
_COLON = re.compile(r"[ \t]*:")
_FAR_COLON = re.compile(_GAP + ":")


class UnsupportedYamlError(Exception):
    """The text has a construct at *position* that this module does not support."""

    def __init__(self, position: int) -> None:
        super().__init__(f"position {position}")
        self.position = position


@dataclass(slots=True)
class YamlEntry:
    """
    An item of a sequence, or a key with its value.

    Attributes:
        key: The key's text, or None for an item.
        start: The position of the key or the dash.
        value_start: The position after the colon or the dash, where the value's text starts.
        value: The value's span.
        is_explicit_key: Whether the key is written with a question mark.
        is_flow: Whether the entry is inside brackets or braces.
    """

    key: str | None
    start: int
    value_start: int
    value: YamlSpan
    is_explicit_key: bool = False
    is_flow: bool = False


@dataclass(slots=True)
class YamlSpan:
    """
    The span of one value.

    Attributes:
        kind: The kind of value. An alias is not followed.
        start: The start of its text.
        end: The position after its text.
        is_flow: Whether the value is inside brackets or braces, or has its own.
        has_anchor: Whether the value, or a value inside it, has an anchor or is an alias.
        is_block: Whether the value is a literal or folded block.
        entries: The entries of a mapping or a sequence.
    """

    kind: SpanKind
    start: int
    end: int
    is_flow: bool = False
    has_anchor: bool = False
    is_block: bool = False
    entries: list[YamlEntry] = field(default_factory=list)


def parse_spans(text: str) -> YamlSpan | None:
    """
    The outermost value of *text*, a valid document; None if the document is empty.

    Raises:
        UnsupportedYamlError: The text has a construct that is not supported.
    """
    from ruamel.yaml import YAML

    events = YAML(typ="safe", pure=True).parse(text)
    return _Builder(text, events).document()


class _Builder:
    def __init__(self, text: str, events: Iterator[Any]) -> None:
        self._text = text
        self._events = events

    def document(self) -> YamlSpan | None:
        for event in self._events:
            if type(event).__name__ not in {"StreamStartEvent", "DocumentStartEvent", "CommentEvent"}:
                return None if type(event).__name__ == "StreamEndEvent" else self._piece(event, 0, in_flow=False)
        return None

    def _piece(self, event: Any, mark: int, *, in_flow: bool) -> YamlSpan:
        """The value that starts with *event*; *mark* is the position after its colon or dash."""
        start, end = event.start_mark.index, event.end_mark.index
        tied = getattr(event, "anchor", None) is not None
        match type(event).__name__:
            case "AliasEvent":
                return YamlSpan("alias", start, end, in_flow, has_anchor=True)
            case "ScalarEvent":
                if start == end:  # an empty value: the event has the position of the next token
                    start = end = mark
                block = event.style in {"|", ">"}
                return YamlSpan("scalar", start, self._block_end(start, end) if block else end, in_flow, tied, block)
            case "MappingStartEvent":
                return self._collection(YamlSpan("mapping", start, end, in_flow or bool(event.flow_style), tied))
            case "SequenceStartEvent":
                return self._collection(YamlSpan("sequence", start, end, in_flow or bool(event.flow_style), tied))
        raise UnsupportedYamlError(start)

    def _block_end(self, start: int, end: int) -> int:
        """The position after a block's last line; blank lines below belong to the block only with `+`."""
        head = self._text[start : self._text.find("\n", start)].partition("#")[0]
        if "+" in head:
            return end - (2 if self._text.endswith("\r\n", start, end) else self._text.endswith("\n", start, end))
        return start + len(_BLANK_LINES.sub("", self._text[start:end]))

    def _collection(self, piece: YamlSpan) -> YamlSpan:
        position = piece.start
        for event in self._events:
            name = type(event).__name__
            if name.endswith("EndEvent"):
                piece.end = event.end_mark.index if piece.is_flow and event.end_mark.index > position else position
                break
            entry = self._pair(event, piece) if piece.kind == "mapping" else self._item(event, piece, position)
            piece.entries.append(entry)
            piece.has_anchor = piece.has_anchor or entry.value.has_anchor
            position = max(entry.value.end, entry.value_start)
        return piece

    def _item(self, event: Any, piece: YamlSpan, position: int) -> YamlEntry:
        if piece.is_flow:
            start = event.start_mark.index
            return YamlEntry(None, start, start, self._piece(event, position, in_flow=True), is_flow=True)
        dash = _DASH.match(self._text, position)
        if dash is None:
            raise UnsupportedYamlError(position)
        return YamlEntry(None, dash.end() - 1, dash.end(), self._piece(event, dash.end(), in_flow=False))

    def _pair(self, event: Any, piece: YamlSpan) -> YamlEntry:
        if type(event).__name__ != "ScalarEvent" or event.anchor is not None:
            raise UnsupportedYamlError(event.start_mark.index)
        start, end = event.start_mark.index, event.end_mark.index
        colon = _COLON.match(self._text, end)
        explicit = colon is None or self._before(start) == "?"
        if colon is None:
            colon = _FAR_COLON.match(self._text, end)
        mark = colon.end() if colon is not None else end
        value = next(self._events)
        return YamlEntry(
            event.value, start, mark, self._piece(value, mark, in_flow=piece.is_flow), explicit, piece.is_flow
        )

    def _before(self, position: int) -> str:
        """The nearest character to the left that is not blank."""
        while position > 0 and self._text[position - 1] in " \t":
            position -= 1
        return self._text[position - 1 : position]
