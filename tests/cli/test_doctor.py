"""`pdkernel doctor`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pdkernel.cli.doctor import find_platform_python
from tests.cli.conftest import Shell

READS = '%%pdstep send --app slack\nimport os\ndef handler(pd):\n    return os.environ["CHANNEL"]\n'
TOKEN = "xoxb-planted-in-a-test"


def test_doctor_describes_the_machine(pdkernel: Shell) -> None:
    """Without a source, doctor lists versions, interpreters, the kernel and the project, and exits with 0."""
    ended = pdkernel("doctor", "--json")

    assert ended.status == 0
    assert list(ended.json) == ["machine", "walls", "project", "source", "ready", "missing"]
    assert list(ended.json["machine"]) == [
        "pdkernel", "python", "node", "go", "bash", "kernel", "chromium", "outside_calls",
        "isolation_processes", "isolation_files", "isolation_ports", "isolation_user", "workers",
    ]  # fmt: skip
    assert ended.json["project"]["folder"] == str(pdkernel.folder / ".pdkernel")
    assert (ended.json["source"], ended.json["missing"]) == (None, [])


@pytest.mark.parametrize(
    ("place", "environ"),
    [
        ("tools", {"PATH": "{0}/broken:{0}/tools"}),
        (".pyenv/versions/3.12.1/bin", {"PATH": "{0}/broken"}),
        ("elsewhere/versions/3.12.9/bin", {"PYENV_ROOT": "{0}/elsewhere"}),
        (".local/share/uv/python/cpython-3.12.11-linux-x86_64-gnu/bin", {}),
        ("data/uv/python/cpython-3.12.11-linux-x86_64-gnu/bin", {"XDG_DATA_HOME": "{0}/data"}),
        ("own/cpython-3.12.11-linux-x86_64-gnu/bin", {"UV_PYTHON_INSTALL_DIR": "{0}/own"}),
    ],
)
def test_the_platforms_python_is_found(tmp_path: Path, place: str, environ: dict[str, str]) -> None:
    """A Python 3.12 is found on PATH and in the folders of pyenv and uv; one that does not run, such as a shim, is skipped."""

    def write(folder: str, script: str) -> Path:
        path = tmp_path / folder / "python3.12"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    given = {name: value.format(tmp_path) for name, value in environ.items()}
    write("broken", "exit 127")
    before = find_platform_python(given, tmp_path)
    python = write(place, "echo 3.12")

    assert before is None
    assert find_platform_python(given, tmp_path) == python


def test_no_program_of_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty entry of PATH is not the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ":")
    Path("python3.12").write_text("#!/bin/sh\n: >ran; echo 3.12\n")
    Path("python3.12").chmod(0o755)

    assert find_platform_python({"PATH": ":"}, tmp_path / "home") is None
    assert not (tmp_path / "ran").exists()


def test_a_python_of_another_version_is_not_the_platforms(tmp_path: Path) -> None:
    """A program with the name of the platform's Python counts only if it reports that version."""
    (tmp_path / "python3.12").symlink_to(sys.executable)

    assert (find_platform_python({"PATH": str(tmp_path)}, tmp_path) is None) == (sys.version_info[:2] != (3, 12))


def test_doctor_names_each_missing_requirement_with_its_command(pdkernel: Shell) -> None:
    """In a fresh clone doctor names missing users, accounts and variables with commands; these commands make the workflow ready."""
    source = pdkernel.notebook(READS)

    before = pdkernel("doctor", source, "--external-user", "ada", "--json")
    text = pdkernel("doctor", source, "--external-user", "ada")
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip
    pdkernel("env", "set", "CHANNEL", stdin="#general-of-a-test")
    after = pdkernel("doctor", source, "--external-user", "ada", "--json")

    assert before.json["ready"] is False
    kinds = [(missing["kind"], missing["name"]) for missing in before.json["missing"]]
    assert kinds == [("external_user", "ada"), ("variable", "CHANNEL")]
    commands = [missing["command"] for missing in before.json["missing"]]
    assert "accounts add --external-user ada --app slack" in commands[0]
    assert commands[1] == "pdkernel env set CHANNEL"
    assert all(command in text.stdout for command in commands)
    assert (after.json["ready"], after.json["missing"]) == (True, [])


def test_what_is_beside_the_notebook_counts(pdkernel: Shell) -> None:
    """A variable in the `.env` beside the notebook is not missing; its test users are those of its `pdkernel.yaml`."""
    (pdkernel.folder / "there").mkdir()
    source = pdkernel.notebook(READS, name="there/work.ipynb")
    pdkernel.write("there/.env", "CHANNEL=general")
    pdkernel.write("there/work.pdkernel.yaml", "test_users: [grace]\n")

    missing = pdkernel("doctor", source, "--json").json["missing"]

    assert [(each["kind"], each["name"]) for each in missing] == [("external_user", "grace")]


def test_doctor_reports_what_is_not_served(pdkernel: Shell) -> None:
    """A workflow that can run but not be served is reported with the reason."""
    header = "%%pdworkflow\nname: Closed\ntrigger: {type: http, auth: bearer, token_env: OWN}\n"
    source = pdkernel.notebook(header, "%%pdstep one\ndef handler(pd):\n    return 1\n")

    before = pdkernel("doctor", source, "--json").json
    pdkernel("env", "set", "OWN", stdin="token-of-the-endpoint")
    after = pdkernel("doctor", source, "--json").json

    assert "its environment variable OWN is not set" in before["not_served"]
    assert after.get("not_served") is None


@pytest.mark.parametrize(
    ("args", "words"),
    [(["nowhere.ipynb"], "nowhere.ipynb does not exist"), (["work.ipynb", "--environment", "staging"], "staging")],
)
def test_doctor_refuses_invalid_arguments(pdkernel: Shell, args: list[str], words: str) -> None:
    """A missing source and an unknown environment end with status 2; with --json the error is an object."""
    pdkernel.notebook(READS)

    ended = pdkernel("doctor", *args, "--json")

    assert ended.status == 2
    assert words in ended.json["error"]["message"]


def test_doctor_checks_every_workflow_of_a_folder(pdkernel: Shell) -> None:
    """Each workflow of a folder is reported, also if another workflow cannot be read."""
    (pdkernel.folder / "all/deep").mkdir(parents=True)
    pdkernel.notebook("%%pdstep one\ndef handler(pd):\n    return 1\n", name="all/good.ipynb")
    pdkernel.notebook(READS, name="all/deep/needs.ipynb")
    pdkernel.write("all/broken.ipynb", "no notebook")

    text = pdkernel("doctor", "all")
    found = pdkernel("doctor", "all", "--json").json
    checked = pdkernel("doctor", "all", "--check")
    (pdkernel.folder / "all/deep/needs.ipynb").unlink()
    unreadable = pdkernel("doctor", "all", "--check")

    assert (text.status, checked.status, unreadable.status) == (0, 1, 1)
    assert "all/good.ipynb is ready to run." in text.stdout
    assert "all/deep/needs.ipynb needs:" in text.stdout
    assert "Cannot read all/broken.ipynb: all/broken.ipynb is not a notebook" in text.stdout
    assert found["ready"] is False
    assert [(each["source"], each["ready"], "error" in each) for each in found["workflows"]] == [
        ("all/broken.ipynb", False, True),
        ("all/deep/needs.ipynb", False, False),
        ("all/good.ipynb", True, False),
    ]


def test_doctor_cannot_control_the_terminal(pdkernel: Shell) -> None:
    """Control characters in the name of a workflow that cannot be read are shown as text."""
    (pdkernel.folder / "all").mkdir()
    pdkernel.notebook("%%pdstep one\ndef handler(pd):\n    return 1\n", name="all/good.ipynb")
    pdkernel.write("all/\x1b]0;owned\a.ipynb", "no notebook")

    ended = pdkernel("doctor", "all")

    assert "Cannot read all/\\x1b]0;owned\\x07.ipynb: " in ended.stdout
    assert "\x1b" not in ended.stdout


def test_doctor_explains_the_lookup_of_one_user(pdkernel: Shell) -> None:
    """For a named user, doctor shows each link of the account lookup, in the environment that is given."""
    source = pdkernel.notebook(READS.replace('os.environ["CHANNEL"]', "1"))
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip
    user = ("doctor", source, "--external-user", "ada", "--environment", "production")

    ended, text, ready = pdkernel(*user, "--json"), pdkernel(*user), pdkernel(*user[:4], "--check")

    assert ended.json["lookup"]["failed"]["link"] == "user"
    assert ended.json["lookup"]["failed"]["code"] == "external_user_not_found"
    assert "✗ external user  ada does not exist in production" in text.lines
    assert (ready.status, "work.ipynb is ready to run." in ready.lines) == (0, True)


def test_doctor_shows_the_matrix(pdkernel: Shell) -> None:
    """With --matrix there is a row for each user and a cell for each step; no step runs."""
    source = pdkernel.notebook(READS.replace("import os", "open('ran', 'w')"))
    for user, app in (("ada", "slack"), ("grace", "github")):
        pdkernel("accounts", "add", "--external-user", user, "--app", app, "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip

    ended = pdkernel("doctor", source, "--matrix", "--json")
    text = pdkernel("doctor", source, "--matrix")

    users = ended.json["matrix"]["users"]
    assert [(row["external_user"], row["steps"][0]["state"]) for row in users] == [("ada", "ready"), ("grace", "error")]
    assert users[1]["workflow"]["error"]["code"] == "account_not_found"
    assert "1 of 2 external users can run it" in text.stdout
    assert not (pdkernel.folder / "ran").exists()


def test_run_explains_the_accounts(pdkernel: Shell) -> None:
    """`run --explain` shows the lookup of each account, in a failed and in a successful run."""
    source = pdkernel.notebook("%%pdstep send --app slack\ndef handler(pd):\n    return 1\n")
    before = pdkernel("run", source, "--body", "{}", "--external-user", "ada", "--explain")
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--id", "apn_adas", "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip

    after = pdkernel("run", source, "--body", "{}", "--external-user", "ada", "--explain")

    assert (before.status, after.status) == (2, 0)
    assert "✗ external user  ada does not exist in development" in before.lines
    assert "apn_adas" in next(line for line in after.lines if "is the newest and is used" in line)
