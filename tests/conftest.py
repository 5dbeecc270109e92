"""Fixtures for all tests: the hypothesis profile `sweep`, compiled Go packages, a mount namespace."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import settings

from pdkernel.model import Step
from pdkernel.workers import GoBuildCache
from tests.mounts import APART, may_mount

# tests and the commands that they start store nothing in the keyring of the user
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"

settings.register_profile("sweep", max_examples=1000, deadline=None)


@pytest.fixture(scope="session")
def go_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build cache of Go steps: one folder for all tests, kept for the next run, since Go's own packages take long."""
    kept = getattr(request.config, "cache", None)
    folder = Path(kept.mkdir("go")) if kept is not None else tmp_path_factory.mktemp("go")
    step = Step("warm", "go", 'package main\nimport "net/http"\nfunc main() { println(http.MethodGet) }\n')
    with (folder / "warming").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes of one test run share the folder: only the first compiles
        asyncio.run(
            GoBuildCache(folder, lock=folder / "go.mod").build_program(
                step, install=False, report_progress=lambda _: None
            )
        )
    return folder


@pytest.fixture
def apart() -> tuple[str, ...]:
    """A command prefix for a private mount namespace, where a mistake about mounts is harmless."""
    if not may_mount():
        pytest.skip("this user may not mount in a namespace of its own (unshare --mount)")
    return APART
