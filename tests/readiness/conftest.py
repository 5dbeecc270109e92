"""A project with users, and a running engine, as the engine's own tests have them."""

from __future__ import annotations

from tests.engine.conftest import connect, directory, project, run, runtime

__all__ = ["connect", "directory", "project", "run", "runtime"]
