"""`pdkernel runs`, and `pdkernel run --for-each external_user`."""

from __future__ import annotations

import getpass
import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Shell
from tests.cli.fork_server import ForkServer
from tests.notebook_files import notebook_of
from tests.waiting import wait_until

GREET = (
    "%%pdworkflow\nname: Greet\n",
    '%%pdstep read\ndef handler(pd):\n    return pd.steps["trigger"]["event"]["body"]["name"]\n',
    '%%pdstep greet\ndef handler(pd):\n    return "Hello, " + pd.steps["read"]["$return_value"]\n',
)
EDITED = (*GREET[:2], GREET[2].replace("Hello", "Welcome"))


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


def test_filters(three_runs: Shell) -> None:
    """The list has the runs that fulfil all options, newest first."""
    for args, found in (
        ([], [None, "grace", "ada"]),
        (["--external-user", "ada", "--since", "1h"], ["ada"]),
        (["--environment", "production"], ["grace"]),
        (["--status", "error"], [None]),
        (["--workflow", "Greet", "--limit", "2"], [None, "grace"]),
        (["--until", "1h"], []),
        (["--since", "last tuesday", "--until", "2100-01-01"], [None, "grace", "ada"]),
    ):
        assert users(three_runs, *args) == found, args


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
    assert lines[2] == "      read: KeyError: 'name'"
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


def test_a_resumed_run_ends_the_command_with_its_status(pdkernel: Shell) -> None:
    """A run that fails after its pause ends `runs resume` with status 1, and names the next command."""
    fails = "%%pdstep after\ndef handler(pd):\n    raise ValueError('no')\n"
    run_id = pdkernel("run", pdkernel.notebook(WAITS[1], fails), "--body", "{}", "--json").json["id"]

    resumed = pdkernel("runs", "resume", run_id)

    assert (resumed.status, f"pdkernel runs show {run_id}" in resumed.stderr) == (1, True)


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
    none = shell("runs", "remove", "--workflow", "Other")  # needs no confirmation
    unconfirmed = shell("runs", "remove", failed["id"])
    by_id = shell("runs", "remove", failed["id"], "--yes")
    gone = shell("runs", "remove", failed["id"], "--yes")
    user = shell("users", "remove", "ada", "--yes", "--json").json
    rest = users(shell)
    both = shell("runs", "remove", failed["id"], "--status", "error", "--yes")
    unnamed = shell("runs", "remove", "--yes")
    by_filter = shell("runs", "remove", "--environment", "production", "--yes", "--json")

    assert (none.status, none.stdout) == (0, "Removed 0 runs.\n")
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


def find(shell: Shell, status: str) -> str:
    """The id of the oldest run with *status*."""
    run_id: str = shell("runs", "list", "--status", status, "--json").json[-1]["id"]
    return run_id


def test_a_run_is_replayed_with_the_edited_notebook(shell: Shell) -> None:
    """The replay runs the notebook as it is now, as the user of the run, and names the definition on standard error."""
    first = find(shell, "success")
    shell.notebook(*EDITED, name="greet.ipynb")
    replayed = shell("runs", "replay", first, "--json")
    as_text = shell("runs", "replay", first, "--external-user", "grace")

    assert (replayed.status, replayed.json["status"], replayed.json["external_user"]) == (0, "success", "ada")
    assert replayed.json["replay_of"] == first
    assert replayed.json["steps"][1]["exports"] == {"$return_value": "Welcome, Ada"}
    assert f"Run {first} again with the current workflow of greet.ipynb, here." in as_text.stderr
    assert "external user grace" in as_text.stdout
    assert f"replay of {first}" in as_text.stdout


@pytest.mark.parametrize(
    ("args", "environ", "policy"),
    [
        ((), "", {"policy": "deny", "origin": "replay"}),
        (("--egress", "stand-in=slack"), "live", {"policy": "stand-in=slack", "origin": "--egress"}),
    ],
)
def test_replay_and_fork_take_a_policy(
    shell: Shell, args: tuple[str, ...], environ: str, policy: dict[str, str]
) -> None:
    """The record has the policy that was named: by the option, else by the variable, else calls are refused."""
    first = find(shell, "success")

    replayed = shell("runs", "replay", first, "--json", *args, PDKERNEL_EGRESS=environ)
    forked = shell("runs", "fork", first, "--from", "greet", "--json", *args, PDKERNEL_EGRESS=environ)

    assert [each.json["outbound_policy"] for each in (replayed, forked)] == [policy] * 2


def test_a_fork_runs_the_given_source(shell: Shell) -> None:
    """A fork runs the recorded definition, or the given source, from one step, with pins from files."""
    first, failed = find(shell, "success"), find(shell, "error")
    edited = shell.notebook(*EDITED, name="edited.ipynb")
    pin = shell.write("read.json", '"Grace"')

    def last(*args: str) -> object:
        return shell("runs", "fork", *args, "--json").json["steps"][-1]["exports"]["$return_value"]

    unknown = shell("runs", "fork", first, "--from", "nope")
    assert last(first, "--from", "greet") == "Hello, Ada"
    assert last(first, edited, "--from", "greet") == "Welcome, Ada"
    assert last(failed, "--from", "greet", "--pin", f"read={pin}") == "Hello, Grace"
    assert (unknown.status, "Known: read, greet." in unknown.stderr) == (2, True)


def test_selected_runs_are_listed_first(shell: Shell) -> None:
    """Filters without `--yes` only list what would run; with it they run, and the status is that of the worst run."""
    before = len(shell("runs", "list", "--json").json)
    plan = shell("runs", "replay", "--workflow", "Greet")
    plan_json = shell("runs", "replay", "--status", "error", "--json").json
    unchanged = len(shell("runs", "list", "--json").json)
    replayed = shell("runs", "replay", "--workflow", "Greet", "--yes", "--json")

    assert (plan.status, before, unchanged) == (0, 3, 3)
    assert plan.stdout.startswith("3 runs\n")
    assert "No run was started" in plan.stdout
    assert plan_json["dry_run"] is True
    assert [(each["workflow"], each["definition"], each["in_server"]) for each in plan_json["runs"]] == [
        ("Greet", "current", False)
    ]
    assert (replayed.status, [each["status"] for each in replayed.json]) == (1, ["success", "success", "error"])


def test_an_interrupt_ends_all_replays(pdkernel: Shell) -> None:
    """An interrupted command cancels the replay in progress, and starts no other."""
    up, gate = pdkernel.folder / "up", pdkernel.folder / "gate"
    notebook = pdkernel.notebook(
        f"%%pdstep wait\nimport os, time\ndef handler(pd):\n    open({str(up)!r}, 'a').close()\n"
        f"    while os.path.exists({str(gate)!r}):\n        time.sleep(0.02)\n"
    )
    ids = [pdkernel("run", notebook, "--body", "{}", "--json").json["id"] for _ in range(2)]
    up.unlink()
    gate.touch()

    with pdkernel.start("runs", "replay", *ids, "--json") as replaying:
        wait_until(up.exists)
        replaying.send_signal(signal.SIGINT)
        printed, _ = replaying.communicate(timeout=60)

    assert [(each["replay_of"], each["status"]) for each in json.loads(printed)] == [(ids[0], "cancelled")]
    assert replaying.returncode == 1


def test_what_cannot_be_replayed_is_refused(shell: Shell) -> None:
    """An unknown run, a missing choice and an invalid source are status 2; a key that does not fit is status 3."""
    first = find(shell, "success")
    unknown, nothing = shell("runs", "replay", "nope"), shell("runs", "replay")
    shell.notebook("%%pdworkflow\nname: [\n", name="greet.ipynb")
    broken = shell("runs", "replay", first)
    selected = shell("runs", "replay", "--external-user", "ada", "--yes")
    as_json = shell("runs", "replay", "--external-user", "ada", "--yes", "--json")
    plan = shell("runs", "replay", "--external-user", "ada", "--json")
    other = shell.folder / "other"
    shell("project", "show", "--project", str(other / ".pdkernel"))
    shutil.copy(next((other / ".pdkernel").glob("*key*")), shell.folder / ".pdkernel")
    wrong_key = shell("runs", "replay", first)

    assert (unknown.status, nothing.status, broken.status, wrong_key.status) == (2, 2, 2, 3)
    assert "There is no run 'nope'" in unknown.stderr
    assert "No run is named" in nothing.stderr
    assert (selected.status, first in selected.stderr) == (2, True)
    assert (as_json.status, as_json.json, first in as_json.stderr) == (2, [], True)
    assert (plan.status, plan.json["runs"], plan.stderr) == (0, [], "")
    assert [(each["id"], each["error"]["code"]) for each in plan.json["refused"]] == [(first, "directive")]
    assert "key" in wrong_key.stderr


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
    wait_until(lambda: [each["in_progress"] for each in list_batches(pdkernel)] == [2])
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


def test_a_batch_or_a_run_is_cancelled(pdkernel: Shell, report: Path) -> None:
    """Of an ended batch nothing is left; a wrong selection is refused with the command or option to use."""
    batch = pdkernel("run", report.name, "--for-each", "external_user", "--json").json["id"]
    ended = pdkernel("runs", "cancel", "--batch", batch, "--json")
    neither, unknown = pdkernel("runs", "cancel"), pdkernel("runs", "batch", "batch_gone")
    one_user = pdkernel("run", report.name, "--for-each", "external_user", "--external-user", "ada")

    assert (ended.status, ended.json) == (0, {"cancelled": 0})
    assert (neither.status, "--batch ID" in neither.stderr) == (2, True)
    assert (unknown.status, "pdkernel runs batches" in unknown.stderr) == (2, True)
    assert (one_user.status, "--for-each runs for several external users" in one_user.stderr) == (2, True)
