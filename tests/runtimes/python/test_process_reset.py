"""Descriptors that a Python step leaves open and that runs of others would notice."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from pdkernel.runtimes.python.process_reset import holds_shared_descriptor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tests read /proc, which only Linux has")


def connected(opened: ExitStack, _: Path) -> None:
    """A connection to a server that has ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        opened.enter_context(socket.create_connection(server.getsockname()))
        opened.enter_context(server.accept()[0])


def listening(opened: ExitStack, _: Path) -> None:
    """A server on a port."""
    opened.enter_context(socket.create_server(("127.0.0.1", 0)))


def bound(opened: ExitStack, _: Path) -> None:
    """A socket of datagrams with a port."""
    opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("127.0.0.1", 0))


def abstract(opened: ExitStack, folder: Path) -> None:
    """A server on an abstract socket."""
    server = opened.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(f"\0{folder.name}{os.getpid()}")
    server.listen()


def pair(opened: ExitStack, _: Path) -> None:
    """Two sockets that are connected to one another."""
    for each in socket.socketpair():
        opened.enter_context(each)


def unbound(opened: ExitStack, _: Path) -> None:
    """A socket without an address."""
    opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def file(opened: ExitStack, folder: Path) -> None:
    """An open file."""
    opened.enter_context((folder / "file").open("w"))


def locked(opened: ExitStack, folder: Path) -> None:
    """A locked file."""
    fcntl.flock(opened.enter_context((folder / "locked").open("w")), fcntl.LOCK_EX)


@pytest.mark.parametrize(
    ("leave", "expected"),
    [
        (connected, False),
        (listening, True),
        (bound, True),
        (abstract, True),
        (pair, False),
        (unbound, False),
        (file, False),
        (locked, True),
    ],
)
def test_descriptor_that_other_runs_notice_is_found(
    tmp_path: Path, leave: Callable[[ExitStack, Path], None], expected: bool
) -> None:
    """A socket with an address and without a peer counts, and a locked file; connections and open files do not."""
    known = [each.name for each in list(Path("/proc/self/fd").iterdir()) if each.exists()]
    with ExitStack() as opened:
        leave(opened, tmp_path)

        assert holds_shared_descriptor(known) == expected

    assert not holds_shared_descriptor(known)
