"""The `Authorization` header of a request to the API."""

from __future__ import annotations

import pytest

from pdkernel.server.oauth.authorization import parse_bearer_token


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
