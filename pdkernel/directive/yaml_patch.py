"""
A YAML text with some of its values changed, and every other character as it was.

Knows how to replace, insert, remove and move values in the text. What it has made is read again and compared
with what was asked for: it refuses rather than write something else. Knows nothing of what the values mean.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pdkernel.directive.psych import dump_entry, dump_in_brackets
from pdkernel.directive.yaml_pieces import Entry, LostTrackError, Piece, pieces
from pdkernel.directive.yaml_text import Path, read_yaml
from pdkernel.errors import DefinitionError, UnsupportedError
from pdkernel.model import JSON

Alignment = Sequence[int | None]
"""For each new item of a list the index of the old one that it was, or None for one that is new."""


def same(one: JSON, other: JSON) -> bool:
    """Whether two values are the same to a reader: `1` and `1.0` are, `1` and `true` are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other


def patch_yaml(
    text: str,
    old: JSON,
    new: JSON,
    *,
    name: str = "The YAML",
    alignments: Mapping[Path, Alignment] | None = None,
    psych: bool = True,
) -> str:
    """
    *text* changed so that it says *new*.

    Args:
        text: A document, without a byte order mark.
        old: What it says, as `read_yaml` gives it.
        new: What it is to say.
        name: What the text is called in messages.
        alignments: For lists whose items are known apart, by their path in *old*; others are compared by their items.
        psych: As for `read_yaml`.

    Raises:
        UnsupportedError: The change touches an anchor or an alias, or stands where it cannot be made.
    """
    if same(old, new):
        return text
    patcher = _Patcher(text, alignments or {}, name)
    try:
        patched = patcher.patched(old, new)
        found = read_yaml(patched, expressions=False, psych=psych).value
    except LostTrackError as lost:
        raise patcher.refusal(lost.position) from None
    except DefinitionError as error:
        if isinstance(error, UnsupportedError):
            raise
        raise patcher.refusal(None) from None
    if not same(found, new):
        raise patcher.refusal(None)
    return patched


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


class _Patcher:
    def __init__(self, text: str, alignments: Mapping[Path, Alignment], name: str) -> None:
        self._text = text
        self._alignments = alignments
        self._name = name
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._edits: list[_Edit] = []

    def patched(self, old: JSON, new: JSON) -> str:
        """The text with every change made."""
        root = pieces(self._text)
        if root is None or root.kind not in {"mapping", "sequence"}:
            raise LostTrackError(0)
        self._change(root, (), old, new)
        return self._applied(0, len(self._text), self._edits)

    def refusal(self, position: int | None) -> UnsupportedError:
        """That the change is not made, and where it would have been."""
        line = None if position is None else self._text.count("\n", 0, position) + 1
        where = "" if line is None else f" (line {line})"
        return UnsupportedError(
            f"{self._name} is written in a way that this change cannot be made in{where}: nothing is written.",
            fix="Make the change in that file by hand, or write the place in plain block style first.",
            line=line,
        )

    def _tied(self, piece: Piece) -> UnsupportedError:
        line = self._text.count("\n", 0, piece.start) + 1
        return UnsupportedError(
            f"{self._name} has an anchor or an alias (& or *) in what this change touches (line {line}): nothing is written.",
            fix="Write the value out there in the place of the alias, remove the anchor, then export again.",
            line=line,
        )

    def _change(self, piece: Piece, path: Path, old: JSON, new: JSON) -> bool:
        """Change *piece* from within; False if it must be replaced as a whole."""
        if same(old, new):
            return True
        if piece.kind == "mapping" and isinstance(old, dict) and isinstance(new, dict) and new:
            return self._mapping(piece, path, old, new)
        if piece.kind == "sequence" and isinstance(old, list) and isinstance(new, list) and new:
            return self._sequence(piece, path, old, new)
        return False

    def _mapping(self, piece: Piece, path: Path, old: dict[str, JSON], new: dict[str, JSON]) -> bool:
        keys = [entry.key for entry in piece.entries]
        if keys != list(old):
            raise LostTrackError(piece.start)
        if piece.flow and set(keys) != set(new):
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

    def _insert_keys(self, kept: list[Entry], new: dict[str, JSON], indent: int) -> None:
        there = {entry.key: entry for entry in kept}
        last: Entry | None = None
        due: list[str] = []
        for key, value in new.items():
            if key in there:
                if due and last is None:
                    self._insert_before(there[key], due, indent)
                    due = []
                elif due and last is not None:
                    self._insert_after(last, due)
                    due = []
                last = there[key]
            else:
                due.append(dump_entry(value, indent=indent, key=key, block=_may_be_block(value)))
        if due and last is not None:
            self._insert_after(last, due)

    def _insert_before(self, entry: Entry, rendered: list[str], indent: int) -> None:
        if entry.explicit:
            raise LostTrackError(entry.start)
        text = "\n".join(rendered)[indent:]
        self._edit(entry.start, entry.start, f"{text}\n{' ' * indent}")

    def _insert_after(self, entry: Entry, rendered: list[str]) -> None:
        place = self._line_end(_end(entry))
        self._edit(place, place, "".join(f"\n{text}" for text in rendered))

    def _remove(self, piece: Piece, entry: Entry) -> None:
        if entry.value.tied:
            raise self._tied(entry.value)
        if entry.explicit:
            raise LostTrackError(entry.start)
        line_start = self._line_start(entry.start)
        if self._text[line_start : entry.start].strip():  # the first key, behind a dash
            following = piece.entries[piece.entries.index(entry) + 1]
            self._edit(entry.start, following.start, "")
            return
        end = self._line_end(_end(entry))
        after = self._after_break(end)
        if after > end or line_start == 0:
            self._edit(line_start, after, "")
        else:  # the last line has no line break, and keeps none
            self._edit(self._before_break(line_start), end, "")

    def _value(self, entry: Entry, path: Path, old: JSON, new: JSON, indent: int) -> None:
        if self._change(entry.value, path, old, new):
            return
        piece = entry.value
        if piece.tied:
            raise self._tied(piece)
        if entry.flow or (piece.flow and piece.entries and isinstance(new, dict | list)):
            lead = " " if entry.key is not None and piece.start == entry.mark else ""
            self._edit(piece.start, piece.end, lead + dump_in_brackets(new))
            return
        head = self._text[self._line_start(entry.mark) : entry.mark]
        end = max(piece.end, entry.mark)
        commented = self._comment_follows(end)
        text = dump_entry(new, indent=indent, key=entry.key, head=head, block=_may_be_block(new) and not commented)
        self._edit(entry.mark, end if commented else self._line_end(end), text[len(head) :])

    def _sequence(self, piece: Piece, path: Path, old: list[JSON], new: list[JSON]) -> bool:
        if len(piece.entries) != len(old):
            raise LostTrackError(piece.start)
        if piece.flow and len(old) != len(new):
            return False
        indent = self._column(piece.entries[0].start)
        alignment = self._alignments.get(path) or _aligned(old, new)
        if piece.flow or list(alignment) == list(range(len(old))):
            for index, entry in enumerate(piece.entries):
                self._value(entry, (*path, index), old[index], new[index], indent)
            return True
        if all(source is None for source in alignment):
            return False
        self._rearrange(piece, path, old, new, alignment)
        return True

    def _rearrange(self, piece: Piece, path: Path, old: list[JSON], new: list[JSON], alignment: Alignment) -> None:
        """Write the items' own lines in their new order; lines above an item go with it."""
        indent = self._column(piece.entries[0].start)
        begin = self._line_start(piece.entries[0].start)
        if self._text[begin : piece.entries[0].start].strip():
            raise LostTrackError(begin)
        begin = self._above(begin)
        spans: list[tuple[int, int]] = []
        for entry in piece.entries:
            end = self._line_end(_end(entry))
            spans.append((begin, end))
            begin = self._after_break(end)
        for index, entry in enumerate(piece.entries):
            if index not in alignment and entry.value.tied:
                raise self._tied(entry.value)
        made: list[str] = []
        for position, source in enumerate(alignment):
            if source is None:
                made += [self._broken(self._new_item(new[position], indent)), self._newline]
                continue
            outer, self._edits = self._edits, []
            self._value(piece.entries[source], (*path, source), old[source], new[position], indent)
            start, end = spans[source]
            made += [self._applied(start, end, self._edits), self._text[end : self._after_break(end)] or self._newline]
            self._edits = outer
        self._edits.append(_Edit(spans[0][0], spans[-1][1], "".join(made[:-1])))

    @staticmethod
    def _new_item(value: JSON, indent: int) -> str:
        return dump_entry(value, indent=indent, block=_may_be_block(value))

    def _edit(self, start: int, end: int, text: str) -> None:
        self._edits.append(_Edit(start, end, self._broken(text)))

    def _applied(self, start: int, end: int, edits: list[_Edit]) -> str:
        made: list[str] = []
        position = start
        # Of two at one place, the one that only inserts comes first.
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
            if edit.start < position:
                raise LostTrackError(edit.start)
            made += [self._text[position : edit.start], edit.text]
            position = edit.end
        return "".join([*made, self._text[position:end]])

    def _broken(self, text: str) -> str:
        """*text* with the document's own line breaks."""
        return text.replace("\r\n", "\n").replace("\n", self._newline)

    def _column(self, position: int) -> int:
        return position - self._line_start(position)

    def _line_start(self, position: int) -> int:
        return self._text.rfind("\n", 0, position) + 1

    def _above(self, position: int) -> int:
        """The start of the comment that stands directly above the line at *position*, or of that line."""
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


def _end(entry: Entry) -> int:
    return max(entry.value.end, entry.mark)


def _may_be_block(value: JSON) -> bool:
    """Whether a block of lines can hold the texts of *value* wherever it stands."""
    if isinstance(value, dict):
        return all(map(_may_be_block, value.values()))
    if isinstance(value, list):
        return all(map(_may_be_block, value))
    return not isinstance(value, str) or not (value.endswith("\n\n") or value.startswith((" ", "\n")))


def _aligned(old: list[JSON], new: list[JSON]) -> list[int | None]:
    """Which old item each new one is: equal ones, and between those the ones in the same place."""
    if len(old) == len(new):
        return list(range(len(old)))
    one, two = ([json.dumps(item, sort_keys=True) for item in items] for items in (old, new))
    result: list[int | None] = [None] * len(new)
    for _, start, end, to_start, to_end in difflib.SequenceMatcher(None, one, two, autojunk=False).get_opcodes():
        for offset in range(min(end - start, to_end - to_start)):
            result[to_start + offset] = start + offset
    return result
