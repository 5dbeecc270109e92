"""
Recognises secrets whose values are not known: by the names of fields, parameters and headers, and by the forms of credentials.

This is the only table of such patterns. A comment at each pattern names where the pattern is used and why it differs from the
others. `redactor` redacts the known secrets of a run.
"""

from __future__ import annotations

import functools
import re
from urllib.parse import unquote_plus

REDACTED = "{{redacted}}"
_SECRET = "{{secret:"  # noqa: S105  # the start of a placeholder in a recording

CREDENTIAL_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}|\bxapp-\d-[A-Za-z0-9-]{20,}")),
    ("a GitHub token", re.compile(r"\b(?:gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})")),
    ("an AWS access key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("a Google API key", re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b")),
    ("a Stripe key", re.compile(r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{20,}")),
    ("an API key", re.compile(r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32,}")),
    ("a SendGrid key", re.compile(r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{32,}")),
    ("a signed token", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")),
    ("a Connect token", re.compile(r"\bctok_[A-Za-z0-9]{20,}")),
    ("a client's secret", re.compile(r"\bpds_[A-Za-z0-9_-]{20,}")),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
)
"""Forms of well-known credentials, each with its name for messages. A text with such a form is hardly ever anything else."""

# a field of an account's credentials: redacting too much costs little
_FIELD_WORDS = "key|secret|token|password|passwd"
_SECRET_FIELD = re.compile(_FIELD_WORDS, re.IGNORECASE)
# an input of a form: hiding the typed text costs nothing, so more words count
_SECRET_INPUT = re.compile(f"{_FIELD_WORDS}|auth|credential", re.IGNORECASE)
# a prop of a step that holds plain text: props such as `key` or `token_type` are mostly not secret
_CREDENTIAL_PROP = re.compile(r"password|passwd|secret|token\Z|api_?-?key\Z|private_?key", re.IGNORECASE)
# a header of an event
_SECRET_HEADER = re.compile(
    r"(authorization|proxy-authorization|cookie|set-cookie|x-api-key|api-key|x-auth-token|.*-signature(-\d+)?|.*signature.*|.*-token|x-.*-secret)\Z"
)
# a parameter of a URL or a form, or a key of JSON, in an outbound call: exact names, as the value of any `key` is often not secret
_PARAMETERS = (
    "access_token|refresh_token|id_token|token|auth_token|client_secret|secret|password|passwd|api_key|apikey"
    "|x-amz-signature|x-amz-credential|x-amz-security-token|signature"
)
_IN_FORM = re.compile(rf"((?:^|[?&;])(?:{_PARAMETERS})=)([^&#\s]+)", re.IGNORECASE)
_IN_JSON = re.compile(rf'("(?:{_PARAMETERS})"\s*:\s*")((?:[^"\\]|\\.)+)"', re.IGNORECASE)
_IN_QUOTED_JSON = re.compile(rf'(\\"(?:{_PARAMETERS})\\"\s*:\s*\\")(.+?)\\"', re.IGNORECASE)
# repetitions are bounded: a text of such names, each of which may begin a part, is otherwise searched in quadratic time
_IN_PART = re.compile(
    rf'(\bname="?(?:{_PARAMETERS})"?[ \t]{{0,8}}(?:;[^\r\n;]{{0,256}}){{0,3}}\r\n(?:[^\r\n]{{1,4096}}\r\n){{0,8}}\r\n)([^\r\n]+)',
    re.IGNORECASE,
)
# a field of an event or an export in a record that leaves the platform: hiding too much costs a comparison; in JavaScript, too
RECORDED_FIELD = (
    r"passw(?:or)?d|passwd|passphrase|secret|(?<!page)(?<!page_)token$|api[_-]?key|access[_-]?key|private[_-]?key|credential"
    r"|^auth$|authorization|cookie|session[_-]?id|signature|^pwd$|^cvv$|^cvc$|^pin$|^otp$"
)
_EVENT_FIELD = re.compile(RECORDED_FIELD, re.IGNORECASE)
RECORDED_HEADER = _SECRET_HEADER.pattern.replace(r"\Z", "$")
"""`is_masked_header` for JavaScript: the whole name in lower case."""
RECORDED_VARIABLE = f"{_FIELD_WORDS}|pass|auth|credential|pin"
_MIN_SECRET_LENGTH = 8
_MAX_VALUES = 200
"""Values whose later occurrences are redacted: each is searched in every text."""


def is_secret_field(name: str) -> bool:
    """Return whether *name* is the name of a secret field, in an account's credentials or in a JSON object that is a credential."""
    return _SECRET_FIELD.search(name) is not None


def is_secret_input(name: str) -> bool:
    """Return whether a form hides the value of the credential field *name* while a person types."""
    return _SECRET_INPUT.search(name) is not None


def is_credential_prop(name: str) -> bool:
    """Return whether the prop *name* of a step is named like a credential."""
    return _CREDENTIAL_PROP.search(name) is not None


@functools.lru_cache(maxsize=1000)
def is_secret_event_field(name: str) -> bool:
    """Return whether *name* is the name of a secret field of an event: its value is not an example."""
    return _EVENT_FIELD.search(name) is not None


def find_credential_form(text: str) -> str | None:
    """Return the name of the first of `CREDENTIAL_FORMS` in *text*, or None."""
    return next((name for name, form in CREDENTIAL_FORMS if form.search(text)), None)


@functools.lru_cache(maxsize=1000)
def is_masked_header(name: str) -> bool:
    """Return whether the value of the header *name* is masked in output and in saved files."""
    return _SECRET_HEADER.match(name.lower()) is not None


def redact_url(url: str) -> str:
    """Return *url* with the values of secret parameters redacted."""
    return _IN_FORM.sub(rf"\1{REDACTED}", url)


class SecretPatternRedactor:
    """
    Redacts values with secret names, and later occurrences of the same values.

    The latest values are stored because a server may return a secret under another name.
    """

    def __init__(self) -> None:
        self._values: dict[str, None] = {}

    def redact(self, text: str) -> str:
        """Return *text* with the values of secret names redacted, and with earlier such values of eight characters or more."""
        for pattern in (_IN_JSON, _IN_QUOTED_JSON, _IN_FORM, _IN_PART):
            for found in pattern.finditer(text):
                self._remember(found[2])
        text = _IN_JSON.sub(lambda found: f'{found[1]}{_replacement(found[2])}"', text)
        text = _IN_QUOTED_JSON.sub(lambda found: f'{found[1]}{_replacement(found[2])}\\"', text)
        for pattern in (_IN_FORM, _IN_PART):
            text = pattern.sub(lambda found: found[1] + _replacement(found[2]), text)
        for value in sorted(self._values, key=len, reverse=True):
            text = text.replace(value, REDACTED)
        return text

    def _remember(self, value: str) -> None:
        if REDACTED in value or _SECRET in value:
            return
        for form in (value, unquote_plus(value)):
            if len(form) >= _MIN_SECRET_LENGTH and form not in self._values:
                self._values[form] = None
                if len(self._values) > _MAX_VALUES:
                    del self._values[next(iter(self._values))]  # the oldest


def _replacement(value: str) -> str:
    """Return the replacement for *value*: a placeholder of a known secret stays, because it can be restored."""
    return value if _SECRET in value else REDACTED
