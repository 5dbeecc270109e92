"""Components over HTTP: lists, props, options, runs; a real Node.js runs components written here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.server.api.conftest import KEY
from tests.server.api.deploying import Receiver
from tests.server.api.test_accounts import bearer, connect_token
from tests.server.served import Served

SIGN_IN = """
export default {
  key: "depot-sign-in", name: "Sign In", version: "0.0.1", type: "action", description: "Signs in.",
  props: { pin: { type: "string", secret: true }, who: { type: "string" } },
  async run() { console.log("pin", this.pin); return { length: this.pin.length, pin: this.pin, who: this.who } },
};
"""
FALL = """
export default {
  key: "depot-fall", name: "Fall", version: "0.0.1", type: "action", description: "Falls.", props: {},
  async run() { console.log("going"); throw new Error("no floor") },
};
"""
ASKS = """
export default {
  key: "depot-ask", name: "Ask", version: "0.0.1", type: "action", description: "Has choices from a URL.",
  props: {
    url: { type: "string", reloadProps: true },
    choice: { type: "string", async options() { return [String(await asked(this.url))] } },
  },
  async additionalProps() { return { more: { type: "string", label: String(await asked(this.url)) } } },
  async run() {},
};
async function asked(url) { return (await fetch(url, { method: "POST", body: "{}" })).status }
"""
ADA = {"authProvisionId": "apn_ada"}


def write_action(folder: Path, name: str, text: str) -> None:
    """Add an action to the app `depot`."""
    place = folder / "components" / "components" / "depot" / "actions" / name / f"{name}.mjs"
    place.parent.mkdir()
    place.write_text(text)


async def post(depot: Served, path: str, **body: Any) -> Any:
    """The JSON of an answer for ada."""
    answer = await depot.call("POST", path, json={"external_user_id": "ada", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_lists(depot: Served) -> None:
    """Actions and triggers are apart; components are both; a broken one is listed without props."""
    found = {
        kind: (await depot.call("GET", f"/{kind}", params={"app": "depot"})).json()["data"]
        for kind in ("actions", "triggers", "components")
    }

    assert [each["key"] for each in found["triggers"]] == ["depot-new-thing"]
    assert {each["key"] for each in found["actions"]} == {"depot-broken", "depot-fill-form", "depot-put-thing"}
    assert len(found["components"]) == 4
    props = next(each for each in found["actions"] if each["key"] == "depot-put-thing")["configurable_props"]
    assert props[0] == {"name": "depot", "type": "app", "app": "depot"}
    assert next(each for each in found["actions"] if each["key"] == "depot-broken")["configurable_props"] == []


async def test_a_list_is_searched(depot: Served) -> None:
    """Words are looked for in key, name and description; private components are nobody's here."""
    words = (await depot.call("GET", "/actions", params={"q": "shelf"})).json()["data"]
    private = (await depot.call("GET", "/components", params={"registry": "private"})).json()["data"]
    triggers = (await depot.call("GET", "/components", params={"component_type": "trigger"})).json()["data"]

    assert [each["key"] for each in words] == ["depot-put-thing"]
    assert private == []
    assert {each["component_type"] for each in triggers} == {"trigger"}
    assert (await depot.call("GET", "/components", params={"registry": "x"})).status_code == 400


async def test_one_component(depot: Served) -> None:
    """A component tells its props in the API's words."""
    answer = (await depot.call("GET", "/actions/depot-put-thing")).json()["data"]

    props = {prop["name"]: prop for prop in answer["configurable_props"]}
    assert (answer["key"], answer["version"], answer["component_type"]) == ("depot-put-thing", "0.1.2", "action")
    assert props["shelf"]["remoteOptions"] is True
    assert props["shelf"]["useQuery"] is True
    assert props["count"]["default"] == 1
    assert props["note"]["optional"] is True
    assert (await depot.call("GET", "/actions/depot-new-thing")).status_code == 404
    assert (await depot.call("GET", "/actions/depot-nothing")).status_code == 404
    assert (await depot.call("GET", "/actions/No!")).status_code == 400
    assert (await depot.call("GET", "/actions/depot-put-thing", params={"version": "9.9.9"})).status_code == 404


async def test_options_come_from_the_users_account(depot: Served) -> None:
    """A remote option is asked of the component with the user's own account."""
    found = await post(
        depot, "/actions/configure", id="depot-put-thing", prop_name="shelf", configured_props={"depot": ADA}
    )
    second = await post(
        depot, "/components/configure", id="depot-put-thing", prop_name="shelf", configured_props={}, page=1
    )

    assert found["options"][0]["value"] == "s00"
    assert second["options"][0]["value"] == "s10"
    assert (found["errors"], found["observations"]) == ([], [])


async def test_options_without_an_account(depot: Served) -> None:
    """A user without an account gets no options, and a word why."""
    answer = await depot.call(
        "POST", "/actions/configure", json={"external_user_id": "bob", "id": "depot-put-thing", "prop_name": "shelf"}
    )

    assert answer.status_code == 200
    assert answer.json()["options"] == []
    assert "bob's depot account" in answer.json()["errors"][0]


async def test_props_that_depend_on_values(depot: Served) -> None:
    """A component adds props for the values so far."""
    found = await post(depot, "/actions/props", id="depot-fill-form", configured_props={"columns": 2})

    assert found["dynamicProps"]["id"].startswith("dyp_")
    assert [prop["name"] for prop in found["dynamicProps"]["configurableProps"]] == [
        "depot",
        "columns",
        "col_0",
        "col_1",
    ]


async def test_a_run(depot: Served) -> None:
    """An action runs with the user's account; its secret does not come back."""
    answer = await post(
        depot,
        "/actions/run",
        id="depot-put-thing",
        configured_props={"depot": ADA, "shelf": "s1", "thing": "box", "count": 3},
    )

    assert answer["ret"]["thing"] == "box"
    assert answer["ret"]["count"] == 3
    assert answer["exports"] == {"$summary": "Put box on s1"}
    assert answer["stash_id"] is None
    assert KEY not in str(answer)


async def test_a_run_with_dynamic_props(depot: Served) -> None:
    """Values of props that were added come through."""
    answer = await post(
        depot,
        "/actions/run",
        id="depot-fill-form",
        dynamic_props_id="dyp_1",
        configured_props={"depot": ADA, "columns": 1, "col_0": "x"},
    )

    assert answer["ret"]["col_0"] == "x"


@pytest.mark.parametrize("text", ["{{ 1 + 1 }}", "{{steps.trigger.event}}", "a {{ process.env }} b", "}}{{"])
async def test_values_are_data(depot: Served, text: str) -> None:
    """A value that looks like an expression stays what the caller sent."""
    answer = await post(depot, "/actions/run", id="depot-put-thing", configured_props={"shelf": "s1", "thing": text})

    assert answer["ret"]["thing"] == text


async def test_the_newest_account_runs_unless_one_is_chosen(depot: Served) -> None:
    """Without a choice the newest account is used, with one that one."""
    depot.directory.add_account(
        app="depot", credentials={"api_key": "newer-key-xyz"}, external_user_id="ada", account_id="apn_newer"
    )
    values = {"shelf": "s1", "thing": "box"}

    await post(depot, "/actions/run", id="depot-put-thing", configured_props=values)
    depot.context.clock.advance(1)  # type: ignore[attr-defined]
    await post(depot, "/actions/run", id="depot-put-thing", configured_props={**values, "depot": ADA})

    used = [
        execution.step("action").accounts[0].id
        for execution in await depot.context.engine.journal.list_executions(limit=2)
    ]
    assert used == ["apn_ada", "apn_newer"]


@pytest.mark.parametrize("path", ["/actions/run", "/actions/props", "/actions/configure"])
async def test_another_users_account(depot: Served, path: str) -> None:
    """An account of somebody else is not there, as one that nobody has is not."""
    said = []
    for account in ("apn_grace", "apn_nobody"):
        body = {
            "external_user_id": "ada",
            "id": "depot-put-thing",
            "prop_name": "shelf",
            "configured_props": {"depot": {"authProvisionId": account}, "shelf": "s", "thing": "t"},
        }
        answer = await depot.call("POST", path, json=body)
        assert answer.status_code == 404
        said.append(answer.json()["error"])
    assert "grace" not in said[0].replace("apn_grace", "")


async def test_what_a_run_refuses(depot: Served) -> None:
    """A missing prop, user, account or action is the caller's fault, in few words, and names no other user."""
    values = {"shelf": "s1", "thing": "box"}
    for change, status in (
        ({"configured_props": {"shelf": "s1"}}, 400),
        ({"configured_props": []}, 400),
        ({"external_user_id": None}, 400),
        ({"external_user_id": "bob"}, 400),
        ({"id": "depot-nothing"}, 404),
        ({"id": None}, 400),
        ({"stash_id": "NEW"}, 400),
        ({"version": 1}, 400),
    ):
        body: dict[str, Any] = {
            "external_user_id": "ada",
            "id": "depot-put-thing",
            "configured_props": values,
            **change,
        }
        answer = await depot.call("POST", "/actions/run", json=body)
        assert answer.status_code == status, (change, answer.text)
        assert "grace" not in answer.text


async def test_an_error_of_the_actions_own(depot: Served, tmp_path: Path) -> None:
    """What an action throws is told in `os`, with status 200; one that cannot be loaded is refused."""
    write_action(tmp_path, "fall", FALL)
    thrown = await post(depot, "/actions/run", id="depot-fall")
    broken = await depot.call("POST", "/actions/run", json={"external_user_id": "ada", "id": "depot-broken"})

    assert [each["k"] for each in thrown["os"]] == ["console.log", "error"]
    assert thrown["os"][-1]["err"]["message"] == "no floor"
    assert broken.status_code == 400


async def test_a_secret_value_is_not_kept(depot: Served, tmp_path: Path) -> None:
    """What a caller gives a prop that is secret reaches the action, and stands nowhere in the history."""
    write_action(tmp_path, "sign-in", SIGN_IN)

    answer = await post(depot, "/actions/run", id="depot-sign-in", configured_props={"pin": KEY, "who": "ada-marked"})

    kept = str(await depot.context.engine.journal.list_executions(limit=10))
    assert answer["ret"]["length"] == len(KEY)
    assert "ada-marked" in kept
    assert KEY not in kept
    assert KEY not in str(answer)


async def test_components_ask_for_their_kinds_scope(depot: Served) -> None:
    """At the routes for any kind a token does no more than at the routes of the kinds that it is good for."""
    triggers, none = depot.headers("connect:triggers:*"), depot.headers("connect:workflow:invoke")
    body = {
        "id": "depot-put-thing",
        "external_user_id": "ada",
        "prop_name": "shelf",
        "configured_props": {"depot": ADA},
    }

    listed = (await depot.call("GET", "/components", headers=triggers, params={"limit": "100"})).json()["data"]

    assert {each["component_type"] for each in listed} == {"trigger"}
    for headers in (triggers, none):
        assert (await depot.call("GET", "/components/depot-put-thing", headers=headers)).status_code == 403
        assert (await depot.call("POST", "/components/configure", headers=headers, json=body)).status_code == 403
        assert (await depot.call("POST", "/components/props", headers=headers, json=body)).status_code == 403
    assert (await depot.call("GET", "/components", headers=none)).status_code == 403
    assert (await depot.call("GET", "/components/depot-new-thing", headers=triggers)).status_code == 200


async def test_a_page_as_a_float(depot: Served) -> None:
    """Python's SDK calls `page` a float: 1.0 is the second page; a part of one is none."""
    body = {"id": "depot-put-thing", "prop_name": "shelf", "configured_props": {"depot": ADA}}

    whole = await post(depot, "/actions/configure", **body, page=1)
    given = await post(depot, "/actions/configure", **body, page=1.0)
    part = await depot.call("POST", "/actions/configure", json={**body, "external_user_id": "ada", "page": 0.5})

    assert given == whole
    assert part.status_code == 400


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_a_number_that_is_none(depot: Served, number: str) -> None:
    """A value that no double holds is refused as the caller's fault, before the action's run could stumble over it."""
    text = '{"id": "depot-put-thing", "external_user_id": "ada", "configured_props": {"shelf": "s00", "thing": %s}}'

    answer = await depot.call("POST", "/actions/run", content=text % number)

    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]


async def test_choices_do_not_reach_this_machine_for_a_connect_token(
    depot: Served, tmp_path: Path, receiver: Receiver
) -> None:
    """Options and props that depend on a URL are made without this machine's answer for a Connect token only."""
    write_action(tmp_path, "ask", ASKS)
    body = {
        "id": "depot-ask",
        "external_user_id": "ada",
        "configured_props": {"url": receiver.url},
        "prop_name": "choice",
    }
    said = {}
    for who, headers in (("user", bearer(connect_token(depot))), ("client", depot.headers())):
        options = (await depot.call("POST", "/actions/configure", json=body, headers=headers)).json()
        props = (await depot.call("POST", "/actions/props", json=body, headers=headers)).json()
        label = next(each["label"] for each in props["dynamicProps"]["configurableProps"] if each["name"] == "more")
        said[who] = ([each["value"] for each in options["options"]], label)

    assert said == {"user": (["403"], "403"), "client": (["204"], "204")}
    assert len(receiver.seen) == 2
