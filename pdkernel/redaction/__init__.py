"""
Finds known secrets in what leaves a step, and puts a placeholder where each one stood.

Knows texts, JSON values and the encodings in which a secret usually travels. Knows nothing of accounts, variables
or steps: whoever makes a `Redactor` hands it the values.

A placeholder names the secret and the form it stood in, `⟦secret:slack/apn_1/oauth_access_token|base64+1⟧`, so that
`restore` gives back the exact text. Values shorter than `MIN_LENGTH` would hide half of what people print; they are
hidden only where a key names their own field.
"""

from __future__ import annotations

from pdkernel.redaction.redactor import Redactor, Secret, get_redactor, mask_values
from pdkernel.redaction.scanner import MIN_SECRET_CHARS, StreamRedactor

__all__ = ["MIN_SECRET_CHARS", "Redactor", "Secret", "StreamRedactor", "get_redactor", "mask_values"]
