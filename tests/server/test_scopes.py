"""What a scope stands for."""

from __future__ import annotations

import pytest

from pdkernel.server.scopes import scope_covers


@pytest.mark.parametrize(
    ("held", "wanted", "covered"),
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
def test_covers(held: list[str], wanted: str, covered: bool) -> None:
    """A star stands for whatever follows; nothing else stands for more than itself."""
    assert scope_covers(held, wanted) is covered
