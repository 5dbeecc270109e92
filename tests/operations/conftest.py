"""A local project with its users and accounts."""

from __future__ import annotations

from tests.engine.conftest import directory, project

__all__ = ["directory", "project"]
