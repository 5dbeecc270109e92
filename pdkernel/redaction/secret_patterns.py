"""
Secrets that nobody told us of: values under names that say what they are.

Knows those names and how they stand in URLs, forms, multipart bodies and JSON. Knows nothing of known secrets: the redactor does those.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

REDACTED = "{{redacted}}"
_SECRET = "{{secret:"  # noqa: S105  # how a placeholder begins

_NAMES = (
    "access_token|refresh_token|id_token|token|auth_token|client_secret|secret|password|passwd|api_key|apikey"
    "|x-amz-signature|x-amz-credential|x-amz-security-token|signature"
)
_IN_FORM = re.compile(rf"((?:^|[?&;])(?:{_NAMES})=)([^&#\s]+)", re.IGNORECASE)
_IN_JSON = re.compile(rf'("(?:{_NAMES})"\s*:\s*")((?:[^"\\]|\\.)+)"', re.IGNORECASE)
_IN_QUOTED_JSON = re.compile(rf'(\\"(?:{_NAMES})\\"\s*:\s*\\")(.+?)\\"', re.IGNORECASE)
_IN_PART = re.compile(
    rf'(\bname="?(?:{_NAMES})"?[ \t]*(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n)([^\r\n]+)', re.IGNORECASE
)
_MIN_SECRET_LENGTH = 8


def redact_url(url: str) -> str:
    """*url* with the values of telling parameters hidden."""
    return _IN_FORM.sub(rf"\1{REDACTED}", url)


class SecretPatternRedactor:
    """
    Hides such values, and finds the same values again wherever else they turn up.

    Without the memory, a secret that a server echoes under another name would be kept.
    """

    def __init__(self) -> None:
        self._values: set[str] = set()

    def redact(self, text: str) -> str:
        """*text* without telling values and without those met before (of eight characters or more)."""
        for pattern in (_IN_JSON, _IN_QUOTED_JSON, _IN_FORM, _IN_PART):
            for found in pattern.finditer(text):
                self._remember(found[2])
        text = _IN_JSON.sub(lambda found: f'{found[1]}{_hidden(found[2])}"', text)
        text = _IN_QUOTED_JSON.sub(lambda found: f'{found[1]}{_hidden(found[2])}\\"', text)
        for pattern in (_IN_FORM, _IN_PART):
            text = pattern.sub(lambda found: found[1] + _hidden(found[2]), text)
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, REDACTED)
        return text

    def _remember(self, value: str) -> None:
        if REDACTED not in value and _SECRET not in value:
            self._values |= {form for form in (value, unquote_plus(value)) if len(form) >= _MIN_SECRET_LENGTH}


def _hidden(value: str) -> str:
    """What stands in the place of *value*: a known secret's placeholder stays, because it can be put back."""
    return value if _SECRET in value else REDACTED
