"""
An endpoint's answer: its status, the headers worth seeing, its body.

Knows plain values. Says the same as text and as HTML.
"""

from __future__ import annotations

from collections.abc import Mapping

from pdkernel.model import JSON
from pdkernel.render import words
from pdkernel.render.markup import VIEW, code_block, lines, pill, printable, quiet, tag


def text(status: int, reason: str, headers: Mapping[str, str], body: JSON, duration_ms: float) -> str:
    """The answer as text."""
    made = [f"{status} {reason}".rstrip() + f"  {words.duration(duration_ms)}"]
    made += [f"{name}: {value}" for name, value in headers.items()]
    shown = _body(body)
    made += ["", shown] if shown else []
    return printable("\n".join(made) + "\n")


def html(status: int, reason: str, headers: Mapping[str, str], body: JSON, duration_ms: float) -> str:
    """The answer as HTML."""
    named = "\n".join(f"{name}: {value}" for name, value in headers.items())
    head = tag(
        "div",
        pill(f"{status} {reason}".rstrip(), "good" if status < 400 else "bad"),
        quiet(words.duration(duration_ms)),
    )
    blocks = [code_block(each) for each in (named, _body(body)) if each]
    return tag("div", lines([head, *blocks]), style=VIEW, class_="pd-view pd-answer")


def _body(body: JSON) -> str:
    if isinstance(body, str):
        return words.shortened(body, max_lines=200, max_characters=8000)
    return "" if body is None else words.pretty(body, max_lines=200, max_characters=8000)
