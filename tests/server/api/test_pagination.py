"""Pages of lists, with the list of users."""

from __future__ import annotations

import pytest

from tests.server.served import Served


def connect(site: Served, *users: str, environment: str = "development") -> None:
    """Connect an account for each user."""
    for user in users:
        site.directory.add_account(
            app="slack",
            credentials={"oauth_access_token": "t-1234567"},
            external_user_id=user,
            environment=environment,  # type: ignore[arg-type]
        )


async def ids(site: Served, **params: str) -> tuple[list[str], dict[str, object]]:
    """Ids of a page of users, and the page's info."""
    answer = (await site.call("GET", "/users", params=params)).json()
    return [user["external_id"] for user in answer["data"]], answer["page_info"]


async def test_pages_have_no_gaps(site: Served) -> None:
    """The pages have every item once; the last page has no cursor."""
    names = [f"user-{number:02}" for number in range(23)]
    connect(site, *names)
    found: list[str] = []
    cursor: str | None = ""
    sizes = []
    while cursor is not None:
        page, info = await ids(site, **({"after": cursor} if cursor else {}))
        found += page
        sizes.append(len(page))
        cursor = info["end_cursor"]  # type: ignore[assignment]

    assert found == names
    assert sizes == [10, 10, 3]
    assert info["total_count"] == 23


async def test_the_limit_of_a_page(site: Served) -> None:
    """`limit` sets the size up to 100; an invalid limit is answered 400."""
    connect(site, *[f"user-{number:03}" for number in range(120)])

    some, info = await ids(site, limit="120")
    rest, last = await ids(site, limit="20", after=str(info["end_cursor"]))

    assert (len(some), len(rest), last["end_cursor"]) == (100, 20, None)
    for limit in ("0", "-1", "x", "1" * 50):
        assert (await site.call("GET", "/users", params={"limit": limit})).status_code == 400


async def test_a_deleted_item_leaves_no_gap(site: Served) -> None:
    """If the cursor's item is deleted, the next page begins with the following item."""
    connect(site, "a", "b", "c", "d")
    _, info = await ids(site, limit="2")
    site.directory.delete_user("b", "development")

    rest, _ = await ids(site, limit="2", after=str(info["end_cursor"]))

    assert rest == ["c", "d"]


async def test_before_returns_the_preceding_page(site: Served) -> None:
    """`before` returns the last items before a cursor, and with `after` those between the cursors."""
    connect(site, "a", "b", "c", "d")
    _, first = await ids(site, limit="2")
    _, info = await ids(site, limit="2", after=str(first["end_cursor"]))

    page, _ = await ids(site, limit="1", before=str(info["start_cursor"]))
    all_before, _ = await ids(site, limit="10", before=str(info["start_cursor"]))
    between, _ = await ids(site, after=str(first["start_cursor"]), before=str(info["start_cursor"]))

    assert (page, all_before, between) == (["b"], ["a", "b"], ["b"])


@pytest.mark.parametrize("cursor", ["x", "!!!!", "WyJhIiwgMV0", "e30", "W10", "OTk5"])
async def test_an_invalid_cursor_is_rejected(site: Served, cursor: str) -> None:
    """A cursor that the API did not create is answered 400."""
    assert (await site.call("GET", "/users", params={"after": cursor})).status_code == 400
