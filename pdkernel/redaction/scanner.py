"""Searches a text for many fixed texts at once; the text may arrive in chunks."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MIN_SECRET_CHARS = 8
"""The number of characters from which a secret is searched for everywhere; shorter secrets would match ordinary words."""
PLACEHOLDER_START = "⟦secret:"
"""The start of every placeholder."""


class StreamRedactor:
    """
    Redacts a text that arrives in chunks, with the same result as for the whole text.

    A possible start of a secret is held back until the next chunk. All other text is returned at once, so that a log can be read
    while it is written.
    """

    def __init__(self, scanner: PatternScanner) -> None:
        self._scanner = scanner
        self._pending = _ScanState()

    def feed(self, text: str) -> str:
        """Add a chunk; returns the redacted text that can no longer change."""
        if self._scanner.is_empty:
            return text
        self._pending.buffer += text
        return self._scanner.replace_until(self._pending, self._scanner.find_safe_end(self._pending.buffer))

    def take_pending(self) -> str:
        """End the text; returns what was held back, without redaction."""
        pending, self._pending = self._pending.buffer[self._pending.emitted :], _ScanState()
        return pending

    def close(self) -> str:
        """End the text; returns the redacted text that was held back."""
        if not self._pending.buffer:
            return ""
        return self._scanner.replace_until(self._pending, len(self._pending.buffer))


@dataclass(slots=True)
class _ScanState:
    """The state of a scan: *buffer* is searched up to *searched* and returned up to *emitted*."""

    buffer: str = ""
    searched: int = 0
    emitted: int = 0


class PatternScanner:
    """Searches for many fixed texts at once; *patterns* maps each text to the label of its placeholder."""

    def __init__(self, patterns: Mapping[str, str]) -> None:
        self._labels = dict(patterns)
        ordered = sorted(patterns, key=len, reverse=True)
        self.is_empty = not ordered
        self._longest = len(ordered[0]) if ordered else 0
        self._patterns_by_word: dict[int, list[str]] = {}
        for text in ordered:
            for word in set(_words_of(text)):
                self._patterns_by_word.setdefault(word, []).append(text)
        self._words = frozenset(self._patterns_by_word)
        self._by_prefix: dict[str, list[str]] = {}
        for text in ordered:
            for length in (1, 2, 3):
                self._by_prefix.setdefault(text[:length], []).append(text)
        self._overlapping: dict[str, bool] = {}

    def replace(self, text: str) -> str:
        """*text* with a placeholder for each pattern."""
        if self.is_empty or len(text) < MIN_SECRET_CHARS or not self.can_match(text):
            return text
        return self.replace_until(_ScanState(text), len(text))

    def can_match(self, text: str | bytes) -> bool:
        """
        Whether *text* (text or UTF-8) may contain a pattern. It is a cheap test, because most texts contain none.

        A pattern of eight or more bytes contains a whole aligned word of four bytes, regardless of its offset. So one check of each
        aligned word of the text, in C, is enough for any number of patterns.
        """
        return not self._words.isdisjoint(_aligned_words(text))

    def find_safe_end(self, buffer: str) -> int:
        """The position in *buffer* from which a pattern may have begun that later text completes."""
        for start in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            for pattern in self._by_prefix.get(buffer[start : start + 3], ()):
                if len(pattern) > len(buffer) - start and pattern.startswith(buffer[start:]):
                    return start
        return len(buffer)

    def replace_until(self, pending: _ScanState, limit: int) -> str:
        """Replace the patterns that begin before *limit* in the buffer; return the finished text and remove it from the buffer."""
        buffer, out = pending.buffer, list[str]()
        for start, found in self._matches(buffer, pending.searched, limit):
            end = start + len(found)
            if start >= pending.emitted:
                out += [buffer[pending.emitted : start], f"{PLACEHOLDER_START}{self._labels[found]}⟧"]
            elif end > pending.emitted:
                # two secrets overlap: the second placeholder replaces the rest of the second secret
                out.append(f"{PLACEHOLDER_START}{self._labels[found]}[{pending.emitted - start}:]⟧")
            pending.emitted = max(pending.emitted, end)
            pending.searched = self._next_start(start, found)
        if limit > pending.emitted:
            out.append(buffer[pending.emitted : limit])
            pending.emitted = limit
        pending.searched = max(pending.searched, limit)
        done = min(pending.searched, pending.emitted)
        pending.buffer = buffer[done:]
        pending.searched -= done
        pending.emitted -= done
        return "".join(out)

    def _matches(self, buffer: str, position: int, limit: int) -> Iterator[tuple[int, str]]:
        """
        Yield the patterns that begin in *buffer* from *position* to *limit*; of several at one place, the longest.

        Each pattern is searched on its own, in C and once, so that a text of almost-matches takes no longer.
        """
        words = self._words.intersection(_aligned_words(buffer))
        waiting: list[tuple[int, int, str]] = []

        def search(pattern: str, start: int) -> None:
            found = buffer.find(pattern, start)
            if 0 <= found < limit:
                heapq.heappush(waiting, (found, -len(pattern), pattern))

        for pattern in {pattern for word in words for pattern in self._patterns_by_word[word]}:
            search(pattern, position)
        while waiting:
            start, _, found = heapq.heappop(waiting)
            if start >= position:
                yield start, found
                position = self._next_start(start, found)
            search(found, position)

    def _next_start(self, start: int, found: str) -> int:
        if found not in self._overlapping:
            self._overlapping[found] = self._can_hold_a_start(found)
        return start + 1 if self._overlapping[found] else start + len(found)

    def _can_hold_a_start(self, text: str) -> bool:
        """Whether another pattern can begin inside *text* and reach its end or beyond."""
        return any(
            pattern is not text and pattern.startswith(text[start:])
            for start in range(1, len(text))
            for pattern in self._by_prefix.get(text[start : start + 3], ())
        )


def _aligned_words(text: str | bytes) -> memoryview:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return memoryview(data)[: len(data) & ~3].cast("I")


def _words_of(text: str) -> Iterator[int]:
    data = text.encode("utf-8", "surrogatepass")
    for offset in range(4):
        yield int.from_bytes(data[offset : offset + 4], sys.byteorder)
