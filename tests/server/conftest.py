"""Fixtures of the server's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.deploying import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A back end that receives webhooks."""
    receiver = Receiver()
    yield receiver
    receiver.close()
