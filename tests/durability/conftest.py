"""Fixtures: a process that forks servers, and a back end that receives messages."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cli.fork_server import ROOT, ForkServer
from tests.http_servers import AnsweringServer, serve


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """One process that forks a child for each server."""
    server = ForkServer({"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)})
    yield server
    server.close()


@pytest.fixture
def receiver() -> Iterator[AnsweringServer]:
    """A back end that receives messages."""
    with serve(AnsweringServer(lambda _: (204, b""))) as server:
        yield server
