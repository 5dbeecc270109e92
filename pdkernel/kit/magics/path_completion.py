"""Completion of a path into `steps`, in the syntax of Node.js, Python, Go and jq."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from pdkernel.model import JSON

LOOKBACK_CHARACTERS = 2_000
"""Number of characters before the cursor that are searched; paths are shorter."""
MAX_KEY_ITEMS = 200
MAX_INDEX_ITEMS = 10

Syntax = Literal["node", "python", "jq", "go"]

_NAME = r"[A-Za-z_$][\w$]*"
_TEXT = r"""(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\\n]|\\.)*`)"""
_BRACKET = rf"\s*(?:\?\.)?\[\s*(?:{_TEXT}|\d+|{_NAME})\s*\]"
_OPEN_BRACKET = r"""\s*(?:\?\.)?\[\s*(?:(?P<quote>["'`])(?P<key>(?:(?!(?P=quote))[^\\\n]|\\.)*)|(?P<index>\d*))"""
_DOTTED = rf"(?P<path>(?:\s*\??\.\s*{_NAME}|{_BRACKET})*)(?:\s*(?P<dot>\??\.)(?P<name>[\w$]*)|{_OPEN_BRACKET})\Z"
_ASSERTION = r"\.\((?:[^()\n])*\)"
_ASSERTED = rf"(?P<path>(?:{_BRACKET}(?:{_ASSERTION})?)*){_OPEN_BRACKET}\Z"
_BRACKETED = rf"(?P<path>(?:{_BRACKET})*){_OPEN_BRACKET}\Z"

_PATH_PATTERNS: Mapping[Syntax, re.Pattern[str]] = {
    "node": re.compile(r"(?<![\w$.])steps" + _DOTTED),
    "python": re.compile(r"(?<![\w.])pd\.steps" + _BRACKETED),
    "go": re.compile(r"(?<![\w.])pd\.Steps" + _ASSERTED),
    "jq": re.compile(r"(?:^|(?<=[\s'\"|(,]))(?=\.)" + _DOTTED),
}
_SEGMENT = re.compile(rf"\.\s*(?P<name>{_NAME})|\[\s*(?:(?P<text>{_TEXT})|(?P<index>\d+)|{_NAME})\s*\]")
_KINDS: Mapping[type, str] = {
    dict: "object",
    list: "list",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
}


@dataclass(frozen=True, slots=True)
class CompletionItem:
    """One completion; *type* is the label that a front end shows beside the text."""

    text: str
    type: str = "property"


@dataclass(frozen=True, slots=True)
class Completion:
    """
    Completions that replace the *fragment* before the cursor.

    Without items, no completion is offered, not even Python names.
    """

    fragment: str = ""
    items: tuple[CompletionItem, ...] = ()


def complete_path(before: str, after: str, steps: Mapping[str, JSON], syntax: Syntax) -> Completion | None:
    """
    Completions of the path that ends at the cursor.

    Args:
        before: The text up to the cursor.
        after: The text after the cursor; an existing quote or bracket is not repeated.
        steps: The exports by step, including `trigger`.
        syntax: The syntax of the path.

    Returns:
        None if no path ends at the cursor. A key that is not a name is offered in brackets, in place of the dot.
    """
    chain = _PATH_PATTERNS[syntax].search(before[-LOOKBACK_CHARACTERS:])
    if chain is None:
        return None
    value: Any = steps
    for segment in _segments(re.sub(_ASSERTION, "", chain["path"]) if syntax == "go" else chain["path"]):
        value = _descend(value, segment)
    groups = chain.groupdict()
    if groups.get("dot") is not None:
        return _after_dot(value, groups["dot"], groups["name"])
    if groups["quote"]:
        return _in_quotes(value, groups["quote"], groups["key"], after)
    return _in_brackets(value, groups["index"], after)


def _segments(path: str) -> Iterator[str | int]:
    """Keys and indexes of a path; a variable in brackets counts as index 0."""
    for found in _SEGMENT.finditer(path):
        if found["name"] is not None:
            yield found["name"]
        elif found["text"] is not None:
            yield re.sub(r"\\(.)", r"\1", found["text"][1:-1])
        else:
            yield int(found["index"] or 0)


def _descend(value: Any, segment: str | int) -> Any:
    """The value of *segment*, or None. An index past the end returns the first item."""
    if isinstance(value, list) and isinstance(segment, int) and value:
        return value[segment] if segment < len(value) else value[0]
    if isinstance(value, Mapping):
        return value.get(str(segment))
    return None


def _keys(value: Any, prefix: str) -> list[tuple[str, str]]:
    """Keys of an object that start with *prefix*, each with its value's kind, in the object's order."""
    if not isinstance(value, Mapping):
        return []
    found = ((key, _KINDS.get(type(item), "null")) for key, item in value.items() if key.startswith(prefix))
    return list(islice(found, MAX_KEY_ITEMS))


def _indexes(value: Any, prefix: str) -> list[tuple[str, str]]:
    """The first indexes of a list that start with *prefix*, with the kind of each item."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    found = [(str(index), _KINDS.get(type(item), "null")) for index, item in enumerate(value[:MAX_INDEX_ITEMS])]
    return [(index, kind) for index, kind in found if index.startswith(prefix)]


def _after_dot(value: Any, dot: str, name: str) -> Completion:
    keys = _keys(value, name)
    indexes = [] if name else _indexes(value, "")
    if not (keys or indexes):
        return Completion(name)
    if keys and all(re.fullmatch(_NAME, key) for key, _ in keys):
        return Completion(name, tuple(CompletionItem(key, kind) for key, kind in keys))
    # Brackets replace a plain dot, and follow an optional dot (`?.`).
    opening = dot if dot == "?." else ""
    items = [
        CompletionItem(dot + key if re.fullmatch(_NAME, key) else f"{opening}[{quote_key(key, chr(34))}]", kind)
        for key, kind in keys
    ]
    items += [CompletionItem(f"{opening}[{index}]", kind) for index, kind in indexes]
    return Completion(dot + name, tuple(items))


def _in_quotes(value: Any, quote: str, key: str, after: str) -> Completion:
    closing = "" if after.startswith(quote) else quote if after.startswith("]") else quote + "]"
    prefix = re.sub(r"\\(.)", r"\1", key)
    return Completion(
        key,
        tuple(CompletionItem(quote_key(found, quote)[1:-1] + closing, kind) for found, kind in _keys(value, prefix)),
    )


def _in_brackets(value: Any, index: str, after: str) -> Completion:
    closing = "" if after.startswith("]") else "]"
    keys = [] if index else [(quote_key(key, '"'), kind) for key, kind in _keys(value, "")]
    return Completion(
        index, tuple(CompletionItem(text + closing, kind) for text, kind in [*keys, *_indexes(value, index)])
    )


def quote_key(key: str, quote: str) -> str:
    """*key* as a string literal with the quote *quote*, valid in Node.js, Python and jq."""
    body = json.dumps(key, ensure_ascii=False)[1:-1]
    if quote != '"':
        body = body.replace('\\"', '"').replace(quote, "\\" + quote)
    return quote + body + quote
