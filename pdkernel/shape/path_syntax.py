"""
Paths into JSON values in the syntax of Node.js and of Python.

A path is a tuple of segments: a text for a key, a number for an item of a list.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

Segment: TypeAlias = str | int

EVENT_PATH = ("steps", "trigger", "event")

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\Z")
_PART = re.compile(
    r"""\.?(?P<name>[^\W\d][\w$-]*|[$][\w$-]*)          # .name
      | \[\s*(?P<index>\d+)\s*\]                        # [0]
      | \[\s*(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*\]   # ["any key"]
    """,
    re.VERBOSE,
)


def format_node_path(segments: Sequence[Segment]) -> str:
    """
    The expression for a path in Node.js and in `{{ }}`.

    >>> format_node_path(("steps", "trigger", "event", "headers", "user-agent"))
    'steps.trigger.event.headers["user-agent"]'
    """
    written = ""
    for segment in segments:
        if isinstance(segment, str) and _IDENTIFIER.match(segment):
            written += f".{segment}" if written else segment
        else:
            written += f"[{_literal(segment, lambda letter: json.dumps(letter)[1:-1])}]"
    return written


def format_python_path(segments: Sequence[Segment]) -> str:
    """
    The expression for a path in a Python step; the first segment is an attribute of `pd`.

    >>> format_python_path(("steps", "trigger", "event", "body", 0))
    'pd.steps["trigger"]["event"]["body"][0]'
    """
    rest = "".join(f"[{_literal(segment, lambda letter: repr(letter)[1:-1])}]" for segment in segments[1:])
    return f"pd.{segments[0]}{rest}"


def parse_path(text: str) -> tuple[Segment, ...]:
    """
    The segments of a path written in either form; the `pd` of `pd.steps` is dropped.

    Raises:
        ValueError: *text* is not a path.
    """
    segments: list[Segment] = []
    position = 0
    while position < len(text):
        part = _PART.match(text, position)
        if part is None:
            raise ValueError(f"{text!r} is not a path: {text[position:]!r} is neither .name, [0] nor ['key'].")
        if part["name"] is not None:
            segments.append(part["name"])
        elif part["index"] is not None:
            segments.append(int(part["index"]))
        else:
            segments.append(_read_literal(part["text"]))
        position = part.end()
    if segments[:2] == ["pd", "steps"]:
        del segments[0]
    return tuple(segments)


def _literal(segment: Segment, escape: Callable[[str], str]) -> str:
    if isinstance(segment, int):
        return str(segment)
    letters = (
        letter if letter.isprintable() and letter not in '"\\' else _escaped(letter, escape) for letter in segment
    )
    return f'"{"".join(letters)}"'


def _escaped(letter: str, escape: Callable[[str], str]) -> str:
    return f"\\{letter}" if letter in '"\\' else escape(letter)


def _read_literal(literal: str) -> str:
    """The value of a string literal of JavaScript or Python; a pair of surrogates becomes one character."""
    text = str(ast.literal_eval(literal))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
