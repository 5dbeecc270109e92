"""OAuth clients on the command line."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pdkernel.storage import Project
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
    login = {f"PDKERNEL_{name}": "proj_1a" for name in ("CLIENT_ID", "CLIENT_SECRET", "PROJECT_ID")}
    logged_in = pdkernel("clients", "create", **login)

    assert "client secret  pds_" in made.stdout
    assert "shown only once" in made.stderr
    assert (made.status, logged_in.status) == (0, 0)
    assert ["Connect's routes belong to proj_1a" in each.stderr for each in (made, logged_in)] == [False, True]


def test_an_invalid_scope_is_refused(pdkernel: Shell) -> None:
    """A scope with blanks in it is refused."""
    assert pdkernel("clients", "create", "--scope", "a b").status == 2


def test_keys_rotate(pdkernel: Shell, tmp_path: Path) -> None:
    """Both keys are replaced, or only the one that `--only` names; stored values stay readable."""
    key_file = tmp_path / ".pdkernel" / "key"
    pdkernel("env", "set", "TOKEN", stdin="value")
    keys = [key_file.read_bytes()]
    answers = []
    for only in ([], ["--only", "encryption"], ["--only", "access-tokens"]):
        answers.append(pdkernel("keys", "rotate", *only, "--yes", "--json").json)
        keys.append(key_file.read_bytes())

    both, encryption, tokens = answers
    assert both == {"key_id": both["key_id"], "values": 2, "key_file": str(key_file)}
    assert encryption == {"values": 2, "key_file": str(key_file)}
    assert list(tokens) == ["key_id"]
    assert keys[0] != keys[1] != keys[2] == keys[3]
    assert pdkernel("env", "list", "--json").json == [{"name": "TOKEN"}]
    with Project.open(tmp_path / ".pdkernel") as project:
        assert project.variables.values() == {"TOKEN": "value"}


def test_keys_rotate_as_text(pdkernel: Shell, tmp_path: Path) -> None:
    """The text names what copies of the database and other hosts need; no key is printed."""
    key_file = tmp_path / "keys" / "shared"
    pdkernel("env", "set", "TOKEN", stdin="value", PDKERNEL_KEY_FILE=str(key_file))
    old = key_file.read_text().strip()

    asked = pdkernel("keys", "rotate", PDKERNEL_KEY_FILE=str(key_file))
    tokens = pdkernel("keys", "rotate", "-q", "--only", "access-tokens", PDKERNEL_KEY_FILE=str(key_file))
    done = pdkernel("keys", "rotate", "--yes", PDKERNEL_KEY_FILE=str(key_file))
    own = pdkernel("keys", "rotate", "--yes", "--project", "other")

    assert (asked.status, "--yes" in asked.stderr, f"remove the old key in {key_file}" in asked.stderr) == (
        2,
        True,
        True,
    )
    assert tokens.stderr.startswith("Error: Sign new access tokens with a new key")
    assert done.status == 0
    assert f"Encrypted 2 values with the new key in {key_file}." in done.stdout
    assert "Copies of the database from before need the old key" in done.stderr
    assert f"Every other host of this project needs the new file {key_file}." in done.stderr
    assert (own.status, "other host" in own.stderr, "URLs that resume" in own.stdout) == (0, False, False)
    assert not any(key in done.stdout + done.stderr for key in (old, key_file.read_text().strip()))


def test_other_hosts_of_a_postgres_project_need_the_new_key(pdkernel: Shell, postgres_url: str) -> None:
    """After a rotation of a project on Postgres, a note names the file that every other host needs."""
    done = pdkernel("keys", "rotate", "--yes", PDKERNEL_DATABASE=postgres_url)

    key_file = pdkernel.folder / ".pdkernel" / "key"
    assert done.status == 0, done.stderr
    assert f"Every other host of this project needs the new file {key_file}." in done.stderr


def test_urls_of_a_paused_run_stay_valid(pdkernel: Shell) -> None:
    """While a run is paused, the rotation reports that the URLs that resume the run stay valid."""
    pdkernel(
        "run", pdkernel.notebook("%%pdstep wait\ndef handler(pd):\n    pd.flow.suspend(3600_000)\n"), "--body", "{}"
    )

    done = pdkernel("keys", "rotate", "--yes")

    assert "URLs that resume or cancel a run stay valid until their runs end." in done.stdout
    assert "New access tokens are signed with the key " in done.stdout


def test_clients_as_text(pdkernel: Shell) -> None:
    """A line of the list has the id, the scopes and the name, whose control characters are text."""
    empty = pdkernel("clients", "list")
    words = ("--name", "\x1b]0;owned\a", "--scope", "connect:*", "--scope", "b", "--json")
    made = pdkernel("clients", "create", *words).json

    assert empty.stdout == "No clients yet. Create one: pdkernel clients create\n"
    assert pdkernel("clients", "list").stdout == f"{made['client_id']}  connect:* b  \\x1b]0;owned\\x07\n"


def test_keys_rotate_on_a_terminal(pdkernel: Shell) -> None:
    """On a terminal the command asks first, and shows the progress."""
    pdkernel("env", "set", "TOKEN", stdin="value")

    status, shown = pdkernel.on_terminal("keys", "rotate", answers=[("[y/N]", "y")])

    assert status == 0
    assert "encrypting value 1 of 2" in shown
    assert "Encrypted 2 values" in shown


def test_a_client_with_a_key(pdkernel: Shell, tmp_path: Path) -> None:
    """A client with a public key has no secret; a private key is refused and not shown."""
    key = ec.generate_private_key(ec.SECP256R1())
    public, private = tmp_path / "public.pem", tmp_path / "private.pem"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "key.der").write_bytes(b"\xff\xfe")
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    made = pdkernel("clients", "create", "--public-key", str(public), "--scope", "connect:*", "--json").json
    shown = pdkernel("clients", "create", "--public-key", str(public))
    refused = pdkernel("clients", "create", "--public-key", str(private))
    missing, other = (pdkernel("clients", "create", "--public-key", name) for name in ("none.pem", "key.der"))

    assert set(made) == {"client_id", "project_id"}
    assert "secret" not in shown.stdout
    assert (refused.status, missing.status, other.status) == (2, 2, 2)
    assert private.read_text().splitlines()[1] not in refused.stdout + refused.stderr
    assert [each["scopes"] for each in pdkernel("clients", "list", "--json").json] == [["connect:*"], ["*"]]


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
