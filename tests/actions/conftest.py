"""Fixtures: a project with actions, and the engine that runs them."""

from __future__ import annotations

from tests.engine.conftest import connect, directory, project, run, runtime, shared_engine, shared_run

__all__ = ["connect", "directory", "project", "run", "runtime", "shared_engine", "shared_run"]
