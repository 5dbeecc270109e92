"""Grants of accounts: claims of renewals, and refusals of access tokens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project
from pdkernel.storage.grants import RENEWAL_CLAIM_S, Grant


@pytest.fixture
def grant(sqlite_project: Project, clock: ManualClock) -> Grant:
    """The stored grant of the account `apn_1`."""
    now = clock.now()
    grant = Grant(refresh_token="refresh-1", expires_at=now + timedelta(hours=1), renewed_at=now)
    sqlite_project.grants.set("apn_1", grant)
    return grant


def test_a_claim_is_free_again_after_its_time(sqlite_project: Project, clock: ManualClock, grant: Grant) -> None:
    """Another process may claim a renewal when the first claim is `RENEWAL_CLAIM_S` seconds old, not before."""
    assert sqlite_project.grants.find("apn_1") == grant
    assert sqlite_project.grants.claim_renewal("apn_1") is not None
    clock.advance(RENEWAL_CLAIM_S - 1)
    assert sqlite_project.grants.claim_renewal("apn_1") is None
    clock.advance(1)
    assert sqlite_project.grants.claim_renewal("apn_1") is not None


def test_only_the_last_claim_finishes(sqlite_project: Project, clock: ManualClock, grant: Grant) -> None:
    """A process whose claim was taken over cannot store its result; the last one can, once."""
    first = sqlite_project.grants.claim_renewal("apn_1")
    clock.advance(RENEWAL_CLAIM_S)
    second = sqlite_project.grants.claim_renewal("apn_1")
    assert first is not None
    assert second is not None
    new = replace(grant, refresh_token="refresh-2")

    assert not sqlite_project.grants.finish_renewal("apn_1", first, new)
    assert sqlite_project.grants.find("apn_1") == grant
    assert sqlite_project.grants.is_renewing("apn_1")
    assert sqlite_project.grants.finish_renewal("apn_1", second, new)
    assert sqlite_project.grants.find("apn_1") == new
    assert not sqlite_project.grants.is_renewing("apn_1")
    assert not sqlite_project.grants.finish_renewal("apn_1", second, grant)


def test_a_new_grant_ends_a_renewal(sqlite_project: Project, grant: Grant) -> None:
    """A user who connects the account again takes the claim away."""
    claim = sqlite_project.grants.claim_renewal("apn_1")
    assert claim is not None

    sqlite_project.grants.set("apn_1", replace(grant, refresh_token=None))

    assert not sqlite_project.grants.is_renewing("apn_1")
    assert not sqlite_project.grants.finish_renewal("apn_1", claim, grant)
    found = sqlite_project.grants.find("apn_1")
    assert found is not None
    assert found.refresh_token is None


def test_a_refusal_of_an_older_token_is_ignored(sqlite_project: Project, grant: Grant) -> None:
    """A 401 counts for the token that was valid then: one renewed later is not refused, one of that moment is."""
    table = sqlite_project.grants

    assert table.mark_refused("apn_1", grant.renewed_at - timedelta(seconds=1))
    assert table.find("apn_1") == grant
    assert table.mark_refused("apn_1", grant.renewed_at)
    assert table.find("apn_1") == replace(grant, is_refused=True)
    assert not table.mark_refused("apn_2", grant.renewed_at)


def test_a_grant_belongs_to_one_account(sqlite_project: Project, grant: Grant) -> None:
    """An account without a grant cannot be claimed, and removing one grant leaves the others."""
    sqlite_project.grants.set("apn_2", replace(grant, error="denied", expires_at=None))

    assert sqlite_project.grants.claim_renewal("apn_3") is None
    sqlite_project.grants.remove("apn_1")
    assert sqlite_project.grants.find("apn_1") is None
    assert sqlite_project.grants.find("apn_2") == replace(grant, error="denied", expires_at=None)
