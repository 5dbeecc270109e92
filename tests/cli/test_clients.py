"""OAuth clients on the command line."""

from __future__ import annotations

from tests.cli.conftest import Shell


def test_a_client_from_beginning_to_end(pdkernel: Shell) -> None:
    """A client is made, listed without its secret, and removed."""
    made = pdkernel("clients", "create", "--name", "product", "--scope", "connect:*", "--json").json
    listed = pdkernel("clients", "list", "--json")
    removed = pdkernel("clients", "remove", made["client_id"])
    again = pdkernel("clients", "remove", made["client_id"])

    assert made["client_secret"].startswith("pds_")
    assert listed.json[0]["client_id"] == made["client_id"]
    assert listed.json[0]["scopes"] == ["connect:*"]
    assert made["client_secret"] not in listed.stdout
    assert removed.status == 0
    assert again.status == 2
    assert pdkernel("clients", "list", "--json").json == []


def test_a_client_for_people(pdkernel: Shell) -> None:
    """Without --json the secret is printed with a word that it is shown once."""
    made = pdkernel("clients", "create")

    assert "client secret  pds_" in made.stdout
    assert "shown this once" in made.stderr


def test_a_scope_that_is_none(pdkernel: Shell) -> None:
    """A scope with blanks in it is refused."""
    assert pdkernel("clients", "create", "--scope", "a b").status == 2


def test_keys_rotate(pdkernel: Shell) -> None:
    """A new key has a name."""
    assert pdkernel("keys", "rotate", "--json").json["key_id"]
