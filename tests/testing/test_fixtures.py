"""The fixtures of the pytest plugin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import EventError, NotebookError, RequestError, UnknownStepError
from pdkernel.model import JSON
from pdkernel.testing import MakeEvent, RunCrashTest, RunWorkflow, SettableClock, TemporaryProject
from pdkernel.testing.fixtures import _events_at, _resolve_recording_path
from tests.builders import a_workflow, node_step, python_step

pytest_plugins = ["pdkernel.testing"]

TOKEN = "xoxb-made-up-for-a-test"
POST = 'import urllib.request\nreturn urllib.request.urlopen("https://api.example.test/things", data=b"1").status'


def test_the_record_of_a_run(pd_run: RunWorkflow) -> None:
    """The execution has return value, exports, output, response and requests by the step's name."""
    step = python_step(
        "build", 'print("hello")\npd.export("size", 2)\npd.respond({"status": 201, "body": "ok"})\nreturn [1]'
    )

    execution = pd_run(a_workflow(step, response="custom"))

    build = execution.step("build")
    assert (build.return_value, build.exports["size"], build.output, build.error) == ([1], 2, "hello\n", None)
    assert execution.response is not None
    assert (execution.response.status, execution.response.body, execution.requests) == (201, "ok", ())


def test_an_unknown_step_names_the_existing_steps(pd_run: RunWorkflow) -> None:
    """The error for an unknown step lists the steps of the run."""
    execution = pd_run(a_workflow(python_step("build"), python_step("send")))

    with pytest.raises(KeyError, match="no step 'sent'; the steps are build, send"):
        execution.step("sent")


def test_outbound_calls_are_refused(pd_run: RunWorkflow) -> None:
    """Without a recording or a stand-in a call fails its step, and the ledger has the call and the mode."""
    execution = pd_run(a_workflow(python_step("post", POST)))

    call = execution.requests[0]
    assert (execution.step("post").status, call.outcome) == ("error", "denied")
    assert call.note == "POST https://api.example.test/things was not sent: the outbound policy is deny."


def test_a_step_gets_the_users_account(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """A step uses the connected account, and the record does not contain the credential."""
    pd_project.connect("ada", "slack", oauth_access_token=TOKEN)
    step = python_step("send", 'return len(pd.inputs["slack"]["$auth"]["oauth_access_token"])', options="--app slack")

    execution = pd_run(a_workflow(step), external_user="ada")

    assert execution.step("send").return_value == len(TOKEN)
    assert [use.app for use in execution.step("send").accounts] == ["slack"]


def test_an_event_names_the_user(pd_run: RunWorkflow, pd_project: TemporaryProject, pd_event: MakeEvent) -> None:
    """Without arguments, a run is for the external user and in the environment that the event's headers name."""
    pd_project.connect("ada", "slack", environment="production", oauth_access_token=TOKEN)
    headers: dict[str, JSON] = {"x-pd-external-user-id": "ada", "x-pd-environment": "production"}

    execution = pd_run(
        a_workflow(python_step(options="--app slack")), pd_event({"method": "POST", "headers": headers, "body": {}})
    )

    assert (execution.status, execution.external_user, execution.environment) == ("success", "ada", "production")


def test_environments_have_separate_users(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """A run in production does not find a user of development, and has the platform's message."""
    pd_project.connect("ada", "slack", oauth_access_token=TOKEN)

    execution = pd_run(a_workflow(python_step(options="--app slack")), external_user="ada", environment="production")

    assert execution.error is not None
    assert "No matching external user ID: ada in production" in execution.error.message


def test_each_test_has_its_own_project(pd_project: TemporaryProject) -> None:
    """A new project has no users and accounts of other tests."""
    assert list(pd_project.directory.users("development")) == []


def test_variables(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """A step reads the project's variables and those of its run; their values are redacted in the record."""
    pd_project.set_variables(GREETING="a greeting of the project")
    step = python_step("say", 'import os\nreturn [os.environ["GREETING"], len(os.environ["NAME"])]')

    execution = pd_run(a_workflow(step), variables={"NAME": "Grace Hopper"})

    assert execution.step("say").return_value == ["⟦secret:env/GREETING⟧", 12]


def test_an_env_file_beside_the_notebook_is_not_read(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """The user's `.env` is not used: a variable that the test does not set is missing."""
    (pd_project.folder / ".env").write_text("OWN=of the person")

    execution = pd_run(a_workflow(python_step("say", 'import os\nreturn os.environ["OWN"]')))

    assert execution.error is not None
    assert execution.error.code == "variable_missing"


def test_a_store_is_filled_and_read(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """A step reads the records of the test, and the test reads the records of the step."""
    pd_project.stores.set("seen", "a", 1)
    body = 'pd.inputs["seen"]["b"] = pd.inputs["seen"]["a"] + 1'

    pd_run(a_workflow(python_step("count", body, options="--data-store seen=seen")))

    found = pd_project.stores.find("seen", "b")
    assert found is not None
    assert found.value == 2


def test_nothing_is_installed(pd_run: RunWorkflow) -> None:
    """A missing package refuses the run, and the message has the install command."""
    step = python_step("one")
    other = node_step("two", "return missing")
    other = replace(other, source='import missing from "a-missing-package";\n' + other.source)

    execution = pd_run(a_workflow(step, other))

    assert execution.error is not None
    assert execution.error.code == "package_missing"
    assert "pdkernel packages install" in execution.error.message
    assert execution.step("one").status == "not_run"


def test_pinned_steps_do_not_run(pd_run: RunWorkflow) -> None:
    """A pin is an object of exports, or the step's return value."""
    steps = (
        python_step("one", "1 / 0"),
        python_step("two", "1 / 0"),
        node_step("sum", "return steps.one.$return_value + steps.two.x"),
    )

    execution = pd_run(a_workflow(*steps), pins={"one": 2, "two": {"x": 3}})

    assert execution.step("sum").return_value == 5
    assert execution.step("one").status == "pinned"


def test_arguments_precede_the_headers_of_the_event(pd_run: RunWorkflow) -> None:
    """The external user and the environment are those of the arguments, else those that the event names."""
    workflow = a_workflow(python_step("one", "return 1"))
    event = {"headers": {"x-pd-external-user-id": "ada", "x-pd-environment": "production"}}

    named, given = pd_run(workflow, event), pd_run(workflow, event, external_user="bob", environment="development")

    assert (named.external_user, named.environment) == ("ada", "production")
    assert (given.external_user, given.environment) == ("bob", "development")


def test_a_pin_of_an_unknown_step_is_refused(pd_run: RunWorkflow) -> None:
    """A pin for an unknown step is an error of the test."""
    with pytest.raises(UnknownStepError):
        pd_run(a_workflow(python_step("one")), pins={"oen": 1})


def test_a_run_uses_the_set_clock(pd_run: RunWorkflow, pd_clock: SettableClock) -> None:
    """Time stamps of the run and `context.ts` follow the clock."""
    pd_clock.set("2026-11-24T10:00:00Z")

    execution = pd_run(a_workflow(python_step("when", 'return pd.steps["trigger"]["context"]["ts"]')))

    assert execution.step("when").return_value == "2026-11-24T10:00:00.000Z"
    assert execution.started_at == "2026-11-24T10:00:00.000Z"


def test_a_pause_takes_no_time_on_a_set_clock(pd_run: RunWorkflow, pd_clock: SettableClock) -> None:
    """With a set clock, a run that waits a day ends at once, a day later on the clock."""
    pd_clock.set("2026-11-24T10:00:00Z")

    execution = pd_run(a_workflow(python_step("nap", "pd.flow.delay(24 * 60 * 60 * 1000)")), wait=True)

    assert execution.status == "success"
    assert execution.finished_at is not None
    assert execution.finished_at.startswith("2026-11-25T10:00:00")


def test_the_clock_is_reset(pd_clock: SettableClock) -> None:
    """A clock that another test has set is reset."""
    assert pd_clock.now() != pd_clock.now()


@pytest.mark.parametrize("moment", ["2026-11-24T10:00:00", "tomorrow"])
def test_a_clock_requires_a_time_zone(pd_clock: SettableClock, moment: str) -> None:
    """A text that is not a time, and a time without a zone, are refused with an example."""
    with pytest.raises(RequestError):
        pd_clock.set(moment)


def test_events(pd_event: MakeEvent, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """An event is its JSON, a wrapped body, or a file."""
    file = tmp_path / "hello.json"
    file.write_text(json.dumps({"method": "PUT"}))

    events = [pd_event({"method": "PUT"}), pd_event(file), pd_event(body={"name": "Ada"})]

    assert [event.data["method"] for event in events] == ["PUT", "PUT", "POST"]
    assert events[2].data["body"] == {"name": "Ada"}


@pytest.mark.parametrize("body", [{}, [], "", 0, False])
def test_an_empty_body_is_a_body(pd_event: MakeEvent, body: JSON) -> None:
    """An empty payload is wrapped in a POST event, like any other."""
    event = pd_event(body=body)

    assert (event.data["method"], event.data["body"]) == ("POST", body)


def test_an_event_of_a_folder_above(tmp_path: Path) -> None:
    """A name is that of the nearest folder `events`, of the test or of a folder above; an error names the events there."""
    below = tmp_path / "tests" / "orders"
    below.mkdir(parents=True)
    for folder, method in ((tmp_path, "PUT"), (below, "PATCH")):
        (folder / "events").mkdir()
        (folder / "events" / "hello.json").write_text(json.dumps({"method": method}))
    (tmp_path / "events" / "above.json").write_text(json.dumps({"method": "GET"}))

    assert [_events_at(below)(name).data["method"] for name in ("hello", "above")] == ["PATCH", "GET"]
    assert _events_at(below.parent)("hello").data["method"] == "PUT"
    with pytest.raises(EventError) as missing:
        _events_at(below)("helo")
    assert missing.value.fix == "Known events: above, hello."


def test_an_event_or_a_body(pd_event: MakeEvent) -> None:
    """An event and a body together are refused, an empty event too; without both the event is empty."""
    for of in ({"method": "PUT"}, {}):
        with pytest.raises(RequestError, match="Give an event or a body, not both"):
            pd_event(of, body=1)
    assert pd_event().data == {}


@pytest.mark.parametrize("mode", ["record", "replay"])
def test_a_recording_is_beside_the_test(tmp_path: Path, mode: str) -> None:
    """The file of a recording is relative to the folder of the test; other outbound policies have no file."""
    assert _resolve_recording_path(tmp_path, f"{mode}=calls.jsonl") == f"{mode}={tmp_path / 'calls.jsonl'}"
    assert [_resolve_recording_path(tmp_path, other) for other in ("deny", "stand-in=slack", "allow=a.test")] == [
        "deny",
        "stand-in=slack",
        "allow=a.test",
    ]


@pytest.mark.parametrize("name", ["nothing-of-this-name", "x" * 300])
def test_a_missing_event(pd_event: MakeEvent, name: str) -> None:
    """The error for an unknown name, also for a text that is too long for a file name, lists the searched places."""
    with pytest.raises(EventError, match="nor in its folder events"):
        pd_event(name)


def test_a_missing_source(pd_run: RunWorkflow) -> None:
    """The error for an unknown notebook names the test's folder."""
    with pytest.raises(NotebookError, match=r"testing.nowhere\.ipynb"):
        pd_run("nowhere.ipynb")


def test_a_crash_test_uses_the_project_of_the_test(pd_crash_test: RunCrashTest, pd_project: TemporaryProject) -> None:
    """A crash test has the accounts of `pd_project`, and names what is done twice."""
    pd_project.connect("ada", "slack", oauth_access_token=TOKEN)
    body = (
        "import urllib.request\ntoken = pd.inputs['slack']['$auth']['oauth_access_token']\n"
        "request = urllib.request.Request('https://slack.com/api/chat.postMessage', data=b'channel=general&text=hi')\n"
        "request.add_header('authorization', f'Bearer {token}')\nurllib.request.urlopen(request)"
    )
    workflow = a_workflow(python_step("tell", body, options="--app slack"), python_step("last"))

    report = pd_crash_test(workflow, external_user="ada", egress="stand-in=slack", limit=4)

    assert [(finding.step, finding.kind) for finding in report.findings] == [("tell", "done_twice")]
    assert "tell: done twice. POST https://slack.com/api/chat.postMessage arrived twice" in repr(report)


def test_a_crash_test_sends_nothing(pd_crash_test: RunCrashTest) -> None:
    """A policy that sends calls for real is refused."""
    with pytest.raises(RequestError, match="would be sent for real"):
        pd_crash_test(a_workflow(python_step("one")), egress="live")


async def test_a_coroutine_may_run_workflows(pd_run: RunWorkflow) -> None:
    """A coroutine test uses the same fixture."""
    execution = pd_run(a_workflow(python_step("one", "return 1")))

    assert execution.step("one").return_value == 1


def test_processes_are_shared_by_the_runs_of_a_worker(pd_run: RunWorkflow) -> None:
    """The second run of a workflow reuses the worker of the first run."""
    workflow = a_workflow(python_step("pid", "import os\nreturn os.getppid(), os.getpid()"))

    first, second = (pd_run(workflow).step("pid").return_value for _ in range(2))

    assert first == second
