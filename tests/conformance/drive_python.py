"""
Runs the checks with the Python SDK: one line of JSON for each check, `{"check", "ok", "detail"}`.

Run as `python -I drive_python.py FOLDER_OF_THE_SDK`, with settings as JSON on standard input, without pdkernel.
"""

from __future__ import annotations

import json
import sys
import time
from inspect import signature
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, sys.argv[1])

import httpx
from pipedream import Pipedream

GIVEN: dict[str, Any] = json.load(sys.stdin)


def client(environment: str = "development", **others: Any) -> Any:
    """The SDK's client, with additional options *others*."""
    # releases up to 1.1.5 take an address only as a member of an enumeration, and read its value
    takes_url = "base_url" in signature(Pipedream).parameters
    where = {"base_url": GIVEN["url"]} if takes_url else {"environment": SimpleNamespace(value=GIVEN["url"])}
    mine = {name: GIVEN[name] for name in ("client_id", "client_secret", "project_id")}
    return Pipedream(**{**mine, "project_environment": environment, **where, **others})


PD = client()
SLACK, DEPOT = "apn_adaslack", {"depot": {"authProvisionId": "apn_adadepot"}}


def token() -> str:
    """An access token."""
    return str(len(PD.raw_access_token) > 20)


def private_key() -> str | None:
    """An access token from a private key, and a call with it; releases before 2.2.0 lack the option."""
    if "private_key" not in signature(Pipedream).parameters:
        return None
    keyed = client(client_id=GIVEN["keyed_client_id"], client_secret=None, private_key=GIVEN["private_key"])
    assert "ada" in [user.external_id for user in keyed.users.list()]
    return str(len(keyed.raw_access_token) > 20)


def users() -> str | None:
    """The users of the environment, by pages; releases up to 1.1.6 lack the list."""
    if not hasattr(PD.users, "list"):
        return None
    found = [user.external_id for user in PD.users.list(limit=1)]
    assert {"ada", "bob"} <= set(found), found
    assert "grace" not in found, found
    return ", ".join(found)


def accounts() -> str:
    """A user's accounts with their credentials, by pages, and one of them."""
    found = {each.id: each for each in PD.accounts.list(external_user_id="ada", include_credentials=True, limit=1)}
    assert set(found) == {"apn_adaslack", "apn_adadepot"}, found
    held = found[SLACK].credentials
    assert (held if isinstance(held, dict) else held.model_dump())["oauth_access_token"] == "xoxb-conformance-ada", held
    one = PD.accounts.retrieve(SLACK)
    assert (one.external_id, one.app.name_slug, one.credentials) == ("ada", "slack", None), one
    return ", ".join(found)


def connect_token() -> str:
    """A connect token for a new user; the link."""
    made = PD.tokens.create(external_user_id=GIVEN["newcomer"])
    answer = PD.tokens.validate(made.token, app_id="slack")
    assert answer.success, answer
    assert answer.app.name_slug == "slack", answer
    return str(made.connect_link_url)


def linked() -> str:
    """The account that was connected at the link."""
    [account] = PD.accounts.list(external_user_id=GIVEN["newcomer"])
    assert account.app.name_slug == "slack", account
    PD.accounts.delete(account.id)
    PD.users.delete_external_user(GIVEN["newcomer"])
    return str(account.id)


def page() -> str:
    """The calls that a page may make with a Connect token, passed as an access token."""
    given = PD.tokens.create(external_user_id="ada").token
    page = client(access_token=given)
    found = list(page.accounts.list(include_credentials=True, limit=1))
    assert {each.id for each in found} == {"apn_adaslack", "apn_adadepot"}, found
    assert not any(each.credentials for each in found)
    answer = page.actions.configure_prop(
        id="depot-put-thing", external_user_id="ada", prop_name="shelf", configured_props=DEPOT
    )
    assert answer.options[0].label == "Shelf 00 of ada", answer
    answer = page.proxy.get("https://slack.com/api/users.list", external_user_id="ada", account_id=SLACK)
    assert answer["ok"] is True, answer
    return ", ".join(each.id for each in found)


def apps() -> str:
    """Apps by a search word, and one app."""
    found = [app.name_slug for app in PD.apps.list(q="slack")]
    assert "slack" in found, found
    return str(PD.apps.retrieve("slack").data.name)


def actions() -> str:
    """Actions of an app, and one with its props."""
    found = [action.key for action in PD.actions.list(app="depot")]
    assert "depot-put-thing" in found, found
    one = PD.actions.retrieve("depot-put-thing")
    one = getattr(one, "data", one)  # releases differ
    assert [prop.name for prop in one.configurable_props] == ["depot", "shelf", "thing", "count", "note"], one
    return ", ".join(found)


def configure() -> str:
    """The options of a prop, from the user's account."""
    answer = PD.actions.configure_prop(
        id="depot-put-thing", external_user_id="ada", prop_name="shelf", configured_props=DEPOT
    )
    labels = [option.label for option in answer.options]
    assert labels[0] == "Shelf 00 of ada", answer
    return str(labels[0])


def reload_props() -> str:
    """The props that a value adds."""
    answer = PD.actions.reload_props(
        id="depot-fill-form", external_user_id="ada", configured_props={**DEPOT, "columns": 2}
    )
    names = [prop.name for prop in answer.dynamic_props.configurable_props]
    assert names[-2:] == ["col_0", "col_1"], answer
    return ", ".join(names)


def run() -> str:
    """A run of an action with the user's account."""
    ran = PD.actions.run(
        id="depot-put-thing", external_user_id="ada", configured_props={**DEPOT, "shelf": "s00", "thing": "box"}
    )
    assert ran.ret["thing"] == "box", ran
    assert ran.exports["$summary"] == "Put box on s00", ran
    return str(ran.exports["$summary"])


def proxy() -> str:
    """A request to the app's API with the user's account."""
    answer = PD.proxy.post(
        "https://slack.com/api/chat.postMessage",
        external_user_id="ada",
        account_id=SLACK,
        body={"channel": "#general", "text": "hello"},
        headers={"x-note": "1"},
        params={"pretty": "1"},
    )
    assert answer["ok"] is True, answer
    assert answer["message"]["text"] == "hello", answer
    return str(answer["ts"])


def bare(answer: Any) -> Any:
    """The field `data` of a response, which some releases remove."""
    return getattr(answer, "data", answer)


def trigger() -> str:
    """A deployed trigger: changed, its emitted events, and its listeners."""
    triggers, me = PD.deployed_triggers, {"external_user_id": "ada"}
    made = PD.triggers.deploy(id="depot-new-thing", configured_props={}, emit_on_deploy=False, **me)
    key = bare(made).id
    try:
        answer = bare(triggers.update(key, active=False, name="Mine", **me))
        assert (answer.active, answer.name) == (False, "Mine"), answer
        assert bare(triggers.retrieve(key, **me)).id == key
        assert bare(triggers.list_events(key, n=5, **me)) == []
        changed = triggers.update_workflows(key, workflow_ids=[GIVEN["workflow_id"]], **me)
        assert changed.workflow_ids == triggers.list_workflows(key, **me).workflow_ids == [GIVEN["workflow_id"]]
        hooks = triggers.update_webhooks(key, webhook_urls=["https://example.com/a"], **me)
        assert hooks.webhook_urls == triggers.list_webhooks(key, **me).webhook_urls == ["https://example.com/a"]
        if hasattr(triggers, "reset_webhook_delivery_state"):
            [hook] = hooks.webhooks
            fresh = bare(triggers.regenerate_webhook_signing_key(key, hook.id, **me))
            assert fresh.signing_key not in (None, "", hook.signing_key), fresh
            assert bare(triggers.retrieve_webhook(key, hook.id, **me)).signing_key == fresh.signing_key
            assert bare(triggers.reset_webhook_delivery_state(key, hook.id, **me)).delivery_state.state == "happy"
    finally:
        triggers.delete(key, **me)
    return str(key)


def woken() -> str:
    """A source with an endpoint: a call, and the event that it emits."""
    me = {"external_user_id": "ada"}
    made = bare(PD.triggers.deploy(id="depot-new-call", configured_props={}, **me))
    try:
        http = made.configured_props["http"]
        url = http["endpoint_url"] if isinstance(http, dict) else http.endpoint_url
        assert httpx.post(url, json={"say": "hello"}, timeout=60).status_code == 200
        until = time.monotonic() + 60
        while not (events := bare(PD.deployed_triggers.list_events(made.id, **me))):
            assert time.monotonic() < until, "no event"
            time.sleep(0.05)
        assert [event.e for event in events] == [{"said": "hello"}], events
    finally:
        PD.deployed_triggers.delete(made.id, **me)
    return str(url)


def project() -> str:
    """The project's apps."""
    found = [app.name_slug for app in PD.projects.retrieve_info().apps]
    assert {"slack", "depot"} <= set(found), found
    return ", ".join(found)


def deploy() -> str:
    """A source of the user: deployed, listed, deleted."""
    made = PD.triggers.deploy(
        id="depot-new-thing",
        external_user_id="ada",
        configured_props={},
        webhook_url="https://example.com/hook",
        emit_on_deploy=False,
    )
    made = getattr(made, "data", made)
    assert made.id in [each.id for each in PD.deployed_triggers.list(external_user_id="ada")], made
    PD.deployed_triggers.delete(made.id, external_user_id="ada")
    assert made.id not in [each.id for each in PD.deployed_triggers.list(external_user_id="ada")]
    return str(made.id)


def invoke() -> str:
    """Start a workflow for a user."""
    answer = PD.workflows.invoke_for_external_user(
        GIVEN["workflow"], external_user_id="ada", body={"message": "Hello World"}
    )
    assert answer.json() == {"message": "Hello World", "user": "ada", "account": "ada"}, answer.text
    return str(answer.json())


def no_user() -> str:
    """The first end-user error."""
    from pipedream.workflows.client import HTTPAuthType

    return _refused(
        lambda: PD.workflows.invoke(GIVEN["workflow"], body={"message": "hi"}, auth_type=HTTPAuthType.OAUTH)
    )


def unknown_user() -> str:
    """The second end-user error."""
    return _refused(
        lambda: PD.workflows.invoke_for_external_user(
            GIVEN["workflow"], external_user_id="nobody", body={"message": "hi"}
        )
    )


def no_account() -> str:
    """The third end-user error."""
    return _refused(
        lambda: PD.workflows.invoke_for_external_user(GIVEN["workflow"], external_user_id="bob", body={"message": "hi"})
    )


def plan() -> str:
    """The fourth end-user error."""
    return _refused(
        lambda: client("production").workflows.invoke_for_external_user(
            GIVEN["workflow"], external_user_id="grace", body={"message": "hi"}
        )
    )


def _refused(call: Any) -> str:
    try:
        answer = call()
    except httpx.HTTPStatusError as refusal:
        return f"{refusal.response.status_code} {refusal.response.text}"
    raise AssertionError(f"not refused: {answer.text}")


for name in GIVEN["checks"]:
    try:
        print(json.dumps({"check": name, "ok": True, "detail": globals()[name]()}), flush=True)
    except Exception as fault:
        print(json.dumps({"check": name, "ok": False, "detail": f"{type(fault).__name__}: {fault}"}), flush=True)
