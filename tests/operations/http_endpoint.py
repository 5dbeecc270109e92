"""An HTTP server with an endpoint and a token endpoint, which keeps its requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.http_servers import Answer, AnsweringServer, SentRequest, serve


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

    def respond(request: SentRequest) -> Answer:
        endpoint.requests.append((request.method, request.path, dict(request.headers), request.json()))
        status, answer = endpoint.status, dict[str, Any](ok=True)
        if "/oauth/token" in request.path:
            issued = {"access_token": endpoint.token, "token_type": "Bearer", "expires_in": 3600}
            status, answer = (200, issued) if endpoint.token else (401, {})
        return status, answer, {"x-pd-status": str(status), "x-other": "hidden"}

    with serve(AnsweringServer(respond)) as server:
        endpoint.url = f"{server.url}/eoabc"
        yield endpoint
