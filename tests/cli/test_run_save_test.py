"""`pdkernel run --save-test` saves the run as a test."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Shell
from tests.cli.test_run import GREET, SLACK, TOKEN
from tests.private_pytest import run_pytest


def test_a_run_is_saved(pdkernel: Shell) -> None:
    """The test, its event and its recorded calls are written and listed; the test passes; no file contains the token."""
    source = pdkernel.notebook(SLACK)
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip

    ended = pdkernel("run", source, "--body", "{}", "--external-user", "ada", "--save-test", "greeting", "--json")

    assert ended.status == 0
    assert ended.json["status"] == "success"
    assert ended.stderr.splitlines() == [
        "Wrote tests/test_greeting.py",
        "Wrote tests/recorded/greeting.jsonl",
        "Wrote events/greeting.json",
        "Run it: pytest tests/test_greeting.py",
    ]
    assert run_pytest(pdkernel.folder) == {"passed": 1}
    written = [path for path in pdkernel.folder.rglob("*") if path.is_file() and ".pdkernel" not in path.parts]
    assert [path.name for path in written if TOKEN.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--save-test", "a b"], "cannot name a test"),
        (["--save-test", "a", "--external-users", "ada,grace"], "--save-test saves a single run"),
        (["--plain", "NAME"], "has no effect without --save-test"),
    ],
)
def test_an_invalid_request_is_refused_before_the_run(pdkernel: Shell, options: list[str], words: str) -> None:
    """An invalid name, several users or --plain alone is refused with status 2 before any step."""
    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}", *options)

    assert ended.status == 2
    assert words in ended.stderr
    assert ended.stdout == ""


def test_an_existing_file_is_reported_after_the_run(pdkernel: Shell) -> None:
    """The run is printed; then a file of the user is named, and the status is 2."""
    (pdkernel.folder / "tests").mkdir()
    pdkernel.write("tests/test_greeting.py", "mine = True")

    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}", "--save-test", "greeting")

    assert ended.status == 2
    assert "success" in ended.stdout
    assert "test_greeting.py already exists" in ended.stderr
    assert (pdkernel.folder / "tests" / "test_greeting.py").read_text() == "mine = True"
