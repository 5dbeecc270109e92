"""
Marks calls of steps to the URLs of their own server.

The gateway adds a secret header to such a call, with the external user and the environment of the step's run, and the server removes
the header before anything else reads the request.
So the server recognises the call of a step, although a reverse proxy or another program may call from the same address.
All server processes of a project use the same secret: the call of a step may be answered by another process.
A connection to the server's port on this machine that carries anything else than marked requests is refused (`Upstream`).
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from pdkernel.common.encode import decode_json, encode_json
from pdkernel.egress.message import DEFAULT_PORTS, Headers, Request
from pdkernel.egress.outbound_policy import is_loopback

CALLER_HEADER = b"x-pdkernel-caller"


@dataclass(frozen=True, slots=True)
class StepCaller:
    """
    The run whose step calls its own server.

    Attributes:
        external_user_id: The external user of the run, or None.
        environment: The environment of the run; None if no step runs in the process that calls.
    """

    external_user_id: str | None = None
    environment: str | None = None


NO_STEP = StepCaller()
"""The caller of a process in which no step runs at the moment."""


class OwnServer:
    """
    The server whose workflows use a gateway; at first there is none.

    Attributes:
        local_port: The server's port on this machine, or None if it is not known.
    """

    def __init__(self) -> None:
        self.local_port: int | None = None
        self._origins: list[tuple[str, str, int]] = []
        self._secret: bytes | None = None

    def announce(self, base_url: str, secret: bytes, *, local_url: str | None = None) -> None:
        """
        Set the URLs of the server, and the project's secret.

        Args:
            base_url: The base URL. A call by plain HTTP to another machine is not marked.
            secret: The project's secret for the mark.
            local_url: The URL of the server's port on this machine, behind *base_url*; None if *base_url* is that.
        """
        self._secret = secret
        self._origins = []
        for url in filter(None, (base_url, local_url)):
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
            if is_loopback(host):
                self.local_port = port
            if is_loopback(host) or parts.scheme == "https":
                self._origins.append((parts.scheme, host, port))

    @property
    def uses_tls(self) -> bool:
        """Whether steps call the server by TLS, perhaps with a certificate of the project's own authority (`serve --tls`)."""
        return any(scheme == "https" for scheme, _, _ in self._origins)

    def is_called(self, scheme: str, host: str, port: int) -> bool:
        """Return whether a call to that origin is one to the server, which gets the mark."""
        return any(
            (scheme, port) == (its_scheme, its_port)
            and (host == its_host or (is_loopback(its_host) and is_loopback(host)))
            for its_scheme, its_host, its_port in self._origins
        )

    def is_at(self, address: str, port: int) -> bool:
        """Return whether the server listens at that address, which a connection has reached by any name."""
        return port == self.local_port and is_loopback(address)

    def mark(self, request: Request, headers: Headers, caller: StepCaller) -> Headers:
        """Return *headers* with the mark of *caller* if *request* goes to the server; a mark that the step wrote is removed."""
        others = [(name, value) for name, value in headers if name.lower() != CALLER_HEADER]
        if self._secret is None or not self.is_called(request.scheme, request.host, request.port):
            return others
        run = urlsafe_b64encode(encode_json([caller.external_user_id, caller.environment]))
        return [*others, (CALLER_HEADER, self._secret + b"." + run)]

    def take_mark(self, headers: Sequence[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], StepCaller | None]:
        """Return the headers of a received request without its mark, and who has called if it had the right one."""
        given = [value for name, value in headers if name == CALLER_HEADER]
        others = [(name, value) for name, value in headers if name != CALLER_HEADER]
        secret, _, run = given[0].rpartition(b".") if len(given) == 1 else (b"", b"", b"")
        if self._secret is None or not secret or not hmac.compare_digest(secret, self._secret):
            return others, None
        return others, StepCaller(*decode_json(urlsafe_b64decode(run), tuple[str | None, str | None]))
