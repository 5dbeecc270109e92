"""
Credentials in recorded calls: `{{secret:slack.bot_token}}`, whoever's they were.

Knows the two spellings of a placeholder: the run's, which names an account, and the recording's, which names app and field only,
so that a recording made with one person's account is replayed with another's. Knows nothing of files.
"""

from __future__ import annotations

import re
from typing import Protocol

from pdkernel.model import JSON

_PLACEHOLDER_START = "{{secret:"
_LITERAL = "{{secret:|literal}}"
_IN_RUN = re.compile(r"⟦secret:([^⟦⟧\[\]|]*)((?:\|[^⟦⟧\[\]|]+)?(?:\[\d+:\])?)⟧")
_IN_RECORDING = re.compile(r"\{\{secret:([^{}|\[\]]*)((?:\|[^{}|\[\]]+)?(?:\[\d+:\])?)\}\}")


class _Restores(Protocol):
    def redact_text(self, text: str) -> str: ...
    def restore(self, value: JSON) -> JSON: ...
    @property
    def secret_refs(self) -> list[str]: ...


def insert_placeholders(text: str, redactor: _Restores) -> str:
    """*text* with the recording's placeholder for each secret that *redactor* knows."""
    # text that looks like one of ours is told apart, so that it comes back as it was
    hidden = redactor.redact_text(text.replace(_PLACEHOLDER_START, _LITERAL))
    known = set(redactor.secret_refs)

    def named(found: re.Match[str]) -> str:
        return f"{_PLACEHOLDER_START}{_without_account(found[1])}{found[2]}}}}}" if found[1] in known else found[0]

    return _IN_RUN.sub(named, hidden)


def restore_placeholders(text: str, redactor: _Restores) -> str:
    """*text*, from a recording, with the present run's secrets; a secret that it has not got stays a placeholder."""
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
