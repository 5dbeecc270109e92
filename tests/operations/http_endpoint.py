"""An HTTP server with an endpoint and a token endpoint, which keeps its requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class HttpEndpoint:
    """
    The server.

    Attributes:
        url: The URL of the endpoint.
        status: The status of the endpoint's responses.
        token: The token that the token endpoint returns; None refuses the client.
        requests: Method, path, headers in lower case, and body of each request.
    """

    url: str = ""
    status: int = 200
    token: str | None = "issued"
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)

    @property
    def calls(self) -> list[tuple[str, str, dict[str, str], Any]]:
        """The requests of the endpoint, without those of the token endpoint."""
        return [request for request in self.requests if "/oauth/token" not in request[1]]


@contextmanager
def serve_endpoint() -> Iterator[HttpEndpoint]:
    """A server on a free port, until the end of the block."""
    endpoint = HttpEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            endpoint.requests.append((self.command, self.path, headers, json.loads(body) if body else None))
            status, answer = endpoint.status, dict[str, Any](ok=True)
            if "/oauth/token" in self.path:
                issued = {"access_token": endpoint.token, "token_type": "Bearer", "expires_in": 3600}
                status, answer = (200, issued) if endpoint.token else (401, {})
            sent = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(sent)))
            self.send_header("x-pd-status", str(status))
            self.send_header("x-other", "hidden")
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = respond  # noqa: N815 (names of the base class)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint.url = f"http://127.0.0.1:{server.server_port}/eoabc"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()
