"""A provider of OAuth 2 that hangs, or goes on and on: for how long it is waited for, and what is said."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest

from pdkernel.connect.oauth import ProviderError, refresh
from pdkernel.connect.providers import Provider


@contextmanager
def provider(*, drips: bool) -> Iterator[Provider]:
    """A provider that takes a request and says nothing, or a blank every tenth of a second."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                caller, _ = server.accept()
                with caller:
                    caller.recv(65536)
                    if drips:
                        caller.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                    for _ in range(100):
                        time.sleep(0.1)
                        if drips:
                            caller.sendall(b" ")

        Thread(target=serve, daemon=True).start()
        yield Provider("http://127.0.0.1:9/authorize", f"http://127.0.0.1:{server.getsockname()[1]}/token", "client")


@pytest.mark.parametrize("drips", [False, True])
def test_provider_that_hangs(drips: bool) -> None:
    """It is waited for no longer than its time in all, and that is said; asking again may help."""
    began = time.monotonic()
    with (
        provider(drips=drips) as hanging,
        pytest.raises(ProviderError, match=r"did not answer within 0\.5 s") as caught,
    ):
        refresh(hanging, "refresh-token-0123456789", timeout_s=0.5)

    assert time.monotonic() - began < 3
    assert caught.value.final is False
