"""The access log: one line per request, and the notes that handlers add to that line."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NOTE_KEY, _OUTCOME_KEY = "note", "outcome"
_LOG_STATE_KEY = "pdkernel.state"
"""Key in the ASGI scope under which handlers store the note of a request."""
_TOKEN_LIKE = re.compile(r"ctok_[^\s/]*|[^\s/]{41,}|ey[A-Za-z0-9_-]{20,}[^\s/]*|(?<=\d\.)[0-9a-f]{32}")


class AccessLogMiddleware:
    """
    Writes one line per request: method, path, status and duration. The line has no query and no token.

    For a request that starts a run, the line also has the run's outcome, and is written when the run ends or pauses. The caller
    may have received a 200 earlier.

    Args:
        app: The next application.
        write_line: Writes a line.
    """

    def __init__(self, app: ASGIApp, write_line: Callable[[str], None]) -> None:
        self._app = app
        self._write_line = write_line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and write the line after the response."""
        began = time.monotonic()
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            took = (time.monotonic() - began) * 1000
            line = f"{scope['method']} {redact_path(scope)} {status or 'cut off'} {took:.0f} ms"
            note, outcome = _state(scope).get(_NOTE_KEY), _state(scope).get(_OUTCOME_KEY)
            if outcome is None:
                self._write_line(_escape_unprintable(f"{line}  {note}") if note else line)
            elif outcome.done():
                self._write_line(_escape_unprintable(f"{line}  {note} {outcome.result()}"))
            else:
                outcome.add_done_callback(
                    lambda done: self._write_line(_escape_unprintable(f"{line}  {note} {done.result()}"))
                )


def add_access_log_note(scope: Scope, words: str, outcome: asyncio.Future[str] | None = None) -> None:
    """Add *words* to the request's line; with *outcome*, the line waits for the outcome."""
    _state(scope).update({_NOTE_KEY: words, _OUTCOME_KEY: outcome})


def redact_path(scope: Scope) -> str:
    """The path for the log: token-like parts masked, control characters replaced."""
    # some Python SDKs send a whole URL as the path, with its query
    path = scope["path"].partition("?")[0]
    return _escape_unprintable(_TOKEN_LIKE.sub("***", path)[:200])


def _escape_unprintable(text: str) -> str:
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _state(scope: Scope) -> MutableMapping[str, Any]:
    state: MutableMapping[str, Any] = scope.setdefault(_LOG_STATE_KEY, {})
    return state
