"""
Logins of the console: one-time codes, sessions, and the limit of failed attempts.

Codes and sessions are in the project's database, for all server processes. Each process counts failed attempts itself.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from pdkernel.project import Project

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
        token: The cookie's value.
        csrf_token: The token that each form of the session carries.
        expires_at: The end, in seconds since 1970.
    """

    token: str = field(repr=False)
    csrf_token: str = field(repr=False)
    expires_at: float


@dataclass(slots=True)
class _Attempts:
    since: float
    failed: int = 0


class ConsoleSessions:
    """
    The one-time codes and the sessions of a project's servers.

    A method that reads or writes the database has a note about that.

    Args:
        project: Stores codes and sessions.
        admin_token_hash: SHA-256 of the admin token, or None if no admin token is set.
        print_code: Prints a code on the server's terminal; None without a terminal.
        on_code_used: Receives each code with which a person has logged in, in a thread.
    """

    def __init__(
        self,
        project: Project,
        *,
        admin_token_hash: bytes | None = None,
        print_code: Callable[[str], None] | None = None,
        on_code_used: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_code_used = on_code_used
        self._clock = project.clock
        self._logins = project.console_logins
        self._vault = project.vault
        self._admin_token_hash = admin_token_hash
        self._print_code = print_code
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
        Print a new code, and write it to the database. Return False without a terminal or right after another code.

        Earlier codes stay valid: otherwise a program could keep a person out by having codes printed.
        """
        code = self._new_code(CODE_INTERVAL_S) if self._print_code is not None else None
        if code is None or self._print_code is None:
            return False
        self._print_code(code)
        return True

    def create_code(self) -> str:
        """Return a new code for the owner of the server's process, and write it to the database."""
        code = self._new_code(0)
        assert code is not None, "there is no interval"
        return code

    def _new_code(self, interval_s: float) -> str | None:
        text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode()
        if not self._logins.add_code(text, CODE_LIFETIME_S, interval_s=interval_s):
            return None
        return "-".join(text[start : start + _GROUP] for start in range(0, len(text), _GROUP))

    def log_in(self, secret: str, address: str) -> str | None:
        """
        Start a session for the one-time code or the admin token, in the database.

        Returns:
            The cookie's value, or None for another text.

        Raises:
            TooManyAttemptsError: *address* has failed too often.
        """
        is_admin = self.is_admin_token(secret, address)
        code = "".join(letter for letter in secret.upper() if letter.isalnum())
        if self._logins.use_code(code):
            self._on_code_used(code)
        elif not is_admin:
            return None
        self._attempts.pop(address, None)
        token = secrets.token_urlsafe(32)
        self._logins.add_session(token, SESSION_LIFETIME_S)
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
        """The session of a cookie's value in the database, or None if it has ended."""
        expires_at = self._logins.find_session(token) if token else None
        if expires_at is None:
            return None
        signature = self._vault.sign(f"console csrf\0{token}")
        return Session(token, base64.urlsafe_b64encode(signature).decode(), expires_at)

    def is_open(self, session: Session) -> bool:
        """Whether the session has not ended, from the database."""
        return self.find(session.token) is not None

    def end(self, session: Session) -> None:
        """End the session, in the database."""
        self._logins.end_session(session.token)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
