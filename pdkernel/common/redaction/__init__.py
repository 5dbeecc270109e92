"""
Redaction: finds secrets in texts and JSON values, and replaces each by a placeholder.

A placeholder names the secret and its encoding, `⟦secret:slack/apn_1/oauth_access_token|base64+1⟧`, so that `restore`
returns the exact text. A secret shorter than `MIN_SECRET_CHARS` would match ordinary output; it is redacted only as the value of a
key with the name of its field. `secret_patterns` recognises secrets whose values are not known.
"""

from __future__ import annotations

from pdkernel.common.redaction.redactor import (
    Redactor,
    Secret,
    find_contained_secrets,
    find_redacted_values,
    get_redactor,
    mask_values,
)
from pdkernel.common.redaction.scanner import MIN_SECRET_CHARS, StreamRedactor

__all__ = [
    "MIN_SECRET_CHARS",
    "Redactor",
    "Secret",
    "StreamRedactor",
    "find_contained_secrets",
    "find_redacted_values",
    "get_redactor",
    "mask_values",
]
