"""The access log: one line per request, and the notes that handlers add to that line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, MutableMapping
from typing import Any

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NOTE_KEY, _OUTCOME_KEY = "note", "outcome"
_LOG_STATE_KEY = "pdkernel.state"
"""Key in the ASGI scope under which handlers store the note of a request."""
_MAX_PATH_CHARS = 200


class AccessLogMiddleware:
    """
    Writes one line per request: method, path, status and duration. The line has no query.

    Of the path, the line has the words of the server's routes, and `*` for every other segment: keys of endpoints, tokens, ids, and
    what a caller adds to an endpoint's URL may be secrets. The note of a request names its workflow and its run.

    For a request that starts a run, the line also has the run's outcome, and is written when the run ends or pauses. The caller
    may have received a 200 earlier.

    Args:
        app: The next application.
        write_line: Writes a line.
        words: The words in paths of routes.
    """

    def __init__(self, app: ASGIApp, write_line: Callable[[str], None], words: Collection[str]) -> None:
        self._app = app
        self._write_line = write_line
        self._words = words

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
            line = f"{scope['method']} {shorten_path(scope['path'], self._words)} {status or 'cut off'} {took:.0f} ms"
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


def find_route_words(routes: Iterable[BaseRoute]) -> frozenset[str]:
    """Find the segments in the paths of *routes* that are not parameters."""
    paths = [route.path for route in routes if isinstance(route, Route)]
    return frozenset(word for path in paths for word in path.split("/") if "{" not in word)


def shorten_path(path: str, words: Collection[str]) -> str:
    """Return *path* with `*` in place of each segment that is not one of *words*, up to 200 characters."""
    # a segment takes a character and a slash at least
    segments = path.split("/", _MAX_PATH_CHARS)[:_MAX_PATH_CHARS]
    return "/".join(segment if segment in words else "*" for segment in segments)[:_MAX_PATH_CHARS]


def _escape_unprintable(text: str) -> str:
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "?" for letter in text)


def _state(scope: Scope) -> MutableMapping[str, Any]:
    state: MutableMapping[str, Any] = scope.setdefault(_LOG_STATE_KEY, {})
    return state
