"""Routes of external users."""

from __future__ import annotations

from tests.server.api.test_pagination import connect, ids
from tests.server.served import Served


async def test_users_are_searched(site: Served) -> None:
    """`q` is a part of the id; users of the other environment are not listed."""
    connect(site, "ada", "grace")
    connect(site, "adam", environment="production")

    assert (await ids(site, q="AD"))[0] == ["ada"]


async def test_a_user_is_deleted(site: Served) -> None:
    """The user's accounts of that environment are deleted too."""
    connect(site, "ada", "grace")
    connect(site, "ada", environment="production")

    answer = await site.call("DELETE", "/users/ada")

    assert answer.status_code == 204
    assert (await ids(site))[0] == ["grace"]
    assert len(site.directory.accounts(external_user_id="ada")) == 1
    assert (await site.call("DELETE", "/users/ada")).status_code == 404
