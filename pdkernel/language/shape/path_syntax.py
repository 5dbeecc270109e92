"""
Paths into JSON values as the code of a step writes them.

A path is a tuple of segments: a text for a key, a number for an item of a list.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from pdkernel.model import Language, Step

Segment: TypeAlias = str | int
StepKind: TypeAlias = Language | Literal["action"]
"""The kind of a step: a language, or a pre-built action, whose props read paths as `{{ }}`."""

EVENT_PATH = ("steps", "trigger", "event")

_IDENTIFIER = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*\Z")
_JQ_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PART = re.compile(
    r"""\.?(?P<name>[^\W\d][\w$-]*|[$][\w$-]*)          # .name
      | \[\s*(?P<index>\d+)\s*\]                        # [0]
      | \[\s*(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*\]   # ["any key"]
    """,
    re.VERBOSE,
)


def get_step_kind(step: Step) -> StepKind:
    """Return the kind of *step*."""
    return "action" if step.uses else step.language


def format_node_path(segments: Sequence[Segment]) -> str:
    """
    Return the expression for a path in Node.js and in `{{ }}`.

    >>> format_node_path(("steps", "trigger", "event", "headers", "user-agent"))
    'steps.trigger.event.headers["user-agent"]'
    """
    written = ""
    for segment in segments:
        if isinstance(segment, str) and _IDENTIFIER.match(segment):
            written += f".{segment}" if written else segment
        else:
            written += f"[{_literal(segment, _escape_as_json)}]"
    return written


def format_python_path(segments: Sequence[Segment]) -> str:
    """
    Return the expression for a path in a Python step; the first segment is an attribute of `pd`.

    >>> format_python_path(("steps", "trigger", "event", "body", 0))
    'pd.steps["trigger"]["event"]["body"][0]'
    """
    rest = "".join(f"[{_literal(segment, lambda letter: repr(letter)[1:-1])}]" for segment in segments[1:])
    return f"pd.{segments[0]}{rest}"


def format_path(segments: Sequence[Segment], kind: StepKind) -> str:
    r"""
    Return the expression for a path in a step of this *kind*; the first segment is `steps`.

    >>> format_path(("steps", "check", "$return_value", "tags", 0), "bash")
    'jq -r \'.check["$return_value"].tags[0]\' "$PIPEDREAM_STEPS"'
    >>> format_path(("steps", "check", "tags", 0), "go")
    'pd.Steps["check"].(map[string]interface{})["tags"].([]interface{})[0]'
    >>> format_path(("steps", "check", "tags", 0), "action")
    '{{steps.check.tags[0]}}'
    """
    if kind == "python":
        return format_python_path(segments)
    if kind == "bash":
        quoted = _format_jq_path(segments[1:]).replace("'", "'\\''")
        return f"jq -r '{quoted}' \"$PIPEDREAM_STEPS\""
    if kind == "go":
        return _format_go_path(segments[1:])
    written = format_node_path(segments)
    return f"{{{{{written}}}}}" if kind == "action" else written


def _format_jq_path(segments: Sequence[Segment]) -> str:
    written = ""
    for segment in segments:
        if isinstance(segment, str) and _JQ_IDENTIFIER.match(segment):
            written += f".{segment}"
        else:
            written += f"{'' if written else '.'}[{_literal(segment, _escape_as_json)}]"
    return written or "."


def _format_go_path(segments: Sequence[Segment]) -> str:
    written = "pd.Steps"
    for index, segment in enumerate(segments):
        kind = "[]interface{}" if isinstance(segment, int) else "map[string]interface{}"
        written += f"{f'.({kind})' if index else ''}[{_literal(segment, _escape_as_json)}]"
    return written


def parse_path(text: str) -> tuple[Segment, ...]:
    """
    Return the segments of a path written in either form; the `pd` of `pd.steps` is dropped.

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


def _escape_as_json(letter: str) -> str:
    return json.dumps(letter)[1:-1]


def _escaped(letter: str, escape: Callable[[str], str]) -> str:
    return f"\\{letter}" if letter in '"\\' else escape(letter)


def _read_literal(literal: str) -> str:
    """Return the value of a string literal of JavaScript or Python; a pair of surrogates becomes one character."""
    text = str(ast.literal_eval(literal))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
