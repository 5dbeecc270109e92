"""Actions that Pipedream runs, against a local server with the Connect API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import ActionReference, Catalog, Component
from pdkernel.actions.component import ComponentHeader, build_component
from pdkernel.actions.connect_source import ConnectSource
from pdkernel.actions.source_settings import ActionSettings
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.step_actions import StepAction, StepActions, is_connect_call_allowed
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ActionSourceError, ConnectSettingsError, OutboundCallRefusedError, StepError
from pdkernel.execution import Execution
from pdkernel.model import Step
from pdkernel.operations.actions import ActionForms, FormRequest
from pdkernel.storage import Login, Project
from pdkernel.workers import OptionsQuery, StepRecorder
from tests.actions.connect_server import ACTION, ACTION_PROPS, CLIENT, PROJECT, TOKEN, ConnectServer, connect_api
from tests.actions.test_builtin import action
from tests.builders import a_workflow, an_event, python_step
from tests.engine.conftest import error_of
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve

OPEN = "hangar-open-door@1.2.3"
RunSteps = Callable[..., Awaitable[Execution]]


@pytest.fixture
def api() -> Iterator[ConnectServer]:
    """The API of a Connect project, in which Ada has two accounts."""
    with connect_api() as server:
        yield server


@pytest.fixture
async def runtime(
    project: Project, directory: LocalDirectory, api: ConnectServer, tmp_path: Path
) -> AsyncIterator[WorkflowEngine]:
    """An engine whose project lets Connect run actions."""
    ActionSettings(project.settings).set_sources(["connect"], base=tmp_path)
    async with await WorkflowEngine.start(project, directory, environ=api.environ) as started:
        yield started


@pytest.fixture
def run(runtime: WorkflowEngine, tmp_path: Path) -> RunSteps:
    """Runs steps as Ada."""

    async def run_steps(*steps: Step, user: str | None = "ada", egress: str = "deny", **choices: Any) -> Execution:
        request = RunRequest(
            a_workflow(*steps), an_event(), parse_policy(egress), external_user_id=user, folder=tmp_path, **choices
        )
        return await runtime.run(request)

    return run_steps


async def test_pipedream_runs_the_action(run: RunSteps, api: ConnectServer) -> None:
    """The action runs there with evaluated props and the user's newest account; exports and result come back."""
    execution = await run(python_step("a", "return 'A'"), action(OPEN, "door: '{{steps.a.$return_value}}'\n"))

    step = execution.step("act")
    assert step.status == "success", step.error
    assert dict(step.exports) == {"$summary": "Opened A", "$return_value": {"open": True}}
    assert api.bodies("/actions/run") == [
        {
            "id": "hangar-open-door",
            "version": "1.2.3",
            "external_user_id": "ada",
            "configured_props": {"door": "A", "hangar": {"authProvisionId": "apn_newer01"}},
            "dynamic_props_id": "dyp_123",
        }
    ]


async def test_the_record_names_connect(run: RunSteps, api: ConnectServer) -> None:
    """The record of the step names Connect, its limitations, the account and the single call, and has no credential of the project."""
    execution = await run(action(OPEN, "door: A\n"))

    step = execution.step("act")
    assert isinstance(step.source, str)
    assert "Pipedream Connect (proj_test123)" in step.source
    assert "no $.flow" in step.source
    assert [use.id for use in step.accounts] == ["apn_newer01"]
    assert [(call.method, call.status, call.safe) for call in step.requests] == [("POST", 200, False)]
    assert TOKEN not in str(execution.to_json())
    assert api.environ["PIPEDREAM_CLIENT_SECRET"] not in str(execution.to_json())


async def test_requests_use_the_users_environment(run: RunSteps, api: ConnectServer) -> None:
    """The requests for the user's account, for the props and for the run use the environment of the external user."""
    await run(action(OPEN, "door: A\n"), environment="production")

    asked = [(path, environment) for _, path, environment, _ in api.asked if path != "/actions/hangar-open-door"]
    assert asked == [(path, "production") for path in ("/accounts", "/actions/props", "/actions/run")]


async def test_a_failure_at_pipedream_fails_the_step(run: RunSteps, api: ConnectServer) -> None:
    """The first error among the observations fails the step with its name and message; the printed lines are in the record."""
    api.answer = {
        "exports": {},
        "os": [
            {"k": "log", "msg": "pushing"},
            {"k": "error", "err": {"name": "JammedError", "message": "It is jammed"}},
            {"k": "error", "err": {"name": "LaterError", "message": "It was jammed"}},
        ],
        "ret": None,
    }

    execution = await run(action(OPEN, "door: A\n"))

    step = execution.step("act")
    assert step.error is not None
    assert (step.error.name, step.error.message) == ("JammedError", "It is jammed")
    assert "pushing" in "".join(log.text for log in step.logs)


@pytest.mark.parametrize("status", [400, 500])
async def test_an_http_error_is_not_repeated(run: RunSteps, api: ConnectServer, status: int) -> None:
    """A status of 400 or more fails the step, without a second request."""
    api.status = status

    error = error_of(await run(action(OPEN, "door: A\n")), "act")

    assert f"HTTP {status}" in error.message
    assert len(api.bodies("/actions/run")) == 1


@pytest.mark.parametrize(
    ("uses", "body", "user", "code"),
    [
        (OPEN, "door: A\n", "bob", "account_not_found"),
        (OPEN, "door: A\n", None, "external_user_required"),
        ("hangar-open-door@9.9.9", "door: A\n", "ada", "action_not_found"),
        (OPEN, "", "ada", "action_props"),
    ],
    ids=["no account at Connect", "no user", "a missing version", "a missing prop"],
)
async def test_a_run_that_is_refused(
    run: RunSteps, api: ConnectServer, uses: str, body: str, user: str | None, code: str
) -> None:
    """A run without what the action needs is refused before its first step, and Pipedream runs nothing."""
    execution = await run(python_step("first"), action(uses, body), user=user)

    assert execution.error is not None
    assert execution.error.code == code
    assert execution.step("first").status == "not_run"
    assert api.bodies("/actions/run") == []


async def test_a_prop_with_a_default_needs_no_value(
    run: RunSteps, api: ConnectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prop of Pipedream's description that has a default, even a false one, may be left out."""
    lock: dict[str, object] = {"name": "lock", "type": "boolean", "default": False}
    monkeypatch.setitem(ACTION, "configurable_props", [*ACTION_PROPS, lock])

    execution = await run(action(OPEN, "door: A\n"))

    assert execution.error is None
    assert [body["configured_props"]["door"] for body in api.bodies("/actions/run")] == ["A"]


async def test_options(runtime: WorkflowEngine, api: ConnectServer) -> None:
    """Options of a prop come from Connect, for the user and the values of the other props."""
    request = FormRequest(action(OPEN, "wide: true\n"), parse_policy("deny"), external_user_id="ada")

    page = await ActionForms(runtime).load_options(request, "door", OptionsQuery(text="d"))

    assert [(option.label, option.value) for option in page.options] == [("Door A", "a"), ("b", "b")]
    assert page.context == {"next": 2}
    (asked,) = api.bodies("/actions/configure")
    assert asked["external_user_id"] == "ada"
    assert asked["configured_props"] == {"wide": True, "hangar": {"authProvisionId": "apn_newer01"}}


async def test_options_of_an_added_prop(runtime: WorkflowEngine, api: ConnectServer) -> None:
    """For a prop that the action adds, Pipedream reloads the props first, and gets their id with the request."""
    request = FormRequest(action(OPEN, "wide: true\n"), parse_policy("deny"), external_user_id="ada")

    await ActionForms(runtime).load_options(request, "width")

    assert api.bodies("/actions/configure")[0]["dynamic_props_id"] == "dyp_123"


async def test_the_next_page_of_options(api: ConnectServer) -> None:
    """A request for a page has its number, the context of the page before and the search text."""
    url = api.environ["PIPEDREAM_BASE_URL"]
    source = ConnectSource(Login(CLIENT["client_id"], CLIENT["client_secret"], PROJECT, base_url=url))
    component, _ = await source.fetch_action("hangar-open-door", None)

    await source.fetch_options(
        component,
        "door",
        props={},
        external_user_id="ada",
        environment="production",
        query=OptionsQuery(1, {"next": 2}, "d"),
    )

    (asked,) = api.bodies("/actions/configure")
    assert {name: asked[name] for name in ("prop_name", "page", "prev_context", "query")} == {
        "prop_name": "door",
        "page": 1,
        "prev_context": {"next": 2},
        "query": "d",
    }
    assert [environment for _, _, environment, _ in api.asked] == ["development", "production"]


async def test_additional_props(runtime: WorkflowEngine) -> None:
    """Pipedream returns the props for the current values; those that the action adds are the result."""
    request = FormRequest(action(OPEN, "wide: true\n"), parse_policy("deny"), external_user_id="ada")

    found = await ActionForms(runtime).load_additional_props(request)

    assert [(prop.name, prop.type) for prop in found] == [("width", "integer")]


async def test_options_require_the_users_account_at_pipedream(runtime: WorkflowEngine, api: ConnectServer) -> None:
    """Without an account at Pipedream there is a reason instead of options, and no request for options."""
    request = FormRequest(action(OPEN), parse_policy("deny"), external_user_id="grace")

    page = await ActionForms(runtime).load_options(request, "door")

    assert page.options == ()
    assert "grace's hangar account" in str(page.empty_reason)
    assert api.bodies("/actions/configure") == []


async def test_choices_require_a_user(runtime: WorkflowEngine, api: ConnectServer) -> None:
    """Without an external user a form has the reason instead of choices, and the action gets no request."""
    request = FormRequest(action(OPEN), parse_policy("deny"))

    page = await ActionForms(runtime).load_options(request, "door")
    with pytest.raises(StepError) as refused:
        await ActionForms(runtime).load_additional_props(request)

    assert (page.options, page.empty_reason) == ((), refused.value.message)
    assert "no external user is chosen: %pduser" in refused.value.message
    assert api.bodies("/actions/configure") == []


async def test_a_prop_without_options(runtime: WorkflowEngine) -> None:
    """A prop that declares no options has the reason instead of choices."""
    request = FormRequest(action(OPEN), parse_policy("deny"), external_user_id="ada")

    page = await ActionForms(runtime).load_options(request, "wide")

    assert page.empty_reason == "wide is boolean and has no options."


@pytest.mark.parametrize(
    ("policy", "is_allowed"),
    [("live", True), ("allow=api.pipedream.com", True), ("allow=example.com", False), ("deny", False)],
)
async def test_the_outbound_policy_applies_to_pipedream(
    project: Project, tmp_path: Path, policy: str, is_allowed: bool
) -> None:
    """A call that lets Pipedream run an action requires that the policy allows the host of Pipedream's API."""
    environ = {"PIPEDREAM_CLIENT_ID": "id", "PIPEDREAM_CLIENT_SECRET": "secret", "PIPEDREAM_PROJECT_ID": "proj_1"}
    catalog = Catalog.for_project(project, environ=environ)
    request = RunRequest(a_workflow(), an_event(), parse_policy(policy), folder=tmp_path)
    component = Component("hangar-open-door", "1.2.3", "hangar", "Open", "", "Pipedream Connect")

    assert is_connect_call_allowed(catalog.connect_source, request.policy) == is_allowed
    if not is_allowed:
        with pytest.raises(OutboundCallRefusedError, match="runs at Pipedream Connect, and outbound calls are refused"):
            await StepActions(catalog, request).run_remote(
                Step("open"), StepAction(component), {}, StepRecorder("open"), timeout_s=1
            )


async def test_missing_settings(project: Project, tmp_path: Path) -> None:
    """Without credentials in the environment the message names the variables."""
    catalog = Catalog.for_project(project, environ={"PIPEDREAM_CLIENT_ID": "x"})
    catalog.settings.set_sources(["connect"], base=tmp_path)

    with pytest.raises(ConnectSettingsError) as caught:
        await catalog.search("door")

    assert "PIPEDREAM_CLIENT_SECRET and PIPEDREAM_PROJECT_ID are not set" in caught.value.message


async def test_a_search_reads_every_page(project: Project, api: ConnectServer, tmp_path: Path) -> None:
    """A search reads all pages."""
    catalog = Catalog.for_project(project, environ=api.environ)
    catalog.settings.set_sources(["connect"], base=tmp_path)

    found = await catalog.search("door", app="hangar")

    assert [component.key for component in found] == ["hangar-open-door", "hangar-close-door"]


@pytest.mark.parametrize(("lifetime_s", "count"), [(3600, 1), (60, 2)])
async def test_a_token_is_replaced_a_minute_before_it_expires(api: ConnectServer, lifetime_s: int, count: int) -> None:
    """A token is used for several requests, but not in the last minute of its lifetime."""
    api.token_lifetime_s = lifetime_s
    url = api.environ["PIPEDREAM_BASE_URL"]
    source = ConnectSource(Login(CLIENT["client_id"], CLIENT["client_secret"], PROJECT, base_url=url))

    for _ in range(2):
        assert await source.fetch_newest_account("hangar", "ada", "development") == "apn_newer01"

    assert api.token_count == count


@pytest.mark.parametrize("content", [b"<html>Log in</html>", b"[]", b"null", b"{}"])
async def test_a_response_without_a_token_is_an_error(content: bytes) -> None:
    """The page of a proxy, or another value in the place of a token, is an error that asks to check the address."""
    with serve(AnsweringServer(lambda _: (200, content))) as server:
        source = ConnectSource(Login(CLIENT["client_id"], CLIENT["client_secret"], PROJECT, base_url=server.url))

        with pytest.raises(ActionSourceError, match="The response of Pipedream Connect") as caught:
            await source.fetch_action("hangar-open-door", None)

    assert "PIPEDREAM_BASE_URL" in caught.value.fix


@pytest.mark.parametrize("content", [b"<html>Log in</html>", b"[]"])
async def test_a_response_that_is_not_an_object_is_an_error(content: bytes) -> None:
    """A response of the API that is not a JSON object is an error that asks to check the address."""

    def respond(request: SentRequest) -> Answer:
        return 200, {"access_token": TOKEN} if request.path == "/v1/oauth/token" else content

    with serve(AnsweringServer(respond)) as server:
        source = ConnectSource(Login(CLIENT["client_id"], CLIENT["client_secret"], PROJECT, base_url=server.url))

        with pytest.raises(ActionSourceError, match="is not a JSON object") as caught:
            await source.fetch_action("hangar-open-door", None)

    assert "PIPEDREAM_BASE_URL" in caught.value.fix


@pytest.mark.parametrize("content", [{"data": None}, {}, {"data": "Log in"}])
async def test_a_response_without_data_is_an_error(content: dict[str, object]) -> None:
    """An action, a search and a list of accounts without data are errors that ask to check the address."""

    def respond(request: SentRequest) -> Answer:
        token = {"access_token": TOKEN, "expires_in": None}
        return 200, token if request.path == "/v1/oauth/token" else content

    with serve(AnsweringServer(respond)) as server:
        source = ConnectSource(Login(CLIENT["client_id"], CLIENT["client_secret"], PROJECT, base_url=server.url))
        for request in (
            source.fetch_action("hangar-open-door", None),
            source.search("door", None),
            source.fetch_newest_account("hangar", "ada", "development"),
        ):
            with pytest.raises(ActionSourceError, match="has no data") as caught:
                await request
            assert "PIPEDREAM_BASE_URL" in caught.value.fix


def a_source(url: str, *, secret: str = CLIENT["client_secret"]) -> ConnectSource:
    """The actions of the project behind the API at *url*."""
    return ConnectSource(Login(CLIENT["client_id"], secret, PROJECT, base_url=url))


async def test_an_api_that_cannot_be_reached_is_named(api: ConnectServer) -> None:
    """Without a connection, the error names the host, and the fix is to check the network."""
    url = api.environ["PIPEDREAM_BASE_URL"]
    api.server_close()

    with pytest.raises(ActionSourceError, match=r"cannot be reached at 127\.0\.0\.1: ") as caught:
        await a_source(url).fetch_action("hangar-open-door", None)

    assert caught.value.fix == "Check the network, and run the step again."


async def test_a_refused_client_is_named(api: ConnectServer) -> None:
    """If Pipedream refuses the OAuth client, the error has its id and not its secret, and the fix is to log in."""
    source = a_source(api.environ["PIPEDREAM_BASE_URL"], secret="wrong-secret-99")

    with pytest.raises(ActionSourceError) as caught:
        await source.fetch_action("hangar-open-door", None)

    assert caught.value.message == "Pipedream does not accept the OAuth client client-1 (HTTP 401)."
    assert caught.value.fix.startswith("Log in again: pdkernel login")
    assert "wrong-secret-99" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"upstream timed out", "upstream timed out"),
        (b"", "Bad Gateway"),
        (b'{"error": "no such hangar"}', "no such hangar"),
        (b'["odd"]', "['odd']"),
        (b"x" * 1000, "x" * 300),
    ],
)
async def test_an_error_of_the_api_has_the_beginning_of_its_text(content: bytes, shown: str) -> None:
    """An HTTP error is shown with method, path and at most 300 characters of its response, JSON or not."""

    def respond(request: SentRequest) -> Answer:
        return (200, {"access_token": TOKEN}) if request.path == "/v1/oauth/token" else (502, content)

    with serve(AnsweringServer(respond)) as server, pytest.raises(ActionSourceError) as caught:
        await a_source(server.url).fetch_action("hangar-open-door", None)

    path = f"/v1/connect/{PROJECT}/actions/hangar-open-door"
    assert caught.value.message == f"Pipedream Connect responded with HTTP 502 to GET {path}: {shown}"


async def test_a_failed_reload_of_the_props_is_an_error() -> None:
    """If the action's code fails while Pipedream computes its props, the error has the code's message."""
    header = ComponentHeader("hangar-open-door", "1.2.3")

    def respond(request: SentRequest) -> Answer:
        return 200, {"access_token": TOKEN} if request.path == "/v1/oauth/token" else {"errors": ["the door is shut"]}

    with (
        serve(AnsweringServer(respond)) as server,
        pytest.raises(ActionSourceError, match="cannot reload the props: the door is shut"),
    ):
        await a_source(server.url).fetch_additional_props(
            build_component(header, source="Connect"), props={}, external_user_id="ada", environment="development"
        )


async def test_a_search_ends_at_its_limit(project: Project, api: ConnectServer, tmp_path: Path) -> None:
    """A search reads no further page when it has as many actions as it may return."""
    catalog = Catalog.for_project(project, environ=api.environ)
    catalog.settings.set_sources(["connect"], base=tmp_path)

    found = await catalog.search("door", app="hangar", limit=1)

    assert [component.key for component in found] == ["hangar-open-door"]
    assert [path for _, path, _, _ in api.asked] == ["/actions"]


async def test_a_folder_without_a_project_has_no_login(tmp_path: Path) -> None:
    """Without a project, an action of Pipedream asks to log in."""
    catalog = Catalog.without_project(tmp_path / ".pdkernel", environ={}).with_sources(["connect"], base=tmp_path)

    with pytest.raises(ConnectSettingsError, match="This folder has no project") as caught:
        await catalog.resolve_or_install(ActionReference("hangar-open-door", "1.2.3"))

    assert caught.value.fix == "Log in: pdkernel login"
    assert list(tmp_path.iterdir()) == []
