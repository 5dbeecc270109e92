"""The form of external users with a real project that does not respond correctly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.session import Session
from pdkernel.widgets import UserPicker
from tests.connect.upstream import Upstream, running_upstream
from tests.widgets.front_end import press, screen


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """The real project's API."""
    with running_upstream() as api:
        yield api


@pytest.fixture
def picker(upstream: Upstream, tmp_path: Path) -> Iterator[UserPicker]:
    """The form for a user with accounts in the real project."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_EGRESS": "deny", **upstream.environ})
    session.choose_user("bob", "development")
    made = UserPicker(session)
    yield made
    made.close()
    session.close()


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "status", "status": 403}, "lacks a permission in the project"),
    ({"kind": "status", "status": 429, "headers": {"Retry-After": "17"}}, "Try again in 17 s."),
    ({"kind": "status", "status": 500}, "Pipedream reports a server error (500)."),
    ({"kind": "cut"}, "closed the connection too early"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=lambda each: each[:20] if isinstance(each, str) else "")
def test_a_failed_removal_is_reported(
    picker: UserPicker, upstream: Upstream, fault: dict[str, Any], words: str
) -> None:
    """An account that Pipedream does not remove stays in the form, with the reason."""
    upstream.set(fault={"method": "DELETE", **fault})

    press(picker, "Remove")
    press(picker, "Remove apn_keys?")

    assert words in screen(picker)
    assert "apn_keys" in screen(picker)
