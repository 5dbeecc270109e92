"""Forms of local actions: what their code may read, and what its answers may show. `tests/kit/session/test_actions.py` has the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.actions import Catalog
from pdkernel.egress import Gateway, parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import ActionNotFoundError, ActionSourceError, StepError
from pdkernel.operations.actions import ActionForms, FormRequest, describe_action, search_actions
from pdkernel.storage import Project
from tests.actions.checkout import write_checkout
from tests.builders import Gate, a_step, a_workflow, an_event, python_step
from tests.http_servers import AnsweringServer, serve

ACTION = """
export default {
  key: "depot-pick", name: "Pick", version: "0.0.1", type: "action",
  props: {
    depot: { type: "app", app: "depot" },
    pin: { type: "string", secret: true, optional: true },
    seen: { type: "string", async options() {
      return [process.env.PLAIN, this.depot.$auth.api_key, this.pin, this.note].map((value) => ({ label: `is ${value}`, value }));
    } },
    hidden: { type: "string", async options() { return Object.values(process.env).filter((value) => value.includes("1234-secret")) } },
    called: { type: "string", async options() { return [(await fetch(this.note)).status] } },
    bypassed: { type: "string", async options() {
      const { execFileSync } = await import("node:child_process");
      const call = "exec 3<>/dev/tcp/192.0.2.77/80; printf 'GET / HTTP/1.1\\r\\nHost: a.test\\r\\n\\r\\n' >&3; head -c 12 <&3";
      return [execFileSync("bash", ["-c", call], { env: {}, timeout: 15000, encoding: "utf8" })];
    } },
    failing: { type: "string", async options() { throw new Error(`no ${this.depot.$auth.api_key}`) } },
    note: { type: "string", optional: true, reloadProps: true },
  },
  additionalProps() {
    if (this.note === "failing") throw new Error(`no ${this.depot.$auth.api_key}`);
    return { more: { type: "string", default: this.depot.$auth.api_key } };
  },
  run() {},
};
"""
VARIABLES = {"PLAIN": "plain-0123456789", "form.pin": "1234-secret-pin"}


@pytest.fixture
def form(project: Project, tmp_path: Path, connect: Callable[..., str]) -> Callable[..., FormRequest]:
    """Returns a function that makes the form of an action, for ada, who has an account."""
    path = tmp_path / "components" / "depot" / "actions" / "pick" / "pick.mjs"
    path.parent.mkdir(parents=True)
    path.write_text(ACTION)
    project.settings.set("actions", str(tmp_path / "components"))
    connect(app="depot", credentials={"api_key": "key-0123456789"})

    def make(values: str = "", **choices: Any) -> FormRequest:
        step = a_step(f"%%pdstep form --uses depot-pick@0.0.1\n{values}")
        fields: dict[str, Any] = {"external_user_id": "ada", "variables": VARIABLES, "folder": tmp_path}
        return FormRequest(step, parse_policy("deny"), **(fields | choices))

    return make


async def test_options_show_no_secret(runtime: WorkflowEngine, form: Callable[..., FormRequest]) -> None:
    """Labels and values have placeholders for variables, credentials and secret props that the action's code returns."""
    request = form('note: "{{ steps.one.n }}"\npin: {_enc: x}\n', exports={"one": {"n": "exported"}})

    page = await ActionForms(runtime).load_options(request, "seen")

    assert page.empty_reason is None
    values = [option.value for option in page.options]
    assert [option.label for option in page.options] == [f"is {value}" for value in values]
    assert [values[0], *values[2:]] == ["⟦secret:env/PLAIN⟧", "⟦secret:prop/form/pin⟧", "exported"]
    assert str(values[1]).startswith("⟦secret:depot/")


async def test_secret_props_are_not_in_the_environment(
    runtime: WorkflowEngine, form: Callable[..., FormRequest]
) -> None:
    """The process of the action has no environment variable with the value of a secret prop."""
    page = await ActionForms(runtime).load_options(form(), "hidden")

    assert page.options == ()


async def test_the_reason_for_missing_options_shows_no_secret(
    runtime: WorkflowEngine, form: Callable[..., FormRequest]
) -> None:
    """If the action's code fails, the reason has placeholders for its secrets."""
    page = await ActionForms(runtime).load_options(form(), "failing")

    assert page.options == ()
    assert str(page.empty_reason).startswith("Error: no ⟦secret:depot/")


async def test_added_props_show_no_secret(runtime: WorkflowEngine, form: Callable[..., FormRequest]) -> None:
    """Props that the action's code adds, and its error, have placeholders for secrets."""
    (added,) = await ActionForms(runtime).load_additional_props(form("note: fine\n"))
    with pytest.raises(StepError, match="no ⟦secret:depot/") as caught:
        await ActionForms(runtime).load_additional_props(form("note: failing\n"))

    assert str(added.definition["default"]).startswith("⟦secret:depot/")
    assert "key-0123456789" not in repr(caught.value)


@pytest.mark.parametrize("public_only", [False, True])
async def test_forms_keep_to_public_addresses(
    runtime: WorkflowEngine, form: Callable[..., FormRequest], public_only: bool
) -> None:
    """The code of a form whose policy allows public addresses only does not reach this machine."""
    with serve(AnsweringServer(lambda _: (200, b""))) as server:
        request = form(f"note: {server.url}\n")
        policy = replace(request.policy, public_only=public_only)
        page = await ActionForms(runtime).load_options(replace(request, policy=policy), "called")

    assert len(server.requests) == (0 if public_only else 1)
    assert [option.value for option in page.options] == [403 if public_only else 200]


async def test_a_form_does_not_wait_for_runs(
    project: Project, directory: LocalDirectory, form: Callable[..., FormRequest], tmp_path: Path
) -> None:
    """A form loads its options while runs have all slots."""
    gate = Gate(tmp_path)
    request = RunRequest(a_workflow(python_step("held", gate.code)), an_event(), parse_policy("deny"), folder=tmp_path)

    async with await WorkflowEngine.start(project, directory, max_active_runs=1) as engine:
        running = asyncio.ensure_future(engine.run(request))
        await gate.wait_until_reached()
        try:
            async with asyncio.timeout(30):
                page = await ActionForms(engine).load_options(form(), "seen")
        finally:
            gate.open()
            execution = await running

    assert (page.empty_reason, execution.status) == (None, "success")


async def test_programs_of_a_form_keep_to_the_outbound_policy(
    runtime: WorkflowEngine, form: Callable[..., FormRequest]
) -> None:
    """In a policy other than live, a program that the form's code starts without proxy variables is led to the gateway."""
    assert isinstance(runtime.gateway, Gateway)
    if runtime.gateway.sandbox_kind != "redirect":
        pytest.skip("NOT RUN: this system does not permit a seccomp listener")

    page = await ActionForms(runtime).load_options(form(), "bypassed")

    assert (page.empty_reason, [option.value for option in page.options]) == (None, ["HTTP/1.1 403"])


@pytest.fixture
def catalog(project: Project) -> Catalog:
    """The project's actions: the built-in actions only."""
    return Catalog.for_project(project, environ={})


@pytest.fixture
def checkout(catalog: Catalog, tmp_path: Path) -> Catalog:
    """The project's actions with those of a folder of components."""
    write_checkout(tmp_path / "checkout")
    catalog.settings.set_sources(["checkout"], base=tmp_path)
    return catalog


async def test_a_match_needs_no_advice(checkout: Catalog) -> None:
    """Words and an app find actions, and there is no advice."""
    found = await search_actions(checkout, "thing", app="depot")

    assert [component.key for component in found.components] == ["depot-put-thing"]
    assert found.advice == ""


@pytest.mark.parametrize(
    ("app", "advice"),
    [
        ("slack", "npm has slack: pdkernel project set actions npm --accept-licence"),
        (None, "For more: pdkernel project set actions npm --accept-licence"),
    ],
)
async def test_built_in_actions_only(catalog: Catalog, app: str | None, advice: str) -> None:
    """In a project with built-in actions only, the advice has the command for more actions."""
    found = await search_actions(catalog, "zebra", app=app)

    assert found.components == ()
    assert found.advice == f"No action matches: this project runs built-in actions only. {advice}"


async def test_npm_is_searched_further_with_an_app(catalog: Catalog) -> None:
    """Without an app, npm's index of earlier apps is searched, and the advice is to name an app."""
    catalog.settings.accept_licence()
    catalog.settings.set_sources(["npm"], base=Path())

    assert "To search another app: --app SLUG" in (await search_actions(catalog, "zebra")).advice


async def test_a_search_may_stay_offline(project: Project) -> None:
    """Without an installation, the search for an app of npm sends no request."""
    catalog = Catalog.for_project(project, environ={"npm_config_registry": "http://127.0.0.1:9"})
    catalog.settings.accept_licence()
    catalog.settings.set_sources(["npm"], base=Path())

    assert (await search_actions(catalog, "message", app="slack", install=False)).components == ()
    with pytest.raises(ActionSourceError):
        await search_actions(catalog, "message", app="slack")


async def test_a_search_is_limited(checkout: Catalog) -> None:
    """At most so many actions are returned, the best matches first."""
    everything = await search_actions(checkout, "")

    assert (await search_actions(checkout, "", limit=2)).components == everything.components[:2]
    assert len(everything.components) > 2


async def test_a_folder_has_no_more_actions(checkout: Catalog) -> None:
    """A folder is searched completely."""
    assert (await search_actions(checkout, "zebra")).advice == "No action matches."


async def test_an_action_is_described_by_its_key(
    checkout: Catalog, project: Project, directory: LocalDirectory
) -> None:
    """The newest version and its props are found by the key."""
    async with await WorkflowEngine.start(project, directory, max_active_runs=1) as engine:
        component, description = await describe_action(engine, "depot-put-thing", catalog=checkout)
        with pytest.raises(ActionNotFoundError):
            await describe_action(engine, "depot-nothing", catalog=checkout)

    assert component.uses == "depot-put-thing@0.1.2"
    assert [prop.name for prop in description.props][:2] == ["shelf", "thing"]


async def test_an_action_of_a_notebooks_own_source_is_described(
    catalog: Catalog, project: Project, directory: LocalDirectory, tmp_path: Path
) -> None:
    """The sources of a notebook are searched instead of those of the project."""
    write_checkout(tmp_path / "own")
    own = catalog.with_sources(["own"], base=tmp_path)

    async with await WorkflowEngine.start(project, directory, max_active_runs=1) as engine:
        component, _ = await describe_action(engine, "depot-put-thing", catalog=own)
        with pytest.raises(ActionNotFoundError):
            await describe_action(engine, "depot-put-thing")

    assert component.uses == "depot-put-thing@0.1.2"
