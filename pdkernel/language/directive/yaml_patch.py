"""
Changes values in a YAML text and leaves every other character unchanged.

Values are replaced, inserted, removed or moved in the text. The result is parsed again and compared with the requested
value; a difference is an error.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pdkernel.errors import DefinitionError, UnsupportedError
from pdkernel.language.directive.located_yaml import parse_yaml
from pdkernel.language.directive.psych_yaml import dump_flow_yaml, dump_yaml_entry
from pdkernel.language.expression import ValuePath
from pdkernel.model import JSON

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
    Return the outermost value of *text*, a valid document; None if the document is empty.

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
        """Return the value that starts with *event*; *mark* is the position after its colon or dash."""
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
        """Return the position after a block's last line; blank lines below belong to the block only with `+`."""
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
        """Return the nearest character to the left that is not blank."""
        while position > 0 and self._text[position - 1] in " \t":
            position -= 1
        return self._text[position - 1 : position]


Alignment = Sequence[int | None]
"""For each new item of a list, the index of its old item, or None for an added item."""


def is_same_value(one: JSON, other: JSON) -> bool:
    """Return whether two values are equal: `1` and `1.0` are, `1` and `true` are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same_value(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_same_value, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


def patch_yaml(
    text: str,
    old: JSON,
    new: JSON,
    *,
    name: str = "The YAML",
    alignments: Mapping[ValuePath, Alignment] | None = None,
    psych: bool = True,
) -> str:
    """
    *text*, changed to have the value *new*.

    Args:
        text: A document, without a byte order mark.
        old: The document's value, from `parse_yaml`.
        new: The requested value.
        name: The name of the text in messages.
        alignments: Alignments of lists by their path in *old*; other lists are aligned by comparing items.
        psych: As `as_psych` of `parse_yaml`.

    Raises:
        UnsupportedError: The change touches an anchor or an alias, or a construct that cannot be changed.
    """
    if is_same_value(old, new):
        return text
    patcher = _Patcher(text, alignments or {}, name)
    try:
        patched = patcher.patch(old, new)
        found = parse_yaml(patched, allow_expressions=False, as_psych=psych).value
    except UnsupportedYamlError as lost:
        raise patcher.build_refusal(lost.position) from None
    except DefinitionError as error:
        if isinstance(error, UnsupportedError):
            raise
        raise patcher.build_refusal(None) from None
    if not is_same_value(found, new):
        raise patcher.build_refusal(None)
    return patched


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


class _Patcher:
    def __init__(self, text: str, alignments: Mapping[ValuePath, Alignment], name: str) -> None:
        self._text = text
        self._alignments = alignments
        self._name = name
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._edits: list[_Edit] = []

    def patch(self, old: JSON, new: JSON) -> str:
        """Return the text with all changes."""
        root = parse_spans(self._text)
        if root is None or root.kind not in {"mapping", "sequence"}:
            raise UnsupportedYamlError(0)
        self._change_inside(root, (), old, new)
        return self._apply_edits(0, len(self._text), self._edits)

    def build_refusal(self, position: int | None) -> UnsupportedError:
        """Return the error for a change that cannot be made at *position*."""
        line = None if position is None else self._text.count("\n", 0, position) + 1
        where = "" if line is None else f" (line {line})"
        return UnsupportedError(
            f"{self._name} has a form in which this change cannot be made{where}; nothing was written.",
            fix="Edit the file by hand, or rewrite the place in plain block style first.",
            line=line,
        )

    def _build_anchor_error(self, piece: YamlSpan) -> UnsupportedError:
        line = self._text.count("\n", 0, piece.start) + 1
        return UnsupportedError(
            f"{self._name} has an anchor or an alias (& or *) at the changed place (line {line}); nothing was written.",
            fix="Replace the alias by the value, remove the anchor, then export again.",
            line=line,
        )

    def _change_inside(self, piece: YamlSpan, path: ValuePath, old: JSON, new: JSON) -> bool:
        """Change *piece* in place; False if it must be replaced as a whole."""
        if is_same_value(old, new):
            return True
        if piece.kind == "mapping" and isinstance(old, dict) and isinstance(new, dict) and new:
            return self._mapping(piece, path, old, new)
        if piece.kind == "sequence" and isinstance(old, list) and isinstance(new, list) and new:
            return self._sequence(piece, path, old, new)
        return False

    def _mapping(self, piece: YamlSpan, path: ValuePath, old: dict[str, JSON], new: dict[str, JSON]) -> bool:
        keys = [entry.key for entry in piece.entries]
        if keys != list(old):
            raise UnsupportedYamlError(piece.start)
        if piece.is_flow and set(keys) != set(new):
            return False
        indent = self._column(piece.entries[0].start)
        kept = [entry for entry in piece.entries if entry.key in new]
        if not kept:
            return False
        for entry in kept:
            key = str(entry.key)
            self._value(entry, (*path, key), old[key], new[key], indent)
        for entry in piece.entries:
            if entry.key not in new:
                self._remove(piece, entry)
        self._insert_keys(kept, new, indent)
        return True

    def _insert_keys(self, kept: list[YamlEntry], new: dict[str, JSON], indent: int) -> None:
        existing = {entry.key: entry for entry in kept}
        last: YamlEntry | None = None
        due: list[str] = []
        for key, value in new.items():
            if key in existing:
                if due and last is None:
                    self._insert_before(existing[key], due, indent)
                    due = []
                elif due and last is not None:
                    self._insert_after(last, due)
                    due = []
                last = existing[key]
            else:
                due.append(dump_yaml_entry(value, indent=indent, key=key, can_be_block=_may_be_block(value)))
        if due and last is not None:
            self._insert_after(last, due)

    def _insert_before(self, entry: YamlEntry, rendered: list[str], indent: int) -> None:
        if entry.is_explicit_key:
            raise UnsupportedYamlError(entry.start)
        text = "\n".join(rendered)[indent:]
        self._edit(entry.start, entry.start, f"{text}\n{' ' * indent}")

    def _insert_after(self, entry: YamlEntry, rendered: list[str]) -> None:
        place = self._line_end(_end(entry))
        self._edit(place, place, "".join(f"\n{text}" for text in rendered))

    def _remove(self, piece: YamlSpan, entry: YamlEntry) -> None:
        if entry.value.has_anchor:
            raise self._build_anchor_error(entry.value)
        if entry.is_explicit_key:
            raise UnsupportedYamlError(entry.start)
        line_start = self._line_start(entry.start)
        if self._text[line_start : entry.start].strip():  # the first key, after a dash
            following = piece.entries[piece.entries.index(entry) + 1]
            self._edit(entry.start, following.start, "")
            return
        end = self._line_end(_end(entry))
        after = self._after_break(end)
        if after > end or line_start == 0:
            self._edit(line_start, after, "")
        else:  # the last line has no line break, before and after
            self._edit(self._before_break(line_start), end, "")

    def _value(self, entry: YamlEntry, path: ValuePath, old: JSON, new: JSON, indent: int) -> None:
        if self._change_inside(entry.value, path, old, new):
            return
        piece = entry.value
        if piece.has_anchor:
            raise self._build_anchor_error(piece)
        if entry.is_flow or (piece.is_flow and piece.entries and isinstance(new, dict | list)):
            lead = " " if entry.key is not None and piece.start == entry.value_start else ""
            self._edit(piece.start, piece.end, lead + dump_flow_yaml(new))
            return
        head = self._text[self._line_start(entry.value_start) : entry.value_start]
        end = max(piece.end, entry.value_start)
        commented = self._comment_follows(end)
        text = dump_yaml_entry(
            new, indent=indent, key=entry.key, line_start=head, can_be_block=_may_be_block(new) and not commented
        )
        self._edit(entry.value_start, end if commented else self._line_end(end), text[len(head) :])

    def _sequence(self, piece: YamlSpan, path: ValuePath, old: list[JSON], new: list[JSON]) -> bool:
        if len(piece.entries) != len(old):
            raise UnsupportedYamlError(piece.start)
        if piece.is_flow and len(old) != len(new):
            return False
        indent = self._column(piece.entries[0].start)
        alignment = self._alignments.get(path) or _align_items(old, new)
        if piece.is_flow or list(alignment) == list(range(len(old))):
            for index, entry in enumerate(piece.entries):
                self._value(entry, (*path, index), old[index], new[index], indent)
            return True
        if all(source is None for source in alignment):
            return False
        self._rearrange(piece, path, old, new, alignment)
        return True

    def _rearrange(
        self, piece: YamlSpan, path: ValuePath, old: list[JSON], new: list[JSON], alignment: Alignment
    ) -> None:
        """Write the items' own lines in their new order; comment lines above an item move with it."""
        indent = self._column(piece.entries[0].start)
        begin = self._line_start(piece.entries[0].start)
        if self._text[begin : piece.entries[0].start].strip():
            raise UnsupportedYamlError(begin)
        begin = self._comment_start(begin)
        spans: list[tuple[int, int]] = []
        for entry in piece.entries:
            end = self._line_end(_end(entry))
            spans.append((begin, end))
            begin = self._after_break(end)
        for index, entry in enumerate(piece.entries):
            if index not in alignment and entry.value.has_anchor:
                raise self._build_anchor_error(entry.value)
        made: list[str] = []
        for position, source in enumerate(alignment):
            if source is None:
                made += [self._use_newline(self._new_item(new[position], indent)), self._newline]
                continue
            outer, self._edits = self._edits, []
            self._value(piece.entries[source], (*path, source), old[source], new[position], indent)
            start, end = spans[source]
            made += [
                self._apply_edits(start, end, self._edits),
                self._text[end : self._after_break(end)] or self._newline,
            ]
            self._edits = outer
        self._edits.append(_Edit(spans[0][0], spans[-1][1], "".join(made[:-1])))

    @staticmethod
    def _new_item(value: JSON, indent: int) -> str:
        return dump_yaml_entry(value, indent=indent, can_be_block=_may_be_block(value))

    def _edit(self, start: int, end: int, text: str) -> None:
        self._edits.append(_Edit(start, end, self._use_newline(text)))

    def _apply_edits(self, start: int, end: int, edits: list[_Edit]) -> str:
        made: list[str] = []
        position = start
        # Of two edits at one position, the insertion comes first.
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
            if edit.start < position:
                raise UnsupportedYamlError(edit.start)
            made += [self._text[position : edit.start], edit.text]
            position = edit.end
        return "".join([*made, self._text[position:end]])

    def _use_newline(self, text: str) -> str:
        """Return *text* with the document's kind of line breaks."""
        return text.replace("\r\n", "\n").replace("\n", self._newline)

    def _column(self, position: int) -> int:
        return position - self._line_start(position)

    def _line_start(self, position: int) -> int:
        return self._text.rfind("\n", 0, position) + 1

    def _comment_start(self, position: int) -> int:
        """Return the start of the comment directly above the line at *position*, or of that line."""
        while position > 0:
            start = self._line_start(position - 1)
            if not self._text[start:position].lstrip().startswith("#"):
                break
            position = start
        return position

    def _line_end(self, position: int) -> int:
        end = self._text.find("\n", position)
        if end == -1:
            return len(self._text)
        return end - 1 if end > position and self._text[end - 1] == "\r" else end

    def _after_break(self, end: int) -> int:
        return end + (2 if self._text.startswith("\r\n", end) else 1 if self._text.startswith("\n", end) else 0)

    def _before_break(self, start: int) -> int:
        return start - (2 if self._text.endswith("\r\n", 0, start) else 1)

    def _comment_follows(self, position: int) -> bool:
        return bool(self._text[position : self._line_end(position)].strip())


def _end(entry: YamlEntry) -> int:
    return max(entry.value.end, entry.value_start)


def _may_be_block(value: JSON) -> bool:
    """Return whether a block of lines can hold the texts of *value* at any position."""
    if isinstance(value, dict):
        return all(map(_may_be_block, value.values()))
    if isinstance(value, list):
        return all(map(_may_be_block, value))
    return not isinstance(value, str) or not (value.endswith("\n\n") or value.startswith((" ", "\n")))


def _align_items(old: list[JSON], new: list[JSON]) -> list[int | None]:
    """Return the old index of each new item: equal items, and between those the items at the same position."""
    if len(old) == len(new):
        return list(range(len(old)))
    one, two = ([json.dumps(item, sort_keys=True) for item in items] for items in (old, new))
    result: list[int | None] = [None] * len(new)
    for _, start, end, to_start, to_end in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        for offset in range(min(end - start, to_end - to_start)):
            result[to_start + offset] = start + offset
    return result
