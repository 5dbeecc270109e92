"""`pdkernel runs replay` and `pdkernel runs fork`."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest

from tests.cli.conftest import Shell

GREET = (
    "%%pdworkflow\nname: Greet\n",
    '%%pdstep read\ndef handler(pd):\n    return pd.steps["trigger"]["event"]["body"]["name"]\n',
    '%%pdstep greet\ndef handler(pd):\n    return "Hello, " + pd.steps["read"]["$return_value"]\n',
)
EDITED = (*GREET[:2], GREET[2].replace("Hello", "Welcome"))


@pytest.fixture
def shell(pdkernel: Shell) -> Shell:
    """A project with a run of ada, and a failed one."""
    notebook = pdkernel.notebook(*GREET, name="greet.ipynb")
    pdkernel("run", notebook, "--body", '{"name": "Ada"}', "--external-user", "ada")
    pdkernel("run", notebook, "--body", '{"name": 1}')
    return pdkernel


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
        ((), "stand-in=github", {"policy": "stand-in=github", "origin": "PDKERNEL_EGRESS"}),
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


def test_send_and_a_policy_exclude_each_other(shell: Shell) -> None:
    """Both name the policy of the replay: the command asks for one of them."""
    ended = shell("runs", "replay", find(shell, "success"), "--send", "--egress", "live")

    assert ended.status == 2
    assert "--send and --egress exclude each other" in ended.stderr


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

    assert (plan.status, before, unchanged) == (0, 2, 2)
    assert plan.stdout.startswith("2 runs\n")
    assert "No run was started" in plan.stdout
    assert plan_json["dry_run"] is True
    assert [(each["workflow"], each["definition"], each["in_server"]) for each in plan_json["runs"]] == [
        ("Greet", "current", False)
    ]
    assert (replayed.status, [each["status"] for each in replayed.json]) == (1, ["success", "error"])


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
        ends = time.monotonic() + 60
        while not up.exists() and time.monotonic() < ends:
            time.sleep(0.02)
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
    selected = shell("runs", "replay", "--status", "success", "--yes")
    as_json = shell("runs", "replay", "--status", "success", "--yes", "--json")
    plan = shell("runs", "replay", "--status", "success", "--json")
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
