"""A project with users, and a running engine: the fixtures of the engine's tests."""

from __future__ import annotations

from tests.engine.conftest import connect, directory, project, run, runtime

__all__ = ["connect", "directory", "project", "run", "runtime"]
