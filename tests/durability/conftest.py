"""Fixtures: a back end that receives messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.http_servers import AnsweringServer, serve


@pytest.fixture
def receiver() -> Iterator[AnsweringServer]:
    """A back end that receives messages."""
    with serve(AnsweringServer(lambda _: (204, b""))) as server:
        yield server
