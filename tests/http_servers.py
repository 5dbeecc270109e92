"""HTTP servers of tests, on the loopback interface."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


Answer = tuple[int, Any] | tuple[int, Any, Mapping[str, str]]
"""Status and value of a response, and its headers in lower case: the value is sent as JSON, or unchanged if it is bytes."""


class JsonHandler(BaseHTTPRequestHandler, ABC):
    """Sends the result of `answer`."""

    @abstractmethod
    def answer(self, body: bytes) -> Answer:
        """The response to a request with *body*."""

    def _read_body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("content-length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _respond(self) -> None:
        status, value, *more = self.answer(b"".join(self._read_body()))
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content))}
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has disconnected
            self.send_response(status)
            for name, text in {**headers, **(more[0] if more else {})}.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _respond  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@dataclass(frozen=True)
class SentRequest:
    """
    A received request.

    Attributes:
        method: The method.
        path: The path and the query.
        headers: The headers, with names in lower case; repeated ones are joined by commas.
        body: The body.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, or None without a body."""
        return json.loads(self.body) if self.body else None


class AnsweringServer(ThreadingHTTPServer):
    """
    A server on *port*, by default a free one, that answers each request by a function.

    Attributes:
        requests: The requests so far.
    """

    def __init__(self, answer: Callable[[SentRequest], Answer], *, port: int = 0) -> None:
        requests: list[SentRequest] = []

        class Handler(JsonHandler):
            def answer(self, body: bytes) -> Answer:
                headers = {name.lower(): ", ".join(self.headers.get_all(name, [])) for name in self.headers}
                request = SentRequest(self.command, self.path, headers, body)
                requests.append(request)
                return answer(request)

        super().__init__(("127.0.0.1", port), Handler)
        self.requests = requests

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serve(server: Server) -> Iterator[Server]:
    """Serve requests in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
