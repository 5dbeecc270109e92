"""What all tests share: the sweep (properties with many more examples, for `make slow`), compiled Go packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("sweep", max_examples=1000, deadline=None)


@pytest.fixture(scope="session")
def go_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Go steps are compiled: one folder for all tests, since Go's own packages take some seconds."""
    return tmp_path_factory.mktemp("go")
