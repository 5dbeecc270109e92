"""A local project with its users and accounts, and an HTTP endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.conftest import connect, directory, run, runtime
from tests.operations.http_endpoint import HttpEndpoint, serve_endpoint

__all__ = ["connect", "directory", "run", "runtime"]


@pytest.fixture
def endpoint() -> Iterator[HttpEndpoint]:
    """An endpoint that responds with status 200."""
    with serve_endpoint() as endpoint:
        yield endpoint
