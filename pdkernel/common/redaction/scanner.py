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
_MAX_COMPARED_CHARS = 1 << 18
"""How many characters of a chunk are compared with beginnings of secrets that differ in the end."""


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
    """The state of a scan: *buffer* is returned up to *emitted*; what is before it may overlap a pattern that is not yet complete."""

    buffer: str = ""
    emitted: int = 0


@dataclass(slots=True)
class _Run:
    """Occurrences of one pattern that overlap: they begin at *first*, *first* + *period*, and so on up to *last*."""

    first: int
    last: int
    period: int

    def latest_start(self, position: int) -> int:
        """The start of the latest occurrence that begins at *position* or before it, where *first* is not after it."""
        return self.last if position >= self.last else position - (position - self.first) % self.period


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
            for length in range(1, MIN_SECRET_CHARS + 1):
                self._by_prefix.setdefault(text[:length], []).append(text)
        self._periods: dict[str, int] = {}

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
        """
        A position in *buffer* before which no pattern has begun that later text completes.

        It is the last such position, unless very many characters are the same as those of a pattern and then differ.
        """
        chars = _MAX_COMPARED_CHARS
        for start in range(max(0, len(buffer) - self._longest + 1), len(buffer)):
            length = len(buffer) - start
            for pattern in self._by_prefix.get(buffer[start : start + MIN_SECRET_CHARS], ()):
                if len(pattern) > length:
                    chars -= length
                    if chars < 0 or pattern.startswith(buffer[start:]):
                        return start
        return len(buffer)

    def replace_until(self, pending: _ScanState, limit: int) -> str:
        """
        Replace the patterns that begin before *limit* in the buffer; return the finished text and remove it from the buffer.

        Where patterns overlap, each placeholder is that of the pattern that reaches furthest, so that there are few of them.
        """
        buffer, position, out = pending.buffer, pending.emitted, list[str]()
        waiting: list[tuple[int, str, _Run]] = []
        runs = {pattern: self._runs(buffer, pattern, limit) for pattern in self._find_candidates(buffer)}
        reached: dict[str, _Run] = {}

        def wait_for_next(pattern: str) -> None:
            if run := next(runs[pattern], None):
                heapq.heappush(waiting, (run.first, pattern, run))

        for pattern in runs:
            wait_for_next(pattern)
        while position < limit:
            while waiting and waiting[0][0] <= position:
                _, pattern, reached[pattern] = heapq.heappop(waiting)
                wait_for_next(pattern)
            end, start, found = position, 0, ""
            for pattern, run in list(reached.items()):
                its_start = run.latest_start(position)
                its_end = its_start + len(pattern)
                if its_end <= position:
                    del reached[pattern]
                elif its_end > end or (its_end == end and its_start < start):
                    end, start, found = its_end, its_start, pattern
            if found:
                rest = f"[{position - start}:]" if start < position else ""
                out.append(f"{PLACEHOLDER_START}{self._labels[found]}{rest}⟧")
            else:
                end = waiting[0][0] if waiting else limit
                out.append(buffer[position:end])
            position = end
        while waiting and waiting[0][0] <= position:  # also if the buffer is finished beyond the limit
            _, pattern, reached[pattern] = heapq.heappop(waiting)
            wait_for_next(pattern)
        starts = ((pattern, run.latest_start(position)) for pattern, run in reached.items())
        overlapping = (start for pattern, start in starts if start + len(pattern) > position)
        done = min([limit, position, *overlapping])
        pending.buffer = buffer[done:]
        pending.emitted = position - done
        return "".join(out)

    def _find_candidates(self, buffer: str) -> set[str]:
        """The patterns that *buffer* may contain."""
        return {
            pattern
            for word in self._words.intersection(_aligned_words(buffer))
            for pattern in self._patterns_by_word[word]
        }

    def _runs(self, buffer: str, pattern: str, limit: int) -> Iterator[_Run]:
        """
        Yield the occurrences of *pattern* in *buffer* that begin before *limit*, and perhaps some that begin later.

        The search is in C. Two runs are at least half a pattern apart, so it takes linear time for a periodic text too.
        """
        first = buffer.find(pattern)
        while 0 <= first < limit:
            period, end = self._period(pattern), first + len(pattern)
            if period < len(pattern) and buffer.startswith(pattern[-period:], end):
                for count in (256, 16, 1):
                    unit = pattern[-period:] * max(1, count // period)
                    while buffer.startswith(unit, end):
                        end += len(unit)
            last = end - len(pattern)
            yield _Run(first, last, period)
            first = buffer.find(pattern, last + 1)

    def _period(self, pattern: str) -> int:
        """The smallest number of characters after which *pattern* repeats, or its length if that is more than half of it."""
        if pattern not in self._periods:
            # if any shift of up to half of the pattern is a period, the first at which its first half matches is the smallest
            shift = pattern.find(pattern[: (len(pattern) + 1) // 2], 1)
            is_period = 0 < shift <= len(pattern) // 2 and pattern.startswith(pattern[shift:])
            self._periods[pattern] = shift if is_period else len(pattern)
        return self._periods[pattern]


def _aligned_words(text: str | bytes) -> memoryview:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return memoryview(data)[: len(data) & ~3].cast("I")


def _words_of(text: str) -> Iterator[int]:
    data = text.encode("utf-8", "surrogatepass")
    for offset in range(4):
        yield int.from_bytes(data[offset : offset + 4], sys.byteorder)
