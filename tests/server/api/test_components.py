"""Routes of components and actions; a real Node.js runs the components."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from pdkernel.egress import Gateway
from pdkernel.journal import mark_dead
from pdkernel.server.run_registry import LOST_MESSAGE
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.server.api.conftest import KEY
from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served, served

SIGN_IN = """
export default {
  key: "depot-sign-in", name: "Sign In", version: "0.0.1", type: "action", description: "Signs in.",
  props: { pin: { type: "string", secret: true }, who: { type: "string" } },
  async run() {
    console.log("pin", this.pin);
    const inEnvironment = Object.values(process.env).includes(this.pin);
    return { length: this.pin.length, pin: this.pin, who: this.who, inEnvironment };
  },
};
"""
FALL = """
export default {
  key: "depot-fall", name: "Fall", version: "0.0.1", type: "action", description: "Falls.", props: {},
  async run() { console.log("going"); throw new Error("no floor") },
};
"""
FETCHES = """
export default {
  key: "depot-ask", name: "Ask", version: "0.0.1", type: "action", description: "Has choices from a URL.",
  props: {
    url: { type: "string", reloadProps: true },
    choice: { type: "string", async options() { return [String(await fetchStatus(this.url))] } },
  },
  async additionalProps() { return { more: { type: "string", label: String(await fetchStatus(this.url)) } } },
  async run() {},
};
async function fetchStatus(url) { return (await fetch(url, { method: "POST", body: "{}" })).status }
"""
WALKS = """
export default {
  key: "depot-walk", name: "Walk", version: "0.0.1", type: "action", description: "Has pages.",
  props: {
    place: {
      type: "string",
      async options({ prevContext }) {
        const next = prevContext?.next ?? 0;
        return { options: [`at ${next}`], context: { next: next + 1 } };
      },
    },
  },
  async run() {},
};
"""
FAILS = """
export default {
  key: "depot-fail", name: "Fail", version: "0.0.1", type: "action", description: "Has no choices.",
  props: { place: { type: "string", reloadProps: true, async options() { throw new Error("no places") } } },
  async additionalProps() { throw new Error("no places") },
  async run() {},
};
"""
GROWS = """
export default {
  key: "depot-grow", name: "Grow", version: "0.0.1", type: "action", description: "Adds a prop with choices.",
  props: { tree: { type: "string", reloadProps: true } },
  async additionalProps() { return { leaf: { type: "string", async options() { return [`leaf of ${this.tree}`] } } } },
  async run() {},
};
"""
ADA = {"authProvisionId": "apn_ada"}


def write_action(folder: Path, name: str, text: str) -> None:
    """Add an action to the app `depot`."""
    place = folder / "components" / "components" / "depot" / "actions" / name / f"{name}.mjs"
    place.parent.mkdir()
    place.write_text(text)


async def post(depot: Served, path: str, **body: Any) -> Any:
    """Send a request of `depot-put-thing` for ada; returns the JSON response."""
    answer = await depot.call("POST", path, json={"external_user_id": "ada", "id": "depot-put-thing", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def choices(depot: Served, prop: str = "shelf", **body: Any) -> Any:
    """The response with the options of a prop; ada's account is chosen by default."""
    values = {"prop_name": prop, "configured_props": {"depot": ADA}, **body}
    return await post(depot, "/actions/configure", **values)


async def test_components_are_listed_by_kind(shared_depot: Served) -> None:
    """Actions and triggers have their own lists; a component that cannot be loaded is listed without props."""
    found = {
        kind: (await shared_depot.call("GET", f"/{kind}", params={"app": "depot"})).json()["data"]
        for kind in ("actions", "triggers", "components")
    }

    assert [each["key"] for each in found["triggers"]] == ["depot-new-thing"]
    assert {each["key"] for each in found["actions"]} == {"depot-broken", "depot-fill-form", "depot-put-thing"}
    assert len(found["components"]) == 4
    props = next(each for each in found["actions"] if each["key"] == "depot-put-thing")["configurable_props"]
    assert props[0] == {"name": "depot", "type": "app", "app": "depot"}
    assert next(each for each in found["actions"] if each["key"] == "depot-broken")["configurable_props"] == []


async def test_a_list_is_searched(shared_depot: Served) -> None:
    """The words of `q` are searched in key, name and description; there are no private components."""
    words = (await shared_depot.call("GET", "/actions", params={"q": "shelf"})).json()["data"]
    private = (await shared_depot.call("GET", "/components", params={"registry": "private"})).json()["data"]
    triggers = (await shared_depot.call("GET", "/components", params={"component_type": "trigger"})).json()["data"]
    unknown = await shared_depot.call("GET", "/components", params={"component_type": "app"})

    assert [each["key"] for each in words] == ["depot-put-thing"]
    assert private == []
    assert {each["component_type"] for each in triggers} == {"trigger"}
    assert (await shared_depot.call("GET", "/components", params={"registry": "x"})).status_code == 400
    assert (unknown.status_code, unknown.json()["error"]) == (400, "component_type must be action or trigger.")


async def test_one_component(shared_depot: Served) -> None:
    """A component has its props in the API's form; another kind, key or version is not found."""
    answer = (await shared_depot.call("GET", "/actions/depot-put-thing")).json()["data"]

    props = {prop["name"]: prop for prop in answer["configurable_props"]}
    assert (answer["key"], answer["version"], answer["component_type"]) == ("depot-put-thing", "0.1.2", "action")
    assert props["shelf"]["remoteOptions"] is True
    assert props["shelf"]["useQuery"] is True
    assert props["count"]["default"] == 1
    assert props["note"]["optional"] is True
    assert (await shared_depot.call("GET", "/actions/depot-new-thing")).status_code == 404
    assert (await shared_depot.call("GET", "/actions/depot-nothing")).status_code == 404
    assert (await shared_depot.call("GET", "/actions/No!")).status_code == 400
    assert (await shared_depot.call("GET", "/actions/depot-put-thing", params={"version": "9.9.9"})).status_code == 404


async def test_options_come_from_the_users_account(depot: Served) -> None:
    """The component's own code returns options, with the chosen account of the user, else with the newest."""
    found, page = await choices(depot), {"prop_name": "shelf", "configured_props": {}, "page": 1}
    second = await post(depot, "/components/configure", **page)
    depot.connect("ada", "depot", {"api_key": f"{KEY}-new"}, account_id="apn_new")
    chosen, newest = await choices(depot), await choices(depot, configured_props={})

    assert found["options"][0]["value"] == "s00"
    assert second["options"][0]["value"] == "s10"
    assert [each["options"][0]["label"] for each in (chosen, newest)] == ["Shelf 00 of ada", "Shelf 00 of new"]
    assert (found["errors"], found["observations"]) == ([], [])


async def test_the_words_and_the_context_of_a_page(depot: Served, tmp_path: Path) -> None:
    """The component's code gets the words that a person has typed, and the context of the page before."""
    write_action(tmp_path, "walk", WALKS)
    words = await choices(depot, query="Shelf 01")
    walk = {"id": "depot-walk", "configured_props": {}}
    first = await choices(depot, "place", **walk)
    second = await choices(depot, "place", **walk, prev_context=first["context"])

    assert [option["value"] for option in words["options"]] == ["s01"]
    assert [[option["value"] for option in page["options"]] for page in (first, second)] == [["at 0"], ["at 1"]]
    assert (first["context"], second["context"]) == ({"next": 1}, {"next": 2})


async def test_options_without_an_account(shared_depot: Served) -> None:
    """Without an account there are no options, and the response has the reason."""
    answer = await shared_depot.call(
        "POST", "/actions/configure", json={"external_user_id": "bob", "id": "depot-put-thing", "prop_name": "shelf"}
    )

    assert answer.status_code == 200
    assert answer.json()["options"] == []
    assert "bob's depot account" in answer.json()["errors"][0]


async def test_an_error_of_a_form_is_in_the_response(depot: Served, tmp_path: Path) -> None:
    """If a component's own code fails, the response has status 200, no options or further props, and the error's message."""
    write_action(tmp_path, "fail", FAILS)
    options = await choices(depot, "place", id="depot-fail", configured_props={})
    props = await post(depot, "/actions/props", id="depot-fail")

    assert options["options"] == []
    assert [prop["name"] for prop in props["dynamicProps"]["configurableProps"]] == ["place"]
    assert ["no places" in answer["errors"][0] for answer in (options, props)] == [True, True]


async def test_an_invalid_request_for_a_component(shared_depot: Served) -> None:
    """A field with a wrong value is a 4xx with the reason, which does not name other users; no list of props counts as no props."""
    props = {"configured_props": {"shelf": "s1", "thing": "box"}}
    values, numbers = (
        "configured_props must be an object with values by prop.",
        "page must be a number, and query a string.",
    )
    for path, body, status, message in (
        ("configure", {}, 400, "prop_name is missing. Send the name of the prop."),
        ("configure", {"prop_name": "none"}, 400, "depot-put-thing@0.1.2 has no prop 'none' with options."),
        ("configure", {"prop_name": "shelf", "page": 1.5}, 400, numbers),
        ("configure", {"prop_name": "shelf", "query": 5}, 400, numbers),
        ("configure", {"prop_name": "shelf", "configured_props": []}, 200, ""),
        ("props", {"configured_props": [1]}, 400, values),
        ("run", {"configured_props": "x"}, 400, values),
        ("run", {"stash_id": "NEW"}, 400, "pdkernel does not store files of actions: omit stash_id."),
        ("run", {"version": 1}, 400, "version must be a string, for example 0.0.20."),
        ("run", {"configured_props": {"shelf": "s1"}}, 400, ""),
        ("run", {"configured_props": []}, 400, ""),
        ("run", {**props, "external_user_id": None}, 400, ""),
        ("run", {**props, "external_user_id": "bob"}, 400, ""),
        ("run", {**props, "id": "depot-nothing"}, 404, ""),
        ("run", {**props, "id": None}, 400, ""),
    ):
        request = {"external_user_id": "ada", "id": "depot-put-thing", **body}
        answer = await shared_depot.call("POST", f"/actions/{path}", json=request)

        assert answer.status_code == status, (path, body, answer.text)
        assert message in ("", answer.json().get("error"))
        assert "grace" not in answer.text


async def test_options_of_a_dynamic_prop(depot: Served, tmp_path: Path) -> None:
    """A prop that a component adds for the given values has options as a declared one."""
    write_action(tmp_path, "grow", GROWS)
    found = await post(depot, "/actions/configure", id="depot-grow", prop_name="leaf", configured_props={"tree": "oak"})

    assert [option["value"] for option in found["options"]] == ["leaf of oak"]


async def test_dynamic_props(shared_depot: Served) -> None:
    """A component adds props for the given values, and an action gets the values of added props."""
    found = await post(shared_depot, "/actions/props", id="depot-fill-form", configured_props={"columns": 2})
    values = {"depot": ADA, "columns": 1, "col_0": "x"}
    form = {"id": "depot-fill-form", "dynamic_props_id": "dyp_1", "configured_props": values}
    answer = await post(shared_depot, "/actions/run", **form)

    names = [prop["name"] for prop in found["dynamicProps"]["configurableProps"]]
    assert found["dynamicProps"]["id"].startswith("dyp_")
    assert names == ["depot", "columns", "col_0", "col_1"]
    assert answer["ret"]["col_0"] == "x"


async def test_an_action_runs(shared_depot: Served) -> None:
    """An action runs with the user's account, whose credential is not in the response; a null value is not given."""
    values = {"depot": ADA, "shelf": "s1", "thing": "box", "note": None}
    answer = await post(shared_depot, "/actions/run", configured_props={**values, "count": 3})
    default = await post(shared_depot, "/actions/run", configured_props={**values, "count": None})

    assert (answer["ret"]["thing"], answer["ret"]["count"], default["ret"]["count"]) == ("box", 3, 1)
    assert answer["exports"] == {"$summary": "Put box on s1"}
    assert answer["stash_id"] is None
    assert KEY not in str(answer)


async def test_values_are_data(shared_depot: Served) -> None:
    """A value that looks like an expression is not evaluated."""
    for text in ("{{ 1 + 1 }}", "{{steps.trigger.event}}", "a {{ process.env }} b", "}}{{"):
        answer = await post(shared_depot, "/actions/run", configured_props={"shelf": "s1", "thing": text})

        assert answer["ret"]["thing"] == text


async def test_the_newest_account_is_the_default(depot: Served) -> None:
    """Without a chosen account, the newest account is used."""
    depot.connect("ada", "depot", {"api_key": "newer-key-xyz"}, account_id="apn_newer")
    for depot_value in ({}, {"depot": ADA}):
        await post(depot, "/actions/run", configured_props={"shelf": "s1", "thing": "box", **depot_value})
        depot.clock.advance(1)

    runs = await depot.context.engine.journal.list_executions(limit=2)
    assert [run.step("action").accounts[0].id for run in runs] == ["apn_ada", "apn_newer"]


@pytest.mark.parametrize("path", ["/actions/run", "/actions/props", "/actions/configure"])
async def test_another_users_account_is_not_found(shared_depot: Served, path: str) -> None:
    """Another user's account and an unknown account have the same response."""
    errors = []
    for account in ("apn_grace", "apn_unknown"):
        body = {
            "external_user_id": "ada",
            "id": "depot-put-thing",
            "prop_name": "shelf",
            "configured_props": {"depot": {"authProvisionId": account}, "shelf": "s", "thing": "t"},
        }
        answer = await shared_depot.call("POST", path, json=body)
        assert answer.status_code == 404
        errors.append(answer.json()["error"])
    assert "grace" not in errors[0].replace("apn_grace", "")


async def test_an_error_of_an_action(depot: Served, tmp_path: Path) -> None:
    """An error of the action is in `os` with status 200; an action that cannot be loaded is answered 400."""
    write_action(tmp_path, "fall", FALL)
    thrown = await post(depot, "/actions/run", id="depot-fall")
    broken = await depot.call("POST", "/actions/run", json={"external_user_id": "ada", "id": "depot-broken"})

    assert [each["k"] for each in thrown["os"]] == ["console.log", "error"]
    assert thrown["os"][-1]["err"]["message"] == "no floor"
    assert broken.status_code == 400


async def test_a_secret_value_is_not_recorded(depot: Served, tmp_path: Path) -> None:
    """The action gets the value of a secret prop; the journal, the response and the environment do not contain it."""
    write_action(tmp_path, "sign-in", SIGN_IN)

    answer = await post(depot, "/actions/run", id="depot-sign-in", configured_props={"pin": KEY, "who": "ada-marked"})

    kept = str([each.to_json() for each in await depot.context.engine.journal.list_executions(limit=10)])
    assert (answer["ret"]["length"], answer["ret"]["inEnvironment"]) == (len(KEY), False)
    assert "ada-marked" in kept
    assert KEY not in kept
    assert KEY not in str(answer)


async def test_a_component_requires_the_scope_of_its_kind(shared_depot: Served) -> None:
    """The routes for components of every kind require the same scopes as the routes of each kind."""
    triggers, none = shared_depot.headers("connect:triggers:*"), shared_depot.headers("connect:workflow:invoke")
    body = {
        "id": "depot-put-thing",
        "external_user_id": "ada",
        "prop_name": "shelf",
        "configured_props": {"depot": ADA},
    }

    listed = (await shared_depot.call("GET", "/components", headers=triggers, params={"limit": "100"})).json()["data"]

    assert {each["component_type"] for each in listed} == {"trigger"}
    for headers in (triggers, none):
        assert (await shared_depot.call("GET", "/components/depot-put-thing", headers=headers)).status_code == 403
        assert (await shared_depot.call("POST", "/components/configure", headers=headers, json=body)).status_code == 403
        assert (await shared_depot.call("POST", "/components/props", headers=headers, json=body)).status_code == 403
    assert (await shared_depot.call("GET", "/components", headers=none)).status_code == 403
    assert (await shared_depot.call("GET", "/components/depot-new-thing", headers=triggers)).status_code == 200


async def test_a_page_may_be_a_float(shared_depot: Served) -> None:
    """Python's SDK sends `page` as a float."""
    assert await choices(shared_depot, page=1.0) == await choices(shared_depot, page=1)


async def test_an_invalid_number_is_rejected(shared_depot: Served) -> None:
    """NaN, Infinity and numbers beyond a double are answered 400."""
    text = '{"id": "depot-put-thing", "external_user_id": "ada", "configured_props": {"shelf": "s00", "thing": %s}}'
    for number in ("NaN", "Infinity", "1e999"):
        answer = await shared_depot.call("POST", "/actions/run", content=text % number)

        assert answer.status_code == 400
        assert "not JSON" in answer.json()["error"]


async def test_forms_of_a_connect_token_call_public_hosts_only(
    depot: Served, tmp_path: Path, receiver: AnsweringServer
) -> None:
    """For a Connect token, options and dynamic props do not call this machine; for a client they do."""
    write_action(tmp_path, "ask", FETCHES)
    props = {"configured_props": {"url": receiver.url}, "prop_name": "choice"}
    body = {"id": "depot-ask", "external_user_id": "ada", **props}
    results = {}
    for who, headers in (("user", bearer(connect_token(depot))), ("client", depot.headers())):
        options = (await depot.call("POST", "/actions/configure", json=body, headers=headers)).json()
        props = (await depot.call("POST", "/actions/props", json=body, headers=headers)).json()
        label = next(each["label"] for each in props["dynamicProps"]["configurableProps"] if each["name"] == "more")
        results[who] = ([each["value"] for each in options["options"]], label)

    assert results == {"user": (["403"], "403"), "client": (["204"], "204")}
    assert len(receiver.requests) == 2


async def test_an_account_of_another_app_is_refused(depot: Served) -> None:
    """The account must be the user's and of the app of the prop; the reason is the same for both."""
    depot.connect("ada", "slack", {"token": KEY}, account_id="apn_other")

    for account in ("apn_other", "apn_grace", "apn_gone"):
        body = {"external_user_id": "ada", "id": "depot-fill-form", "configured_props": {"depot": account}}
        answer = await depot.call("POST", "/actions/props", json=body)
        assert answer.status_code == 404
        assert account in answer.json()["error"]


async def test_forms_of_a_request_for_a_component(shared_depot: Served) -> None:
    """SDKs name the user and the component in two ways; an account may be its id, null or an empty object."""
    given: tuple[Any, ...] = ("apn_ada", None, {})
    forms: tuple[dict[str, Any], ...] = (
        {"external_id": "ada"},
        {"external_user_id": "ada", "id": {"key": "depot-fill-form"}},
        *({"external_user_id": "ada", "configured_props": {"columns": 1, "depot": each}} for each in given),
    )
    for form in forms:
        body = {"id": "depot-fill-form", "configured_props": {"columns": 1}, **form}
        answer = await shared_depot.call("POST", "/components/props", json=body)
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["dynamicProps"]["configurableProps"]) == 3

    changes = ({"id": "depot-new-thing"}, {"id": "depot-fill-form", "configured_props": {"depot": 5}})
    trigger, wrong = [
        await shared_depot.call("POST", "/actions/props", json={"external_user_id": "ada", **each}) for each in changes
    ]
    assert (trigger.status_code, trigger.json()["error"].partition(".")[0]) == (404, "depot-new-thing is a trigger")
    assert (wrong.status_code, wrong.json()["error"].partition(":")[0]) == (400, "depot must be an account")


INSIDE, AWAY = "inside.test", "away.test"
PUBLIC = "203.0.114.7"


def respond(request: SentRequest) -> Answer:
    """A service on this machine, which an end user must not reach; `/away?URL` redirects."""
    path, _, url = request.path.partition("?")
    body = b"the service's own data"
    return (302, body, {"location": url}) if path == "/away" else (200, body)


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The URL of the service."""
    with serve(AnsweringServer(respond)) as server:
        yield server.url


async def lookup(host: str, port: int) -> Sequence[str]:
    """Resolves a name of this machine, a public name, and addresses."""
    return {INSIDE: ["127.0.0.1"], AWAY: [PUBLIC]}.get(host, [host])


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["deny", "live"])
async def shared_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, service: str
) -> AsyncIterator[Served]:
    """Projects with denied and with live outbound calls; the public name AWAY leads to the service."""
    folder, here = tmp_path_factory.mktemp("mode"), ("127.0.0.1", int(service.rpartition(":")[2]))
    gateway = await Gateway.start(folder / "egress", environ={}, host_overrides={(PUBLIC, 80): here}, lookup=lookup)
    async with served(folder, egress=request.param, gateway=gateway) as site:
        yield site


async def run_action(site: Served, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    """Run an action of ada."""
    return await site.call("POST", "/actions/run", json={"external_user_id": "ada", **body}, headers=headers)


async def send(site: Served, url: str, headers: dict[str, str]) -> httpx.Response:
    """Run ada's HTTP action."""
    body = {"id": "http-custom-request", "configured_props": {"httpRequest": {"method": "GET", "url": url}}}
    return await run_action(site, body, headers)


async def run(site: Served, url: str, headers: dict[str, str]) -> Any:
    """Run ada's HTTP action; returns the response."""
    answer = await send(site, url, headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer: Any) -> str:
    """The error that an action reported."""
    return next(str(each["err"]) for each in answer["os"] if each["k"] == "error")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433", INSIDE])
async def test_a_connect_token_does_not_reach_this_machine(shared_site: Served, service: str, host: str) -> None:
    """An action of a Connect token gets no response of a service on this machine, by any name and in any mode."""
    url = service.replace("127.0.0.1", host)

    answer = await run(shared_site, url, bearer(connect_token(shared_site)))

    assert answer["ret"] is None
    assert "own data" not in str(answer)
    assert "was not sent" in error_of(answer)


async def test_a_redirect_to_this_machine_is_not_followed(shared_site: Served, service: str) -> None:
    """A redirect of a public host to this machine is refused for a Connect token."""
    answer = await run(shared_site, f"http://{AWAY}/away?{service}", bearer(connect_token(shared_site)))

    assert "own data" not in str(answer)
    assert "was not sent" in error_of(answer)


async def test_an_oauth_client_reaches_this_machine(shared_site: Served, service: str) -> None:
    """An action of the product's back end may call a service on this machine, in each mode."""
    answer = await run(shared_site, service, shared_site.headers())

    assert answer["ret"] == "the service's own data"
    assert answer["os"] == []


async def test_worker_processes_are_not_shared(shared_site: Served, service: str) -> None:
    """A worker of an OAuth client's action is not reused for a Connect token."""
    await run(shared_site, service, shared_site.headers())
    answer = await run(shared_site, service, bearer(connect_token(shared_site)))

    assert "own data" not in str(answer)


async def test_a_connect_token_reaches_public_hosts(shared_site: Served) -> None:
    """A public host is called if the mode is live."""
    answer = await run(shared_site, f"http://{AWAY}/", bearer(connect_token(shared_site)))

    assert (answer["ret"] is None) == (shared_site.context.settings.policy.mode == "deny")


GET = {"id": "data_stores-get-record", "configured_props": {"dataStore": "orders", "key": "a"}}
"""The action that reads the record `a` of the store `orders`."""


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with records in two data stores, which are closed to Connect tokens."""
    async with served(tmp_path) as site:
        for store in ("orders", "default"):
            site.project.data_stores.set(store, "a", f"kept in {store}")
        yield site


CLOSED: Sequence[object] = ("orders", {"storeId": "orders"}, "default", None, {}, "", "{{ 'orders' }}", "orders ")
"""Values of the prop that name a store, or the default store."""


@pytest.mark.parametrize("act", ["get-record", "delete-all-records", "add-update-record", "list-records"])
async def test_a_connect_token_uses_no_closed_data_store(stores: Served, act: str) -> None:
    """A closed store, also the default store, is answered 403; no record is read or changed."""
    token = bearer(connect_token(stores))
    for store in CLOSED:
        props = {"dataStore": store, "key": "a", "value": "mine"}
        answer = await run_action(stores, {"id": f"data_stores-{act}", "configured_props": props}, token)

        assert answer.status_code == 403, store
        assert "is not open to Connect tokens" in answer.json()["error"]
        assert "kept in" not in answer.text
        for name in ("orders", "default"):
            record = stores.project.data_stores.find(name, "a")
            assert record is not None, store
            assert record.value == f"kept in {name}", store


async def test_a_data_store_must_be_a_name(stores: Served) -> None:
    """A value that is not a name is answered 400."""
    body = {**GET, "configured_props": {"dataStore": 7, "key": "a"}}

    for headers in (bearer(connect_token(stores)), stores.headers()):
        assert (await run_action(stores, body, headers)).status_code == 400


async def test_a_connect_token_uses_opened_data_stores(stores: Served) -> None:
    """A store that the project's setting names can be read; other stores stay closed. The product's back end reads each."""
    token = bearer(connect_token(stores))
    client = await run_action(stores, GET, stores.headers())
    stores.project.set_connect_data_stores(["orders"])
    opened = await run_action(stores, GET, token)
    other = await run_action(stores, {**GET, "configured_props": {"key": "a"}}, token)
    stores.project.set_connect_data_stores([])
    closed = await run_action(stores, GET, token)

    assert client.json()["ret"] == opened.json()["ret"] == "kept in orders"
    assert (other.status_code, closed.status_code) == (403, 403)


@pytest.mark.parametrize("path", ["configure", "props"])
async def test_a_form_of_a_connect_token_names_no_closed_store(stores: Served, path: str) -> None:
    """A form may omit the data store, and must not name a closed one."""
    body = {"external_user_id": "ada", "id": "data_stores-get-record", "prop_name": "key"}
    token = bearer(connect_token(stores))
    statuses = [
        (
            await stores.call("POST", f"/actions/{path}", json={**body, "configured_props": props}, headers=token)
        ).status_code
        for props in ({}, {"dataStore": "orders"}, {"dataStore": "{{ process.exit() }}"})
    ]

    assert statuses == [200, 403, 403]


async def test_an_action_ends_here_when_another_server_continues_it(tmp_path: Path, postgres_url: str) -> None:
    """A server that was taken for dead ends the action, as it ends runs of workflows, and its caller learns where the run is."""
    asked, released = threading.Event(), threading.Event()

    def hang(_: SentRequest) -> Answer:
        asked.set()
        released.wait(30)
        return 200, b"", {}

    gateway = await Gateway.start(tmp_path / "egress", environ={})
    with serve(AnsweringServer(hang)) as service:
        try:
            async with served(tmp_path, egress="live", gateway=gateway, database_url=postgres_url) as site:
                calling = asyncio.ensure_future(send(site, service.url, {}))
                await asyncio.to_thread(asked.wait, 30)
                mark_dead(site.project, site.context.engine.journal.executor_id)
                while not site.context.engine.journal.is_lost:
                    await asyncio.sleep(0.05)
                await site.state.runs.abandon_runs()
                answer = await calling
                was_answered = released.is_set()
        finally:
            released.set()

    assert (answer.status_code, answer.json()) == (400, {"error": LOST_MESSAGE})
    assert not was_answered
