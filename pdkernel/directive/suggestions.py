"""Suggestions for unknown words: "Did you mean ...?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

_MAX_LISTED_WORDS = 20
"""The number of words that a message may list."""


def did_you_mean(word: str, known: Iterable[str], *, aliases: Mapping[str, str] | None = None) -> str:
    """
    A sentence that suggests the nearest known words, or all known words if they are few.

    Args:
        word: The unknown word.
        known: The known words.
        aliases: Other common names, and the known word for each.
    """
    words = list(known)
    meant = (aliases or {}).get(word.lower())
    near = [meant] if meant else difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"Known: {', '.join(words)}." if len(words) <= _MAX_LISTED_WORDS else ""
