"""Parses the start of a client's TLS: the server name and the protocols that it offers (RFC 8446, RFC 6066, RFC 7301)."""

from __future__ import annotations

from dataclasses import dataclass

HANDSHAKE_RECORD = 0x16
_RECORD_HEADER = 5
_SERVER_NAME = 0
_ALPN = 16


@dataclass(frozen=True, slots=True)
class ClientHello:
    """
    The first message of a TLS client.

    Attributes:
        server_name: The requested server name (SNI), or None.
        protocols: Protocols offered by ALPN, in order; empty if there are none.
    """

    server_name: str | None
    protocols: tuple[str, ...]

    @property
    def speaks_http1(self) -> bool:
        """Whether HTTP/1.1 is possible: it is offered, or no protocol is offered."""
        return not self.protocols or "http/1.1" in self.protocols


def hello_is_complete(data: bytes) -> bool:
    """Whether *data* has the complete ClientHello, in any number of records."""
    message = _message(data)
    return len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big")


def parse_client_hello(data: bytes) -> ClientHello:
    """Parse a ClientHello. Malformed data yields an empty result: the TLS library then reports the error."""
    try:
        return _read(_message(data))
    except (IndexError, UnicodeDecodeError):
        return ClientHello(None, ())


def _message(data: bytes) -> bytes:
    """The handshake message, joined from its records."""
    message = b""
    while len(data) >= _RECORD_HEADER and data[0] == HANDSHAKE_RECORD:
        size = int.from_bytes(data[3:5], "big")
        message += data[_RECORD_HEADER : _RECORD_HEADER + size]
        data = data[_RECORD_HEADER + size :]
    return message


def _read(message: bytes) -> ClientHello:
    at = 4 + 2 + 32  # message header, version, random
    at += 1 + message[at]  # session id
    at += 2 + int.from_bytes(message[at : at + 2], "big")  # cipher suites
    at += 1 + message[at]  # compression methods
    end = at + 2 + int.from_bytes(message[at : at + 2], "big")
    at += 2
    name: str | None = None
    protocols: list[str] = []
    while at + 4 <= min(end, len(message)):
        kind = int.from_bytes(message[at : at + 2], "big")
        size = int.from_bytes(message[at + 2 : at + 4], "big")
        content = message[at + 4 : at + 4 + size]
        if kind == _SERVER_NAME and len(content) > 5:
            name = content[5 : 5 + int.from_bytes(content[3:5], "big")].decode("ascii")
        elif kind == _ALPN:
            protocols = _protocols(content[2:])
        at += 4 + size
    return ClientHello(name, tuple(protocols))


def _protocols(content: bytes) -> list[str]:
    found = []
    while content:
        found.append(content[1 : 1 + content[0]].decode("ascii"))
        content = content[1 + content[0] :]
    return found
