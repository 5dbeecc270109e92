"""OAuth clients: scopes, secrets, removal."""

from __future__ import annotations

import pytest

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.storage import Project


def test_a_client_without_scopes_may_do_everything(sqlite_project: Project) -> None:
    """The default and an empty list of scopes mean `*`; given scopes are stored in their order."""
    table = sqlite_project.oauth_clients
    made = [table.create().client, table.create("b", ()).client, table.create("c", ("b:write", "a:read")).client]

    assert [client.scopes for client in made] == [("*",), ("*",), ("b:write", "a:read")]
    assert [table.find(client.id) for client in made] == made


@pytest.mark.parametrize("scope", ["", "a b", 'a"b', "a\\b", "é", "a\n"])
def test_an_invalid_scope_is_refused(sqlite_project: Project, scope: str) -> None:
    """A scope has printable ASCII without blanks, quotation marks and backslashes."""
    with pytest.raises(RequestError, match="is not a scope"):
        sqlite_project.oauth_clients.create("a", ("connect:*", scope))

    assert sqlite_project.oauth_clients.list_clients() == []


def test_clients_are_listed_by_creation_without_removed_ones(sqlite_project: Project, clock: ManualClock) -> None:
    """Clients are listed oldest first; a removed client is not listed, but is known."""
    table = sqlite_project.oauth_clients
    ids = []
    for name in ("c", "a", "b"):
        ids.append(table.create(name).client.id)
        clock.advance(1)

    assert [client.name for client in table.list_clients()] == ["c", "a", "b"]
    assert (table.remove(ids[1]), table.remove(ids[1])) == (True, False)
    assert [client.name for client in table.list_clients()] == ["c", "b"]
    assert table.find(ids[1]) is None
    assert (table.is_known(ids[1]), table.is_known("pdc_never")) == (True, False)


def test_a_secret_belongs_to_one_client(sqlite_project: Project) -> None:
    """A client authenticates with its own secret, until it is removed."""
    table = sqlite_project.oauth_clients
    first, second = table.create("a"), table.create("b")

    assert first.secret.startswith("pds_")
    assert first.secret != second.secret
    assert table.authenticate(first.client.id, first.secret) == first.client
    assert table.authenticate(first.client.id, second.secret) is None
    assert table.authenticate("pdc_never", first.secret) is None
    table.remove(first.client.id)
    assert table.authenticate(first.client.id, first.secret) is None
