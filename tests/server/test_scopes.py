"""Scopes that cover other scopes."""

from __future__ import annotations

import pytest

from pdkernel.server.scopes import scope_covers


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
