"""`pdkernel project`, `env`, `secrets` and `login`, and commands of a project that is logged in."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pdkernel.storage import Project
from tests.accounts.upstream import CLIENT_ID, CLIENT_SECRET, PROJECT, SLACK_TOKEN, TOKEN, Upstream, running_upstream
from tests.cli.conftest import Ended, Shell
from tests.private_pytest import run_pytest

NAME = "notify-partner-p_Sec4Rt"
FOLDER = Path(__file__).parents[1] / "synced_project" / NAME
PROPS = ("partner_key", "request.headers.Authorization", "request.extra.1")
VALUES = ("key-{{steps.x}}-0123", "Bearer tok-456789", "last-item-0123")
MISSING = [f"call_partner.{prop}" for prop in PROPS]


@pytest.fixture
def synced(pdkernel: Shell) -> Shell:
    """The shell with a copy of the synced workflow in its folder."""
    shutil.copytree(FOLDER, pdkernel.folder / NAME)
    return pdkernel


def give_all(shell: Shell, source: str) -> None:
    """Give a value for each secret prop of the workflow *source*."""
    for prop, value in zip(PROPS, VALUES, strict=True):
        ended = shell("secrets", "set", source, "call_partner", prop, stdin=f"{value}\n")
        assert ended.status == 0, ended.stderr


def test_missing_values_are_named(synced: Shell) -> None:
    """Import, doctor, run and serve name each secret prop without a value; run and serve end with status 2."""
    imported = synced("import", NAME, "--to", "n.ipynb", "--json")
    doctor = synced("doctor", NAME, "--json")
    run, notebook = synced("run", NAME, "--body", "{}"), synced("run", "n.ipynb", "--body", "{}")
    served = synced("serve", NAME, "--port", "0")

    assert [f"{use['step']}.{use['prop']}" for use in imported.json["report"]["secrets"]] == MISSING
    assert doctor.json["ready"] is False
    assert [item["name"] for item in doctor.json["missing"] if item["kind"] == "secret"] == MISSING
    assert [run.status, notebook.status, served.status] == [2, 2, 2]
    for prop in PROPS:
        assert f"pdkernel secrets set {NAME} call_partner {prop}" in run.stderr
        assert f"pdkernel secrets set n.ipynb call_partner {prop}" in notebook.stderr
        assert f"pdkernel secrets set {NAME} call_partner {prop}" in served.stderr
        assert f"%pdsecrets set call_partner {prop}" in (synced.folder / "n.ipynb").read_text()


def test_values_are_used_and_redacted(synced: Shell) -> None:
    """A folder and its notebook run with the same values, which no record shows; the export has the encrypted values."""
    assert synced("import", NAME, "--to", "n.ipynb").status == 0
    give_all(synced, NAME)

    runs = [synced("run", source, "--body", '{"id": 7}', "--json") for source in (NAME, "n.ipynb")]
    shown = synced("runs", "show", runs[0].json["id"], "--json")
    exported = synced("export", "n.ipynb", "--into", NAME)

    for ended in (*runs, shown):
        assert ended.status == 0, ended.stderr
        (step,) = ended.json["steps"]
        assert step["exports"]["$return_value"] == {"isText": True, "length": len(VALUES[0])}
        assert step["exports"]["sent"]["headers"]["X-Order"] == 7
        assert not any(value in ended.stdout + ended.stderr for value in VALUES)
    assert exported.status == 0, exported.stderr
    for file in ("workflow.yaml", "call_partner/entry.js"):
        assert (synced.folder / NAME / file).read_bytes() == (FOLDER / file).read_bytes()
    assert synced("doctor", NAME, "--json").json["ready"] is True


def test_list_and_remove(synced: Shell) -> None:
    """`list` shows which props have values, never a value; `remove` takes a name of the list, or `STEP.PROP`."""
    # a question that is not answered yet keeps a run from starting, but not these commands
    (synced.folder / NAME / "pdkernel.yaml").write_text("steps: {call_partner: {accounts: {slack: unanswered}}}\n")
    give_all(synced, NAME)
    asked = synced("secrets", "remove", MISSING[0])
    (synced.folder / "broken").mkdir()
    (synced.folder / "broken" / "workflow.yaml").write_text("[")
    broken = synced("secrets", "list", "broken")

    stored = [row["name"] for row in synced("secrets", "list", "--json").json]
    removed = [synced("secrets", "remove", name, "--yes") for name in (stored[0], MISSING[1])]
    rows = synced("secrets", "list", ".", "--json").json
    text = synced("secrets", "list", NAME)
    (synced.folder / NAME / ".env").write_text(f"{MISSING[1]}=value-in-a-file\n")
    from_file = synced("secrets", "list", NAME, "--json").json

    assert [row["set"] for row in from_file] == [False, True, True]
    assert (asked.status, f"Remove the value of {stored[0]}: not confirmed" in asked.stderr) == (2, True)
    assert (broken.status, "broken/workflow.yaml" in broken.stderr) == (2, True)
    assert [name.partition("#")[0] for name in stored] == sorted(MISSING)
    assert [ended.status for ended in removed] == [0, 0]
    assert {f"{row['step']}.{row['prop']}": row["set"] for row in rows} == {
        MISSING[0]: False,
        MISSING[1]: False,
        MISSING[2]: True,
    }
    assert f"NOT SET: pdkernel secrets set {NAME} call_partner partner_key" in text.stdout
    assert not any(value in text.stdout for value in VALUES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("set", NAME, "call_partner", "partner_kex"), "Did you mean call_partner.partner_key"),
        (("set", NAME, "call_partner", "partner_key=s3cret-0123"), "must not be part of the line"),
        (("set", NAME, "call_partner", "partner_key"), "is empty"),
        (("set", NAME, "other", "partner_key"), "has no step 'other'"),
        (("remove", "call_partner.partner_key", "--yes"), "There is no secret"),
    ],
)
def test_invalid_calls(synced: Shell, arguments: tuple[str, ...], says: str) -> None:
    """An unknown step or prop, a value on the line and an empty value end with status 2; a value is not repeated."""
    ended = synced("secrets", *arguments)

    assert ended.status == 2
    assert says in ended.stderr
    assert "s3cret-0123" not in ended.stdout + ended.stderr


def test_the_value_comes_from_a_terminal_without_echo(synced: Shell) -> None:
    """On a terminal, the command prompts for the value and does not show it."""
    status, said = synced.on_terminal(
        "secrets", "set", NAME, "call_partner", "partner_key", answers=[("partner_key", VALUES[0])]
    )

    assert status == 0, said
    assert VALUES[0] not in said


def test_a_changed_secret_requires_its_value_again(synced: Shell) -> None:
    """After a sync with another encrypted value, the earlier value is not used."""
    give_all(synced, NAME)
    file = synced.folder / NAME / "workflow.yaml"
    file.write_text(file.read_text().replace("v1.aGVsbG8g", "v1.bmV3IGtl"))

    ended = synced("run", NAME, "--body", "{}")

    assert ended.status == 2
    assert "partner_key of step call_partner" in ended.stderr
    assert PROPS[1] not in ended.stderr


HEADERS = {"authorization": f"Bearer {TOKEN}", "x-pd-environment": "development"}
KEYRING = '''
import json, os, pathlib
from keyring.backend import KeyringBackend

FILE = pathlib.Path(os.environ["KEYRING_FILE"])

class Keyring(KeyringBackend):
    """A keyring in a file."""

    priority = 1

    def _all(self):
        return json.loads(FILE.read_text()) if FILE.exists() else {}

    def get_password(self, service, username):
        return self._all().get(f"{service}/{username}")

    def set_password(self, service, username, password):
        FILE.write_text(json.dumps({**self._all(), f"{service}/{username}": password}))

    def delete_password(self, service, username):
        kept = self._all()
        kept.pop(f"{service}/{username}")
        FILE.write_text(json.dumps(kept))
'''


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The API of a real project."""
    with running_upstream() as api:
        yield api


@pytest.fixture
def logged_in(pdkernel: Shell, upstream: Upstream) -> Shell:
    """The command in a folder with a logged-in project."""
    upstream.set()
    done = log_in(pdkernel, upstream)
    assert done.status == 0, done.stderr
    return pdkernel


def log_in(pdkernel: Shell, upstream: Upstream, *more: str, secret: str = CLIENT_SECRET, **environ: Any) -> Ended:
    """Log in with a secret from a file."""
    pdkernel.write("secret.txt", secret + "\n")
    words = ("--client-id", CLIENT_ID, "--client-secret", "@secret.txt", "--project-id", PROJECT)
    return pdkernel("login", *words, "--base-url", upstream.url, *more, **environ)


def stored(pdkernel: Shell) -> bytes:
    """The content of the project's database."""
    with sqlite3.connect(pdkernel.folder / ".pdkernel" / "project.db") as connection:
        return "\n".join(connection.iterdump()).encode()


def test_the_secret_is_stored_encrypted(pdkernel: Shell, upstream: Upstream) -> None:
    """Without a keyring the secret is encrypted in the project and in no output."""
    done = log_in(pdkernel, upstream)
    shown = pdkernel("project", "show")

    assert done.status == 0
    assert f"Users and accounts are now those of {PROJECT} at {upstream.url}." in done.stdout
    assert "stored in the project, encrypted" in done.stdout
    assert f"users and accounts: of {PROJECT} at {upstream.url}, as client {CLIENT_ID}" in shown.stdout
    assert CLIENT_SECRET not in done.stdout + done.stderr + shown.stdout + shown.stderr
    assert CLIENT_SECRET.encode() not in stored(pdkernel)


def test_login_in_a_keyring(pdkernel: Shell, upstream: Upstream, keyrings: Any) -> None:
    """With a keyring the secret is stored there only; logging out removes the secret."""
    file, environ = pdkernel.folder / "keyring.json", keyrings()
    words = (
        "--client-id",
        f" {CLIENT_ID} ",
        "--client-secret",
        "-",
        "--project-id",
        PROJECT,
        "--base-url",
        upstream.url,
    )
    typed = pdkernel("login", *words, stdin=f"{CLIENT_SECRET}\n", **environ)
    of_standard_input = json.loads(file.read_text())
    done = log_in(pdkernel, upstream, "--json", **environ)
    kept = json.loads(file.read_text())
    used = pdkernel("users", "list", "--json", **environ)
    pdkernel("logout", **environ)

    assert done.json["secret"] == "keyring"
    assert list(kept.values()) == [CLIENT_SECRET]
    assert (typed.status, of_standard_input) == (0, kept)
    assert b'secret"' not in stored(pdkernel)
    assert [user["external_user_id"] for user in used.json] == ["ada", "bob", "eve"]
    assert json.loads(file.read_text()) == {}


@pytest.fixture
def keyrings(pdkernel: Shell) -> Callable[..., dict[str, Any]]:
    """The environment variables of a command with a keyring: one in a file, one that fails, or one that is not installed."""
    pdkernel.write("filed.py", KEYRING)
    pdkernel.write(
        "broken.py", KEYRING.partition("    def")[0] + "    get_password = set_password = delete_password = None\n"
    )
    path = os.pathsep.join([pdkernel.environment()["PYTHONPATH"], str(pdkernel.folder)])

    def environ(backend: str = "filed", file: str = "keyring.json") -> dict[str, Any]:
        keyring = {"PYTHON_KEYRING_BACKEND": f"{backend}.Keyring", "KEYRING_FILE": str(pdkernel.folder / file)}
        return {"PYTHONPATH": path, **keyring}

    return environ


def test_a_lost_keyring_entry_is_reported(pdkernel: Shell, upstream: Upstream, keyrings: Any) -> None:
    """If the keyring has lost the secret, the error asks for a new login."""
    log_in(pdkernel, upstream, **keyrings())

    done = pdkernel("users", "list", **keyrings(file="other.json"))

    assert done.status == 2
    assert "is not in this machine's keyring any more" in done.stderr
    assert "pdkernel login" in done.stderr


@pytest.mark.parametrize("backend", ["broken", "not_installed"])
def test_a_broken_keyring_is_ignored(pdkernel: Shell, upstream: Upstream, keyrings: Any, backend: str) -> None:
    """If the keyring fails or is missing, the project stores the secret."""
    done = log_in(pdkernel, upstream, "--json", **keyrings(backend))
    used = pdkernel("users", "list", "--json", **keyrings(backend))

    assert (done.status, done.json["secret"]) == (0, "project")
    assert [user["external_user_id"] for user in used.json] == ["ada", "bob", "eve"]
    assert CLIENT_SECRET.encode() not in stored(pdkernel)


def test_environment_variables_are_enough(pdkernel: Shell, upstream: Upstream) -> None:
    """`pdkernel login` reads missing values from the environment, also under the SDK's names; an option precedes its variable."""
    environ: dict[str, Any] = {
        "PIPEDREAM_CLIENT_ID": CLIENT_ID,
        "PDKERNEL_CLIENT_SECRET": CLIENT_SECRET,
        "PIPEDREAM_PROJECT_ID": PROJECT,
        "PIPEDREAM_BASE_URL": upstream.url,
        "PIPEDREAM_PROJECT_ENVIRONMENT": "production",
    }
    wrong = {f"PDKERNEL_{name}": "another" for name in ("CLIENT_ID", "CLIENT_SECRET", "PROJECT_ID", "BASE_URL")}

    done = pdkernel("login", "--json", **environ)
    option = log_in(pdkernel, upstream, "--json", "--environment", "development", **{**environ, **wrong})

    expected = {"project_id": PROJECT, "client_id": CLIENT_ID, "base_url": upstream.url, "secret": "project"}
    assert done.json == {**expected, "environment": "production"}
    assert option.json == {**expected, "environment": "development"}


def test_secret_on_the_command_line_is_refused(pdkernel: Shell) -> None:
    """A secret on the command line is refused: other users can read a command line."""
    done = pdkernel("login", "--client-id", "c", "--client-secret", "planted-0123456789", "--project-id", "p")

    assert done.status == 2
    assert "A secret on a command line is visible to other users" in done.stderr
    assert "planted-0123456789" not in done.stdout + done.stderr


def test_a_missing_value_is_named(pdkernel: Shell) -> None:
    """Without a terminal the command names the missing value and asks no question."""
    done = pdkernel("login", "--client-id", "c")

    assert done.status == 2
    assert "The client secret is missing." in done.stderr
    assert "Pass --client-secret @FILE, or set PDKERNEL_CLIENT_SECRET." in done.stderr


@pytest.mark.parametrize(("file", "why"), [("gone", "No such file or directory"), ("binary", "the file is not text")])
def test_a_file_without_a_secret_is_named(pdkernel: Shell, file: str, why: str) -> None:
    """A file that cannot be read is named with the reason."""
    (pdkernel.folder / "binary").write_bytes(b"\xff\xfe")

    done = pdkernel("login", "--client-id", "c", "--client-secret", f"@{file}", "--project-id", "p")

    assert done.status == 2
    assert f"Cannot read the client's secret from {file}: {why}." in done.stderr


def test_a_terminal_asks_for_missing_values(pdkernel: Shell, upstream: Upstream) -> None:
    """On a terminal the command asks for what is missing, and does not show the secret."""
    upstream.set()
    status, shown = pdkernel.on_terminal(
        *("login", "--base-url", upstream.url),
        answers=[("Client id", CLIENT_ID), ("Client secret", CLIENT_SECRET), ("Project id", PROJECT)],
    )

    assert status == 0, shown
    assert CLIENT_SECRET not in shown
    assert f"Users and accounts are now those of {PROJECT}" in shown


def test_a_wrong_secret_is_not_stored(pdkernel: Shell, upstream: Upstream) -> None:
    """A login that Pipedream rejects is reported, and the project is unchanged."""
    done = log_in(pdkernel, upstream, secret="planted-wrong-0123456789")
    shown = pdkernel("project", "show", "--json")

    assert done.status == 2
    assert f"Pipedream rejects the OAuth client {CLIENT_ID} (401)" in done.stderr
    assert "planted-wrong" not in done.stderr
    assert shown.json["login"] is None


def test_the_secret_requires_https(pdkernel: Shell) -> None:
    """An address that is neither https nor loopback gets no secret."""
    pdkernel.write("secret.txt", CLIENT_SECRET)
    words = ("--client-id", "c", "--client-secret", "@secret.txt", "--project-id", "p", "--base-url")
    for url in ("http://api.example.test", "ftp://127.0.0.1", "https://me:pass@api.example.test", "x"):
        assert pdkernel("login", *words, url).status == 2, url


def test_a_local_client_of_a_real_project_is_explained(logged_in: Shell) -> None:
    """In a logged-in project, `clients create` explains that a local client opens endpoints only."""
    made = logged_in("clients", "create")

    assert f"The client can call the local workflow endpoints. Connect's routes belong to {PROJECT}" in made.stderr


def test_logging_out(logged_in: Shell) -> None:
    """Without a login users and accounts are the local project's."""
    done = logged_in("logout")
    listed = logged_in("users", "list", "--json")
    again = logged_in("logout")

    assert "Logged out" in done.stdout
    assert listed.json == []
    assert "The project was not logged in." in again.stdout


def test_commands_use_the_real_project(logged_in: Shell) -> None:
    """Accounts are listed from the real project, and a run uses the user's newest account."""
    accounts = logged_in("accounts", "list", "--external-user", "ada", "--app", "slack", "--json")
    notebook = logged_in.notebook(
        "%%pdstep tell --app slack\ndef handler(pd):\n    return pd.inputs['slack']['$auth']['oauth_access_token']"
    )
    done = logged_in("run", notebook, "--body", "{}", "--external-user", "ada", "--json")

    assert [account["id"] for account in accounts.json] == ["apn_new", "apn_old"]
    step = done.json["steps"][0]
    used = {"prop": "slack", "app": "slack", "id": "apn_new", "owner": "external_user", "name": "ada's slack"}
    assert step["accounts"] == [used]
    assert step["exports"]["$return_value"] == "⟦secret:slack/apn_new/oauth_access_token⟧"
    assert SLACK_TOKEN not in done.stdout


def test_an_error_at_pipedream_is_reported(logged_in: Shell, upstream: Upstream) -> None:
    """An error of Pipedream ends a command with its message, without a traceback."""
    upstream.set(fault={"path": "users", "kind": "status", "status": 429, "headers": {"Retry-After": "3"}})

    done = logged_in("users", "list")

    assert done.status == 3
    assert "Try again in 3 s." in done.stderr
    assert "Traceback" not in done.stderr


HELD = """%%pdstep call --app github
import json, urllib.request
def handler(pd):
    word = pd.inputs["github"]["$auth"]["oauth_access_token"]
    asked = urllib.request.Request("https://api.github.com/user", headers={"authorization": f"Bearer {word}"})
    with urllib.request.urlopen(asked) as answer:
        return json.load(answer)["target"]
"""


def test_run_with_a_withheld_account_becomes_a_test(logged_in: Shell, upstream: Upstream) -> None:
    """The saved test passes offline, with a fake account and the recorded call."""
    source = logged_in.notebook(HELD)
    words = ("--body", "{}", "--external-user", "ada", "--egress", "live", "--save-test", "held", "--json")

    ended = logged_in("run", source, *words)
    asked = len(upstream.asked)

    assert ended.status == 0, ended.stdout + ended.stderr
    assert ended.json["steps"][0]["exports"]["$return_value"] == "https://api.github.com/user"
    assert run_pytest(logged_in.fork_server, logged_in.folder) == {"passed": 1}
    assert len(upstream.asked) == asked
    written = [path for path in logged_in.folder.rglob("*") if path.is_file() and ".pdkernel" not in path.parts]
    assert [path.name for path in written if b"withheld-" in path.read_bytes()] == []


TO = "http://127.0.0.1:1/eonew"


def test_moving_triggers_without_yes_shows_the_changes(logged_in: Shell, upstream: Upstream) -> None:
    """Without --yes, and in a dry run, nothing changes; Pipedream's own endpoint would be replaced, another webhook stays."""
    done = logged_in("triggers", "move", "--to", TO)
    dry = logged_in("triggers", "move", "--to", TO, "--yes", "--dry-run")

    assert dry.status == 0
    assert done.stdout.splitlines() == [
        "dc_1  Source dc_1  ada in development",
        "  - https://eoabc123.m.pipedream.net",
        "    https://mine.example.test/hook",
        f"  + {TO}",
        "Would change 1 of 2 sources. Nothing was changed; --yes makes the changes.",
    ]
    assert not [each for each in upstream.asked if each["method"] == "PUT"]


def test_a_webhook_cannot_control_the_terminal(pdkernel: Shell) -> None:
    """Control characters in a webhook of another client are shown as text."""
    with running_upstream() as fresh:
        log_in(pdkernel, fresh)
        put_webhooks(fresh, "dc_1", ["https://mine.example.test/\x1b]0;owned\a", "https://eoabc123.m.pipedream.net"])
        shown = pdkernel("triggers", "move", "--to", TO)

    assert "    https://mine.example.test/\\x1b]0;owned\\x07" in shown.lines


def test_moving_triggers(pdkernel: Shell) -> None:
    """With --yes the webhooks are changed once; a second move changes nothing."""
    with running_upstream() as fresh:
        log_in(pdkernel, fresh)
        moved = pdkernel("triggers", "move", "--to", TO, "--yes", "--only", "dc_1")
        again = pdkernel("triggers", "move", "--to", TO, "--yes", "--only", "dc_1")
        changed = [each for each in fresh.asked if each["method"] == "PUT"]

    said = "Changed 1 of 1 source. To undo: pdkernel triggers move --undo --yes"
    assert moved.stdout.splitlines()[-1] == said
    assert again.stdout.splitlines() == ["Nothing to change: checked 1 source."]
    assert [json.loads(each["body"]) for each in changed] == [{"webhook_urls": ["https://mine.example.test/hook", TO]}]
    assert changed[0]["query"] == {"external_user_id": "ada"}


def test_moving_can_be_undone(pdkernel: Shell) -> None:
    """Undoing two moves restores the webhooks before the first move, once, and only if they are unchanged since."""
    with running_upstream() as fresh:
        log_in(pdkernel, fresh)
        before = {"dc_1": webhooks_of(fresh, "dc_1"), "dc_2": webhooks_of(fresh, "dc_2")}
        first = pdkernel("triggers", "move", "--to", TO, "--yes", "--json")
        pdkernel("triggers", "move", "--to", f"{TO}2", "--from", TO, "--yes")
        pdkernel("triggers", "move", "--to", TO, "--only", "dc_2", "--yes")
        moved = {"dc_1": webhooks_of(fresh, "dc_1"), "dc_2": webhooks_of(fresh, "dc_2")}
        put_webhooks(fresh, "dc_2", ["https://other.example.test"])

        looked = pdkernel("triggers", "move", "--undo")
        undone = pdkernel("triggers", "move", "--undo", "--yes", "--json")
        again = pdkernel("triggers", "move", "--undo", "--yes")

        assert [(each["id"], each["changed"]) for each in first.json] == [("dc_1", True), ("dc_2", False)]
        assert moved == {"dc_1": ["https://mine.example.test/hook", f"{TO}2"], "dc_2": [TO]}
        assert looked.stdout.splitlines()[-1].startswith("Would change 1 of 2 sources.")
        assert [(each["id"], each["changed"]) for each in undone.json] == [("dc_1", True), ("dc_2", False)]
        assert webhooks_of(fresh, "dc_1") == before["dc_1"]
        assert webhooks_of(fresh, "dc_2") == ["https://other.example.test"]
        assert again.stdout.splitlines() == ["Nothing to change: checked 1 source."]


def test_some_moves_are_undone(pdkernel: Shell) -> None:
    """Options of an undo select moved sources by user, id and environment; by default both environments are undone."""
    with running_upstream() as fresh:
        log_in(pdkernel, fresh)
        user = ("--external-user", "ada", "--environment", "production", "--only", "dc_1")
        moved = pdkernel("triggers", "move", "--to", TO, *user, "--yes", "--json").json

        def planned(*options: str) -> list[str]:
            return [each["id"] for each in pdkernel("triggers", "move", "--undo", "--json", *options).json]

        selections = {"--environment": ("production", "development"), "--external-user": ("ada", "bob"), "--only": ("dc_1", "dc_2")}  # fmt: skip
        found = {name: [planned(name, value) for value in values] for name, values in selections.items()}
        undone = planned()

    assert [(each["id"], each["environment"], each["changed"]) for each in moved] == [("dc_1", "production", True)]
    assert found == {name: [["dc_1"], []] for name in selections}
    assert undone == ["dc_1"]


def test_the_sources_of_one_user_are_moved(logged_in: Shell) -> None:
    """With --external-user only the sources of that user are checked; in JSON a source without changes is not changed."""
    without_user = logged_in("triggers", "move", "--to", TO, "--external-user", "bob")
    checked = logged_in("triggers", "move", "--to", TO, "--external-user", "ada", "--json").json

    assert without_user.stdout == "Nothing to change: checked 0 sources.\n"
    assert [(each["id"], each["changed"]) for each in checked] == [("dc_1", False), ("dc_2", False)]


def test_an_interrupted_move_can_be_undone(pdkernel: Shell) -> None:
    """Changes before an error are stored, and can be undone; the output of the undo names no further undo."""
    with running_upstream() as fresh:
        log_in(pdkernel, fresh)
        before = webhooks_of(fresh, "dc_1")
        fresh.set(fault={"path": "dc_2/webhooks", "method": "PUT", "kind": "status", "status": 500})
        failed = pdkernel("triggers", "move", "--to", TO, "--only", "dc_1", "--only", "dc_2", "--yes")
        fresh.set()
        moved = webhooks_of(fresh, "dc_1")
        undone = pdkernel("triggers", "move", "--undo", "--yes")

        assert (failed.status, moved != before) == (3, True)
        assert webhooks_of(fresh, "dc_1") == before
        assert undone.stdout.splitlines()[-1] == "Changed 1 of 1 source."


def test_moving_to_an_unreachable_url(logged_in: Shell) -> None:
    """A base URL that Pipedream cannot call is refused."""
    done = logged_in("triggers", "move", "--to", "https://flows.example.com:99999/x")

    assert done.status == 2
    assert "is not the URL of an endpoint" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--undo", "--to", TO], []])
def test_moving_requires_a_target(logged_in: Shell, words: list[str]) -> None:
    """The target is required, and only for a move."""
    assert logged_in("triggers", "move", *words).status == 2


def webhooks_of(api: Upstream, source: str) -> list[str]:
    """The webhooks of a source at Pipedream."""
    answer = httpx.get(
        f"{api.url}/v1/connect/{PROJECT}/deployed-triggers/{source}/webhooks", headers=HEADERS, timeout=60
    )
    urls: list[str] = answer.json()["webhook_urls"]
    return urls


def put_webhooks(api: Upstream, source: str, urls: list[str]) -> None:
    """Change the webhooks as another client would."""
    url = f"{api.url}/v1/connect/{PROJECT}/deployed-triggers/{source}/webhooks"
    httpx.put(url, headers=HEADERS, json={"webhook_urls": urls}, timeout=60).raise_for_status()


def test_moving_requires_a_login(pdkernel: Shell) -> None:
    """Without a login there are no deployed sources."""
    done = pdkernel("triggers", "move", "--to", TO)

    assert done.status == 2
    assert "pdkernel login" in done.stderr


def test_importing_the_package_loads_no_sdk() -> None:
    """Importing the package imports neither the SDK nor keyring, which read the environment."""
    code = (
        "import sys\n"
        "import pdkernel, pdkernel.cli, pdkernel.accounts, pdkernel.kit.session, pdkernel.actions\n"
        "assert not {'pipedream', 'keyring'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("stdin", ["value-1", "value-1\r\n", "value-1\n\n"])
def test_variable_has_no_line_break(pdkernel: Shell, stdin: str) -> None:
    """A value from standard input is stored without the line breaks at its end, which `echo` and editors write."""
    pdkernel("env", "set", "API_KEY", stdin=stdin)

    with Project.open(pdkernel.folder / ".pdkernel") as project:
        assert project.variables.values() == {"API_KEY": "value-1"}


def test_variable_is_encrypted_and_never_shown(pdkernel: Shell) -> None:
    """A variable's value is in no output, and in no file as plain text; it is refused on the command line, which others can read."""
    refused = pdkernel("env", "set", "OTHER=value-that-is-hidden")
    assert pdkernel("env", "set", "API_KEY", stdin="value-that-is-hidden").status == 0

    listed = pdkernel("env", "list", "--json")

    assert listed.json == [{"name": "API_KEY"}]
    assert (refused.status, "value-that-is-hidden" in refused.stderr) == (2, False)
    files = [path for path in Path(pdkernel.folder).rglob("*") if path.is_file()]
    assert files
    assert not any(b"value-that-is-hidden" in path.read_bytes() for path in files)


def test_the_plan_is_shown(pdkernel: Shell) -> None:
    """`project show` shows the plan that `project set plan free` has set."""
    pdkernel("project", "set", "plan", "free")

    assert pdkernel("project", "show", "--json").json["plan"] == "free"


def test_a_wrong_setting_is_refused(pdkernel: Shell) -> None:
    """A value that the setting cannot have is refused, and not stored."""
    before = pdkernel("project", "show", "--json").json
    address, mail = "is neither a URL nor an e-mail address", "is not the address of a mail server"
    servers = ("x:y:z", "host:", "host:0", "host:99999", "a b", "me@host", "smtp://host", ":25")
    for setting, values, problem in (
        ("plan", ["gold"], "'gold' is not a plan"),
        ("plan", ["free", "business"], "plan has one value"),
        *(("error_notification", [value], address) for value in ("me", "ftp://h.test/x", "https://")),
        *(("mail_server", [value], mail) for value in servers),
    ):
        refused = pdkernel("project", "set", setting, *values)

        assert (refused.status, problem in refused.stderr) == (2, True), values
    assert pdkernel("project", "show", "--json").json == before


@pytest.mark.parametrize(
    ("setting", "value"),
    [("error_notification", "https://h.test/x"), ("mail_to", "me@h.test")],
)
def test_a_setting_is_set_and_reset(pdkernel: Shell, setting: str, value: str) -> None:
    """A setting is shown until an empty value resets it."""
    said = pdkernel("project", "set", setting, value)
    shown = pdkernel("project", "show")
    reset = pdkernel("project", "set", setting, "")

    assert (said.stdout, reset.stdout) == (f"{setting} is {value}.\n", f"{setting} is not set.\n")
    assert f"{setting}: {value}\n" in shown.stdout
    assert "users and accounts: of this project" in shown.stdout
    assert setting not in pdkernel("project", "show", "--json").json


def test_a_removed_variable_is_gone(pdkernel: Shell) -> None:
    """`env remove` removes the variable; an unknown one is refused without a question."""
    pdkernel("env", "set", "KEY", stdin="value-of-key")

    assert pdkernel("env", "remove", "KEY", "--yes", "--json").json == {"name": "KEY", "removed": True}
    assert pdkernel("env", "list").stdout.startswith("No environment variables.")
    unknown = pdkernel("env", "remove", "KEY")
    assert (unknown.status, "There is no environment variable 'KEY'" in unknown.stderr) == (2, True)


def test_data_stores_are_opened_to_connect_tokens(pdkernel: Shell) -> None:
    """`project set connect_data_stores` takes names separated by commas, and `project show` lists them until they are removed."""
    ended = pdkernel("project", "set", "connect_data_stores", "orders, carts,orders")
    shown = pdkernel("project", "show").stdout
    listed = pdkernel("project", "show", "--json").json["connect_data_stores"]
    pdkernel("project", "set", "connect_data_stores", "")

    assert ended.stdout == "Data stores that Connect tokens may use: carts, orders.\n"
    assert "connect_data_stores: carts, orders\n" in shown
    assert listed == ["carts", "orders"]
    assert "connect_data_stores" not in pdkernel("project", "show", "--json").json


def test_an_empty_value_is_refused(pdkernel: Shell) -> None:
    """`env set` with empty input changes nothing."""
    pdkernel("env", "set", "KEY", stdin="value-of-key")

    refused = pdkernel("env", "set", "KEY", stdin="")

    assert refused.status == 2
    assert "is empty" in refused.stderr
    assert pdkernel("env", "list", "--json").json == [{"name": "KEY"}]


def test_mail_servers(pdkernel: Shell) -> None:
    """A host with or without a port is stored."""
    for address in ("localhost", "smtp.example.com:587", "[::1]:25"):
        pdkernel("project", "set", "mail_server", address)

        assert pdkernel("project", "show", "--json").json["mail_server"] == address
