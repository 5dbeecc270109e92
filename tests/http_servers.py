"""HTTP servers of tests, on the loopback interface."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

Server = TypeVar("Server", bound=ThreadingHTTPServer)


class JsonHandler(BaseHTTPRequestHandler):
    """Sends the status and the value of `answer`: the value as JSON, or unchanged if it is bytes."""

    def answer(self, body: bytes) -> tuple[int, Any]:
        """The status and the value of the response to a request with *body*."""
        raise NotImplementedError

    def _respond(self) -> None:
        status, value = self.answer(self.rfile.read(int(self.headers.get("content-length") or 0)))
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        with suppress(BrokenPipeError, ConnectionResetError):  # the client has disconnected
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = _respond  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Log nothing."""


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
