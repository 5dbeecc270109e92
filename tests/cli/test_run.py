"""`pdkernel run`: events, users, exit statuses, output."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Shell

GREET = '%%pdstep greet\ndef handler(pd):\n    print("hello")\n    return pd.steps["trigger"]["event"].get("body")\n'
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
        "attempt", "replay_of", "trigger", "steps", "response", "error",
    ]  # fmt: skip
    assert ended.json["status"] == "success"
    assert ended.json["steps"][0]["exports"] == {"$return_value": {"a": 1}}
    assert ended.json["steps"][0]["logs"] == [{"stream": "stdout", "text": "hello\n"}]


def test_text_names_steps_and_status(pdkernel: Shell) -> None:
    """Without `--json` the output is a timeline."""
    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}")

    assert ended.status == 0
    assert "greet" in ended.stdout
    assert "success" in ended.stdout


def test_an_unreachable_host_is_exit_status_1(pdkernel: Shell) -> None:
    """A failed outbound call fails the step and the run; the error names the host and the cause."""
    cell = "%%pdstep call --lang node\nexport default defineComponent({ async run() { return (await fetch('https://nowhere.invalid/')).status; } });"

    ended = pdkernel("run", pdkernel.notebook(cell), "--body", "{}", "--egress", "live", "--json")

    (step,) = ended.json["steps"]
    assert ended.status == 1
    assert step["error"]["message"].startswith("fetch failed")
    assert "https://nowhere.invalid got no response: nowhere.invalid " in step["error"]["message"]
    assert step["requests"][0]["outcome"] == "failed"


def test_event_from_standard_input(pdkernel: Shell) -> None:
    """`--event -` reads the event from standard input; `{}` is an event."""
    ended = pdkernel("run", pdkernel.notebook(GREET), "--event", "-", "--json", stdin="{}")

    assert ended.status == 0
    assert ended.json["trigger"]["event"] == {"headers": {"x-pd-environment": "development"}}


def test_flags_win_over_headers(pdkernel: Shell) -> None:
    """`--external-user` and `--environment` rewrite the event's headers."""
    event = pdkernel.write(
        "event.json", '{"headers": {"X-PD-External-User-ID": "grace", "x-pd-environment": "production"}}'
    )

    ended = pdkernel("run", pdkernel.notebook(GREET), "--event", event, "--external-user", "ada", "--environment", "development", "--json")  # fmt: skip

    assert (ended.json["external_user"], ended.json["environment"]) == ("ada", "development")
    assert ended.json["trigger"]["event"]["headers"] == {
        "x-pd-environment": "development",
        "x-pd-external-user-id": "ada",
    }


def test_header_alone_is_honoured(pdkernel: Shell) -> None:
    """Without flags, the event's headers name user and environment."""
    event = pdkernel.write(
        "event.json", '{"headers": {"X-PD-External-User-ID": "grace", "x-pd-environment": "production"}}'
    )

    ended = pdkernel("run", pdkernel.notebook(GREET), "--event", event, "--json")

    assert (ended.json["external_user"], ended.json["environment"]) == ("grace", "production")


def test_runs_as_the_external_user(pdkernel: Shell) -> None:
    """A step sends with the external user's account, and the token is not in the output."""
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip

    ended = pdkernel("run", pdkernel.notebook(SLACK), "--body", "{}", "--external-user", "ada", "--json")

    assert ended.status == 0, ended.stdout
    assert ended.json["steps"][0]["requests"][0]["outcome"] == "stand_in"
    assert ended.json["steps"][0]["requests"][0]["app"] == "slack"
    assert TOKEN not in ended.stdout + ended.stderr


def test_run_always_sends(pdkernel: Shell) -> None:
    """`pdkernel run` repeats an unsafe call: sending once applies to notebooks."""
    pdkernel("accounts", "add", "--external-user", "ada", "--app", "slack", "--credential", "oauth_access_token=-", stdin=TOKEN)  # fmt: skip
    source = pdkernel.notebook(SLACK)

    outcomes = [
        pdkernel("run", source, "--body", "{}", "--external-user", "ada", "--json").json["steps"][0]["requests"][0]["outcome"]
        for _ in range(2)
    ]  # fmt: skip

    assert outcomes == ["stand_in", "stand_in"]


def test_several_users_are_a_list(pdkernel: Shell) -> None:
    """`--external-users` runs once for each user."""
    ended = pdkernel("run", pdkernel.notebook(GREET), "--body", "{}", "--external-users", "ada,grace", "--json")

    assert [execution["external_user"] for execution in ended.json] == ["ada", "grace"]


def test_a_failure_of_any_user_is_the_exit_status(pdkernel: Shell) -> None:
    """`--external-users` exits with 1 if the run of any user failed, the first one too."""
    fails = '%%pdstep check\ndef handler(pd):\n    assert pd.context["external_user_id"] != "ada"\n'

    ended = pdkernel("run", pdkernel.notebook(fails), "--body", "{}", "--external-users", "ada,grace", "--json")

    assert [execution["status"] for execution in ended.json] == ["error", "success"]
    assert ended.status == 1


def test_from_a_step_with_a_pin(pdkernel: Shell) -> None:
    """`--from` skips the steps above; `--pin` provides their exports."""
    last = '%%pdstep last\ndef handler(pd):\n    return pd.steps["greet"]["$return_value"]\n'
    pin = pdkernel.write("pin.json", '{"$return_value": 7}')

    ended = pdkernel("run", pdkernel.notebook(GREET, last), "--body", "{}", "--from", "last", "--pin", f"greet={pin}", "--json")  # fmt: skip

    assert [step["status"] for step in ended.json["steps"]] == ["pinned", "success"]
    assert ended.json["steps"][1]["exports"]["$return_value"] == 7


def test_failed_step_is_status_1(pdkernel: Shell) -> None:
    """A step that raises an error ends the command with status 1; the error's line is the cell's."""
    ended = pdkernel("run", pdkernel.notebook("%%pdstep bad\ndef handler(pd):\n    return 1 / 0\n"), "--body", "{}", "--json")  # fmt: skip

    assert ended.status == 1
    assert list(ended.json["error"]) == ["code", "name", "message", "step", "line", "stack"]
    assert (ended.json["error"]["name"], ended.json["error"]["line"]) == ("ZeroDivisionError", 3)


@pytest.mark.parametrize(
    ("cells", "args", "words"),
    [
        ([GREET], ["--event", "bad.json"], "bad.json is not JSON"),
        ([GREET], ["--event", "nowhere.json"], "Cannot read nowhere.json"),
        ([GREET], [], "Pass --event FILE"),
        ([GREET], ["--body", "{}", "--egress", "sometimes"], "is not a mode"),
        ([GREET], ["--body", "{}", "--environment", "staging"], "is not an environment"),
        ([GREET], ["--body", "{}", "--from", "nowhere"], "no step 'nowhere'"),
        (["%%pdstep my-step\n"], ["--body", "{}"], "is not a valid step name"),
        (["%%pdstep my step\n"], ["--body", "{}"], "step"),
        ([GREET, GREET], ["--body", "{}"], "greet"),
        (["%%pdstep a --lang ruby\n"], ["--body", "{}"], "ruby"),
        (["%%pdstep a --colour red\n"], ["--body", "{}"], "--colour"),
        (["%%pdstep a\nx = 1\n"], ["--body", "{}"], "handler"),
        (["%%pdstep a --lang node\nconst x = 1\n"], ["--body", "{}"], "default"),
        (['%%pdstep a\ndef handler(pd):\n    return pd.steps["b"]\n', GREET.replace("greet", "b")], ["--body", "{}"], "comes later"),
        ([SLACK], ["--body", "{}", "--external-user", "nobody"], "No matching external user ID"),
        ([SLACK], ["--body", "{}"], "No external user ID passed"),
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


@pytest.mark.parametrize(
    ("text", "words"),
    [("not json", "is not a notebook"), ("{}", "is not a notebook"), ("[1]", "is not a notebook")],
)
def test_a_file_that_is_not_a_notebook_is_refused(pdkernel: Shell, text: str, words: str) -> None:
    """A file that is not a notebook is refused by name."""
    source = pdkernel.write("work.ipynb", text)

    ended = pdkernel("run", source, "--body", "{}")

    assert ended.status == 2
    assert words in ended.stderr


def test_exited_is_success(pdkernel: Shell) -> None:
    """A workflow that ends itself has status 0."""
    ended = pdkernel("run", pdkernel.notebook("%%pdstep a\ndef handler(pd):\n    return pd.flow.exit('no')\n"), "--body", "{}", "--json")  # fmt: skip

    assert (ended.status, ended.json["status"]) == (0, "exited")


def test_a_time_out_is_reported_briefly(pdkernel: Shell) -> None:
    """A time-out is reported in at most 15 lines."""
    cell = "%%pdstep slow --timeout 1\nimport time\ndef handler(pd):\n    time.sleep(30)\n"

    ended = pdkernel("run", pdkernel.notebook(cell), "--body", "{}")

    assert ended.status == 1
    assert len(ended.lines) <= 15, ended.lines


def test_options_come_from_the_environment(pdkernel: Shell) -> None:
    """Every option is also `PDKERNEL_<OPTION>`."""
    ended = pdkernel("run", pdkernel.notebook(GREET), "--json", PDKERNEL_BODY="{}", PDKERNEL_EXTERNAL_USER="ada")

    assert ended.json["external_user"] == "ada"


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


def test_what_a_step_has_mounted_in_its_folder_stays(pdkernel: Shell, apart: tuple[str, ...]) -> None:
    """If a Bash step (run as root) mounts a folder in its own, the clean-up keeps the mounted files."""
    outside = pdkernel.folder / "outside"
    outside.mkdir()
    (outside / "file").touch()
    notebook = pdkernel.notebook(f"%%pdstep mounts --lang bash\nmkdir here && mount --bind {outside} here && ls here\n")

    ended = pdkernel("run", notebook, "--event", "-", "--json", stdin="{}", within=apart, TMPDIR=str(pdkernel.folder))

    assert ended.json["steps"][0]["logs"] == [{"stream": "stdout", "text": "file\n"}]
    assert "was not removed: something is mounted in it" in ended.stderr
    assert (outside / "file").exists()
