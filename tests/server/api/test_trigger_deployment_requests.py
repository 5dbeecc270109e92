"""Deployed triggers that requests wake: a real Node.js runs sources written here, at an endpoint of their own."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.actions.checkout import write_checkout
from tests.server.api.deploying import Receiver, deploy, events, of
from tests.server.served import Served, served

KEY = "signing-key-of-the-app-0123456789"
CALLED = """
export default { key: "depot-new-call", name: "New Call", version: "0.1.0", type: "source", description: "Is called.",
  props: { http: "$.interface.http", db: "$.service.db" },
  async run(event) {
    const seen = (this.db.get("seen") ?? 0) + 1;
    await new Promise((done) => setTimeout(done, 50));
    this.db.set("seen", seen);
    this.$emit({ seen, ...event }, { id: seen });
  } };
"""
ANSWERS = """
import { createHmac } from "node:crypto";
const depot = { type: "app", app: "depot" };
export default { key: "depot-answers", name: "Answers", version: "0.1.0", type: "source", description: "Registers itself.",
  props: { depot, hooks: "string", http: { type: "$.interface.http", customResponse: true } },
  hooks: {
    async activate() {
      const answer = await fetch(this.hooks, { method: "POST", body: JSON.stringify({ add: this.http.endpoint }) });
      if (!answer.ok) throw new Error("not registered");
    },
    async deactivate() {
      await fetch(this.hooks, { method: "POST", body: JSON.stringify({ remove: this.http.endpoint }) });
    },
  },
  async run({ headers, body, bodyRaw }) {
    const made = createHmac("sha256", this.depot.$auth.api_key).update(bodyRaw ?? "").digest("hex");
    if (made !== headers["x-signature"]) {
      await this.http.respond({ status: 401, body: "no" });
      return;
    }
    if (body.say === "nothing") return;
    if (body.say === "fail") throw new Error("failed");
    await this.http.respond({ status: 202, headers: { "x-told": "1" }, body: { got: body.say } });
    if (body.say === "late") await new Promise((done) => setTimeout(done, 1500));
    this.$emit({ said: body.say });
  } };
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with the sources and Ada's account."""
    checkout = write_checkout(tmp_path / "components")
    for name, text in (("new-call", CALLED), ("answers", ANSWERS)):
        place = checkout / "components" / "depot" / "sources" / name / f"{name}.mjs"
        place.parent.mkdir()
        place.write_text(text)
    async with served(tmp_path) as site:
        site.project.settings.set("actions", str(checkout))
        site.directory.add_account(
            app="depot", credentials={"api_key": KEY}, external_user_id="ada", account_id="apn_a"
        )
        yield site


def path_of(made: dict[str, Any]) -> str:
    """Where the endpoint of a trigger is, without the server's address."""
    url = made["configured_props"]["http"]["endpoint_url"]
    assert isinstance(url, str)
    assert url.startswith("http://127.0.0.1:4000/en")
    return url.removeprefix("http://127.0.0.1:4000")


async def until(site: Served, trigger: str, count: int) -> list[Any]:
    """What the trigger has emitted, newest first, once there is so much."""
    async with asyncio.timeout(20):
        while len(found := await events(site, trigger)) < count:
            await asyncio.sleep(0.02)
    return found


async def tell(site: Served, made: dict[str, Any], say: str, *, key: str = KEY) -> httpx.Response:
    """What the source that answers itself says to a signed request."""
    body = json.dumps({"say": say}).encode()
    signed = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    headers = {"content-type": "application/json", "x-signature": signed}
    return await site.http.post(path_of(made), content=body, headers=headers)


async def test_a_request_wakes_it(site: Served) -> None:
    """The source is handed the request as it came, and the caller is not kept waiting."""
    made = await deploy(site, id="depot-new-call")

    answer = await site.http.post(
        f"{path_of(made)}/deep/er?a=1&b=2&b=3", content=b'{"n": 1.50}', headers={"Content-Type": "application/json"}
    )
    (got,) = await until(site, made["id"], 1)

    assert (answer.status_code, answer.content) == (200, b"")
    assert (got["method"], got["path"], got["query"]) == ("POST", "/deep/er", {"a": "1", "b": ["2", "3"]})
    assert (got["body"], got["bodyRaw"]) == ({"n": 1.5}, '{"n": 1.50}')
    assert got["headers"]["content-type"] == "application/json"


async def test_requests_at_once(site: Served) -> None:
    """Each run of a source sees what the one before it has remembered."""
    made = await deploy(site, id="depot-new-call")

    answers = await asyncio.gather(*(site.http.get(path_of(made)) for _ in range(6)))
    found = await until(site, made["id"], 6)

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(event["seen"] for event in found) == [1, 2, 3, 4, 5, 6]


async def test_a_source_registers_itself(site: Served, receiver: Receiver) -> None:
    """Its activate hook tells the app where it is reached; its deactivate hook takes that back."""
    made = await deploy(site, id="depot-answers", configured_props={"hooks": receiver.url})

    await of(site, "DELETE", f"/{made['id']}")

    url = f"http://127.0.0.1:4000{path_of(made)}"
    assert [json.loads(body) for _, body in receiver.seen] == [{"add": url}, {"remove": url}]
    assert (await site.http.get(path_of(made))).status_code == 404


async def test_its_own_answer(site: Served, receiver: Receiver) -> None:
    """With customResponse the caller gets what the source responds; a signature is made over the body as it came."""
    made = await deploy(site, id="depot-answers", configured_props={"hooks": receiver.url})

    good, bad = await tell(site, made, "hello"), await tell(site, made, "hello", key="another")
    silent, failed = await tell(site, made, "nothing"), await tell(site, made, "fail")

    assert (good.status_code, good.json(), good.headers["x-told"]) == (202, {"got": "hello"}, "1")
    assert (bad.status_code, bad.text) == (401, "no")
    assert (silent.status_code, silent.content) == (200, b"")
    assert failed.status_code == 400
    assert await until(site, made["id"], 1) == [{"said": "hello"}]


async def test_answer_before_the_end(site: Served, receiver: Receiver) -> None:
    """The caller has the answer while the source goes on."""
    made = await deploy(site, id="depot-answers", configured_props={"hooks": receiver.url})

    answer = await tell(site, made, "late")
    then = await events(site, made["id"])

    assert (answer.status_code, then) == (202, [])
    assert await until(site, made["id"], 1) == [{"said": "late"}]


async def test_a_trigger_that_is_off(site: Served) -> None:
    """It has no endpoint until it is on again, and then the same one."""
    made = await deploy(site, id="depot-new-call")

    await of(site, "PUT", f"/{made['id']}", json={"active": False})
    off = await site.http.get(path_of(made))
    changed = (await of(site, "PUT", f"/{made['id']}", json={"active": True, "configured_props": {}})).json()["data"]
    on = await site.http.get(path_of(made))

    assert (off.status_code, on.status_code) == (404, 200)
    assert path_of(changed) == path_of(made)


async def test_bodies_have_a_limit(site: Served) -> None:
    """A body that is too large wakes nothing; what is not text comes as far as it is."""
    made = await deploy(site, id="depot-new-call")

    large = await site.http.post(path_of(made), content=b"x" * (512 * 1024 + 1))
    binary = await site.http.post(path_of(made), content=b"\xff\x00")
    found = await until(site, made["id"], 1)

    assert (large.status_code, binary.status_code) == (413, 200)
    assert [event["bodyRaw"] for event in found] == ["�\x00"]


async def test_endpoints_go_with_their_trigger(site: Served) -> None:
    """A user who is deleted, and a trigger whose hook fails, leave no endpoint."""
    made = await deploy(site, id="depot-new-call")
    await deploy(site, status=400, id="depot-answers", configured_props={"hooks": "http://127.0.0.1:9/none"})

    await site.call("DELETE", "/users/ada")

    assert (await site.http.get(path_of(made))).status_code == 404
    assert site.project.endpoint_keys.find_trigger_id(path_of(made)[1:]) is None
    assert (await of(site, "GET", "")).json()["data"] == []


async def test_by_host(site: Served) -> None:
    """The endpoint also answers under a host of its own, as at the platform."""
    made = await deploy(site, id="depot-new-call")
    host = f"{path_of(made)[1:]}.m.pipedream.net"

    answer = await site.http.post("/x", content=b"1", headers={"Host": host})

    (got,) = await until(site, made["id"], 1)
    assert (answer.status_code, got["path"], got["url"]) == (200, "/x", f"http://{host}/x")
