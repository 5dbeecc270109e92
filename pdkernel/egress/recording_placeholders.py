"""
Placeholders for credentials in recordings: `{{secret:slack.bot_token}}`.

A placeholder of a run names an account; a placeholder of a recording names app and field only, so that a recording made with
one account can be replayed with another.
"""

from __future__ import annotations

import re

from pdkernel.redaction import Redactor

_PLACEHOLDER_START = "{{secret:"
_LITERAL = "{{secret:|literal}}"
_IN_RUN = re.compile(r"⟦secret:([^⟦⟧\[\]|]*)((?:\|[^⟦⟧\[\]|]+)?(?:\[\d+:\])?)⟧")
_IN_RECORDING = re.compile(r"\{\{secret:([^{}|\[\]]*)((?:\|[^{}|\[\]]+)?(?:\[\d+:\])?)\}\}")


def insert_placeholders(text: str, redactor: Redactor) -> str:
    """*text* with a recording placeholder in place of each secret of *redactor*."""
    # text that looks like a recording placeholder is escaped, so that it is restored unchanged
    hidden = redactor.redact_text(text.replace(_PLACEHOLDER_START, _LITERAL))
    known = set(redactor.secret_refs)

    def named(found: re.Match[str]) -> str:
        return f"{_PLACEHOLDER_START}{_without_account(found[1])}{found[2]}}}}}" if found[1] in known else found[0]

    return _IN_RUN.sub(named, hidden)


def restore_placeholders(text: str, redactor: Redactor) -> str:
    """*text* from a recording, with the secrets of *redactor*; an unknown placeholder stays."""
    if _PLACEHOLDER_START not in text:
        return text
    refs = {_without_account(ref): ref for ref in reversed(redactor.secret_refs)}

    def present(found: re.Match[str]) -> str:
        ref = refs.get(found[1])
        if ref is None:
            return _PLACEHOLDER_START if found[0] == _LITERAL else found[0]
        return str(redactor.restore(f"⟦secret:{ref}{found[2]}⟧"))

    return _IN_RECORDING.sub(present, text)


def _without_account(ref: str) -> str:
    """`slack/apn_1/bot_token` as `slack.bot_token`, `env/NAME` as `env.NAME`."""
    first, *rest = ref.split("/")
    return ".".join([first, *(rest[1:] if len(rest) > 1 else rest)])
