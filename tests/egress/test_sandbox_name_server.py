"""The name server of sandboxed steps, over UDP."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator

import pytest

from pdkernel.egress.sandbox_name_server import NameServer


@pytest.fixture
def server() -> Iterator[NameServer]:
    """A name server."""
    server = NameServer()
    yield server
    server.close()


def question(name: str, *, kind: int = 1, group: int = 1, count: int = 1) -> bytes:
    """A question for the address of *name*, with the number 7."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack("!6H", 7, 0x0100, count, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, group)


def ask(server: NameServer, asked: bytes) -> bytes | None:
    """The answer to *asked*, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0)
        client.connect(("127.0.0.1", server.port))
        server.admit(client.getsockname()[1])
        client.send(asked)
        server.answer()
        try:
            return client.recv(4096)
        except BlockingIOError:
            return None


def address(server: NameServer, name: str) -> str:
    """The address that *server* assigns to *name*."""
    answer = ask(server, question(name))
    assert answer is not None
    return str(ipaddress.IPv4Address(answer[-4:]))


def test_an_answer(server: NameServer) -> None:
    """The answer repeats the question and has one record: the address, valid for a second."""
    asked = question("api.example.test")

    assert ask(server, asked) == (
        struct.pack("!6H", 7, 0x8180, 1, 1, 0, 0)
        + asked[12:]
        + b"\xc0\x0c"
        + struct.pack("!HHIH", 1, 1, 1, 4)
        + bytes([198, 19, 0, 1])
    )


def test_each_name_has_an_address(server: NameServer) -> None:
    """A name keeps its address in any case of letters; another name has the next address."""
    assert [address(server, name) for name in ("a.test", "b.test", "A.Test")] == [
        "198.19.0.1",
        "198.19.0.2",
        "198.19.0.1",
    ]
    assert [server.name(each) for each in ("198.19.0.1", "198.19.0.2", "198.19.0.3")] == [
        "a.test",
        "b.test",
        "198.19.0.3",
    ]


@pytest.mark.parametrize(
    "asked",
    [
        question("a.test", kind=28),
        question("a.test", kind=16),
        question("a.test", group=3),
        question("a.test", count=2),
    ],
    ids=["AAAA", "TXT", "CHAOS", "two"],
)
def test_other_questions_have_no_address(server: NameServer, asked: bytes) -> None:
    """A question for another record is answered without a record, and assigns nothing."""
    assert ask(server, asked) == struct.pack("!6H", 7, 0x8180, 1, 0, 0, 0) + asked[12:]
    assert server.name("198.19.0.1") == "198.19.0.1"


@pytest.mark.parametrize(("name", "answered"), [("a" * 63, True), ("a" * 64, False), ("a." * 20 + "test", True)])
def test_the_length_of_a_label(server: NameServer, name: str, answered: bool) -> None:
    """A label has at most 63 characters; a longer one is a pointer, which a question does not have."""
    assert (ask(server, question(name)) is not None) == answered


@pytest.mark.parametrize(
    "asked", [b"", b"\0" * 11, question("a.test")[:15], question("a.test")[:-1], question("é.test")]
)
def test_an_invalid_question_is_not_answered(server: NameServer, asked: bytes) -> None:
    """A datagram that is not a complete question is ignored."""
    assert ask(server, asked) is None
    assert address(server, "a.test") == "198.19.0.1"


def test_a_socket_that_was_not_redirected_gets_no_answer(server: NameServer) -> None:
    """A step cannot ask the server of another step, and so not change which name has an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0)
        client.sendto(question("evil.test"), ("127.0.0.1", server.port))
        server.answer()
        with pytest.raises(BlockingIOError):
            client.recv(4096)

    assert address(server, "api.test") == "198.19.0.1"
