"""
What a connection speaks, by its first bytes.

Knows the first bytes of TLS, HTTP/1.1 and HTTP/2. Knows nothing of sockets.
"""

from __future__ import annotations

import re
from typing import Literal

from pdkernel.egress.tls.client_hello import HANDSHAKE_RECORD

WireProtocol = Literal["tls", "http1", "http2", "raw"]

CLIENT_FIRST_PORTS = frozenset({80, 443, 8080, 8443})
"""Where the client speaks first for certain: silence there is a slow client."""

SERVER_FIRST_TIMEOUT_S = 0.3
"""Elsewhere, a client that says nothing for so long waits for the server: a database, a mail server."""

_REQUEST_LINE = re.compile(rb"[A-Z][A-Z-]{2,19} [^\r\n]+ HTTP/1\.[01]\r?\n")
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n"


def is_conclusive(seen: bytes) -> bool:
    """Whether *seen* is enough to tell the kind."""
    if seen[:1] == bytes([HANDSHAKE_RECORD]):
        return True
    return b"\n" in seen or not re.match(rb"[A-Z-]{1,20}( |\Z)", seen)


def detect_protocol(seen: bytes) -> WireProtocol:
    """What *seen* is the beginning of."""
    if seen[:1] == bytes([HANDSHAKE_RECORD]):
        return "tls"
    if seen.startswith(_HTTP2_PREFACE):
        return "http2"
    # A request line longer than what can be looked at is still one.
    if _REQUEST_LINE.match(seen) or (b"\n" not in seen and re.match(rb"[A-Z][A-Z-]{2,19} /", seen)):
        return "http1"
    return "raw"


def sniff_timeout(port: int) -> float | None:
    """Seconds of silence after which a connection to *port* is taken as one where the server speaks first."""
    return None if port in CLIENT_FIRST_PORTS else SERVER_FIRST_TIMEOUT_S
