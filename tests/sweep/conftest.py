"""The apps of every test run, installed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.sweep.apps import FEW
from tests.sweep.sweep import install


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the apps: `PDKERNEL_SWEEP`, which is kept, or a new one of this test run."""
    kept = os.environ.get("PDKERNEL_SWEEP")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("apps")
    install(folder, FEW)
    return folder
