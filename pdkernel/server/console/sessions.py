"""
Logins of the console: one-time codes, sessions, and the limit of failed attempts.

Everything is in the memory of the server, codes and session tokens as digests only. Sessions end with the server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from pdkernel.clock import Clock

CODE_LIFETIME_S = 10 * 60
SESSION_LIFETIME_S = 12 * 60 * 60
ATTEMPT_WINDOW_S = 60
MAX_FAILED_ATTEMPTS = 10
"""Failed attempts of one address in a window; further attempts are refused unread."""
CODE_INTERVAL_S = 30
"""Minimum seconds between two printed codes, so that a program cannot flood the terminal."""
_MAX_ADDRESSES = 10_000
_CODE_BYTES = 10
_GROUP = 4


class TooManyAttemptsError(Exception):
    """The address has failed too often; the attempt was not checked."""


@dataclass(frozen=True, slots=True)
class Session:
    """
    A person who is logged in.

    Attributes:
        digest: SHA-256 of the cookie's value.
        csrf_token: The token that each form of the session carries.
        expires_at: The end, in seconds since 1970.
    """

    digest: bytes = field(repr=False)
    csrf_token: str = field(repr=False)
    expires_at: float


@dataclass(slots=True)
class _Attempts:
    since: float
    failed: int = 0


class ConsoleSessions:
    """
    The one-time codes and the sessions of one server.

    Args:
        clock: For lifetimes.
        admin_token_hash: SHA-256 of the admin token, or None if no admin token is set.
        print_code: Prints a code on the server's terminal; None without a terminal.
    """

    def __init__(
        self, clock: Clock, *, admin_token_hash: bytes | None, print_code: Callable[[str], None] | None
    ) -> None:
        self._clock = clock
        self._admin_token_hash = admin_token_hash
        self._print_code = print_code
        self._codes: list[tuple[bytes, float]] = []
        self._printed_at = -float(CODE_INTERVAL_S)
        self._sessions: dict[bytes, Session] = {}
        self._attempts: dict[str, _Attempts] = {}

    @property
    def has_terminal(self) -> bool:
        """Whether a new code can be printed."""
        return self._print_code is not None

    @property
    def has_admin_token(self) -> bool:
        """Whether the server has an admin token."""
        return self._admin_token_hash is not None

    def print_new_code(self) -> bool:
        """
        Print a new code. Return False without a terminal or right after another code.

        Earlier codes stay valid: otherwise a program could keep a person out by having codes printed.
        """
        now = self._clock.monotonic()
        if self._print_code is None or now - self._printed_at < CODE_INTERVAL_S:
            return False
        self._printed_at = now
        text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode()
        self._codes.append((_digest(text), self._now() + CODE_LIFETIME_S))
        self._print_code("-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP)))
        return True

    def log_in(self, secret: str, address: str) -> str | None:
        """
        Start a session for the one-time code or the admin token; return the cookie's value, or None for another text.

        Raises:
            TooManyAttemptsError: *address* has failed too often.
        """
        is_admin = self.is_admin_token(secret, address)
        # the two comparisons always run, and each takes the same time for every text
        if not self._use_code(secret) and not is_admin:
            return None
        self._attempts.pop(address, None)
        token, now = secrets.token_urlsafe(32), self._now()
        self._sessions = {digest: each for digest, each in self._sessions.items() if each.expires_at > now}
        digest = _digest(token)
        self._sessions[digest] = Session(digest, secrets.token_urlsafe(32), now + SESSION_LIFETIME_S)
        return token

    def is_admin_token(self, text: str, address: str) -> bool:
        """
        Whether *text* is the admin token; another text counts as a failed attempt of *address*.

        Raises:
            TooManyAttemptsError: *address* has failed too often.
        """
        now = self._clock.monotonic()
        attempts = self._attempts.get(address)
        if attempts is None or now - attempts.since >= ATTEMPT_WINDOW_S:
            if len(self._attempts) >= _MAX_ADDRESSES:
                self._attempts.clear()
            attempts = self._attempts[address] = _Attempts(now)
        if attempts.failed >= MAX_FAILED_ATTEMPTS:
            raise TooManyAttemptsError
        found = hmac.compare_digest(_digest(text.strip()), self._admin_token_hash or bytes(32))
        if not found:
            attempts.failed += 1
        return found

    def find(self, token: str) -> Session | None:
        """The session of a cookie's value, or None if it has ended."""
        session = self._sessions.get(_digest(token))
        return session if session is not None and self.is_open(session) else None

    def is_open(self, session: Session) -> bool:
        """Whether the session has not ended."""
        return session.digest in self._sessions and session.expires_at > self._now()

    def end(self, session: Session) -> None:
        """End the session."""
        self._sessions.pop(session.digest, None)

    def _use_code(self, text: str) -> bool:
        """Whether *text* is a code; a code is used once."""
        given, now = _digest("".join(letter for letter in text.upper() if letter.isalnum())), self._now()
        self._codes = [(digest, expires_at) for digest, expires_at in self._codes if expires_at > now]
        left = [each for each in self._codes if not hmac.compare_digest(given, each[0])]
        is_code = len(left) < len(self._codes)
        self._codes = left
        return is_code

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
