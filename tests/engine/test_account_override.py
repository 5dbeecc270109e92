"""Chosen accounts in place of the newest ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock, SequentialIds
from pdkernel.common.identity import Directory
from pdkernel.engine.account_override import override_accounts
from pdkernel.storage import Project


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    """A directory: two Slack accounts and one GitHub account of ada, one Slack account of bob, and one of the author."""
    with Project.open(tmp_path / ".pdkernel", clock=ManualClock(), ids=SequentialIds()) as project:
        directory = LocalDirectory(project)
        for user, app, account_id in (
            ("ada", "slack", "apn_old"),
            ("ada", "slack", "apn_new"),
            ("ada", "github", "apn_hub"),
            ("bob", "slack", "apn_bob"),
            (None, "slack", "apn_own"),
        ):
            directory.add_account(
                app=app,
                credentials={"token": "x"},
                external_user_id=user,
                environment="development",
                account_id=account_id,
            )
        yield directory


def ids(directory: Directory, **filters: str) -> set[str]:
    """The ids of the accounts that match *filters*."""
    return {account.id for account in directory.accounts(environment="development", **filters)}  # type: ignore[arg-type]  # names of filters


def test_nothing_chosen(directory: Directory) -> None:
    """Without a choice, the directory itself is used."""
    assert override_accounts(directory, {}) is directory


def test_the_chosen_account_is_used(directory: Directory) -> None:
    """A run uses the chosen account of an app instead of the newest, and the newest account of each other app."""
    chosen = override_accounts(directory, {"slack": "apn_old"})

    newest = [chosen.newest_account("ada", "development", app) for app in ("slack", "github", "notion")]

    assert [account and account.id for account in newest] == ["apn_old", "apn_hub", None]
    assert ids(chosen, external_user_id="ada") == {"apn_old", "apn_hub"}


def test_own_accounts_stay(directory: Directory) -> None:
    """The choice hides accounts of external users only."""
    chosen = override_accounts(directory, {"slack": "apn_old"})

    assert "apn_own" in ids(chosen, app="slack")
    assert chosen.find_account("apn_own") is not None


def test_an_account_of_another_user_is_not_used(directory: Directory) -> None:
    """The id of another user's account does not give access to it."""
    chosen = override_accounts(directory, {"slack": "apn_bob"})

    assert chosen.newest_account("ada", "development", "slack") is None
    assert chosen.newest_accounts(["ada"], "development", ["slack"], limit=1) == []


def test_a_chosen_account_may_be_older_than_the_limit(directory: Directory) -> None:
    """The newest accounts of several users have the chosen one, however many newer ones there are."""
    chosen = override_accounts(directory, {"slack": "apn_old"})

    found = chosen.newest_accounts(["ada", "bob"], "development", ["github", "slack"], limit=1)

    assert sorted(account.id for account in found) == ["apn_hub", "apn_old"]
    assert chosen.newest_accounts(["ada"], "production", ["slack"], limit=1) == []
