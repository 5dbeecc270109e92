"""A notebook's session on a project that is logged in to Pipedream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.session import Session
from tests.connect.upstream import PROJECT, Upstream, running_upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The real project's API."""
    with running_upstream() as api:
        yield api


@pytest.fixture
def session(upstream: Upstream, tmp_path: Path) -> Iterator[Session]:
    """A session whose environment names the real project."""
    made = Session(folder=tmp_path, notebook=None, environ={"PDKERNEL_EGRESS": "deny", **upstream.environ})
    yield made
    made.close()


def test_the_session_has_the_real_projects_users(session: Session) -> None:
    """The notebook's external users are Pipedream's."""
    assert session.directory.project_id == PROJECT
    assert [user.external_id for user in session.directory.users("development")] == ["ada", "bob"]


def test_opening_a_project_sends_no_request(session: Session, upstream: Upstream) -> None:
    """Opening a notebook's project sends no request to Pipedream."""
    assert session.directory.project_id == PROJECT
    assert upstream.asked == []
