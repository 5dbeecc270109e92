"""OAuth clients on the command line."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.cli.conftest import Shell


def test_a_client_is_created_listed_and_removed(pdkernel: Shell) -> None:
    """A client is created, listed without its secret, and removed."""
    made = pdkernel("clients", "create", "--name", "product", "--scope", "connect:*", "--json").json
    listed = pdkernel("clients", "list", "--json")
    removed = pdkernel("clients", "remove", made["client_id"], "--yes")
    again = pdkernel("clients", "remove", made["client_id"])

    assert made["client_secret"].startswith("pds_")
    assert listed.json[0]["client_id"] == made["client_id"]
    assert listed.json[0]["scopes"] == ["connect:*"]
    assert made["client_secret"] not in listed.stdout
    assert removed.status == 0
    assert again.status == 2
    assert pdkernel("clients", "list", "--json").json == []


def test_a_client_as_text(pdkernel: Shell) -> None:
    """Without --json the secret is printed with a note that it is shown once."""
    made = pdkernel("clients", "create")

    assert "client secret  pds_" in made.stdout
    assert "shown only once" in made.stderr


def test_an_invalid_scope_is_refused(pdkernel: Shell) -> None:
    """A scope with blanks in it is refused."""
    assert pdkernel("clients", "create", "--scope", "a b").status == 2


def test_keys_rotate(pdkernel: Shell) -> None:
    """The rotated key has a new name."""
    assert pdkernel("keys", "rotate", "--yes", "--json").json["key_id"]


def test_a_client_with_a_key(pdkernel: Shell, tmp_path: Path) -> None:
    """A client with a public key has no secret; a private key is refused and not shown."""
    key = ec.generate_private_key(ec.SECP256R1())
    public, private = tmp_path / "public.pem", tmp_path / "private.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    made = pdkernel("clients", "create", "--public-key", str(public), "--json").json
    shown = pdkernel("clients", "create", "--public-key", str(public))
    refused = pdkernel("clients", "create", "--public-key", str(private))
    missing = pdkernel("clients", "create", "--public-key", str(tmp_path / "none.pem"))

    assert set(made) == {"client_id", "project_id"}
    assert "secret" not in shown.stdout
    assert (refused.status, missing.status) == (2, 2)
    assert private.read_text().splitlines()[1] not in refused.stdout + refused.stderr
    assert len(pdkernel("clients", "list", "--json").json) == 2


def test_a_client_is_removed_after_a_question(pdkernel: Shell) -> None:
    """Without a terminal and `--yes` the client stays; an unknown client is refused without a question."""
    made = pdkernel("clients", "create", "--json").json["client_id"]

    asked = pdkernel("clients", "remove", made)
    unknown = pdkernel("clients", "remove", "pdc_none")
    kept = pdkernel("clients", "list", "--json").json
    removed = pdkernel("clients", "remove", made, "--yes", "--json")

    assert (asked.status, "--yes" in asked.stderr) == (2, True)
    assert (unknown.status, "There is no client" in unknown.stderr) == (2, True)
    assert len(kept) == 1
    assert removed.json == {"client_id": made, "removed": True}
    assert pdkernel("clients", "list", "--json").json == []
