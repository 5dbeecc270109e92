"""Deployed triggers: webhooks, workflows and their routes; a real Node.js runs the sources."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pdkernel.egress import Gateway
from pdkernel.errors import RequestError
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.source_turns import SourceOccasion
from pdkernel.server.trigger_events import TriggerEvents
from pdkernel.server.trigger_runner import DeployedTriggers, build_source_request
from pdkernel.storage import Webhook
from pdkernel.storage.schema import source_state
from tests.actions.checkout import write_checkout
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.server.api.test_accounts import bearer, connect_token
from tests.server.deploying import KEY, PARCELS, call_trigger, deploy, events, pass_time, write_sources
from tests.server.served import Served, served
from tests.waiting import until

FETCHES = """
export default {
  key: "depot-fetches", name: "Fetches", version: "0.1.0", type: "source", description: "Fetches a URL.",
  props: { url: "string", timer: { type: "$.interface.timer", default: { intervalSeconds: 60 } } },
  hooks: { async deploy() { await this.fetch() }, async deactivate() { await this.fetch() } },
  methods: { async fetch() { this.$emit({ status: (await fetch(this.url, { method: "POST", body: "{}" })).status }) } },
  async run() { await this.fetch() },
};
"""
SOURCE_WITH_STATE = """
export default {
  key: "depot-stateful", name: "Stateful", version: "0.1.0", type: "source", description: "Has a state.",
  props: { db: "$.service.db" },
  hooks: { async deploy() { this.db.set("seen", 1) }, async activate() { /* activate */ } }, async run() {},
};
"""
STORING = """
export default {
  key: "depot-storing", name: "Storing", version: "0.1.0", type: "source", description: "Has a data store.",
  props: { store: "data_store" }, async run() {},
};
"""
HOOKED = """
const depot = { type: "app", app: "depot" };
export default { key: "depot-hooked", name: "Hooked", version: "0.1.0", type: "source", description: "Receives messages of its app.",
  props: { depot, hook: { type: "$.interface.apphook", appProp: "depot", eventNames: ["new"] } }, async run() {} };
"""
NEVER = """
export default { key: "depot-never", name: "Never", version: "0.1.0", type: "source", description: "Fails.",
  props: {}, hooks: { async activate() { throw new Error("not today") } }, async run() {} };
"""


@pytest.fixture
def site(parcels: Served, tmp_path: Path) -> Served:
    """A project with sources, a served workflow, and accounts of ada and grace."""
    write_sources(tmp_path / "components", fetches=FETCHES, storing=STORING, hooked=HOOKED, never=NEVER)
    return parcels


def hook_of(site: Served, made: dict[str, Any]) -> Webhook:
    """The only webhook of a deployed trigger, as it is stored."""
    trigger = site.project.deployed_triggers.find(made["id"])
    assert trigger is not None
    (hook,) = trigger.webhooks
    return hook


async def test_a_trigger_is_deployed(site: Served) -> None:
    """The deploy hook runs, and the trigger is listed for its user without secret props."""
    made = await deploy(site, configured_props={"depot": {"authProvisionId": "apn_ada"}, "size": "{{x}}", "pin": KEY})

    listed = (await call_trigger(site, "GET", "")).json()["data"]
    assert made["type"] == "DeployedComponent"
    assert made["active"] is True
    assert isinstance(made["created_at"], int)
    assert made["created_at"] > 10**12
    assert made["configured_props"] == {"depot": {"authProvisionId": "apn_ada"}, "size": "{{x}}"}
    assert KEY not in json.dumps(made)
    assert [each["id"] for each in listed] == [made["id"]]
    assert await events(site, made["id"]) == [{"past": True}]


async def test_a_source_that_cannot_be_loaded_shows_no_props(site: Served, tmp_path: Path) -> None:
    """Without the source, nothing tells which props are secret: the trigger is listed without any of them."""
    made = await deploy(site, configured_props={"size": "xl", "pin": KEY})
    (tmp_path / "components/components/depot/sources/new-parcel/new-parcel.mjs").write_text("throw new Error('moved');")

    listed = await call_trigger(site, "GET", "")
    one = await call_trigger(site, "GET", f"/{made['id']}")

    assert [each["configured_props"] for each in (*listed.json()["data"], one.json()["data"])] == [{}, {}]
    assert KEY not in listed.text + one.text


async def test_a_webhook_receives_signed_events(site: Served, receiver: AnsweringServer) -> None:
    """Each event is sent with a signature of the key that the response to the deployment has."""
    made = await deploy(site, webhook_url=receiver.url)

    headers, body = receiver.requests[0].headers, receiver.requests[0].body
    stamp, signed = (part.partition("=")[2] for part in headers["x-pd-signature"].split(","))
    key = made["webhook_signing_key"]
    assert json.loads(body) == {"past": True}
    assert signed == hmac.new(key.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


async def test_a_failing_webhook_is_recorded(site: Served) -> None:
    """The event is stored; the webhook has the error until its state is reset."""
    made = await deploy(site, webhook_url="http://127.0.0.1:9/unreachable")
    path = f"/{made['id']}/webhooks"

    [hook] = (await call_trigger(site, "GET", path)).json()["webhooks"]
    reset = (await call_trigger(site, "POST", f"{path}/{hook['id']}/reset_delivery_state")).json()["data"]
    [after] = (await call_trigger(site, "GET", path)).json()["webhooks"]

    assert await events(site, made["id"]) == [{"past": True}]
    assert (hook["delivery_state"]["state"], hook["delivery_state"]["consecutive_failures"]) == ("penalty", 1)
    assert hook["delivery_state"]["last_error"] == "ConnectError"
    assert reset == after
    assert after["delivery_state"] == {
        "state": "happy", "since": None, "last_error": None, "consecutive_failures": 0, "sheds": 0
    }  # fmt: skip
    assert (await call_trigger(site, "POST", f"{path}/wh_none/reset_delivery_state")).status_code == 404


async def test_a_delivery_resets_the_count_of_failures(site: Served, receiver: AnsweringServer) -> None:
    """A successful delivery ends the count of failures."""
    made = await deploy(site, webhook_url=receiver.url)
    site.project.deployed_triggers.record_delivery(made["id"], hook_of(site, made).id, "status 500")

    await pass_time(site, 61, 2, made["id"])
    await until(lambda: not hook_of(site, made).failures)

    assert [request.json() for request in receiver.requests][-1]["parcel"] == 1


async def test_webhooks_are_replaced(site: Served, receiver: AnsweringServer) -> None:
    """An existing URL keeps its key; the key of one webhook is regenerated on request; an invalid list is answered 400."""
    made = await deploy(site, webhook_url=receiver.url)
    path = f"/{made['id']}/webhooks"

    urls = [receiver.url, "https://product.example/b"]
    changed = (await call_trigger(site, "PUT", path, json={"webhook_urls": urls})).json()
    first = changed["webhooks"][0]
    one = (await call_trigger(site, "GET", f"{path}/{first['id']}")).json()["data"]
    site.clock.advance(60)
    fresh = (await call_trigger(site, "POST", f"{path}/{first['id']}/regenerate_signing_key")).json()["data"]
    kept = (await call_trigger(site, "GET", path)).json()["webhooks"]

    assert changed["webhook_urls"] == [hook["url"] for hook in kept] == urls
    assert [hook["signing_key"] for hook in kept] == [fresh["signing_key"], changed["webhooks"][1]["signing_key"]]
    assert first["signing_key"] == made["webhook_signing_key"]
    assert one["signing_key"] == first["signing_key"]
    assert fresh["signing_key"] != first["signing_key"]
    assert one["created_at"] < 10**12
    assert (one["updated_at"], fresh["updated_at"]) == (one["created_at"], one["created_at"] + 60)
    assert (await call_trigger(site, "GET", f"{path}/wh_none")).status_code == 404
    for bad in (["ftp://x"], ["/x"], "https://x.example", [1], None):
        assert (await call_trigger(site, "PUT", path, json={"webhook_urls": bad})).status_code == 400


async def test_a_connect_token_gets_no_signing_key(live: Served) -> None:
    """A browser never receives the key of a webhook: at the deployment, in lists, alone, and when the key is replaced."""
    token = bearer(connect_token(live))
    made = await deploy(live, webhook_url="http://hooks.test/hook", headers=token)
    path = f"/{made['id']}/webhooks"
    listed = await call_trigger(live, "GET", path, headers=token)
    (hook,) = listed.json()["webhooks"]
    answers = [
        listed,
        await call_trigger(live, "GET", f"{path}/{hook['id']}", headers=token),
        await call_trigger(live, "PUT", path, json={"webhook_urls": ["http://hooks.test/hook"]}, headers=token),
        await call_trigger(live, "POST", f"{path}/{hook['id']}/regenerate_signing_key", headers=token),
        await call_trigger(live, "POST", f"{path}/{hook['id']}/reset_delivery_state", headers=token),
    ]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert "whsec_" not in json.dumps(made) + "".join(answer.text for answer in answers)
    assert "whsec_" in (await call_trigger(live, "GET", path)).text


async def test_triggers_are_listed_by_kind(site: Served) -> None:
    """Every deployed trigger is a source; another kind has none, and an unknown one is answered 400."""
    made = await deploy(site)
    for kind, status, ids in (
        ("source", 200, [made["id"]]),
        ("email", 200, []),
        ("http", 200, []),
        ("timer", 200, []),
        ("sms", 400, []),
    ):
        answer = await call_trigger(site, "GET", "", params={"emitter_type": kind})

        assert (answer.status_code, [each["id"] for each in answer.json().get("data", ())]) == (status, ids)


async def test_workflows_are_replaced(site: Served) -> None:
    """A workflow that is not served is answered 404."""
    made = await deploy(site)
    path = f"/{made['id']}/pipelines"

    assert (await call_trigger(site, "PUT", path, json={"workflow_ids": ["p_work"]})).json() == {
        "workflow_ids": ["p_work"]
    }
    assert (await call_trigger(site, "GET", path)).json() == {"workflow_ids": ["p_work"]}
    assert (await call_trigger(site, "PUT", path, json={"workflow_ids": ["p_none"]})).status_code == 404
    assert (await call_trigger(site, "PUT", path, json={})).status_code == 400


async def test_a_trigger_is_updated(site: Served) -> None:
    """Name, props and `active` can change, and `emit_on_deploy` both ways; an inactive trigger does not run."""
    made = await deploy(site, emit_on_deploy=False)
    path = f"/{made['id']}"

    change = {"name": "Mine", "active": False, "configured_props": {"size": "xl"}}
    changed = (await call_trigger(site, "PUT", path, json=change)).json()["data"]
    site.clock.advance(1000)
    asleep = site.project.deployed_triggers.list_due()
    await call_trigger(site, "PUT", path, json={"active": True})
    awake = site.project.deployed_triggers.find(made["id"])
    found = await pass_time(site, 61, 1, made["id"])

    assert (changed["name"], changed["active"], changed["configured_props"]) == ("Mine", False, {"size": "xl"})
    assert asleep == []
    assert awake is not None
    assert awake.base_url is None  # it has no endpoint: another URL of the server does not concern it
    assert found[0]["size"] == "xl"
    for bad in ({"active": "yes"}, {"emit_on_deploy": 1}, {"name": 5}):
        assert (await call_trigger(site, "PUT", path, json=bad)).status_code == 400
    changes = [{"emit_on_deploy": True}, {}, {"emit_on_deploy": False}, {"name": ""}]
    emits = [(await call_trigger(site, "PUT", path, json=change)).json()["data"] for change in changes]
    assert [each["emit_on_deploy"] for each in emits] == [True, True, False, False]
    assert emits[-1]["name"] == "Mine"


async def test_a_trigger_is_visible_to_its_user_only(site: Served) -> None:
    """Another user and the other environment do not find the trigger."""
    made = await deploy(site)
    path = f"/{made['id']}"

    for method, rest in (("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/webhooks")):
        assert (await call_trigger(site, method, path + rest, user="grace")).status_code == 404
        assert (await call_trigger(site, method, path + rest, environment="production")).status_code == 404
    assert (await call_trigger(site, "GET", "", user="grace")).json()["data"] == []
    assert (await site.call("GET", "/deployed-triggers")).status_code == 400
    other = {"depot": {"authProvisionId": "apn_grace"}}
    assert "apn_grace" in await deploy(site, status=404, configured_props=other)


async def test_a_trigger_is_deleted(site: Served) -> None:
    """Its events and state are deleted too; a failing hook prevents that, unless its errors are ignored, and a deactivation."""
    made = await deploy(site)
    state = state_key(site, made["id"])
    assert site.project.source_states.load(state)
    stuck = await deploy(site, configured_props={"size": "stuck"})

    gone = await call_trigger(site, "DELETE", f"/{made['id']}")
    still_on = await call_trigger(site, "PUT", f"/{stuck['id']}", json={"active": False})
    refused = await call_trigger(site, "DELETE", f"/{stuck['id']}")
    forced = await call_trigger(site, "DELETE", f"/{stuck['id']}", params={"ignore_hook_errors": "true"})

    assert [answer.status_code for answer in (gone, still_on, refused, forced)] == [204, 400, 400, 204]
    assert (await call_trigger(site, "GET", "")).json()["data"] == []
    assert site.project.deployed_triggers.list_events(made["id"], 10) == []
    assert not site.project.source_states.load(state)


async def test_ignored_errors_of_a_hook_still_run_it(live: Served, receiver: AnsweringServer) -> None:
    """With `ignore_hook_errors` the source is deactivated at its app before it is deleted."""
    made = await deploy(live, id="depot-fetches", configured_props={"url": receiver.url})
    receiver.requests.clear()

    gone = await call_trigger(live, "DELETE", f"/{made['id']}", params={"ignore_hook_errors": "true"})

    assert gone.status_code == 204
    assert len(receiver.requests) == 1


async def test_a_trigger_that_is_off_is_deleted_without_its_hook(site: Served) -> None:
    """An inactive trigger is already deactivated: its failing hook does not run again, and does not prevent the deletion."""
    made = await deploy(site, configured_props={"size": "stuck"})
    site.project.deployed_triggers.update(made["id"], lambda stored: replace(stored, active=False))

    answer = await call_trigger(site, "DELETE", f"/{made['id']}")

    assert answer.status_code == 204


async def test_the_number_of_listed_events(site: Served) -> None:
    """The newest events are listed first: 20 by default, as many as the caller wants, and at most 100."""
    made = await deploy(site, emit_on_deploy=False)
    site.project.deployed_triggers.add_events(made["id"], [{"e": number} for number in range(105)])
    path = f"/{made['id']}/events"

    listed = [
        [event["e"] for event in (await call_trigger(site, "GET", path, params=params)).json()["data"]]
        for params in ({}, {"n": "1"}, {"n": "21"}, {"n": "500"})
    ]

    assert listed == [list(range(104, 84, -1)), [104], list(range(104, 83, -1)), list(range(104, 4, -1))]
    for bad in ("0", "-1", "x", "1.5"):
        assert (await call_trigger(site, "GET", path, params={"n": bad})).status_code == 400


async def test_triggers_are_deleted_with_their_user(site: Served) -> None:
    """A deleted user's triggers and their states are deleted; other users keep their triggers."""
    made = {user: await deploy(site, external_user_id=user) for user in ("ada", "grace")}
    kept = {user: state_key(site, trigger["id"]) for user, trigger in made.items()}
    assert all(site.project.source_states.load(key) for key in kept.values())

    await site.call("DELETE", "/users/ada")

    assert (await call_trigger(site, "GET", "")).json()["data"] == []
    assert len((await call_trigger(site, "GET", "", user="grace")).json()["data"]) == 1
    assert [user for user, key in kept.items() if site.project.source_states.load(key)] == ["grace"]


def state_key(site: Served, trigger_id: str) -> str:
    """The key of the state of a trigger's source."""
    trigger = site.project.deployed_triggers.find(trigger_id)
    assert trigger is not None
    return build_source_request(site.context, trigger, "run").state_key


async def test_an_invalid_deployment_is_rejected(site: Served) -> None:
    """An invalid request is rejected, and nothing is stored."""
    changes: list[tuple[dict[str, Any], int, str]] = [
        ({"id": "depot-hooked"}, 400, "sends to Pipedream only"),
        ({"id": "depot-never"}, 400, "not today"),
        ({"id": "depot-put-thing"}, 404, "is an action"),
        ({"external_user_id": "bob"}, 400, "No matching external user"),
        ({"workflow_id": "p_none"}, 404, "p_none"),
        *(({"webhook_url": url}, 400, "URL") for url in ("x", "http://[::1", "https://a.example:99999/")),
        ({"webhook_url": "https://ada:pw@a.example/"}, 400, "URL"),
        ({"emit_on_deploy": 1}, 400, "emit_on_deploy"),
    ]
    timers: list[tuple[dict[str, Any], str]] = [
        ({"cron": "* * *"}, "five fields"),
        ({"cron": "61 * * * *"}, "is invalid"),
        ({"cron": "0 0 30 2 *"}, "is invalid"),
        ({"cron": "0 0 * * *", "timezone": "Mars/Base"}, "time zone"),
        ({"cron": 5}, "strings"),
        ({"intervalSeconds": "x"}, "number"),
    ]
    for change, status, word in (
        *changes,
        *(({"configured_props": {"timer": each}}, 400, word) for each, word in timers),
    ):
        assert word in await deploy(site, status=status, **change), change
    assert (await call_trigger(site, "GET", "")).json()["data"] == []


class Names:
    """A name server with one name, whose address a test changes."""

    def __init__(self) -> None:
        self.address = "203.0.114.7"

    async def lookup(self, host: str, port: int) -> Sequence[str]:
        """The current address of the name; other hosts are addresses."""
        return [self.address if host == "hooks.test" else host]


@pytest.fixture
def names() -> Names:
    """A name server whose name has a public address."""
    return Names()


@pytest.fixture
async def live(tmp_path: Path, receiver: AnsweringServer, names: Names) -> AsyncIterator[Served]:
    """A project with live outbound calls; a public address leads to the receiver."""
    checkout = write_checkout(tmp_path / "components")
    write_sources(checkout, new_parcel=PARCELS, fetches=FETCHES)
    port = receiver.server_port
    resolve = {("203.0.114.7", 80): ("127.0.0.1", port)}
    gateway = await Gateway.start(tmp_path / "egress", environ={}, host_overrides=resolve, lookup=names.lookup)
    async with served(tmp_path, egress="live", gateway=gateway) as site:
        site.project.settings.set("actions", str(checkout))
        site.connect("ada", "depot", {"api_key": f"{KEY}-ada"}, account_id="apn_ada")
        yield site


async def test_a_webhook_of_a_connect_token_must_be_public(live: Served, names: Names) -> None:
    """A webhook on this machine or in a private network is rejected in a deployment and in an update."""
    names.address, token = "10.0.0.1", bearer(connect_token(live))
    made = await deploy(live)
    path = f"/{made['id']}/webhooks"
    for host in (
        "127.0.0.1:9",
        "localhost",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "0.0.0.0",
        "169.254.169.254",
        "100.64.0.1",
        "hooks.test",
    ):
        url = f"http://{host}/x"
        refused = await deploy(live, status=403, webhook_url=url, headers=token)
        changed = await call_trigger(live, "PUT", path, json={"webhook_urls": [url]}, headers=token)

        assert "public address" in refused
        assert changed.status_code == 403
    assert (await call_trigger(live, "GET", path)).json()["webhook_urls"] == []


async def test_a_webhook_whose_name_moves_inside_gets_nothing(
    live: Served, names: Names, receiver: AnsweringServer
) -> None:
    """The name is resolved again at each delivery; an address of this machine gets no event."""
    url = "http://hooks.test/hook"
    made = await deploy(live, webhook_url=url, headers=bearer(connect_token(live)))
    first = len(receiver.requests)

    names.address = "127.0.0.1"
    moved = await deploy(live, webhook_url=url, status=403, headers=bearer(connect_token(live)))
    await pass_time(live, 61, 2, made["id"])
    await until(lambda: hook_of(live, made).failures)

    assert (first, len(receiver.requests)) == (1, 1)
    assert "public address" in moved
    assert hook_of(live, made).last_error == "not sent"


async def test_a_webhook_of_an_oauth_client_may_be_local(live: Served, receiver: AnsweringServer) -> None:
    """The product's webhook may be on this machine, also if a Connect token lists the URL later."""
    made = await deploy(live, webhook_url=receiver.url)
    path, urls = f"/{made['id']}/webhooks", {"webhook_urls": [receiver.url]}
    listed = await call_trigger(live, "PUT", path, json=urls, headers=bearer(connect_token(live)))
    await pass_time(live, 61, 2, made["id"])
    await until(lambda: len(receiver.requests) >= 2)

    assert listed.status_code == 200
    assert receiver.requests[0].json() == {"past": True}


async def test_a_client_takes_over_the_webhook_of_a_token(live: Served, receiver: AnsweringServer) -> None:
    """If an OAuth client lists a URL that a Connect token has set, the URL may lead to this machine from then on."""
    url = "http://hooks.test/hook"
    made = await deploy(live, webhook_url=url, headers=bearer(connect_token(live)))
    before = hook_of(live, made).public_only
    await call_trigger(live, "PUT", f"/{made['id']}/webhooks", json={"webhook_urls": [url]})

    assert (before, hook_of(live, made).public_only) == (True, False)


async def test_a_failed_deployment_leaves_no_state(site: Served, tmp_path: Path) -> None:
    """If the activate hook fails, what the deploy hook has stored is deleted with the trigger."""
    halfway = SOURCE_WITH_STATE.replace("depot-stateful", "depot-halfway").replace(
        "/* activate */", 'throw new Error("no")'
    )
    write_sources(tmp_path / "components", stateful=SOURCE_WITH_STATE, halfway=halfway)
    await deploy(site, id="depot-stateful")
    await deploy(site, id="depot-halfway", status=400)

    with site.project.sqlalchemy_engine.connect() as connection:
        kept = connection.execute(select(source_state.c.source)).scalars().all()
    assert len(kept) == 1


async def test_a_source_of_a_connect_token_does_not_reach_this_machine(live: Served, receiver: AnsweringServer) -> None:
    """Neither the deploy hook nor a later run gets a response of a service on this machine."""
    token = bearer(connect_token(live))
    made = await deploy(live, id="depot-fetches", configured_props={"url": receiver.url}, headers=token)

    found = await pass_time(live, 61, 2, made["id"])

    assert found == [{"status": 403}, {"status": 403}]
    assert receiver.requests == []


async def test_the_last_configuration_decides_the_reachable_hosts(live: Served, receiver: AnsweringServer) -> None:
    """A trigger reaches this machine if an OAuth client, and not a Connect token, configured it last."""
    token = bearer(connect_token(live))
    props: dict[str, Any] = {"configured_props": {"url": receiver.url}}
    made = await deploy(live, id="depot-fetches", **props)
    for headers, count in ((token, 2), ({}, 3)):
        changed = await call_trigger(live, "PUT", f"/{made['id']}", json=props, headers=headers)
        assert changed.status_code == 200
        found = await pass_time(live, 61, count, made["id"])

    assert [each["status"] for each in reversed(found)] == [204, 403, 204]
    assert len(receiver.requests) == 2


async def test_a_change_keeps_what_another_call_has_changed_meanwhile(live: Served) -> None:
    """A name that is set while the deactivate hook of another call runs stays."""
    renamed: list[str] = []

    def rename(_: SentRequest) -> Answer:
        for trigger in renamed:
            live.project.deployed_triggers.update(trigger, lambda stored: replace(stored, name="Mine"))
        return 204, b""

    with serve(AnsweringServer(rename)) as app:
        made = await deploy(live, id="depot-fetches", configured_props={"url": app.url})
        renamed.append(made["id"])
        changed = (await call_trigger(live, "PUT", f"/{made['id']}", json={"active": False})).json()["data"]

    assert (changed["name"], changed["active"]) == ("Mine", False)


async def test_a_replaced_list_keeps_what_was_stored_while_it_arrived(site: Served, receiver: AnsweringServer) -> None:
    """A name and failed deliveries that are stored while a list of webhooks or workflows arrives stay."""
    made = await deploy(site, webhook_url=receiver.url)
    table, key = site.project.deployed_triggers, made["id"]
    stored = table.find(key)
    assert stored is not None

    async def arrive(name: str) -> AsyncIterator[bytes]:
        table.record_delivery(key, stored.webhooks[0].id, "status 500")
        table.update(key, lambda found: replace(found, name=name))
        yield json.dumps({"webhook_urls": [receiver.url], "workflow_ids": []}).encode()

    changed = []
    for path in ("webhooks", "pipelines"):
        await call_trigger(site, "PUT", f"/{key}/{path}", content=arrive(path))
        changed.append(table.find(key))

    assert [(each.name, each.webhooks[0].failures) for each in changed if each] == [("webhooks", 1), ("pipelines", 2)]


async def test_a_trigger_that_is_removed_while_its_source_runs_leaves_nothing(live: Served) -> None:
    """The state of that run is not stored, and a change of the trigger whose hook ran is answered as an error."""
    removed: list[str] = []

    def remove(_: SentRequest) -> Answer:
        for trigger in removed:
            live.project.deployed_triggers.remove(trigger)
        return 204, b""

    with serve(AnsweringServer(remove)) as app:
        for by_timer in (True, False):
            made = await deploy(live, id="depot-fetches", configured_props={"url": app.url})
            trigger = live.project.deployed_triggers.find(made["id"])
            assert trigger is not None
            removed.append(trigger.id)
            if by_timer:
                runs = RunRegistry(live.context)
                runner = DeployedTriggers(live.context, runs, TriggerEvents(live.context, runs))
                with pytest.raises(RequestError, match="was removed while its source ran"):
                    await runner.run(trigger, SourceOccasion())
            else:
                changed = await call_trigger(live, "PUT", f"/{trigger.id}", json={"active": False})
                assert (changed.status_code, "was removed" in changed.text) == (400, True)
            assert live.project.source_states.load(build_source_request(live.context, trigger, "run").state_key) == {}


async def test_a_trigger_of_a_connect_token_uses_opened_data_stores(site: Served) -> None:
    """A source with a data store is deployed and updated only with an opened store."""
    token = bearer(connect_token(site))
    orders: dict[str, Any] = {"configured_props": {"store": "orders"}}
    other = {"configured_props": {"store": "other"}}
    refused = await deploy(site, id="depot-storing", status=403, headers=token, **orders)
    site.project.set_connect_data_stores(["orders"])

    made = await deploy(site, id="depot-storing", headers=token, **orders)
    changed = await call_trigger(site, "PUT", f"/{made['id']}", json=other, headers=token)

    assert "'orders'" in refused
    assert changed.status_code == 403
    assert (await call_trigger(site, "PUT", f"/{made['id']}", json=other)).status_code == 200
