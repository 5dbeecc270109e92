"""
A DNS server that assigns each name an address of its own instead of resolving it.

Programs that resolve names themselves are redirected to the server of their caller token. When they connect to an assigned address,
the gateway finds the name of the address. Addresses are used again after many names, so each token has a server of its own, which
answers redirected sockets only: no step chooses the name of an address that another one has asked for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

_FIRST = int(ipaddress.IPv4Address("198.19.0.1"))
_COUNT = 65_000
_HEAD = struct.Struct("!6H")
_A, _INTERNET = 1, 1
_ANSWERED = 0x8180  # a response, with recursion desired and available
_NAME_OF_QUESTION = b"\xc0\x0c"
_TTL_S = 1
_MAX_ASKERS = 1024


class NameServer:
    """
    Assigns addresses of 198.19.0.0/16 (reserved for tests, RFC 2544) to names, and answers DNS questions.

    Attributes:
        socket: Non-blocking UDP socket on this machine; call `answer` when it is readable.
    """

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self._address_of: dict[str, str] = {}
        self._name_of: dict[str, str] = {}
        self._assigned = 0
        self._askers: dict[int, None] = {}

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        return int(self.socket.getsockname()[1])

    def name(self, address: str) -> str:
        """Return the name that *address* is assigned to, or *address*."""
        return self._name_of.get(address, address)

    def admit(self, port: int) -> None:
        """Answer questions from *port* of this machine; of many ports, the latest are admitted."""
        self._askers.pop(port, None)
        self._askers[port] = None
        if len(self._askers) > _MAX_ASKERS:
            del self._askers[next(iter(self._askers))]

    def answer(self) -> None:
        """Answer the waiting question, if its asker is admitted."""
        with contextlib.suppress(OSError, ValueError, IndexError, struct.error):
            question, asker = self.socket.recvfrom(4096)
            if asker[1] in self._askers:
                self.socket.sendto(self._reply(question), asker)

    def close(self) -> None:
        """Stop listening."""
        self.socket.close()

    def _reply(self, question: bytes) -> bytes:
        number, _, count, *_ = _HEAD.unpack_from(question)
        name, end = _read_name(question)
        kind, group = struct.unpack_from("!2H", question, end)
        query = question[_HEAD.size : end + 4]
        if count != 1 or (kind, group) != (_A, _INTERNET):
            return _HEAD.pack(number, _ANSWERED, 1, 0, 0, 0) + query
        address = ipaddress.IPv4Address(self._address(name)).packed
        record = _NAME_OF_QUESTION + struct.pack("!HHIH", _A, _INTERNET, _TTL_S, 4) + address
        return _HEAD.pack(number, _ANSWERED, 1, 1, 0, 0) + query + record

    def _address(self, name: str) -> str:
        known = self._address_of.get(name)
        if known is None:
            known = str(ipaddress.IPv4Address(_FIRST + self._assigned % _COUNT))
            self._assigned += 1
            self._address_of.pop(self._name_of.get(known, ""), None)
            self._address_of[name] = known
            self._name_of[known] = name
        return known


def _read_name(question: bytes) -> tuple[str, int]:
    """Return the name in the question, and the offset of its end. Raises `ValueError` or `IndexError`."""
    at, labels = _HEAD.size, []
    while length := question[at]:
        if length > 63 or at + length >= len(question):
            raise ValueError(length)
        labels.append(question[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1
