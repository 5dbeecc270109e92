"""`pdkernel run`: events, users, exit statuses, output, invalid input, and runs saved as tests."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from pdkernel.event import Event
from pdkernel.files.notebook import read_cells
from pdkernel.kit.session import Session
from pdkernel.runtimes import process_tree
from tests.cli.conftest import Ended, Shell
from tests.durability.faults import SLOW_COMMITS
from tests.private_pytest import run_pytest
from tests.waiting import wait_until

GREET = '%%pdstep greet\ndef handler(pd):\n    print("hello")\n    return pd.steps["trigger"]["event"].get("body")\n'
COUNT = (
    "%%pdstep count --data-store data=counter\ndef handler(pd):\n"
    '    pd.inputs["data"]["n"] = pd.inputs["data"].get("n", 0) + 1\n    return pd.inputs["data"]["n"]\n'
)
TOKEN = "xoxb-planted-in-a-test"
SLACK = (
    "%%pdstep send --app slack\nimport json, urllib.request\ndef handler(pd):\n"
    '    token = pd.inputs["slack"]["$auth"]["oauth_access_token"]\n'
    '    request = urllib.request.Request("https://slack.com/api/chat.postMessage", method="POST",\n'
    '        data=json.dumps({"channel": "#general", "text": "hi"}).encode(),\n'
    '        headers={"authorization": f"Bearer {token}", "content-type": "application/json"})\n'
    '    return json.load(urllib.request.urlopen(request))["ok"]\n'
)


def test_json_is_one_execution_and_nothing_else(pdkernel: Shell) -> None:
    """`--json` prints only the execution on stdout, with the documented keys."""
    source = pdkernel.notebook(GREET)

    ended = pdkernel("run", source, "--body", '{"a": 1}', "--json")

    assert ended.status == 0, ended.stderr
    assert list(ended.json) == [
        "id", "trace_id", "workflow", "version", "status", "external_user", "environment", "started_at", "finished_at",
        "attempt", "replay_of", "trigger", "steps", "response", "error", "outbound_policy",
    ]  # fmt: skip
    assert ended.json["status"] == "success"
    assert ended.json["steps"][0]["exports"] == {"$return_value": {"a": 1}}
    assert ended.json["steps"][0]["logs"] == [{"stream": "stdout", "text": "hello\n"}]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_policy_of_the_notebook_is_obeyed(pdkernel: Shell, as_json: bool) -> None:
    """A `%pdegress` cell holds for the command too, which prints that it does on stderr; stdout is the one JSON value."""
    source = pdkernel.notebook(
        "x = 1",
        "%pdegress deny",
        SLACK.replace(" --app slack", "")
        .replace("{token}", "x")
        .replace('pd.inputs["slack"]["$auth"]["oauth_access_token"]', '""'),
    )

    ended = pdkernel("run", source, "--body", "{}", *(["--json"] if as_json else []), PDKERNEL_EGRESS="")

    assert ended.status == 1
    assert "Outbound policy: deny, from the notebook's cell 2 (%pdegress). Change it with --egress." in ended.stderr
    if as_json:
        assert ended.json["outbound_policy"] == {"policy": "deny", "origin": "cell 2 (%pdegress)"}
        assert [call["outcome"] for call in ended.json["steps"][0]["requests"]] == ["denied"]
    else:
        assert "outbound policy deny (cell 2 (%pdegress))" in ended.stdout


@pytest.mark.parametrize(
    ("args", "environ", "record"),
    [
        (("--egress", "deny"), "", {"policy": "deny", "origin": "--egress"}),
        ((), "deny", {"policy": "deny", "origin": "PDKERNEL_EGRESS"}),
    ],
)
def test_an_explicit_policy_wins_over_the_notebook(
    pdkernel: Shell, args: tuple[str, ...], environ: str, record: dict[str, str]
) -> None:
    """`--egress` and PDKERNEL_EGRESS are chosen for this command, so that the cell has no effect and no note."""
    source = pdkernel.notebook("%pdegress stand-in=slack", GREET)

    ended = pdkernel("run", source, "--body", "{}", "--json", *args, PDKERNEL_EGRESS=environ)

    assert (ended.status, ended.json["outbound_policy"]) == (0, record)
    assert "Outbound policy" not in ended.stderr


def test_a_notebook_that_first_sends_nothing_and_then_sends_needs_a_policy(pdkernel: Shell) -> None:
    """The command sends nothing for real that a cell of the notebook does not send: it asks, with status 2."""
    source = pdkernel.notebook("%pdegress stand-in=slack", GREET, "%pdegress live", "%pdrun")

    ended = pdkernel("run", source, "--body", "{}", "--json", PDKERNEL_EGRESS="")

    assert (ended.status, ended.json["error"]["code"]) == (2, "egress_mode")
    assert "Name one: --egress stand-in=slack, or --egress live" in ended.json["error"]["message"]


def test_a_test_run_writes_a_scratch_copy_of_its_data_stores(pdkernel: Shell) -> None:
    """Under a policy that sends nothing, each run begins with the store and leaves it as it is; the step's log says so."""
    source = pdkernel.notebook(COUNT, COUNT.replace("count", "again", 1))
    pdkernel("store", "set", "counter", "n", "5")

    runs = [pdkernel("run", source, "--body", "{}", "--json", "--egress", "deny").json for _ in range(2)]

    assert [[step["exports"]["$return_value"] for step in run["steps"]] for run in runs] == [[6, 7], [6, 7]]
    assert pdkernel("store", "get", "counter", "n").stdout == "5\n"
    assert runs[0]["steps"][0]["logs"] == [
        {
            "stream": "stderr",
            "text": "[pdkernel] Data store counter: written in a scratch copy, because the outbound policy is deny.\n",
        }
    ]


def test_a_live_run_writes_its_data_stores(pdkernel: Shell) -> None:
    """Under `live` the writes are real and without a note."""
    source = pdkernel.notebook(COUNT)

    runs = [pdkernel("run", source, "--body", "{}", "--json", "--egress", "live").json for _ in range(2)]

    assert [run["steps"][0]["exports"]["$return_value"] for run in runs] == [1, 2]
    assert [run["steps"][0]["logs"] for run in runs] == [[], []]
    assert pdkernel("store", "get", "counter", "n").stdout == "2\n"


def test_a_paused_test_goes_on_with_its_scratch_copy(pdkernel: Shell) -> None:
    """The process that resumes a test run has what the run wrote before the pause; the store stays."""
    source = pdkernel.notebook(
        COUNT, "%%pdstep wait\ndef handler(pd):\n    pd.flow.suspend()\n", COUNT.replace("count", "again", 1)
    )
    paused = pdkernel("run", source, "--body", "{}", "--json", "--egress", "deny")

    resumed = pdkernel("runs", "resume", paused.json["id"], "--json")

    assert (paused.status, resumed.status) == (4, 0), resumed.stderr
    assert resumed.json["steps"][2]["exports"] == {"$return_value": 2}
    assert pdkernel("store", "list", "--json").json == []


def test_code_that_only_jupyter_has_is_named(pdkernel: Shell) -> None:
    """The command runs the file, and asks to save it if a cell has run with newer code; after a save it does not ask."""
    source = pdkernel.folder / pdkernel.notebook(GREET)
    repaired = GREET.replace("hello", "repaired")
    session = Session(folder=pdkernel.folder, notebook=source, environ={"PDKERNEL_EGRESS": "deny"})
    session.record_cell(repaired, cell_id=read_cells(source)[0].id)
    session.choose_event(Event({"body": {}}))
    session.close()

    unsaved = pdkernel("run", str(source), "--body", "{}")
    source.write_text(source.read_text().replace("hello", "repaired"))
    saved = pdkernel("run", str(source), "--body", "{}")

    assert "Save the notebook first" in unsaved.stderr
    assert "newer code of greet has run" in unsaved.stderr
    assert "hello" in unsaved.stdout
    assert "Save the notebook" not in saved.stderr
    assert "repaired" in saved.stdout


BAD = 'def handler(pd):\n    """Fail."""\n    return pd.steps["trigger"]["event"]["nothing"]\n'


def test_error_of_a_python_file_is_at_its_line(pdkernel: Shell) -> None:
    """The error of a notebook in percent format is at the line of the file, in the timeline and in the stack."""
    (pdkernel.folder / "work.py").write_text(
        f"# %%\n# %load_ext pdkernel\n\n# %% [markdown]\n# A text\n\n# %%\n# %%pdstep bad\n{BAD}"
    )

    ended = pdkernel("run", "work.py", "--body", "{}")

    assert "KeyError at work.py:11:" in ended.stdout
    assert 'File "work.py", line 11, in handler' in ended.stdout


def test_error_of_a_folder_is_at_the_line_of_its_file(pdkernel: Shell) -> None:
    """The error of a step in a workflow's folder is at the line of the step's file."""
    (pdkernel.folder / "flow" / "bad").mkdir(parents=True)
    (pdkernel.folder / "flow" / "bad" / "entry.py").write_text(BAD)
    (pdkernel.folder / "flow" / "workflow.yaml").write_text(
        "schema: workflow/2022.04\nname: Flow\ntriggers: []\nsteps:\n  - namespace: bad\n    uses: ./bad/entry.py\n"
    )

    ended = pdkernel("run", "flow", "--body", "{}")

    assert "KeyError at flow/bad/entry.py:3:" in ended.stdout
    assert 'File "flow/bad/entry.py", line 3, in handler' in ended.stdout


def test_a_cell_that_cannot_be_read_does_not_stop_the_other_steps(pdkernel: Shell) -> None:
    """The step of a cell with a bad header or a taken name fails with its cell, as does a step that needs it; the others run."""
    source = pdkernel.notebook(
        "%%pdstep check --lng x\ndef handler(pd):\n    return 1\n",
        GREET,
        "%%pdstep send\ndef handler(pd):\n    return pd.steps['check']\n",
        GREET,
    )

    ended = pdkernel("run", source, "--body", "{}")

    assert ended.status == 1
    assert f"DirectiveError at line 1 of cell 1 of {source}:" in ended.stdout
    assert re.search(r"✓ success +greet", ended.stdout)
    assert "send did not run, because it needs steps.check, and cell 1, line 1 cannot be read." in ended.stdout
    assert f"DirectiveError at line 1 of cell 4 of {source}:" in ended.stdout
    assert "Cell 2 and Cell 4 are both called 'greet'" in ended.stdout


def test_event_from_standard_input(pdkernel: Shell) -> None:
    """`--event -` reads the event from standard input; `{}` is an event."""
    ended = pdkernel("run", pdkernel.notebook(GREET), "--event", "-", "--json", stdin="{}")

    assert ended.status == 0
    assert ended.json["trigger"]["event"] == {"headers": {"x-pd-environment": "development"}}


@pytest.mark.parametrize(
    ("args", "user", "environment"),
    [(["--external-user", "ada", "--environment", "development"], "ada", "development"), ([], "grace", "production")],
)
def test_flags_win_over_headers(pdkernel: Shell, args: list[str], user: str, environment: str) -> None:
    """`--external-user` and `--environment` rewrite the event's headers, which count without them."""
    event = pdkernel.write(
        "event.json", '{"headers": {"X-PD-External-User-ID": "grace", "x-pd-environment": "production"}}'
    )

    ended = pdkernel("run", pdkernel.notebook(GREET), "--event", event, *args, "--json")

    assert (ended.json["external_user"], ended.json["environment"]) == (user, environment)
    assert ended.json["trigger"]["event"]["headers"] == {"x-pd-environment": environment, "x-pd-external-user-id": user}


def test_runs_as_the_external_user(pdkernel: Shell) -> None:
    """A step sends with the external user's account, in each run (sending once applies to notebooks); the token is not in the output."""
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip

    source = pdkernel.notebook(SLACK)

    runs = [pdkernel("run", source, "--body", "{}", "--external-user", "ada", "--json") for _ in range(2)]

    requests = [run.json["steps"][0]["requests"][0] for run in runs]
    assert [(each["outcome"], each["app"]) for each in requests] == [("stand_in", "slack")] * 2
    assert TOKEN not in "".join(run.stdout + run.stderr for run in runs)


def test_a_failure_of_any_user_is_the_exit_status(pdkernel: Shell) -> None:
    """`--external-users` runs once for each user, and exits with 1 if the run of any user failed, the first one too."""
    fails = '%%pdstep check\ndef handler(pd):\n    assert pd.context["external_user_id"] != "ada"\n'

    ended = pdkernel("run", pdkernel.notebook(fails), "--body", "{}", "--external-users", "ada,grace", "--json")

    assert [(each["external_user"], each["status"]) for each in ended.json] == [("ada", "error"), ("grace", "success")]
    assert ended.status == 1


def test_an_interrupt_during_a_slow_commit_ends_the_runs_of_all_users(pdkernel: Shell) -> None:
    """
    An interrupted command cancels the run in progress, and starts none for the next user.

    While it records that, it looks for runs that others have cancelled, and finds its own, which does not interrupt it again.
    """
    up = pdkernel.folder / "up"
    notebook = pdkernel.notebook(
        f"%%pdstep wait\nimport time\ndef handler(pd):\n    open({str(up)!r}, 'a').close()\n    time.sleep(100)\n"
    )

    command = ("run", notebook, "--body", "{}", "--external-users", "ada,grace", "--json")
    with pdkernel.start(*command, before=[SLOW_COMMITS, 0.6]) as running:
        wait_until(up.exists)
        running.send_signal(signal.SIGINT)
        printed, said = running.communicate(timeout=60)

    assert printed, (running.returncode, said)
    assert [(each["external_user"], each["status"]) for each in json.loads(printed)] == [("ada", "cancelled")]
    assert running.returncode == 1


def test_all_users_are_those_of_the_environment(pdkernel: Shell) -> None:
    """`--external-users all` runs for the users of the event's environment, unless `--environment` names another one."""
    for user, environment in (("ada", "development"), ("grace", "production"), ("lin", "production")):
        pdkernel("accounts", "add", "--external-user", user, "--environment", environment, "--app", "crm", "--credential", "a=b")  # fmt: skip
    event = pdkernel.write("event.json", '{"headers": {"x-pd-environment": "production"}}')
    command = ("run", pdkernel.notebook(GREET), "--event", event, "--external-users", "all", "--json")

    found = [pdkernel(*command, *more).json for more in ((), ("--environment", "development"))]

    assert [[(each["external_user"], each["environment"]) for each in runs] for runs in found] == [
        [("grace", "production"), ("lin", "production")],
        [("ada", "development")],
    ]


def test_pauses_are_skipped_on_request(pdkernel: Shell) -> None:
    """With --skip-waits the run goes on at once; `test_runs` has the default, a paused run."""
    notebook = pdkernel.notebook("%%pdstep wait\ndef handler(pd):\n    pd.flow.delay(3600_000)\n", GREET)

    ended = pdkernel("run", notebook, "--body", "{}", "--skip-waits", "--json")

    assert (ended.status, ended.json["status"]) == (0, "success")


def test_from_a_step_with_a_pin(pdkernel: Shell) -> None:
    """`--from` skips the steps above; `--pin` provides their exports."""
    last = '%%pdstep last\ndef handler(pd):\n    return pd.steps["greet"]["$return_value"]\n'
    pin = pdkernel.write("pin.json", '{"$return_value": 7}')

    ended = pdkernel("run", pdkernel.notebook(GREET, last), "--body", "{}", "--from", "last", "--pin", f"greet={pin}", "--json")  # fmt: skip

    assert [step["status"] for step in ended.json["steps"]] == ["pinned", "success"]
    assert ended.json["steps"][1]["exports"]["$return_value"] == 7


@pytest.mark.parametrize(
    ("cells", "args", "words"),
    [
        ([GREET], ["--event", "bad.json"], "bad.json is not JSON"),
        ([GREET], ["--event", "nowhere.json"], "Cannot read nowhere.json"),
        ([GREET], ["--event", "x" * 300], "File name too long"),
        ([GREET], [], "Pass --event FILE"),
        ([GREET], ["--body", "{}", "--egress", "sometimes"], "is not an outbound policy"),
        ([GREET], ["--body", "{}", "--egress", ""], "'' is not an outbound policy"),
        ([GREET], ["--body", "{}", "--external-user", ""], "An external user's id cannot be blank"),
        ([GREET], ["--body", "{}", "--environment", "staging"], "'staging' is not one of 'development', 'production'"),
        ([GREET], ["--body", "{}", "--egress", "deny", "--via", "http://proxy.test:3128"], "upstream proxy has no effect"),
        ([GREET], ["--body", "{}", "--egress", "deny", "--unopened", "https://bank.test"], "'https://bank.test' is not a host name"),
        ([GREET], ["--body", "{}", "--unopened", "https://bank.test"], "'https://bank.test' is not a host name"),
        ([GREET], ["--body", "{}", "--event", "-"], "--event and --body exclude each other"),
        ([GREET], ["--body", "{}", "--wait", "--skip-waits"], "--wait and --skip-waits exclude each other"),
        ([GREET], ["--body", "{}", "--external-user", "a", "--external-users", "b"], "exclude each other"),
        ([GREET], ["--body", "{}", "--external-users", "all"], "There are no external users in development"),
        ([GREET], ["--body", "{}", "--pin", "greet"], "Write --pin STEP=FILE"),
        ([GREET], ["--body", "{}", "--from", "nowhere"], "no step 'nowhere'"),
        (["%%pdstep my-step\n"], ["--body", "{}"], "is not a valid step name"),
        (['%%pdstep a\ndef handler(pd):\n    return pd.steps["b"]\n', GREET.replace("greet", "b")], ["--body", "{}"], "comes later"),
        ([SLACK], ["--body", "{}", "--external-user", "nobody"], "No matching external user ID"),
        ([SLACK], ["--body", "{}"], "Pass --external-user ID."),
        (['%%pdstep a\nimport os\ndef handler(pd):\n    return os.environ["NOT_SET"]\n'], ["--body", "{}"], "pdkernel env set NOT_SET"),
    ],
)  # fmt: skip
def test_refusals_are_status_2_and_short(pdkernel: Shell, cells: list[str], args: list[str], words: str) -> None:
    """A run refused before any step ends with status 2 and the reason in at most 15 lines, without a traceback."""
    pdkernel.write("bad.json", '{"body": }')

    ended = pdkernel("run", pdkernel.notebook(*cells), *args)

    assert ended.status == 2, ended.lines
    assert words in ended.stdout + ended.stderr
    assert len(ended.lines) <= 15
    assert "Traceback" not in ended.stderr


def test_event_error_has_line_and_column(pdkernel: Shell) -> None:
    """An event that is not JSON is refused with line and column; with `--json` as an error object."""
    pdkernel.write("bad.json", '{\n  "body": \n}')

    ended = pdkernel("run", pdkernel.notebook(GREET), "--event", "bad.json", "--json")

    assert ended.status == 2
    assert ended.json["error"]["code"] == "event"
    assert "line 3, column 1" in ended.json["error"]["message"]


def test_refused_run_is_still_an_execution(pdkernel: Shell) -> None:
    """With `--json` a refused run prints its execution, in which no step ran."""
    ended = pdkernel("run", pdkernel.notebook(SLACK), "--body", "{}", "--json")

    assert ended.status == 2
    assert ended.json["status"] == "error"
    assert ended.json["steps"][0]["status"] == "not_run"
    assert ended.json["error"]["code"] == "external_user_required"


def test_options_do_not_come_from_unlisted_variables(pdkernel: Shell) -> None:
    """A variable that the documentation does not list sets no option."""
    ended = pdkernel(
        "run", pdkernel.notebook(GREET), "--body", "{}", "--json", PDKERNEL_EXTERNAL_USER="ada", PDKERNEL_WAIT="1"
    )

    assert ended.json["external_user"] is None


def test_project_by_option_and_upwards(pdkernel: Shell) -> None:
    """`--project FOLDER` names the project; the default is the nearest project upwards."""
    (pdkernel.folder / "elsewhere").mkdir()

    pdkernel("--project", "elsewhere", "env", "set", "A", stdin="value-of-a")

    assert (pdkernel.folder / "elsewhere" / ".pdkernel").is_dir()
    assert not (pdkernel.folder / ".pdkernel").exists()
    assert pdkernel("env", "list", "--project", "elsewhere", "--json").json == [{"name": "A"}]


def test_a_scheduled_workflow_needs_no_event(pdkernel: Shell) -> None:
    """Without an event a scheduled workflow gets the schedule's event, and the output mentions no response."""
    header = "%%pdworkflow\nname: Hourly\ntrigger:\n  type: schedule\n  interval_seconds: 3600\n"
    step = '%%pdstep tell\ndef handler(pd):\n    return pd.steps["trigger"]["event"]["interval_seconds"]\n'

    ended = pdkernel("run", pdkernel.notebook(header, step))

    assert ended.status == 0, ended.stderr
    assert "$return_value: 3600" in ended.stdout
    assert "response:" not in ended.stdout


def test_step_cannot_mount(pdkernel: Shell, apart: tuple[str, ...]) -> None:
    """A Bash step, also one of root, cannot mount a folder in its own: its process has no rights for that."""
    outside = pdkernel.folder / "outside"
    outside.mkdir()
    (outside / "file").touch()
    notebook = pdkernel.notebook(
        f"%%pdstep mounts --lang bash\nmkdir here\nmount --bind {outside} here || ls -A here\n"
    )

    ended = pdkernel("run", notebook, "--event", "-", "--json", stdin="{}", within=apart, TMPDIR=str(pdkernel.folder))

    (log,) = ended.json["steps"][0]["logs"]
    assert log["stream"] == "stderr"
    assert "permission denied" in log["text"]
    assert (outside / "file").exists()


# ── invalid steps, files and projects ───────────────────────────────────────────────────────────────────


def python(body: str, options: str = "") -> str:
    """A Python step of one line."""
    return f"%%pdstep work {options}\nimport datetime, os, signal, sys\ndef handler(pd):\n    {body}\n"


def node(body: str, options: str = "") -> str:
    """A Node.js step of one line."""
    return f"%%pdstep work --lang node {options}\nimport fs from 'fs';\nexport default {{ run({{ steps, $ }}) {{ {body} }} }}\n"


QUIET = python("return 1")
FLOOD = python("[sys.stdout.write('x' * 999 + chr(10)) for _ in range(50_000)]")
KEPT, MARGIN = 1 << 20, 1 << 16
"""Bytes of a step's output that are stored, and the margin for the last line and pdkernel's note."""
MEMORY_MIB = 25
"""The memory that a run with 48 MiB of output may use beyond that of a greeting."""
PEAK_PROGRAM = """
import atexit, resource, sys
from pdkernel.cli import main
atexit.register(lambda: print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr))
sys.argv = sys.argv[3:]
main()
"""
PEAK = (sys.executable, "-c", PEAK_PROGRAM)
"""Runs the command and prints the peak memory (MiB) of its own process, without the processes of steps."""


def is_plain(ended: Ended) -> bool:
    """Whether the output has no traceback of pdkernel."""
    return not any(word in ended.stdout + ended.stderr for word in ("/pdkernel/", "_guest.", "site-packages"))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (python("return {'rows': [1, {'when': datetime.date(2026, 1, 1)}]}"), "$return_value.rows[1].when is a date"),
        (node("process.kill(process.pid, 'SIGTERM'); for (;;);"), "ended by SIGTERM"),
    ],
)
def test_a_failed_step_is_named(pdkernel: Shell, cell: str, words: str) -> None:
    """The step fails with status 1; the reason has at most 15 lines and no traceback of pdkernel, and a command follows."""
    ended = pdkernel("run", pdkernel.notebook(cell), "--body", "{}")
    *reason, command = ended.lines

    assert ended.status == 1
    assert words in ended.stdout + ended.stderr
    assert "work" in ended.stdout + ended.stderr
    assert len(reason) <= 15
    assert command.startswith("To look at this run: pdkernel runs show ")
    assert is_plain(ended)


def test_the_json_of_a_failed_run_has_its_error(pdkernel: Shell) -> None:
    """The error's line is the cell's, also that of `sys.exit`, which does not end the run silently."""
    ended = pdkernel("run", pdkernel.notebook(python("sys.exit(3)")), "--body", "{}", "--json")

    assert ended.status == 1
    assert list(ended.json["error"]) == ["code", "name", "message", "step", "line", "stack"]
    assert ended.json["error"]["line"] == 4
    assert "exit status 3" in ended.json["error"]["message"]
    assert is_plain(ended)


def peak(ended: Ended) -> int:
    """Peak memory (MiB) in the output of `PEAK`."""
    return int(ended.stderr.split()[-1])


def test_50_mb_of_prints_are_cut(pdkernel: Shell) -> None:
    """The run succeeds in bounded memory, and the log ends with the amount that was left out."""
    greeted = pdkernel("run", pdkernel.notebook(QUIET), "--body", "{}", "--json", within=PEAK)
    ended = pdkernel("run", pdkernel.notebook(FLOOD), "--body", "{}", "--json", within=PEAK)
    logs = ended.json["steps"][0]["logs"]

    assert ended.status == 0
    assert KEPT <= sum(len(log["text"]) for log in logs) <= KEPT + MARGIN
    assert "more bytes of output were dropped: the limit is 1,048,576 bytes per step." in logs[-1]["text"]
    assert peak(ended) - peak(greeted) < MEMORY_MIB


def test_a_read_only_project_is_refused(pdkernel: Shell) -> None:
    """A read-only project is refused with status 3 and a fix."""
    pdkernel("env", "list")
    folder = pdkernel.folder / ".pdkernel"
    for path in (folder, *folder.iterdir()):
        path.chmod(0o500 if path.is_dir() else 0o400)

    ended = pdkernel("run", pdkernel.notebook(QUIET), "--body", "{}", before=["tests.privileges:drop_override"])
    folder.chmod(0o700)

    assert ended.status == 3
    assert "cannot be written" in ended.stderr
    assert "--project" in ended.stderr
    assert len(ended.lines) <= 15
    assert is_plain(ended)


def test_a_refused_project_as_json(pdkernel: Shell) -> None:
    """With `--json` an unusable project is an error object."""
    (pdkernel.folder / ".pdkernel").write_text("a file")

    ended = pdkernel("run", pdkernel.notebook(QUIET), "--body", "{}", "--json")

    assert ended.status == 3
    assert ended.json["error"]["code"] == "project"
    assert ".pdkernel" in ended.json["error"]["message"]


def test_an_invalid_notebook_is_refused(pdkernel: Shell) -> None:
    """The error names the problem of the file and its place."""
    pdkernel.write("work.ipynb", '{"cells": [\n<<<<<<< HEAD\n]}')

    ended = pdkernel("run", "work.ipynb", "--body", "{}")

    assert ended.status == 2
    assert "work.ipynb is not a notebook" in ended.stderr
    assert "line 2, column 1" in ended.stderr
    assert is_plain(ended)


def test_a_recording_that_cannot_be_read_refuses_the_run(pdkernel: Shell) -> None:
    """No step runs; the error names file and line, with status 2."""
    pdkernel.write("calls.jsonl", '{"key": "a", "step": "work", "nth": 0}\n')
    ran = pdkernel.folder / "ran"
    name = pdkernel.notebook(python(f"open({str(ran)!r}, 'w')"))

    ended = pdkernel("run", name, "--body", "{}", "--egress", "replay=calls.jsonl", "--json")

    assert ended.status == 2
    assert ended.json["error"]["code"] == "recording"
    assert "calls.jsonl, line 1, is not a recorded call" in ended.json["error"]["message"]
    assert [step["status"] for step in ended.json["steps"]] == ["not_run"]
    assert not ran.exists()


@pytest.mark.parametrize(("language", "sent"), [("python", signal.SIGINT), ("bash", signal.SIGTERM)])
def test_a_signal_ends_the_step_and_is_recorded(
    pdkernel: Shell, tmp_path: Path, language: str, sent: signal.Signals
) -> None:
    """An interrupted or terminated command prints the cancelled execution, starts no other, exits with 1 and leaves no process."""
    up = tmp_path / "up"
    loop = {
        "python": python(
            f"open({str(up)!r}, 'w').write(open('/proc/self/environ').read().split('STEP_PROCESS=')[1][:32])\n    while True: pass"
        ),
        "bash": "%%pdstep work --lang bash\n"
        f"cat /proc/$$/environ | tr '\\0' '\\n' | sed -n s/PDKERNEL_STEP_PROCESS=//p > {up}; while :; do :; done",
    }
    command = ("run", pdkernel.notebook(loop[language]), "--body", "{}", "--external-users", "ada,grace", "--json")
    process = pdkernel.start(*command)
    mark = mark_in(up)

    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=60)

    ended = Ended(process.wait(), stdout, stderr)
    (execution,) = ended.json
    assert ended.status == 1
    assert execution["status"] == "cancelled"
    assert execution["steps"][0]["error"]["message"] == "The run was cancelled while this step ran."
    assert process_tree.find_processes([], [mark]) == set()


def test_a_terminal_shows_the_running_step_with_a_clock(pdkernel: Shell, tmp_path: Path) -> None:
    """On a terminal a line with a clock names the running step and is removed at its end; a pipe gets no such line."""
    clock, gate = r"▶ running work \d+ s", tmp_path / "gate"
    wait = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    name = pdkernel.notebook(python(f"import time; time.sleep(1.6)\n    {wait}\n    print('ready')"))

    status, shown = pdkernel.on_terminal("run", name, "--body", "{}", opens=(clock, gate))
    piped = pdkernel("run", name, "--body", "{}")

    assert (status, piped.status) == (0, 0)
    assert re.search(rf"{clock}\r", shown)
    assert "▶" not in shown.rpartition("\r ")[2]
    assert "running" not in piped.stdout + piped.stderr


def mark_in(file: Path) -> str:
    """The environment mark that a step wrote to *file*."""
    wait_until(lambda: file.exists() and file.read_text())
    return file.read_text().strip()  # Bash ends it with a newline, with which no process would have it


# ── --save-test ─────────────────────────────────────────────────────────────────────────────────────────


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
    assert run_pytest(pdkernel.fork_server, pdkernel.folder) == {"passed": 1}
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


def test_an_event_by_its_name(pdkernel: Shell) -> None:
    """`--event NAME` is a saved event beside the notebook, unless there is such a file; the timeline names the event and languages."""
    (pdkernel.folder / "work" / "events").mkdir(parents=True)
    notebook = pdkernel.notebook(GREET, name="work/greet.ipynb")
    pdkernel.write("work/events/order.json", '{"body": {"name": "Ada"}}')

    ended = pdkernel("run", notebook, "--event", "order")
    pdkernel.write("order", '{"body": {"name": "Grace"}}')
    file = pdkernel("run", notebook, "--event", "order", "--json")

    assert file.json["trigger"]["event"]["body"] == {"name": "Grace"}
    assert ended.status == 0
    assert "\n  order\n" in ended.stdout
    assert re.search(r"✓ success +greet +Python ", ended.stdout)
