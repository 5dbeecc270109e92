"""
Fake values that replace secrets in a saved test.

A fake value has the kind of the real value (URL, number, e-mail address, JSON) and nothing else, not even its length.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+\Z")


def build_fake_secret(name: str, value: str) -> str:
    """
    Build a fake value of the same kind as *value*, always the same for the same *name*.

    A fake value has at least eight characters, so that redaction finds it as it finds the real value.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "value"
    parts = _url(value)
    if parts is not None:
        path = "" if parts.path == "" else "/" if parts.path == "/" else "/made-up"
        return f"{parts.scheme}://{label}.made-up.example{path}"
    if _EMAIL.match(value):
        return f"{label}@made-up.example"
    if value.isdecimal():
        return "1000000007"
    try:
        content = json.loads(value)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        return json.dumps({key: _build_fake_field(key, item) for key, item in content.items()})
    return f"made-up-{label}"


def _build_fake_field(name: str, value: Any) -> Any:
    match value:
        case str():
            return build_fake_secret(name, value)
        case dict():
            return {key: _build_fake_field(key, item) for key, item in value.items()}
        case list():
            return [_build_fake_field(name, item) for item in value]
        case _:
            return value


def _url(value: str) -> Any:
    try:
        parts = urlsplit(value.strip())
        return parts if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname else None
    except ValueError:
        return None
