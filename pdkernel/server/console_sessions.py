"""
Logins of the console: the admin token, one-time codes, sessions, and the limit of failed codes.

Codes and sessions are in the project's database, for all server processes. Each process counts failed codes itself. The admin
token has no limit of attempts: it is too long to guess, and a limit would let others keep its owner out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import math
import re
import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from pdkernel.errors import RequestError
from pdkernel.storage import Project
from pdkernel.storage.short_lived_tokens import hash_token

CODE_LIFETIME_S = 10 * 60
SESSION_LIFETIME_S = 12 * 60 * 60
ATTEMPT_WINDOW_S = 60
MAX_FAILED_ATTEMPTS = 10
"""Failed codes of one network in a window; further codes of the network are refused unread."""
MAX_FAILED_ATTEMPTS_OF_ALL = 1000
"""Failed codes of all networks in a window; further codes are refused unread. Limits the number of counted networks, too."""
ADMIN_TOKEN_VARIABLE = "PDKERNEL_ADMIN_TOKEN"  # noqa: S105 - the name of a variable
MIN_ADMIN_TOKEN_BITS = 128
CODE_INTERVAL_S = 30
"""Minimum seconds between two printed codes, so that a program cannot flood the terminal."""
_CODE_BYTES = 10
_GROUP = 4
_IPV6_NETWORK_BITS = 64
"""Prefix of an IPv6 network whose addresses one client can use at will."""
_ALPHABETS = (
    (r"[0-9]+", 10.0),
    (r"[0-9a-f]+|[0-9A-F]+", 16.0),
    (r"(?:[a-z]|[\W_])+|(?:[A-Z]|[\W_])+", 4.0),
    (r"\w+", 62.0),
)
"""Forms of a token and the choices per character that they count for; letters of one case without digits may be words."""
_OTHER_ALPHABET = 64.0
_MIN_STEPS, _MIN_SHARE_OF_TRIPLES = 8, 0.8
"""A random token has more different distances between neighbours, and repeats fewer triples of characters."""


class TooManyAttemptsError(Exception):
    """There were too many failed codes; the code was not checked."""


def hash_admin_token(token: str) -> bytes:
    """
    Return the SHA-256 of *token*, by which `ConsoleSessions` recognizes the admin token.

    Raises:
        RequestError: *token* is easier to guess than a random one of 128 bits.
    """
    if _estimate_bits(token) < MIN_ADMIN_TOKEN_BITS:
        raise RequestError(
            f"The admin token in {ADMIN_TOKEN_VARIABLE} is too weak: it can be guessed, because it is short or regular.",
            fix=f"Set a random token of at least {MIN_ADMIN_TOKEN_BITS} bits. To make one: openssl rand -hex 32",
        )
    return _digest(token)


def _estimate_bits(token: str) -> float:
    """Return the bits of a random text with the length and the characters of *token*; 0 if *token* repeats or counts."""
    beginning = token[:64]
    steps = {ord(second) - ord(first) for first, second in pairwise(beginning)}
    triples = [beginning[start : start + 3] for start in range(len(beginning) - 2)]
    if len(steps) < _MIN_STEPS or len(set(triples)) < _MIN_SHARE_OF_TRIPLES * len(triples):
        return 0.0
    choices = next((count for form, count in _ALPHABETS if re.fullmatch(form, token)), _OTHER_ALPHABET)
    return len(token) * math.log2(choices)


@dataclass(frozen=True, slots=True)
class ConsoleSession:
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

    @property
    def name(self) -> str:
        """A name by which records tell sessions apart; it does not reveal the token."""
        return f"console session {hash_token(self.token)[:6]}"


@dataclass(slots=True)
class _Attempts:
    """Failed codes since a moment: of all networks, and by network."""

    since: float
    of_all: int = 0
    by_network: Counter[str] = field(default_factory=Counter)


class ConsoleSessions:
    """
    The one-time codes and the sessions of a project's servers.

    A method that reads or writes the database has a note about that.

    Args:
        project: Stores codes and sessions.
        admin_token_hash: From `hash_admin_token`, or None if no admin token is set.
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
        self._one_transaction = project.one_transaction
        self._admin_token_hash = admin_token_hash
        self._print_code = print_code
        self._attempts = _Attempts(project.clock.monotonic())

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
            The cookie's value, or None for another text, which counts as a failed code of the network of *address*.

        Raises:
            TooManyAttemptsError: *secret* is not the admin token, and there were too many failed codes.
        """
        with self._one_transaction():  # a crash does not use the code up without a session
            if not self._use_secret(secret, address):
                return None
            token = secrets.token_urlsafe(32)
            self._logins.add_session(token, SESSION_LIFETIME_S)
        return token

    def exchange(self, secret: str, address: str) -> str | None:
        """Exchange the one-time code or the admin token for a new code at another host name. As `log_in` otherwise."""
        with self._one_transaction():
            return self.create_code() if self._use_secret(secret, address) else None

    def _use_secret(self, secret: str, address: str) -> bool:
        network = _network(address)
        if not self.is_admin_token(secret):
            attempts = self._current_attempts()
            if attempts.of_all >= MAX_FAILED_ATTEMPTS_OF_ALL or attempts.by_network[network] >= MAX_FAILED_ATTEMPTS:
                raise TooManyAttemptsError
            # counted before the database is asked, so that codes that are sent at once do not pass the limit together
            attempts.of_all += 1
            attempts.by_network[network] += 1
            code = "".join(letter for letter in secret.upper() if letter.isalnum())
            if not self._logins.use_code(code):
                return False
            attempts.of_all -= 1
            self._on_code_used(code)
        self._attempts.by_network.pop(network, None)
        return True

    def _current_attempts(self) -> _Attempts:
        now = self._clock.monotonic()
        if now - self._attempts.since >= ATTEMPT_WINDOW_S:
            self._attempts = _Attempts(now)
        return self._attempts

    def is_admin_token(self, text: str) -> bool:
        """Return whether *text* is the admin token."""
        return self._admin_token_hash is not None and hmac.compare_digest(_digest(text.strip()), self._admin_token_hash)

    def find(self, token: str) -> ConsoleSession | None:
        """Return the session of a cookie's value in the database, or None if it has ended."""
        expires_at = self._logins.find_session(token) if token else None
        if expires_at is None:
            return None
        signature = self._vault.sign(f"console csrf\0{token}")
        return ConsoleSession(token, base64.urlsafe_b64encode(signature).decode(), expires_at)

    def is_open(self, session: ConsoleSession) -> bool:
        """Return whether the session has not ended, from the database."""
        return self.find(session.token) is not None

    def end(self, session: ConsoleSession) -> None:
        """End the session, in the database."""
        self._logins.end_session(session.token)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _network(address: str) -> str:
    """Return the network of a client's address: an IPv4 address alone, an IPv6 address with its neighbours."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False))
