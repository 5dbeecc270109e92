"""The `Authorization` header of a request to the API."""

from __future__ import annotations

import pytest

from pdkernel.server.authorization import parse_bearer_token, scope_covers


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER abc", "abc"),
        ("Bearer", None),
        ("Bearer  ", None),
        ("Basic abc", None),
        ("abc", None),
        ("", None),
        (None, None),
    ],
)
def test_a_bearer_token(header: str | None, token: str | None) -> None:
    """The scheme counts in any case; another scheme and an empty token are refused."""
    assert parse_bearer_token(header) == token


@pytest.mark.parametrize(
    ("held", "required", "covered"),
    [
        (["*"], "connect:proxy", True),
        (["connect:*"], "connect:accounts:read", True),
        (["connect:accounts:*"], "connect:accounts:write", True),
        (["connect:accounts:read"], "connect:accounts:read", True),
        (["connect:accounts:read"], "connect:accounts:write", False),
        (["connect:accounts:*"], "connect:accountsx", False),
        (["connect"], "connect:proxy", False),
        (["connect:proxy"], "connect:*", False),
        ([], "connect:proxy", False),
    ],
)
def test_a_star_covers_every_longer_scope(held: list[str], required: str, covered: bool) -> None:
    """A scope that ends with a star covers the scopes that begin with the same text; another scope covers itself."""
    assert scope_covers(held, required) is covered
