"""The fixtures, used as a person's tests use them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.errors import EventError, NotebookError, RequestError, UnknownStepError
from pdkernel.testing import MakeEvent, RunWorkflow, SettableClock, TemporaryProject
from tests.builders import a_workflow, node_step, python_step

pytest_plugins = ["pdkernel.testing"]

TOKEN = "xoxb-made-up-for-a-test"
POST = 'import urllib.request\nreturn urllib.request.urlopen("https://api.example.test/things", data=b"1").status'


def test_the_record_of_a_run(pd_run: RunWorkflow) -> None:
    """Return value, exports, output, response and requests of a run are at hand by the step's name."""
    step = python_step(
        "build", 'print("hello")\npd.export("size", 2)\npd.respond({"status": 201, "body": "ok"})\nreturn [1]'
    )

    execution = pd_run(a_workflow(step, response="custom"))

    build = execution.step("build")
    assert (build.return_value, build.exports["size"], build.output, build.error) == ([1], 2, "hello\n", None)
    assert execution.response is not None
    assert (execution.response.status, execution.response.body, execution.requests) == (201, "ok", ())


def test_a_step_that_is_not_there_is_named_with_those_that_are(pd_run: RunWorkflow) -> None:
    """Asking for an unknown step names the steps of the run."""
    execution = pd_run(a_workflow(python_step("build"), python_step("send")))

    with pytest.raises(KeyError, match="no step 'sent'; the steps are build, send"):
        execution.step("sent")


def test_outside_calls_are_refused(pd_run: RunWorkflow) -> None:
    """Without a recording or a stand-in a call fails its step, and the ledger names the call and the mode."""
    execution = pd_run(a_workflow(python_step("post", POST)))

    call = execution.requests[0]
    assert (execution.step("post").status, call.outcome) == ("error", "denied")
    assert call.note == "POST https://api.example.test/things was not sent: the mode for outbound calls is deny."


def test_a_step_gets_the_users_account(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """A connected account reaches the step that asks for it, and the record does not hold its credential."""
    pd_project.connect("ada", "slack", oauth_access_token=TOKEN)
    step = python_step("send", 'return len(pd.inputs["slack"]["$auth"]["oauth_access_token"])', options="--app slack")

    execution = pd_run(a_workflow(step), external_user="ada")

    assert execution.step("send").return_value == len(TOKEN)
    assert [use.app for use in execution.step("send").accounts] == ["slack"]


def test_users_of_one_environment_are_none_of_the_other(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """A run in production does not find a user of development, and says so as the platform does."""
    pd_project.connect("ada", "slack", oauth_access_token=TOKEN)

    execution = pd_run(a_workflow(python_step(options="--app slack")), external_user="ada", environment="production")

    assert execution.error is not None
    assert "No matching external user ID: ada in production" in execution.error.message


def test_each_test_has_a_project_of_its_own(pd_project: TemporaryProject) -> None:
    """Nothing of another test is left: no user, no account."""
    assert list(pd_project.directory.users("development")) == []


def test_variables(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """A step sees the project's variables and those of its run; their values are hidden in the record."""
    pd_project.set_variables(GREETING="a greeting of the project")
    step = python_step("say", 'import os\nreturn [os.environ["GREETING"], len(os.environ["NAME"])]')

    execution = pd_run(a_workflow(step), variables={"NAME": "Grace Hopper"})

    assert execution.step("say").return_value == ["⟦secret:env/GREETING⟧", 12]


def test_a_env_file_beside_the_notebook_is_not_read(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """The person's own `.env` stays out of tests: a variable that the test does not set is missing."""
    (pd_project.folder / ".env").write_text("OWN=of the person")

    execution = pd_run(a_workflow(python_step("say", 'import os\nreturn os.environ["OWN"]')))

    assert execution.error is not None
    assert execution.error.code == "variable_missing"


def test_a_store_is_filled_and_looked_at(pd_run: RunWorkflow, pd_project: TemporaryProject) -> None:
    """What a test puts into a data store, a step reads; what the step puts there, the test reads."""
    pd_project.stores.set("seen", "a", 1)
    body = 'pd.inputs["seen"]["b"] = pd.inputs["seen"]["a"] + 1'

    pd_run(a_workflow(python_step("count", body, options="--data-store seen=seen")))

    found = pd_project.stores.find("seen", "b")
    assert found is not None
    assert found.value == 2


def test_nothing_is_installed(pd_run: RunWorkflow) -> None:
    """A package that is not there refuses the run, and the message has the command that installs it."""
    step = python_step("one")
    other = node_step("two", "return missing")
    other = replace(other, source='import missing from "a-package-of-nobody";\n' + other.source)

    execution = pd_run(a_workflow(step, other))

    assert execution.error is not None
    assert execution.error.code == "package_missing"
    assert "pdkernel packages install" in execution.error.message
    assert execution.step("one").status == "not_run"


def test_pinned_steps_do_not_run(pd_run: RunWorkflow) -> None:
    """A pin is what the step exports: an object of exports, or what it would have returned."""
    steps = (
        python_step("one", "1 / 0"),
        python_step("two", "1 / 0"),
        node_step("sum", "return steps.one.$return_value + steps.two.x"),
    )

    execution = pd_run(a_workflow(*steps), pins={"one": 2, "two": {"x": 3}})

    assert execution.step("sum").return_value == 5
    assert execution.step("one").status == "pinned"


def test_a_pin_of_no_step_is_refused(pd_run: RunWorkflow) -> None:
    """A pin for a step that the workflow does not have is an error of the test."""
    with pytest.raises(UnknownStepError):
        pd_run(a_workflow(python_step("one")), pins={"oen": 1})


def test_a_set_clock_is_in_the_run(pd_run: RunWorkflow, pd_clock: SettableClock) -> None:
    """Time stamps of the run and `context.ts` are those of the clock that was set."""
    pd_clock.set("2026-11-24T10:00:00Z")

    execution = pd_run(a_workflow(python_step("when", 'return pd.steps["trigger"]["context"]["ts"]')))

    assert execution.step("when").return_value == "2026-11-24T10:00:00.000Z"
    assert execution.started_at == "2026-11-24T10:00:00.000Z"


def test_a_pause_takes_no_time_on_a_set_clock(pd_run: RunWorkflow, pd_clock: SettableClock) -> None:
    """A run that waits a day is over at once where the clock is set, and ends a day later on it."""
    pd_clock.set("2026-11-24T10:00:00Z")

    execution = pd_run(a_workflow(python_step("nap", "pd.flow.delay(24 * 60 * 60 * 1000)")), wait=True)

    assert execution.status == "success"
    assert execution.finished_at is not None
    assert execution.finished_at.startswith("2026-11-25T10:00:00")


def test_the_clock_is_the_machines_again(pd_clock: SettableClock) -> None:
    """A clock that another test has set does not stay set."""
    assert pd_clock.now() != pd_clock.now()


@pytest.mark.parametrize("moment", ["2026-11-24T10:00:00", "tomorrow"])
def test_a_clock_takes_moments_with_a_zone(pd_clock: SettableClock, moment: str) -> None:
    """What is no moment, or has no time zone, is refused with an example."""
    with pytest.raises(RequestError):
        pd_clock.set(moment)


def test_events(pd_event: MakeEvent, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """An event is its JSON, a wrapped body, or a file."""
    file = tmp_path / "hello.json"
    file.write_text(json.dumps({"method": "PUT"}))

    events = [pd_event({"method": "PUT"}), pd_event(file), pd_event(body={"name": "Ada"})]

    assert [event.data["method"] for event in events] == ["PUT", "PUT", "POST"]
    assert events[2].data["body"] == {"name": "Ada"}


def test_an_event_that_is_not_there(pd_event: MakeEvent) -> None:
    """An unknown name says where it was looked for."""
    with pytest.raises(EventError, match="nor in its folder events"):
        pd_event("nothing-of-this-name")


def test_a_source_that_is_not_there(pd_run: RunWorkflow) -> None:
    """An unknown notebook is named with the folder where it was looked for: that of the test."""
    with pytest.raises(NotebookError, match=r"testing.nowhere\.ipynb"):
        pd_run("nowhere.ipynb")


async def test_a_coroutine_may_run_workflows(pd_run: RunWorkflow) -> None:
    """A test that is a coroutine uses the same fixture."""
    execution = pd_run(a_workflow(python_step("one", "return 1")))

    assert execution.step("one").return_value == 1


def test_processes_are_shared_by_the_runs_of_a_worker(pd_run: RunWorkflow) -> None:
    """The second run of a workflow reuses the worker of the first run."""
    workflow = a_workflow(python_step("pid", "import os\nreturn os.getppid(), os.getpid()"))

    first, second = (pd_run(workflow).step("pid").return_value for _ in range(2))

    assert first == second
