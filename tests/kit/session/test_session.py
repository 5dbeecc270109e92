"""Sessions: settings, runs, stale results, and the state after a restart of the kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import ActionNotFoundError, DirectiveError, EventError, PdkernelError, RequestError
from pdkernel.event import Event
from pdkernel.execution import BlockChoice, RunTrigger, StepResult
from pdkernel.kit.session import Session
from pdkernel.kit.session.state import RunSettings
from pdkernel.kit.session.step_results import MAX_RECENT_RUNS, LastStepResults, RecentRuns, compute_fingerprint
from pdkernel.model import AppBinding, Step, StoreBinding
from pdkernel.operations.events import TestEvent
from pdkernel.operations.runs import select_steps
from tests.accounts.upstream import PROJECT, Upstream
from tests.builders import a_block, a_workflow, an_event, python_step
from tests.render.builders import an_execution

Make = Callable[..., Session]

CHECK = '%%pdstep check\ndef handler(pd):\n    return {"text": pd.steps["trigger"]["event"]["body"]["name"]}\n'
SEND = """%%pdstep send --lang node --app slack
export default defineComponent({
  props: { slack: { type: "app", app: "slack" } },
  async run({ steps }) {
    const response = await fetch("https://slack.com/api/chat.postMessage", {
      method: "POST",
      headers: { authorization: `Bearer ${this.slack.$auth.oauth_access_token}`, "content-type": "application/json" },
      body: JSON.stringify({ channel: "#general", text: steps.check.$return_value.text }),
    });
    return (await response.json()).ok;
  },
});
"""
LAST = '%%pdstep last\ndef handler(pd):\n    return pd.steps["send"]["$return_value"]\n'
TOKEN = "xoxb-planted-token-123"


@pytest.fixture
def ready(session: Session) -> Session:
    """A session of three steps with an event, run as ada."""
    return prepare(session)


def prepare(session: Session) -> Session:
    """Give *session* three steps, a user and an event."""
    for name, source in (("check", CHECK), ("send", SEND), ("last", LAST)):
        session.record_cell(source, cell_id=name)
    if not session.directory.users("development"):
        session.directory.add_account(app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id="ada")
    session.choose_user("ada")
    session.choose_event(an_event(), "hello")
    return session


def outcomes(session: Session) -> list[str]:
    """The outcomes of the last run's outbound calls."""
    assert session.last_execution is not None
    return [call.outcome for step in session.last_execution.steps for call in step.requests]


def test_run_all_then_send_posts_once(ready: Session) -> None:
    """Running every cell and then the whole workflow sends the message once."""
    for name in ("check", "send", "last"):
        ready.run(only=frozenset({name}))

    execution = ready.run()

    call = execution.step("send").requests[0]
    assert call.outcome == "not_sent"
    assert call.same_as is not None
    assert execution.step("send").return_value is True


def test_another_call_is_sent(ready: Session) -> None:
    """A call is made once for each external user and body, and again on request."""
    ready.directory.add_account(app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id="grace")
    ready.run()
    ready.run(resend=True)
    sent = [outcomes(ready)]
    ready.choose_user("grace")
    ready.run()
    sent.append(outcomes(ready))
    ready.record_cell(SEND.replace('"#general"', '"#random"'), cell_id="send")
    ready.run(only=frozenset({"send"}))

    assert [*sent, outcomes(ready)] == [["stand_in"]] * 3


def test_steps_below_a_change_are_stale(ready: Session) -> None:
    """Results are stale below a step that ran, from an edited step on, and for another event; a pin takes the last exports."""
    ready.run()
    stale = [ready.stale_steps]
    ready.run(only=frozenset({"send"}))
    stale.append(ready.stale_steps)
    ready.record_cell(SEND + "// edited\n", cell_id="send")
    stale.append(ready.stale_steps)
    ready.choose_event(an_event({"name": "Grace"}), "other")
    stale.append(ready.stale_steps)

    assert stale == [set(), {"last"}, {"send", "last"}, {"check", "send", "last"}]
    assert ready.pin("check") == {"$return_value": {"text": "Ada"}}


def test_a_restarted_kernel_continues(ready: Session, make_session: Make) -> None:
    """A new kernel of the same notebook restores event, external user and exports, so that a later step runs alone."""
    ready.run()

    after = make_session()
    for name, source in (("check", CHECK), ("send", SEND)):
        after.record_cell(source, cell_id=name)
    execution = after.run(only=frozenset({"send"}))

    assert after.event_name == "hello"
    assert after.external_user_id == "ada"
    assert execution.status == "success", execution.error
    assert execution.step("send").requests[0].outcome == "not_sent"


def test_a_restarted_kernel_has_unsaved_cells(make_session: Make, save_notebook: Callable[..., Path]) -> None:
    """Step two runs in a new kernel with the exports of step one from the old kernel, although neither cell is saved."""
    path = save_notebook(("about", "plain = 1"))
    os.utime(path, (time.time() - 500, time.time() - 500))
    before = make_session(path.name)
    before.choose_event(Event.from_body({}))
    before.record_cell("%%pdstep one\ndef handler(pd):\n    return 'kept'\n", cell_id="1")
    before.run(only=frozenset({"one"}))

    after = make_session(path.name)
    after.record_cell("%%pdstep two\ndef handler(pd):\n    return pd.steps['one']['$return_value']\n", cell_id="2")
    execution = after.run(only=frozenset({"two"}))

    assert execution.step("two").return_value == "kept", execution.error


def test_a_pin_is_set_and_released(ready: Session) -> None:
    """A pinned step does not run; later steps get the pin; after its release the step runs."""
    ready.pin("check", {"$return_value": {"text": "pinned"}})
    pinned = ready.run()
    ready.unpin("check")
    released = ready.run()

    assert pinned.step("check").status == "pinned"
    assert released.step("check").status == "success"


def test_a_step_that_is_named_runs_in_spite_of_its_pin(ready: Session) -> None:
    """A person who runs a pinned step's cell tests its code; the pins of other steps count."""
    ready.pin("check", {"$return_value": {"text": "pinned"}})

    execution = ready.run(only=frozenset({"check"}))

    assert execution.step("check").status == "success"
    assert ready.pins["check"] == {"$return_value": {"text": "pinned"}}


def test_a_pin_requires_exports(ready: Session) -> None:
    """A step without a run, or with a result without exports, cannot be pinned without exports."""
    with pytest.raises(RequestError, match="has no exports to pin yet"):
        ready.pin("check")
    failed = LastStepResults()
    failed.record(ready.workflow.step("check"), StepResult("check", "error"), "event")
    with pytest.raises(RequestError, match="has no exports to pin yet"):
        failed.get_pinnable_exports("check")


def test_headers_follow_the_picker(ready: Session) -> None:
    """The event's two headers have the chosen user and environment."""
    ready.choose_user("grace", "production")

    assert ready.event is not None
    assert ready.event.header("x-pd-external-user-id") == "grace"
    assert ready.event.header("x-pd-environment") == "production"


def test_an_event_chooses_user_and_environment(session: Session) -> None:
    """An event with the headers chooses that user and environment, also development; without a header the choice stays."""
    session.choose_event(an_event(headers={"X-PD-External-User-ID": "grace", "X-PD-Environment": "production"}))
    chosen = [(session.external_user_id, session.environment)]
    session.choose_event(an_event())
    chosen.append((session.external_user_id, session.environment))
    session.choose_event(an_event(headers={"X-PD-Environment": "development"}))

    assert chosen == [("grace", "production")] * 2
    assert (session.external_user_id, session.environment) == ("grace", "development")


def test_a_run_requires_an_event(session: Session) -> None:
    """The error for a run without an event names the command that chooses an event."""
    session.record_cell(CHECK, cell_id="check")

    with pytest.raises(RequestError, match="No event is chosen"):
        session.run()


def test_steps_value_is_redacted(ready: Session) -> None:
    """The values for completion contain no credential and no secret header; the context is that of the last run."""
    ready.choose_event(an_event({"name": "Ada"}, headers={"authorization": "Bearer planted-in-a-header"}), "signed")
    ready.record_cell(
        SEND.replace("return (await", "return this.slack.$auth.oauth_access_token || (await"), cell_id="send"
    )

    execution = ready.run()

    value = ready.build_steps_value()
    assert TOKEN not in str(value)
    assert "planted-in-a-header" not in str(value)
    assert "secret:slack" in str(value["send"])
    assert value["trigger"]["context"] == execution.context


def test_apps_are_found_without_running(session: Session) -> None:
    """The apps of the steps are read from their cells; an own account is not required of the external user."""
    own = '%%pdstep own --app chat:slack=apn_own1\ndef handler(pd):\n    return pd.inputs["chat"]\n'
    session.record_cell(own, cell_id="own")
    without = session.find_needed_apps()
    session.record_cell(SEND, cell_id="send")

    assert (without, session.find_needed_apps()) == ({}, {"slack": ["send"]})


def test_saved_event_is_masked_and_found_again(session: Session, tmp_path: Path) -> None:
    """A saved event has no value of a secret header, and can be loaded."""
    session.choose_event(an_event(headers={"Authorization": "Bearer abc-secret", "x-a": "1"}))

    path = session.save_event("kept")

    assert "abc-secret" not in path.read_text()
    assert session.events.names() == ["kept"]
    assert session.load_event("kept").header("x-a") == "1"


def test_dotenv_beside_the_notebook_is_used(session: Session, tmp_path: Path) -> None:
    """A `.env` in the notebook's folder overrides the project's variables."""
    session.project.variables.set("GREETING", "from the project")
    (tmp_path / ".env").write_text("GREETING=from the file\n")
    session.record_cell(
        '%%pdstep say\nimport os\ndef handler(pd):\n    return len(os.environ["GREETING"])\n', cell_id="s"
    )
    session.choose_event(Event({}))

    execution = session.run()

    assert execution.step("say").return_value == len("from the file")


def test_a_listener_that_fails_keeps_no_other_from_a_change(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    """If an output cannot be drawn again, the change is made, the other listeners are called, and the log has the error."""
    heard: list[str | None] = []

    def fail() -> None:
        raise OSError("the page is gone")

    session.add_listener(fail)
    session.add_listener(lambda: heard.append(session.external_user_id))

    session.choose_user("ada")

    assert heard == ["ada"]
    assert "OSError: the page is gone" in caplog.text


def test_views_of_a_test_event_hide_secrets() -> None:
    """Frame, schema, shape and repr of an event have no value of a secret header."""
    event = TestEvent(dict(an_event(headers={"cookie": "session-secret"}).data))

    views = [event.frame().to_string(), str(event.schema()), str(event.shape()), repr(event)]

    assert not any("session-secret" in view for view in views)


def test_every_setting_of_a_step_makes_its_result_stale() -> None:
    """A result belongs to the step's code, language, accounts, stores, props and time limit, and not to its notes."""
    step = Step("a", apps=(AppBinding("slack", "slack"),), stores=(StoreBinding("store"),), props={"x": 1})
    changes: list[dict[str, Any]] = [
        {},
        {"source": "x"},
        {"language": "bash"},
        {"uses": "a-b@1.0.0"},
        {"apps": (AppBinding("slack", "slack", "apn_1"),)},
        {"apps": (AppBinding("slack", "slack_bot"),)},
        {"apps": (AppBinding("chat", "slack"),)},
        {"stores": (StoreBinding("store", "other"),)},
        {"props": {"x": 2}},
        {"timeout_s": 5},
        {"files": {"./helper.mjs": "x"}},
    ]
    fingerprints = [compute_fingerprint(replace(step, **change)) for change in changes]

    assert len(set(fingerprints)) == len(changes)
    assert compute_fingerprint(replace(step, notes="new", line_offset=3, cell_index=2)) == fingerprints[0]


def test_the_order_of_results_survives_a_restart() -> None:
    """A step that runs again after a restart makes later results stale, but not those of pinned steps."""
    workflow = a_workflow(python_step("a"), python_step("b"), python_step("c"))
    before = LastStepResults()
    for step in workflow.steps:
        before.record(step, StepResult(step.name, "pinned" if step.name == "b" else "success"), "event")
    restarted = LastStepResults(before.stored_results())
    assert restarted.find_stale_steps(workflow, "event") == set()

    restarted.record(workflow.steps[0], StepResult("a", "success"), "event")

    assert restarted.find_stale_steps(workflow, "event") == {"c"}
    assert restarted.find_stale_steps(workflow, "other event") == {"a", "c"}


def test_a_branch_that_did_not_run_has_no_results() -> None:
    """After a run that takes another branch, nothing is stale because of a step that ran for an earlier event; a pin stays."""
    workflow = a_workflow(
        a_block("%%pdif triage\nyes: 'true'\nelse:"),
        python_step("page", options="--in triage.yes"),
        python_step("wait", options="--in triage.else"),
        python_step("pinned", options="--in triage.else"),
        python_step("last"),
    )
    results = LastStepResults()
    results.record(workflow.step("wait"), StepResult("wait", "success"), "earlier event")
    results.record(workflow.step("pinned"), StepResult("pinned", "pinned"), "earlier event")
    choice = BlockChoice("if", ("yes",))
    run = (StepResult("triage", "success", choice=choice), *(StepResult(name, "success") for name in ("page", "last")))

    results.record_all(workflow, run, "event", ["success"])

    assert results.find_stale_steps(workflow, "event") == set()
    assert (results.get("wait"), results.get("pinned")) == (None, StepResult("pinned", "pinned"))


def test_a_changed_condition_runs_the_other_branch(session: Session) -> None:
    """The stale steps after a changed condition are the block, the steps of the branch that it takes now, and those below."""
    session.choose_event(an_event({"n": 1}))
    for name, text in {
        "triage": "%%pdif triage\nhigh: steps.trigger.event.body.n > 5\nelse:",
        "page": "%%pdstep page --in triage.high\ndef handler(pd):\n    return 'paged'",
        "mail": "%%pdstep mail --in triage.else\ndef handler(pd):\n    return 'mailed'",
        "last": "%%pdstep last\ndef handler(pd):\n    return pd.steps['triage']['$return_value']['$return_value']",
    }.items():
        session.record_cell(text, cell_id=name)
    first = session.run()
    session.record_cell("%%pdif triage\nhigh: steps.trigger.event.body.n > 0\nelse:", cell_id="triage")

    stale = select_steps(session.workflow, stale=session.stale_steps, known=session.get_exports())
    again = session.run(only=stale)

    assert (first.step("last").return_value, again.step("last").return_value) == ("mailed", "paged")
    assert session.stale_steps == set()


def test_a_disabled_step_is_not_edited() -> None:
    """The result of a step that does not run is not stale because of its new code; nor is a pinned step edited."""
    results = LastStepResults()
    off, pinned = python_step("a"), python_step("b")
    results.record(off, StepResult("a", "success"), "event")
    results.record(pinned, StepResult("b", "pinned"), "event")
    workflow = a_workflow(replace(off, disabled=True, source="new"), replace(pinned, source="new"))

    assert results.find_edited_steps(workflow) == results.find_stale_steps(workflow, "event") == set()


def test_a_failed_step_has_a_result(session: Session) -> None:
    """The last result of a step is also an error; a step that did not run has no new result."""
    session.record_cell(CHECK, cell_id="check")
    session.record_cell(LAST, cell_id="last")
    request = RunRequest(session.workflow, an_event(), parse_policy("deny"))
    steps = (StepResult("check", "error"), StepResult("last", "not_run"))

    session.record_run(request, an_execution(steps=steps, status="error"), is_detached=False)

    assert session.get_result("check") == steps[0]
    assert session.get_result("last") is None


def test_the_latest_ten_runs_can_be_saved() -> None:
    """The request of an older run is forgotten; that of a replay in another cell counts, too."""
    runs = RecentRuns()
    request = RunRequest(a_workflow(python_step()), an_event(), parse_policy("deny"))
    for number in range(MAX_RECENT_RUNS + 1):
        runs.add(request, an_execution(id=f"run{number}"), is_detached=number < 2)

    assert [runs.find_request(f"run{number}") is not None for number in (0, 1, MAX_RECENT_RUNS)] == [False, True, True]
    assert [runs.is_detached(f"run{number}") for number in (0, 1, 2)] == [False, True, False]
    with pytest.raises(RequestError, match="not among the latest runs"):
        runs.get_request("run0")
    assert runs.find_edited_steps("run1", request.workflow) == runs.find_edited_steps("run0", a_workflow()) == set()
    assert runs.find_edited_steps("run1", a_workflow()) == {"code"}  # the step was removed


def test_results_belong_to_user_environment_and_event() -> None:
    """Results of another user, environment or event are not those of the current choice, regardless of the kind of event."""
    scopes = []
    for user, environment, event in (
        ("ada", "development", Event({"tick": 1}, is_http=False)),
        ("ada", "production", Event({"tick": 1}, is_http=False)),
        ("grace", "development", Event({"tick": 1}, is_http=False)),
        ("ada", "development", Event({"tick": 2}, is_http=False)),
        ("ada", "development", Event({"tick": 1}, is_http=False)),
    ):
        settings = RunSettings({"PDKERNEL_EGRESS": "deny"})
        settings.choose_event(event, "tick")
        settings.choose_user(user, "production" if environment == "production" else "development")
        scopes.append(settings.result_scope)

    assert len(set(scopes)) == 4
    assert scopes[0] == scopes[-1]


@pytest.mark.parametrize("is_http", [True, False])
def test_settings_survive_a_restart(is_http: bool) -> None:
    """The next kernel has the event, the external user, the environment and the pins; the outbound policy is the default."""
    settings = RunSettings({"PDKERNEL_EGRESS": "deny"})
    settings.choose_event(Event({"body": 1, "headers": {"x-pd-environment": "production"}}, is_http=is_http), "first")
    settings.choose_user("ada", None)
    settings.choose_egress("live")
    settings.pins["a"] = {"$return_value": 1}

    restored = RunSettings({"PDKERNEL_EGRESS": "deny"})
    restored.restore(settings.to_state({}, ()))

    assert restored.event == settings.event
    assert restored.event is not None
    assert restored.event.is_http == is_http
    assert (restored.event_name, restored.external_user_id, restored.pins) == ("first", "ada", settings.pins)
    assert (settings.environment, restored.environment) == ("production",) * 2 if is_http else ("development",) * 2
    assert restored.outbound_policy.mode_text == "deny"


def test_no_external_user_leaves_no_header() -> None:
    """Without an external user, the event does not name the one that it named before; the environment stays."""
    settings = RunSettings({"PDKERNEL_EGRESS": "deny"})
    headers = {"X-PD-External-User-ID": "grace", "X-PD-Environment": "production"}
    settings.choose_event(an_event(headers=headers), "signed")

    settings.choose_user(None, None)

    assert settings.event is not None
    assert settings.event.headers == {"x-pd-environment": "production"}


def test_a_saved_state_has_no_secret_of_the_event() -> None:
    """The next kernel gets the event with masked headers; this kernel keeps the values."""
    settings = RunSettings({"PDKERNEL_EGRESS": "deny"})
    settings.choose_event(an_event(headers={"authorization": "Bearer 0123456789"}), "signed")

    state = settings.to_state({}, ())

    assert state.event is not None
    assert state.event["headers"] == {"authorization": "***"}
    assert settings.event is not None
    assert settings.event.header("authorization") == "Bearer 0123456789"


def test_a_session_respects_no_install(tmp_path: Path) -> None:
    """`PDKERNEL_NO_INSTALL` applies to a notebook too."""
    session = Session(folder=tmp_path, notebook=tmp_path / "my work.ipynb", environ={"PDKERNEL_NO_INSTALL": "true"})
    session.choose_event(an_event())
    session.record_cell(
        "%%pdstep code --lang node\nimport x from 'tiny';\nexport default { run: () => x }", cell_id="c"
    )

    error = session.run().error
    session.close()

    assert error is not None
    assert error.message.endswith("Install it: pdkernel packages install 'my work.ipynb'")


@pytest.mark.parametrize(
    ("value", "is_installed"), [("", True), ("0", True), ("False", True), ("NO", True), ("1", False), ("on", False)]
)
def test_values_of_no_install(tmp_path: Path, value: str, *, is_installed: bool) -> None:
    """A blank value, 0, false and no allow an installation; any other value does not."""
    session = Session(folder=tmp_path, environ={"PDKERNEL_NO_INSTALL": value})
    session.choose_event(an_event())

    assert session._build_request(None, False, None, skips_waits=False).install is is_installed
    session.close()


def test_a_source_is_not_installed_with_no_install(tmp_path: Path) -> None:
    """With `PDKERNEL_NO_INSTALL`, a poll asks no registry for a source that is not installed."""
    environ = {"PDKERNEL_NO_INSTALL": "1", "PATH": os.environ["PATH"], "npm_config_registry": "http://127.0.0.1:1/"}
    session = Session(folder=tmp_path, environ=environ)
    session.catalog.settings.accept_licence()
    session.catalog.settings.set_sources(["npm"], base=tmp_path)
    session.record_cell("%%pdworkflow\ntrigger: {type: source, uses: depot-new-thing@0.0.1}", cell_id="head")

    with pytest.raises(ActionNotFoundError, match="or PDKERNEL_NO_INSTALL forbids its installation"):
        session.poll_source(on_event=False)
    session.close()


def test_names_that_are_not_secret_are_checked(make_session: Make, save_notebook: Callable[..., Path]) -> None:
    """A run is not saved as a test with a plain name that the run did not use."""
    path = save_notebook(("one", "%%pdstep one\ndef handler(pd):\n    return 1\n"))
    session = make_session(path.name)
    session.choose_event(an_event())
    execution = session.run()

    with pytest.raises(RequestError, match="did not use NOBODY"):
        session.save_as_test(execution, "one", non_secret_names=["NOBODY"])


def test_a_run_for_another_user_leaves_the_chosen_users_results(ready: Session) -> None:
    """After a run for another external user no step of either run is stale."""
    ready.directory.add_account(app="slack", credentials={"oauth_access_token": TOKEN}, external_user_id="grace")

    own, other = ready.run(), ready.run(external_user_id="grace")

    assert other.external_user == "grace"
    assert ready.find_stale_steps(own) == ready.find_stale_steps(other) == set()
    ready.choose_event(an_event({"name": "Grace"}), "other")
    assert ready.find_stale_steps(own) == {"check", "send", "last"}
    assert ready.find_stale_steps(other) == set()  # the cells have no results of this run


# ── a real project ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def real_session(upstream: Upstream, tmp_path: Path) -> Iterator[Session]:
    """A session whose environment names the real project."""
    made = Session(folder=tmp_path, notebook=None, environ={"PDKERNEL_EGRESS": "deny", **upstream.environ})
    yield made
    made.close()


def test_the_session_has_the_real_projects_users(real_session: Session, upstream: Upstream) -> None:
    """The notebook's external users are Pipedream's; opening the project sends no request."""
    assert real_session.directory.project_id == PROJECT
    assert upstream.asked == []
    assert [user.external_id for user in real_session.directory.users("development")] == ["ada", "bob"]


def test_a_recorded_run_is_taken_over(ready: Session) -> None:
    """Its event, user and exports are chosen, of the steps that exist and succeeded; outbound calls are refused from then on."""
    event = an_event({"name": "Grace"})
    recorded = an_execution(
        external_user="grace",
        environment="production",
        trigger=RunTrigger(dict(event.data), {}),
        steps=(
            StepResult("check", "success", exports={"$return_value": 1}),
            StepResult("send", "error", exports={"$return_value": 2}),
            StepResult("last", "pinned", exports={"$return_value": 3}),
            StepResult("gone", "success", exports={"$return_value": 4}),
        ),
    )

    taken = ready.take_over_run(recorded)

    assert taken == ["check", "last"]
    assert ready.get_exports() == {"check": {"$return_value": 1}, "last": {"$return_value": 3}}
    assert (ready.external_user_id, ready.environment, ready.outbound_policy.mode_text) == (
        "grace",
        "production",
        "deny",
    )
    assert ready.event is not None
    assert ready.event.data["body"] == {"name": "Grace"}
    assert ready.event_name == f"run {recorded.id}"


def test_a_run_without_a_shown_event_is_not_taken_over(ready: Session) -> None:
    """A run that ended before its accounts were known shows no event; nothing is changed."""
    sealed = an_execution(trigger=RunTrigger({}, {}, sealed=True))

    with pytest.raises(RequestError, match="is not shown"):
        ready.take_over_run(sealed)

    assert (ready.external_user_id, ready.event_name) == ("ada", "hello")


def test_polling_needs_a_readable_header(session: Session) -> None:
    """The source of a workflow is not polled while its header cell has an error: the error is raised."""
    session.record_cell("%%pdworkflow\nnme: Work\n", cell_id="head")

    with pytest.raises(DirectiveError, match="unknown key 'nme'"):
        session.poll_source(on_event=False)


def test_a_saved_event_has_its_name(session: Session) -> None:
    """The chosen event gets the name of its file; without an event there is nothing to save."""
    with pytest.raises(RequestError, match="There is no event to save"):
        session.save_event("kept")
    session.choose_event(an_event(), "first")
    session.save_event("kept.json")

    assert session.event_name == "kept"


def test_a_pin_is_released_once(ready: Session, make_session: Make) -> None:
    """A released pin leaves no result of its step, in the next kernel too; a step that is not pinned has none to release."""
    ready.pin("check", {"$return_value": 1})
    result = ready.get_result("check")

    assert result is not None
    assert (result.status, ready.get_exports()["check"]) == ("pinned", {"$return_value": 1})
    assert (ready.unpin("check"), ready.unpin("check")) == (True, False)
    assert ready.get_result("check") is None
    assert (ready.pins, make_session().pins) == ({}, {})


def test_a_change_that_fails_changes_nothing(ready: Session, make_session: Make) -> None:
    """A wrong outbound policy calls no listener; a pin of an unknown step is not kept for the next kernel."""
    heard: list[int] = []
    ready.add_listener(lambda: heard.append(1))
    with pytest.raises(PdkernelError):
        ready.choose_egress("nonsense")
    assert ready.outbound_policy.mode_text == "stand-in=slack"
    with pytest.raises(PdkernelError):
        ready.pin("gone", {})
    assert heard == []
    ready.remove_cells([])
    assert heard == []

    ready.choose_user("grace")

    assert (heard, make_session().external_user_id, make_session().pins) == ([1], "grace", {})


def test_every_change_is_heard(ready: Session) -> None:
    """Cells, accounts, pins and runs call the listeners too; a listener may be removed twice."""
    heard: list[str] = []
    stop = ready.add_listener(lambda: heard.append("x"))

    def count(change: Callable[[], object]) -> int:
        heard.clear()
        change()
        return len(heard)

    assert count(lambda: ready.record_cell(CHECK, cell_id="check")) == 1
    assert count(lambda: ready.remove_cells(["last"])) == 1
    assert count(ready.notify_accounts_changed) == 1
    assert count(lambda: ready.pin("check", {})) == 1
    assert count(lambda: ready.unpin("check")) == 1
    stop()
    stop()
    assert count(ready.notify_accounts_changed) == 0


def test_steps_that_were_edited_and_have_not_run(ready: Session) -> None:
    """A step is edited until it runs with the new code; from then on it is only stale in an earlier run."""
    first = ready.run(only=frozenset({"check"}))
    ready.record_cell(CHECK + "# edited\n", cell_id="check")
    edited = ready.find_edited_steps()
    second = ready.run(only=frozenset({"check"}))

    assert edited == {"check"}
    assert ready.find_edited_steps() == set()
    assert "check" in ready.find_stale_steps(first)
    assert "check" not in ready.find_stale_steps(second)
    ready.record_cell(CHECK + "# edited again\n", cell_id="check")
    assert ready.find_edited_steps() == {"check"}


TIMER = "%%pdworkflow\nname: Timer\ntrigger: {type: schedule, cron: '0 9 * * *'}\n"


def test_a_file_of_a_schedule_is_loaded_while_an_owner_is_not_set(
    make_session: Make, save_notebook: Callable[..., Path], tmp_path: Path
) -> None:
    """While the owner of an account is not set, an event is loaded with the trigger of the header cell."""
    path = save_notebook(("head", TIMER), ("check", CHECK))
    path.with_suffix(".pdkernel.yaml").write_text("steps:\n  check:\n    accounts:\n      slack: unanswered\n")
    (tmp_path / "tick.json").write_text('{"timestamp": 1}')

    assert make_session(path.name).load_event("tick.json").data == {"timestamp": 1}


def test_a_file_of_a_schedule_is_loaded_without_a_header_cell(session: Session, tmp_path: Path) -> None:
    """The event of a timer is loaded as such; if the header cell cannot be read, events are requests."""
    (tmp_path / "tick.json").write_text('{"timestamp": 1}')
    session.record_cell(f"{TIMER}settings: {{share_workers: [}}\n", cell_id="head")
    with pytest.raises(EventError):
        session.load_event("tick.json")
    session.record_cell(TIMER, cell_id="head")

    assert session.load_event("tick.json").data == {"timestamp": 1}
    assert session.event_name == "tick"
