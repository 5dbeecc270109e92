"""Hosts on this machine for a single client, and a gateway that resolves names to them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pdkernel.egress import Gateway
from tests.egress.kit import (
    Loop,
    read_until,
)

Play = Callable[[socket.socket], None]


@contextmanager
def host(play: Play, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A host that runs *play* with its first client; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)

        def serve() -> None:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.settimeout(60)
            with client:
                if context is None:
                    play(client)
                    return
                with context.wrap_socket(client, server_side=True) as secure:
                    play(secure)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.close()
        thread.join(60)


def echo(sock: socket.socket) -> None:
    """Send one received piece back."""
    sock.sendall(sock.recv(100))


def greet(sock: socket.socket) -> None:
    """Send the first message, as a database does."""
    sock.sendall(b"220 ready\r\n")
    sock.recv(100)


def websocket(sock: socket.socket) -> None:
    """Accept a WebSocket, and send one received piece back."""
    head = read_until(sock, b"\r\n\r\n")
    agreed = b"upgrade: websocket" in head.lower()
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" if agreed else b"HTTP/1.1 400 No\r\n\r\n")
    sock.sendall(sock.recv(100))


@contextmanager
def gateway_to(
    loop: Loop, folder: Path, port: int, *, meant: int, ca: Path | None = None
) -> Iterator[tuple[Gateway, str]]:
    """A gateway that routes db.example.test:*meant* to *port* of this machine, and a caller token."""
    resolve = {("db.example.test", meant): ("127.0.0.1", port), ("slack.com", meant): ("127.0.0.1", port)}
    gateway = loop.run(Gateway.start(folder, host_overrides=resolve, extra_ca_file=ca, environ={}))
    try:
        yield gateway, gateway.issue_token()
    finally:
        loop.run(gateway.close())


def client_context(ca: Path, *protocols: str) -> ssl.SSLContext:
    """A client's TLS context that trusts *ca* and offers *protocols*."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(list(protocols))
    return context
