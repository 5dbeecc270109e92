"""Steps with accounts of a Connect project, against a stand-in of its API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import open_directory
from pdkernel.common.clock import ManualClock
from pdkernel.egress import StoredResponse, parse_policy
from pdkernel.engine.deliveries import FIRST_RETRY_S, retry_delay_s
from pdkernel.engine.event_sources import SourceRequest
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.execution import Delivery, Execution
from pdkernel.model import Step, Trigger
from pdkernel.operations.actions import ActionForms, FormRequest
from pdkernel.storage import Project
from tests.accounts.upstream import PROJECT, SLACK_TOKEN, TOKEN, Upstream
from tests.builders import a_step, a_workflow, an_event, node_step, python_step
from tests.engine.conftest import Run, error_of

CALL = """
import json, urllib.error, urllib.request
token = pd.inputs["github"]["$auth"]["oauth_access_token"]
def call(url, data=None, **headers):
    request = urllib.request.Request(url, data, {name.replace("_", "-"): text for name, text in headers.items()})
    try:
        with urllib.request.urlopen(request) as answer:
            return {"status": answer.status, "from": answer.headers["x-from-github"], "body": json.load(answer)}
    except urllib.error.HTTPError as fault:
        return {"status": fault.code, "body": json.load(fault)}
"""

COMPONENTS = {
    "sources/new-user/new-user.mjs": """
  key: "github-new-user", name: "New User", version: "0.0.1", type: "source",
  props: { github: { type: "app", app: "github" } },
  async run() { this.$emit({ target: await ask(this.github) }) },
""",
    "actions/pick/pick.mjs": """
  key: "github-pick", name: "Pick", version: "0.0.1", type: "action",
  props: { github: { type: "app", app: "github" }, choice: { type: "string", optional: true, reloadProps: true,
    async options() { return [await ask(this.github)] } } },
  async additionalProps() { return { more: { type: "string", label: await ask(this.github) } } },
  run() {},
""",
}
"""Components of GitHub that ask for the user's name."""
ASK = """
async function ask({ $auth }) {
  const headers = { authorization: `token ${$auth.oauth_access_token}` };
  return (await (await fetch("https://api.github.com/user", { headers })).json()).target;
}
"""


def write_components(project: Project, folder: Path) -> None:
    """Add the components to the project."""
    for path, text in COMPONENTS.items():
        file = folder / "components" / "github" / path
        file.parent.mkdir(parents=True)
        file.write_text(f"{ASK}export default {{{text}}};\n")
    project.settings.set("actions", str(folder / "components"))


@pytest.fixture
async def runtime(project: Project, upstream: Upstream) -> AsyncIterator[WorkflowEngine]:
    """An engine with a project that is logged in."""
    await asyncio.to_thread(project.login.save, upstream.login)
    async with await WorkflowEngine.start(project, open_directory(project, {})) as started:
        yield started


def github_step(code: str, name: str = "act") -> Step:
    """A Python step with the external user's GitHub account."""
    return python_step(name, CALL + code, options="--app github")


def proxied(upstream: Upstream) -> list[dict[str, Any]]:
    """Return the requests to the API's proxy."""
    return [each for each in upstream.asked if "/proxy/" in each["path"]]


def returned(execution: Execution) -> Any:
    """Return the return value of the one step."""
    step = execution.steps[0]
    assert step.error is None, step.error
    return step.exports["$return_value"]


async def test_step_gets_the_credentials_from_connect(run: Run) -> None:
    """`$auth` has the newest account's token, and the record redacts it."""
    step = python_step(
        "act",
        "auth = pd.inputs['slack']['$auth']\nreturn [len(auth['oauth_access_token']), auth['oauth_access_token']]",
        options="--app slack",
    )

    execution = await run(step, external_user_id="ada")

    assert returned(execution) == [len(SLACK_TOKEN), "⟦secret:slack/apn_new/oauth_access_token⟧"]
    assert execution.context["project_id"] == PROJECT


async def test_step_gets_the_credentials_of_a_chosen_account(run: Run) -> None:
    """A run that names an account of the Connect project uses this account, and not the newest one."""
    step = python_step("act", "return len(pd.inputs['slack']['$auth']['oauth_access_token'])", options="--app slack")

    execution = await run(step, external_user_id="ada", account_overrides={"slack": "apn_old"})

    assert returned(execution) == len("xoxb-older-0123456789")
    assert execution.steps[0].accounts[0].id == "apn_old"


async def test_withheld_account_goes_through_the_proxy(run: Run, upstream: Upstream) -> None:
    """Method, URL, headers and body reach the host unchanged, without the placeholder."""
    step = github_step(
        """
return call("https://api.github.com/user/repos?per_page=2", b'{"name": "hello"}', Authorization=f"Bearer {token}",
            Content_Type="application/json", X_Extra="kept", Cookie="no=no")
"""
    )

    answer = returned(await run(step, external_user_id="ada", egress="live"))

    assert (answer["status"], answer["from"]) == (201, "yes")
    seen = answer["body"]
    assert (seen["method"], seen["target"]) == ("POST", "https://api.github.com/user/repos?per_page=2")
    assert json.loads(seen["body"]) == {"name": "hello"}
    assert seen["query"] == {"external_user_id": "ada", "account_id": "apn_held"}
    proxy_headers = {name: text for name, text in seen["headers"].items() if name.startswith("x-pd-")}
    assert proxy_headers == {
        "x-pd-environment": "development",
        "x-pd-proxy-content-type": "application/json",
        "x-pd-proxy-x-extra": "kept",
    }
    assert seen["headers"]["content-type"] == "application/json"
    assert len(proxied(upstream)) == 1


async def test_node_step_goes_through_the_proxy(run: Run) -> None:
    """A Node.js step whose code declares the app also uses the proxy."""
    step = node_step(
        "act",
        """
    const headers = { authorization: `token ${this.github.$auth.oauth_access_token}`, accept: "application/json" };
    const answer = await fetch("https://api.github.com/user", { headers });
    return { status: answer.status, seen: await answer.json() };
""",
        props='{ github: { type: "app", app: "github" } }',
    )

    answer = returned(await run(step, external_user_id="ada", egress="live"))

    assert answer["status"] == 201
    assert (answer["seen"]["method"], answer["seen"]["target"]) == ("GET", "https://api.github.com/user")
    assert answer["seen"]["headers"]["x-pd-proxy-accept"] == "application/json"


async def test_source_goes_through_the_proxy(
    runtime: WorkflowEngine, project: Project, tmp_path: Path, upstream: Upstream
) -> None:
    """An event source with a withheld account uses the proxy."""
    write_components(project, tmp_path)
    trigger = Trigger("source", config={"uses": "github-new-user@0.0.1"})

    ran = await runtime.source_runner.run(
        SourceRequest(trigger, "w", parse_policy("live"), external_user_id="ada", folder=tmp_path)
    )

    assert ran.record.error is None
    assert [event.event.data for event in ran.events] == [{"target": "https://api.github.com/user"}]
    assert len(proxied(upstream)) == 1


async def test_options_of_an_action_go_through_the_proxy(
    runtime: WorkflowEngine, project: Project, tmp_path: Path, upstream: Upstream
) -> None:
    """The code that returns the options and the additional props of an action uses the proxy for a withheld account."""
    write_components(project, tmp_path)
    step = a_step("%%pdstep pick --uses github-pick@0.0.1\n")
    request = FormRequest(step, parse_policy("live"), external_user_id="ada", folder=tmp_path)

    page = await ActionForms(runtime).load_options(request, "choice")
    added = await ActionForms(runtime).load_additional_props(request)

    assert [option.value for option in page.options] == ["https://api.github.com/user"]
    assert [prop.definition["label"] for prop in added if prop.name == "more"] == ["https://api.github.com/user"]
    assert len(proxied(upstream)) == 2


async def test_proxy_replaces_a_placeholder_in_the_url(run: Run) -> None:
    """A placeholder in the URL is replaced by the proxy, too."""
    step = github_step('return call(f"https://api.github.com/user?a=1&access_token={token}&b=2")["body"]["target"]')

    execution = await run(step, external_user_id="ada", egress="live")

    assert returned(execution) == "https://api.github.com/user?a=1&b=2"


async def test_record_of_a_proxied_call_has_no_secret(run: Run) -> None:
    """The record has the call with app, account and proxy, and contains neither placeholder nor token."""
    step = github_step('return call("https://api.github.com/user", Authorization=f"Bearer {token}") and token')

    execution = await run(step, external_user_id="ada", egress="live")

    made = execution.steps[0].requests[0]
    assert (made.method, made.url, made.status, made.app) == ("GET", "https://api.github.com/user", 201, "github")
    assert made.note == "sent through Connect's proxy, with the account apn_held"
    assert returned(execution) == "⟦secret:github/apn_held/oauth_access_token⟧"
    text = json.dumps(execution.to_json())
    assert "withheld-" not in text
    assert TOKEN not in text


async def test_placeholder_is_new_in_each_run(run: Run, upstream: Upstream) -> None:
    """Each run has its own placeholder, so that an old one is useless; a run without a call with it does not use the proxy."""
    step = github_step("import hashlib\nreturn hashlib.sha256(token.encode()).hexdigest()")

    words = [returned(await run(step, external_user_id="ada", egress="live")) for _ in range(2)]

    assert words[0] != words[1]
    assert proxied(upstream) == []


async def test_outbound_policy_applies_to_the_proxy(run: Run, upstream: Upstream) -> None:
    """The outbound policy applies to calls through the proxy."""
    step = github_step('return call("https://api.github.com/user", Authorization=f"Bearer {token}")["status"]')

    execution = await run(step, external_user_id="ada", egress="deny")

    assert execution.steps[0].requests[0].outcome == "denied"
    assert proxied(upstream) == []


UNCARRIED = [
    ('call(f"https://api.github.com/{token}/x")', "must not be in the host's name or in the path"),
    ('call("https://api.github.com/x", f"token={token}".encode())', "must not be in the request's body"),
    (
        'call("https://api.github.com/x", Authorization=token, Accept="text/event-stream")',
        "does not support event streams",
    ),
    (
        'call("https://api.github.com/x", Authorization=token, Connection="Upgrade", Upgrade="websocket")',
        "does not support WebSockets",
    ),
]


@pytest.mark.parametrize(("code", "why"), UNCARRIED)
async def test_unsupported_call_is_refused_before_it_is_sent(run: Run, upstream: Upstream, code: str, why: str) -> None:
    """A call that the proxy cannot send is refused before it is sent, with the reason and a fix."""
    execution = await run(github_step(f"return {code}"), external_user_id="ada", egress="live")

    [warning] = [log.text for log in execution.steps[0].logs if why in log.text] or [
        str(execution.steps[0].error and execution.steps[0].error.message)
    ]
    assert why in warning
    assert "your own OAuth client" in warning
    assert "withheld-" not in json.dumps(execution.to_json())
    assert proxied(upstream) == []


async def test_request_with_two_withheld_accounts_is_refused(run: Run, upstream: Upstream) -> None:
    """A request with placeholders of two accounts is refused: the proxy sends credentials of only one."""
    upstream.set(held=[("apn_heldtoo", "ada", "gitlab")])
    other = 'pd.inputs["gitlab"]["$auth"]["oauth_access_token"]'
    code = f'return call("https://api.github.com/x", Authorization=token, X_Other={other})'
    step = python_step("act", CALL + code, options="--app github --app gitlab")

    execution = await run(step, external_user_id="ada", egress="live")

    assert "carries the credentials of several" in json.dumps(execution.to_json())
    assert proxied(upstream) == []


@pytest.mark.parametrize(
    ("url", "status", "note"),
    [
        ("https://api.github.com/slow", 504, "waits at most 30 s for the host"),
        ("https://evil.example.test/", 403, "only hosts of the account's app"),
    ],
)
async def test_refusal_of_the_proxy_is_explained(run: Run, url: str, status: int, note: str) -> None:
    """The step gets the proxy's own refusal, and the record explains it."""
    step = github_step(f'return call("{url}", Authorization=f"Bearer {{token}}")["status"]')

    execution = await run(step, external_user_id="ada", egress="live")

    assert returned(execution) == status
    assert note in (execution.steps[0].requests[0].note or "")


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_error_of_the_proxy_reaches_the_step(run: Run, upstream: Upstream, status: int) -> None:
    """An error of the proxy reaches the step unchanged; the call is recorded and not repeated."""
    fault = {"within": "/proxy/", "kind": "status", "status": status, "headers": {"Retry-After": "9"}}
    upstream.set(fault=fault)
    step = github_step(
        """
request = urllib.request.Request("https://api.github.com/user", headers={"Authorization": f"Bearer {token}"})
try:
    urllib.request.urlopen(request)
except urllib.error.HTTPError as fault:
    return [fault.code, fault.headers["retry-after"], json.load(fault)]
"""
    )

    execution = await run(step, external_user_id="ada", egress="live")

    made = execution.steps[0].requests[0]
    assert returned(execution) == [status, "9", {"error": "made to fail"}]
    assert (made.outcome, made.status) == ("sent", status)
    assert len(proxied(upstream)) == 1


@pytest.mark.parametrize(
    ("fault", "outcome", "found"),
    [
        ({"kind": "slow", "seconds": 0.5}, "sent", {"201"}),
        ({"kind": "cut"}, "failed", {"IncompleteRead", "ConnectionResetError"}),
        ({"kind": "close"}, "failed", {"ConnectionResetError"}),
    ],
    ids=["slow", "truncated", "closed"],
)
async def test_faulty_answer_of_the_proxy(
    run: Run, upstream: Upstream, fault: dict[str, Any], outcome: str, found: set[str]
) -> None:
    """A slow answer reaches the step; a truncated or missing one is an error in the step and a failed call in the record, which has no token."""
    upstream.set(fault={"within": "/proxy/", **fault})
    step = github_step(
        """
import http.client
request = urllib.request.Request("https://api.github.com/user", headers={"Authorization": f"Bearer {token}"})
try:
    with urllib.request.urlopen(request) as answer:
        answer.read()
        return str(answer.status)
except (http.client.HTTPException, OSError) as fault:
    return type(fault).__name__
"""
    )

    execution = await run(step, external_user_id="ada", egress="live")

    assert returned(execution) in found
    assert execution.steps[0].requests[0].outcome == outcome
    assert TOKEN not in json.dumps(execution.to_json())


class Memory:
    """Stored responses in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, StoredResponse] = {}

    def find(self, key: str) -> StoredResponse | None:
        """Return the stored response."""
        return self._kept.get(key)

    def add(self, key: str, recorded: StoredResponse) -> None:
        """Store the response."""
        self._kept[key] = recorded


async def test_proxied_call_is_sent_once(run: Run, upstream: Upstream) -> None:
    """A POST is not repeated by the next run, although its URL has another placeholder."""
    step = github_step(
        'return call(f"https://api.github.com/user?access_token={token}", b"{}", Content_Type="application/json")["status"]'
    )
    sent = Memory()

    for _ in range(2):
        assert returned(await run(step, external_user_id="ada", egress="live", idempotency=sent)) == 201

    assert len(proxied(upstream)) == 1


async def test_proxied_call_is_recorded_and_replayed(run: Run, upstream: Upstream, tmp_path: Path) -> None:
    """A call through the proxy is recorded as the step's call and replayed from the recording."""
    step = github_step('return call("https://api.github.com/user", Authorization=f"Bearer {token}")["status"]')
    file = tmp_path / "calls.json"
    await run(step, external_user_id="ada", egress=f"record={file}")
    asked = len(proxied(upstream))

    assert returned(await run(step, external_user_id="ada", egress=f"replay={file}")) == 201
    assert len(proxied(upstream)) == asked == 1
    assert TOKEN not in file.read_text()


async def test_missing_account_has_the_message_of_the_platform(run: Run) -> None:
    """A missing account is reported with the platform's message."""
    error = error_of(await run(github_step("return 1"), external_user_id="bob"))

    assert error.message.startswith(
        "Pipedream Connect Error: Required account for github not found for external user ID bob in development"
    )


async def test_failed_lookup_at_pipedream_refuses_the_run(run: Run, upstream: Upstream) -> None:
    """If the lookup at Pipedream fails, the run is refused before its first step, with reason and fix."""
    fault = {"path": "accounts", "kind": "status", "status": 429, "headers": {"Retry-After": "9"}}
    upstream.set(fault=fault)

    execution = await run(github_step("return 1"), external_user_id="ada")

    assert execution.error is not None
    assert "rate limit" in execution.error.message
    assert "Try again in 9 s." in execution.error.message
    assert execution.steps[0].status == "not_run"


async def fail_to_send(project: Project, upstream: Upstream, folder: Path, clock: ManualClock) -> str:
    """The id of a served run with a message of a withheld account, whose first try has failed."""
    await asyncio.to_thread(project.login.save, upstream.login)
    upstream.set(fault={"within": "/proxy/", "kind": "close"})
    headers = "{'Authorization': f'Bearer {token}'}"
    step = github_step(f"pd.send.http(method='POST', url='https://api.github.com/user', headers={headers}, data={{}})")
    request = RunRequest(a_workflow(step), an_event(), parse_policy("live"), external_user_id="ada", folder=folder)
    directory = open_directory(project, {})
    async with await WorkflowEngine.start(project, directory, origin="serve", clock=clock) as engine:
        execution = await engine.run(replace(request, interface="http", pause_mode="park"))
    upstream.set()
    upstream.asked.clear()
    return execution.id


async def try_again(project: Project, run_id: str, clock: ManualClock) -> Delivery:
    """Deliver what is due in another process; return the state of the run's only message."""
    directory = open_directory(project, {})
    async with await WorkflowEngine.start(project, directory, origin="serve", clock=clock) as engine:
        await engine.deliver_due()
        kept = await engine.journal.get_execution(run_id)
    assert kept is not None
    (delivery,) = kept.sends
    return delivery


@pytest.mark.parametrize("is_removed", [False, True])
async def test_a_second_try_goes_through_the_proxy(
    project: Project, upstream: Upstream, tmp_path: Path, is_removed: bool
) -> None:
    """A message with a placeholder is sent again as the account, or it fails with the reason if the account was removed."""
    clock = ManualClock()
    run_id = await fail_to_send(project, upstream, tmp_path, clock)
    if is_removed:
        upstream.accounts["development"].clear()
    clock.advance(FIRST_RETRY_S)

    delivery, calls = await try_again(project, run_id, clock), proxied(upstream)

    if is_removed:
        assert calls == []
        assert delivery.note == (
            "The message cannot be sent again: the account apn_held was removed, or connected in another way."
        )
    else:
        assert [call["query"] for call in calls] == [{"external_user_id": "ada", "account_id": "apn_held"}]
        assert "x-pd-proxy-authorization" not in calls[0]["headers"]
    assert delivery.outcome == ("failed" if is_removed else "sent")
    assert delivery.to == "POST https://api.github.com/user"


async def test_a_failed_lookup_of_the_account_is_a_try(project: Project, upstream: Upstream, tmp_path: Path) -> None:
    """If Pipedream does not name the message's account, the note has the reason, and the next try is later and counted."""
    clock = ManualClock()
    run_id = await fail_to_send(project, upstream, tmp_path, clock)
    upstream.set(fault={"within": "/accounts", "kind": "status", "status": 429, "headers": {"Retry-After": "9"}})
    clock.advance(FIRST_RETRY_S)

    failed = await try_again(project, run_id, clock)
    upstream.set()
    too_early = await try_again(project, run_id, clock)
    clock.advance(retry_delay_s(2) or 0)
    sent = await try_again(project, run_id, clock)

    assert (failed.outcome, failed.note) == ("failed", too_early.note)
    assert str(failed.note).startswith("Not sent: ")
    assert "rate limit" in str(failed.note)
    assert (sent.outcome, len(proxied(upstream))) == ("sent", 1)
