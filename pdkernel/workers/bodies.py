"""
The body of a step's response: bytes that are text are shown as text.

Knows content types. What is taken as text is exactly the same bytes when it is written as UTF-8 again; all else stays
`{"$base64": TEXT}`, so that whoever answers the request sends what the step gave.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from email.message import Message

from pdkernel.model import JSON

BASE64_KEY = "$base64"
_TEXT = re.compile(r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|javascript|graphql|x-ndjson|x-www-form-urlencoded)")
_AS_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


def decode_text_body(body: JSON, headers: Mapping[str, str | list[str]]) -> JSON:
    """*body*, or the text that it is: its content type says text, in UTF-8 or without a charset, and it reads as that."""
    if not isinstance(body, dict) or set(body) != {BASE64_KEY} or not _is_text(headers):
        return body
    try:
        return base64.b64decode(str(body[BASE64_KEY]), validate=True).decode("utf-8")
    except ValueError:  # not base64, or not UTF-8
        return body


def _is_text(headers: Mapping[str, str | list[str]]) -> bool:
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), None)
    if not isinstance(content_type, str):
        return False
    said = Message()
    said["content-type"] = " ".join(content_type.split())
    try:
        charset = said.get_content_charset("utf-8")
    except UnicodeError:  # characters that no header holds
        return False
    return bool(_TEXT.fullmatch(said.get_content_type())) and charset in _AS_UTF8
