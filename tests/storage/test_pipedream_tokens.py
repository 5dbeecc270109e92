"""Access tokens that Pipedream issued: their lifetime and their data."""

from __future__ import annotations

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project
from pdkernel.storage.pipedream_tokens import PipedreamToken


def test_a_token_is_found_until_its_lifetime_ends(sqlite_project: Project, clock: ManualClock) -> None:
    """A token has its client, workspace and scopes for less than its lifetime."""
    table = sqlite_project.pipedream_tokens
    table.add("a", "client", "o_1", ("x", "y"), 10)
    table.add("b", "client", None, (), 20)

    clock.advance(9)
    assert table.find("a") == PipedreamToken("client", "o_1", ("x", "y"))
    clock.advance(1)
    assert table.find("a") is None
    table.add("c", "client", None, (), 20)
    assert table.find("b") == PipedreamToken("client", None, ())


def test_a_token_is_replaced_and_removed(sqlite_project: Project) -> None:
    """A second `add` replaces the data of a token; `remove` leaves other tokens."""
    table = sqlite_project.pipedream_tokens
    table.add("a", "client", None, ("x",), 10)
    table.add("a", "other", None, ("y",), 10)
    table.add("b", "client", None, ("x",), 10)

    assert table.find("a") == PipedreamToken("other", None, ("y",))
    table.remove("a")
    assert table.find("a") is None
    assert table.find("b") is not None
