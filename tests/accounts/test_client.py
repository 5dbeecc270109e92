"""Accounts and credentials in responses of Connect."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pdkernel.accounts.client import (
    MAX_ENTRIES,
    TTLCache,
    has_withheld_credentials,
    is_oauth,
    parse_account,
    parse_credentials,
)
from pdkernel.common.clock import ManualClock


def test_the_response_wins_over_the_request() -> None:
    """The app and the external user of the response win; those of the request fill what it lacks."""
    item: dict[str, Any] = {"id": "apn_1", "external_id": "bob", "app": {"name_slug": "github"}}

    full = parse_account(item, "production", app="slack", external_user_id="ada")
    bare = parse_account({"id": "apn_1"}, "development", app="slack", external_user_id="ada")

    assert (full.external_user_id, full.app, full.name, full.environment) == ("bob", "github", "bob", "production")
    assert (bare.external_user_id, bare.app, bare.name, bare.healthy) == ("ada", "slack", "ada", True)


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2026-01-02T03:04:05+01:00", datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC)),
        (datetime.fromisoformat("2026-01-02T03:04:05"), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (None, datetime(1970, 1, 1, tzinfo=UTC)),
        ("soon", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_the_time_of_an_account(value: object, time: datetime) -> None:
    """Times are in UTC, also one without a zone; an account with another time counts as the oldest."""
    assert parse_account({"id": "apn_1", "created_at": value}, "development").created_at == time


@pytest.mark.parametrize(
    ("item", "is_healthy"),
    [
        ({}, True),
        ({"healthy": None}, True),
        ({"healthy": False}, False),
        ({"dead": True}, False),
        ({"dead": False}, True),
    ],
)
def test_the_health_of_an_account(item: dict[str, Any], is_healthy: bool) -> None:
    """An account is healthy unless the response contradicts it."""
    assert parse_account({"id": "apn_1", **item}, "development").healthy == is_healthy


def test_a_credential_without_a_value_is_left_out() -> None:
    """A null is not a credential; an empty text is one."""
    assert parse_credentials({"credentials": {"a": None, "b": "", "c": "x"}}) == {"b": "", "c": "x"}
    assert parse_credentials({"credentials": None}) == {}


def test_a_credential_that_is_not_a_text_is_json() -> None:
    """A number, a Boolean or an object among the credentials is the text of its JSON."""
    credentials = {"port": 5432, "tls": True, "options": {"a": None}}

    assert parse_credentials({"credentials": credentials}) == {"port": "5432", "tls": "true", "options": '{"a": null}'}


@pytest.mark.parametrize(
    ("kind", "credentials", "is_withheld"),
    [
        ("oauth", {"oauth_access_token": "x"}, False),
        ("oauth", {"oauth_uid": "u"}, True),
        ("OAUTH", {}, True),
        ("keys", {"api_key": "x"}, False),
        ("keys", {}, True),
        (None, {"api_key": "x"}, False),
    ],
)
def test_withheld_credentials(kind: str | None, credentials: dict[str, str], is_withheld: bool) -> None:
    """Connect withholds the credentials of an OAuth account without its access token, and of another one without any."""
    item: dict[str, Any] = {"app": {"auth_type": kind}, "credentials": credentials}

    assert has_withheld_credentials(item) == is_withheld
    assert is_oauth(item) == (kind is not None and kind.lower() == "oauth")


def test_a_value_is_loaded_again_after_its_lifetime() -> None:
    """A value is valid for less than the lifetime, counted from the end of its load."""
    clock = ManualClock()
    cache: TTLCache[str, float] = TTLCache(clock, 10)
    found = []
    for seconds in (0, 9, 1):
        clock.advance(seconds)
        found.append(cache.get("key", clock.monotonic))

    assert found == [0, 0, 10]


def test_a_load_during_a_clear_is_not_kept() -> None:
    """The caller gets the value, and the next caller loads it again: the value may be older than the change."""
    cache: TTLCache[str, str] = TTLCache(ManualClock(), 10)

    def load() -> str:
        cache.clear()
        return "old"

    assert [cache.get("key", load), cache.get("key", lambda: "new"), cache.get("key", load)] == ["old", "new", "new"]


def test_a_failed_load_is_not_kept() -> None:
    """An exception is raised, and the next caller loads the value."""
    cache: TTLCache[str, int] = TTLCache(ManualClock(), 10)

    with pytest.raises(ZeroDivisionError):
        cache.get("key", lambda: 1 // 0)

    assert cache.get("key", lambda: 1) == 1


def test_the_oldest_entries_are_dropped() -> None:
    """A value that was loaded again is among the newest."""
    clock = ManualClock()
    cache: TTLCache[int, str] = TTLCache(clock, 10)
    cache.get(0, lambda: "first")
    clock.advance(10)
    cache.get(1, lambda: "first")
    cache.get(0, lambda: "second")
    for key in range(2, MAX_ENTRIES + 1):
        cache.get(key, lambda: "more")

    assert [cache.get(0, lambda: "third"), cache.get(1, lambda: "third")] == ["second", "third"]
