"""The directory of a proof gives both sides the same answers."""

from __future__ import annotations

from pathlib import Path

from pdkernel.accounts import LocalDirectory
from pdkernel.annex.proof.directory_cache import cache_directory
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.storage import Project
from pdkernel.storage.grants import Grant
from tests.oauth_provider import connect_account, oauth_provider


def test_answers_do_not_change_during_a_proof(tmp_path: Path) -> None:
    """An account that is connected between two runs does not make them differ; other questions have their own answers."""
    clock = ManualClock()
    with Project.open(tmp_path / ".pdkernel", clock=clock, ids=SequentialIds()) as project:
        directory = LocalDirectory(project)
        first = directory.add_account(app="slack", credentials={"token": "one"}, external_user_id="ada")
        project.grants.set(first.id, Grant("refresh", None, clock.now()))
        cached = cache_directory(directory, project)
        before = cached.newest_account("ada", "development", "slack"), cached.credentials(first.id)
        directory.add_account(app="slack", credentials={"token": "two"}, external_user_id="ada")
        directory.add_account(app="slack", credentials={"token": "three"}, external_user_id="bob")

        assert (cached.newest_account("ada", "development", "slack"), cached.credentials(first.id)) == before
        assert before[0] is not None
        assert before[0].id == first.id
        assert before[1]["token"] == "one"
        assert cached.newest_account("bob", "development", "slack") is not None
        assert cached.newest_account("ada", "production", "slack") is None
        assert [account.app for account in cached.accounts(external_user_id="bob")] == ["slack"]
        assert list(cached.accounts(external_user_id="eve")) == []
        assert cached.project_id == directory.project_id
        assert cached.report_unauthorized(first.id, clock.now()) is False
        assert directory.report_unauthorized(first.id, clock.now()) is True  # outside of the proof
        with cached.nonblocking():
            assert cached.newest_account("eve", "development", "slack") is None


def test_a_proof_refreshes_no_token(tmp_path: Path) -> None:
    """A token that is due for a refresh is used as it is stored: a proof changes no account and sends no request."""
    clock = ManualClock()
    with oauth_provider() as provider, Project.open(tmp_path / ".pdkernel", clock=clock) as project:
        account = connect_account(project, provider)
        stored = project.accounts.credentials(account)
        clock.advance(3600)

        found = cache_directory(LocalDirectory(project), project).credentials(account)

        assert (found, provider.requests) == (stored, [])
        assert LocalDirectory(project).credentials(account) != stored  # outside of the proof
