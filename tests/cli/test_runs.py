"""`pdkernel runs`."""

from __future__ import annotations

import getpass
import json
import re
import shutil

import pytest

from tests.cli.conftest import Shell
from tests.cli.fork_server import ForkServer

GREET = (
    "%%pdworkflow\nname: Greet\n",
    '%%pdstep greet\ndef handler(pd):\n    return pd.steps["trigger"]["event"]["body"]["name"]\n',
)


@pytest.fixture(scope="module")
def three_runs(fork_server: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A project with three runs, which tests only read: of ada, of grace in production, and a failed one."""
    shell = Shell(tmp_path_factory.mktemp("three_runs"), fork_server)
    notebook = shell.notebook(*GREET, name="greet.ipynb")
    shell("run", notebook, "--body", '{"name": "Ada"}', "--external-user", "ada")
    shell("run", notebook, "--body", '{"name": "G"}', "--external-user", "grace", "--environment", "production")
    shell("run", notebook, "--body", "{}")
    return shell


@pytest.fixture
def shell(pdkernel: Shell, three_runs: Shell) -> Shell:
    """A copy of the project with three runs."""
    shutil.copytree(three_runs.folder, pdkernel.folder, dirs_exist_ok=True)
    return pdkernel


def users(shell: Shell, *args: str) -> list[str | None]:
    """The external users of the listed runs."""
    return [each["external_user"] for each in shell("runs", "list", *args, "--json").json]


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ([], [None, "grace", "ada"]),
        (["--external-user", "ada"], ["ada"]),
        (["--environment", "production"], ["grace"]),
        (["--status", "error"], [None]),
        (["--workflow", "Greet", "--limit", "2"], [None, "grace"]),
        (["--workflow", "Other"], []),
        (["--since", "1h"], [None, "grace", "ada"]),
        (["--until", "1h"], []),
        (["--since", "last tuesday", "--until", "2100-01-01"], [None, "grace", "ada"]),
    ],
)
def test_filters(three_runs: Shell, args: list[str], found: list[str | None]) -> None:
    """The list has the runs that fulfil all options, newest first."""
    assert users(three_runs, *args) == found


def test_a_list_is_continued(three_runs: Shell) -> None:
    """`--before ID` lists the runs that are older than a run; a full page names the option."""
    page = three_runs("runs", "list", "--limit", "2")

    hint = re.search(r"--before (\w+)", page.stderr)
    assert hint is not None
    assert users(three_runs, "--before", hint[1]) == ["ada"]
    assert "--before" not in three_runs("runs", "list", "--limit", "4").stderr


def test_the_list_as_text(three_runs: Shell) -> None:
    """A line has status, id, start, duration, user and workflow; a failed run also has its step and error."""
    lines = three_runs("runs", "list").stdout.splitlines()

    assert lines[0] == "3 runs"
    assert re.fullmatch(r"  ✗ error    \w{27}  [-\d]+ [:\d]+ UTC  .*\bm?s +- +Greet", lines[1])
    assert lines[2] == "      greet: KeyError: 'name'"
    assert "grace (production)" in lines[3]


def test_a_run_is_shown_as_it_ended(shell: Shell) -> None:
    """`runs show ID --json` is the execution that `run --json` printed; without ID, the newest run is shown."""
    printed = shell("run", "greet.ipynb", "--body", '{"name": "Lin"}', "--json").json

    assert shell("runs", "show", printed["id"], "--json").json == printed
    assert shell("runs", "show", "--json").json == printed
    assert printed["id"] in shell("runs", "show").stdout


def test_missing_runs_are_named(pdkernel: Shell) -> None:
    """An unknown id, and a project without runs, are exit status 2 with the next command."""
    unknown, empty, wrong = (
        pdkernel("runs", "show", "nope"),
        pdkernel("runs", "show"),
        pdkernel("runs", "list", "--since", "x"),
    )

    assert (unknown.status, empty.status, wrong.status) == (2, 2, 2)
    assert "pdkernel runs list" in unknown.stderr
    assert "pdkernel run SOURCE" in empty.stderr
    assert "--since x is not a time" in wrong.stderr
    assert pdkernel("runs", "list").stdout == "No runs.\n"


WAITS = (
    "%%pdworkflow\nname: Waits\n",
    "%%pdstep wait\ndef handler(pd):\n    pd.flow.suspend(3600_000)\n",
    '%%pdstep after\ndef handler(pd):\n    return pd.steps["wait"].get("$resume_data")\n',
)


def test_a_paused_run_is_resumed(pdkernel: Shell) -> None:
    """`runs show` names what a paused run waits for; `runs resume` goes on with its steps, and has the status of `run`."""
    notebook = pdkernel.notebook(*WAITS, name="waits.ipynb")
    paused = pdkernel("run", notebook, "--body", "{}")
    command = re.search(r"pdkernel runs resume (\w+)", paused.stderr)
    assert command is not None
    shown = " ".join(pdkernel("runs", "show", command[1]).stdout.split())
    resumed = pdkernel("runs", "resume", command[1], "--body", '{"ok": true}')
    again = pdkernel("runs", "resume", command[1], "--json")

    assert paused.status == 4
    assert re.search(r"! Paused in wait \(suspend\) until [-\d]+ [:\d]+ UTC\. Then the run is cancelled", shown)
    assert f"pdkernel runs resume {command[1]}" in shown
    assert resumed.status == 0
    assert '{"ok": true}' in resumed.stdout
    assert (again.status, again.json["error"]["code"]) == (2, "request")
    assert "its status is success" in again.json["error"]["message"]


def test_a_waiting_command_goes_on_when_another_ends_the_pause(pdkernel: Shell) -> None:
    """`run --wait` names the command that ends the pause, and ends with the run's end in either process."""
    notebook = pdkernel.notebook(*WAITS, name="waits.ipynb")
    with pdkernel.start("run", notebook, "--body", "{}", "--wait", "--json") as waiting:
        assert waiting.stderr is not None
        shown = next(line for line in waiting.stderr if "Paused in wait (suspend)" in line)
        run_id = re.findall(r"pdkernel runs resume (\w+)", shown)[0]
        resumed = pdkernel("runs", "resume", run_id, "--body", '{"ok": true}', "--json")
        printed, _ = waiting.communicate(timeout=60)

    assert (resumed.status, waiting.returncode) == (0, 0)
    assert json.loads(printed)["steps"] == resumed.json["steps"]
    assert resumed.json["steps"][1]["exports"] == {"$return_value": {"ok": True}}


def test_a_paused_run_is_cancelled(pdkernel: Shell) -> None:
    """`runs cancel` ends an unfinished run; its end has a reason, and a second call is refused."""
    notebook = pdkernel.notebook(*WAITS, name="waits.ipynb")
    run_id = pdkernel("run", notebook, "--body", "{}", "--json").json["id"]
    other = pdkernel("run", notebook, "--body", "{}", "--json").json["id"]
    cancelled = pdkernel("runs", "cancel", run_id, "--json")
    as_text = pdkernel("runs", "cancel", other)
    shown = pdkernel("runs", "show", run_id)
    again = pdkernel("runs", "cancel", run_id)

    assert (cancelled.status, cancelled.json["status"]) == (0, "cancelled")
    assert (as_text.status, as_text.stdout) == (0, f"Cancelled {other}.\n")
    assert "! The run was not completed: Cancelled: The run was cancelled." in shown.stdout
    assert (again.status, "its status is cancelled" in again.stderr) == (2, True)
    (decision,) = cancelled.json["decisions"]
    by = f"terminal of {getpass.getuser()}"
    assert (decision["verdict"], decision["by"], "step" in decision) == ("cancelled", by, False)
    assert all(f"The run was cancelled by {by} at 20" in text for text in (shown.stdout, again.stderr))


def test_a_failed_run_names_the_command_that_shows_it(pdkernel: Shell) -> None:
    """A failed run prints `pdkernel runs show ID` on standard error, and nothing of it with `--json`."""
    notebook = pdkernel.notebook(*GREET, name="greet.ipynb")
    failed = pdkernel("run", notebook, "--body", "{}")
    command = re.search(r"pdkernel (runs show \w+)", failed.stderr)
    assert command is not None
    shown = pdkernel(*command[1].split())

    assert (failed.status, shown.status) == (1, 0)
    assert "! The run was not completed: greet: KeyError: 'name'" in shown.stdout
    assert pdkernel("run", notebook, "--body", "{}", "--json").stderr == ""
    assert "runs show" not in pdkernel("run", notebook, "--body", '{"name": "Ada"}').stderr


def test_a_resumed_run_ends_the_command_with_its_status(pdkernel: Shell) -> None:
    """A run that fails after its pause ends `runs resume` with status 1, and names the next command."""
    fails = "%%pdstep after\ndef handler(pd):\n    raise ValueError('no')\n"
    run_id = pdkernel("run", pdkernel.notebook(WAITS[1], fails), "--body", "{}", "--json").json["id"]

    resumed = pdkernel("runs", "resume", run_id)

    assert (resumed.status, f"pdkernel runs show {run_id}" in resumed.stderr) == (1, True)


def test_nothing_to_remove_is_not_asked_about(three_runs: Shell) -> None:
    """Filters that select no run need no confirmation."""
    done = three_runs("runs", "remove", "--workflow", "Other")

    assert (done.status, done.stdout) == (0, "Removed 0 runs.\n")


def test_a_run_in_progress_is_not_removed_by_filters(pdkernel: Shell) -> None:
    """Filters remove the runs that have ended, and report that a run in progress stayed."""
    up = pdkernel.folder / "up"
    notebook = pdkernel.notebook(
        f"%%pdstep wait\nimport os, time\ndef handler(pd):\n    if os.path.exists({str(up)!r}):\n        time.sleep(100)\n"
        f"    open({str(up)!r}, 'a').close()\n"
    )
    pdkernel("run", notebook, "--body", "{}")
    with pdkernel.start("run", notebook, "--body", "{}", "--json") as running:
        try:
            while not pdkernel("runs", "list", "--status", "executing", "--json").json:
                assert running.poll() is None
            removed = pdkernel("runs", "remove", "--workflow", "work", "--yes")
            left = pdkernel("runs", "list", "--json").json
        finally:
            running.kill()

    assert (removed.status, removed.stdout) == (0, "Removed 1 run.\n")
    assert removed.stderr == "1 run in progress stayed.\n"
    assert [each["status"] for each in left] == ["executing"]


def test_runs_are_removed(shell: Shell) -> None:
    """Runs are removed by their ids or by filters, after a confirmation; `users remove` those of the user in one environment."""
    (failed,) = shell("runs", "list", "--status", "error", "--json").json
    shell("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "bot_token=xoxb-0123456789")
    shell("run", "greet.ipynb", "--body", '{"name": "Ada"}', "--external-user", "ada", "--environment", "production")
    unconfirmed = shell("runs", "remove", failed["id"])
    by_id = shell("runs", "remove", failed["id"], "--yes")
    gone = shell("runs", "remove", failed["id"], "--yes")
    user = shell("users", "remove", "ada", "--yes", "--json").json
    rest = users(shell)
    both = shell("runs", "remove", failed["id"], "--status", "error", "--yes")
    unnamed = shell("runs", "remove", "--yes")
    by_filter = shell("runs", "remove", "--environment", "production", "--yes", "--json")

    assert (unconfirmed.status, "Remove 1 run with their events" in unconfirmed.stderr) == (2, True)
    assert (by_id.status, by_id.stdout) == (0, "Removed 1 run.\n")
    assert (gone.status, both.status, unnamed.status) == (2, 2, 2)
    assert "There is no run" in gone.stderr
    assert "exclude each other" in both.stderr
    assert "No run is named" in unnamed.stderr
    assert (user["removed"], user["runs"]) == (True, 1)
    assert rest == ["ada", "grace"]
    assert by_filter.json == {"removed": 2}
    assert users(shell) == []
