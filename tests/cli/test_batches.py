"""`pdkernel run --for-each external_user`, and `pdkernel runs batches`, `batch` and `retry`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Shell
from tests.cli.test_migrate_record import wait_for
from tests.notebook_files import notebook_of

STEP = """\
%%pdstep notify --app slack
def handler(pd):
    if pd.inputs["slack"]["$auth"]["token"] == "bad-token":
        raise ValueError("no such channel")
    return 1
"""
HEADER = "%%pdworkflow\nname: Report\ntrigger: {type: schedule, interval_seconds: 60}"


@pytest.fixture
def report(pdkernel: Shell) -> Path:
    """A scheduled workflow and three external users: one fails, and one has no Slack account."""
    for user, app, token in (("ada", "slack", "good-token"), ("bob", "slack", "bad-token"), ("eve", "github", "other")):
        connect(pdkernel, user, app, token)
    path = pdkernel.folder / "report.ipynb"
    notebook_of(path, HEADER, STEP)
    return path


def connect(pdkernel: Shell, user: str, app: str, token: str) -> None:
    """Connect an account."""
    added = pdkernel("accounts", "add", "--external-user", user, "--app", app, "--credential", f"token={token}")
    assert added.status == 0, added.stderr


def test_each_user_with_the_accounts_has_a_run(pdkernel: Shell, report: Path) -> None:
    """A line for each run is progress, the summary has the numbers, the cause and what is missing; the status is 1."""
    ended = pdkernel("run", report.name, "--for-each", "external_user")

    assert ended.status == 1
    assert "3 users: 1 succeeded, 1 failed, 1 skipped" in ended.stdout
    assert "no such channel" in ended.stdout
    assert "eve  has no Slack account" in ended.stdout
    assert {line.split()[0] for line in ended.stderr.splitlines() if "success" in line or "error" in line} == {
        "ada",
        "bob",
    }


def test_the_summary_as_json(pdkernel: Shell, report: Path) -> None:
    """The JSON has every user; `runs batch` and `runs batches` print the same, and lists of runs have the filter."""
    summary = pdkernel("run", report.name, "--for-each", "external_user", "--external-users", "ada,eve", "--json").json
    shown = pdkernel("runs", "batch", summary["id"], "--json").json
    (listed,) = pdkernel("runs", "batches", "--json").json
    runs = pdkernel("runs", "list", "--batch", summary["id"], "--json").json

    assert summary == shown == listed
    assert (summary["users"], summary["succeeded"], summary["failed"]) == (2, 1, [])
    assert summary["skipped"] == [{"external_user": "eve", "missing": ["slack"]}]
    assert [(run["external_user"], run["batch"]) for run in runs] == [("ada", summary["id"])]


def test_only_failed_runs_are_retried(pdkernel: Shell, report: Path) -> None:
    """Those of a command run again in the command; then nothing is left to retry."""
    batch = pdkernel("run", report.name, "--for-each", "external_user", "--json").json["id"]
    connect(pdkernel, "bob", "slack", "good-token")
    retried = pdkernel("runs", "retry", "--batch", batch, "--json")
    again = pdkernel("runs", "retry", "--batch", batch)
    runs = pdkernel("runs", "list", "--batch", batch, "--json").json

    assert retried.status == 0
    assert (retried.json["batch"]["succeeded"], retried.json["batch"]["retries"]) == (2, 1)
    assert (again.status, "has no failed runs" in again.stderr) == (2, True)
    assert sorted(run["external_user"] for run in runs) == ["ada", "bob", "bob"]


def test_a_batch_whose_command_was_killed_has_ended(pdkernel: Shell) -> None:
    """Other commands show that it was interrupted, and the failed run can be retried."""
    connect(pdkernel, "ada", "slack", "good-token")
    connect(pdkernel, "bob", "slack", "good-token")
    waiting = "%%pdstep notify --app slack\ndef handler(pd):\n    import time\n    time.sleep(300)"
    path = pdkernel.folder / "report.ipynb"
    notebook_of(path, HEADER, waiting)
    command = pdkernel.start("run", path.name, "--for-each", "external_user")
    assert wait_for(lambda: [each["in_progress"] for each in list_batches(pdkernel)] == [2])
    command.kill()
    command.communicate(timeout=60)
    notebook_of(path, HEADER, STEP)

    (killed,) = list_batches(pdkernel)
    retried = pdkernel("runs", "retry", "--batch", killed["id"], "--json")

    assert (killed["state"], killed["in_progress"], len(killed["failed"])) == ("done", 0, 2)
    assert "ended before all its runs did" in killed["problem"]
    assert (retried.status, retried.json["batch"]["succeeded"]) == (0, 2), retried.stderr
    assert retried.json["batch"]["problem"] == killed["problem"]


def list_batches(pdkernel: Shell) -> list[dict[str, Any]]:
    """The batches of the project."""
    found: list[dict[str, Any]] = pdkernel("runs", "batches", "--json").json
    return found


def test_options_that_name_one_user_are_refused(pdkernel: Shell, report: Path) -> None:
    """The command runs for several users."""
    ended = pdkernel("run", report.name, "--for-each", "external_user", "--external-user", "ada")

    assert (ended.status, "--for-each runs for several external users" in ended.stderr) == (2, True)


def test_an_unknown_batch_is_refused(pdkernel: Shell) -> None:
    """The error names the command that lists them."""
    ended = pdkernel("runs", "batch", "batch_gone")

    assert (ended.status, "pdkernel runs batches" in ended.stderr) == (2, True)


def test_a_batch_or_a_run_is_cancelled(pdkernel: Shell, report: Path) -> None:
    """Of an ended batch nothing is left; a command with neither an ID nor a batch is refused."""
    batch = pdkernel("run", report.name, "--for-each", "external_user", "--json").json["id"]
    ended = pdkernel("runs", "cancel", "--batch", batch, "--json")
    neither = pdkernel("runs", "cancel")

    assert (ended.status, ended.json) == (0, {"cancelled": 0})
    assert (neither.status, "--batch ID" in neither.stderr) == (2, True)
