"""Requests to endpoints of deployed triggers; a real Node.js runs the sources."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.actions.checkout import write_checkout
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.server.deploying import call_trigger, deploy, events, write_sources
from tests.server.served import Served, served

KEY = "signing-key-of-the-app-0123456789"
CALLED = """
export default { key: "depot-new-call", name: "New Call", version: "0.1.0", type: "source", description: "Receives requests.",
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
    await this.http.respond({ status: 202, headers: { "x-handled": "1" }, body: { got: body.say } });
    if (body.say === "late") await fetch(this.hooks, { method: "POST", body: JSON.stringify({ late: true }) });
    this.$emit({ said: body.say });
  } };
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Served]:
    """A project with the sources and ada's account."""
    checkout = write_checkout(tmp_path / "components")
    write_sources(checkout, new_call=CALLED, answers=ANSWERS)
    async with served(tmp_path) as site:
        site.project.settings.set("actions", str(checkout))
        site.connect("ada", "depot", {"api_key": KEY}, account_id="apn_a")
        yield site


def path_of(made: dict[str, Any]) -> str:
    """The path of a trigger's endpoint."""
    url = made["configured_props"]["http"]["endpoint_url"]
    assert isinstance(url, str)
    assert url.startswith("http://127.0.0.1:4000/en")
    return url.removeprefix("http://127.0.0.1:4000")


async def wait_for_events(site: Served, trigger: str, count: int) -> list[Any]:
    """The events of the trigger, newest first, as soon as there are *count*."""
    async with asyncio.timeout(60):
        while len(found := await events(site, trigger)) < count:
            await asyncio.sleep(0.02)
    return found


async def send_signed(site: Served, made: dict[str, Any], say: str, *, key: str = KEY) -> httpx.Response:
    """Send a signed request to the source that responds itself."""
    body = json.dumps({"say": say}).encode()
    signed = hmac.new(key.encode(), body, hashlib.sha256).hexdigest()
    headers = {"content-type": "application/json", "x-signature": signed}
    return await site.http.post(path_of(made), content=body, headers=headers)


async def test_a_request_runs_the_source(site: Served) -> None:
    """The source gets the request unchanged, and the caller gets 200 when the event is stored."""
    made = await deploy(site, id="depot-new-call")

    headers = [("Content-Type", "application/json"), ("x-twice", "1"), ("x-twice", "2")]
    answer = await site.http.post(f"{path_of(made)}/deep/e%20r?a=1&b=2&b=3", content=b'{"n": 1.50}\n', headers=headers)
    (got,) = await events(site, made["id"])

    assert (answer.status_code, answer.content) == (200, b"")
    assert (got["method"], got["path"], got["query"]) == ("POST", "/deep/e r", {"a": "1", "b": ["2", "3"]})
    assert got["url"] == f"http://127.0.0.1:4000{path_of(made)}/deep/e%20r?a=1&b=2&b=3"
    assert (got["client_ip"], got["headers"]["x-twice"]) == ("127.0.0.1", "1, 2")
    assert (got["body"], got["bodyRaw"]) == ({"n": 1.5}, '{"n": 1.50}\n')
    assert got["headers"]["content-type"] == "application/json"


async def test_concurrent_requests_run_one_after_the_other(site: Served) -> None:
    """Each run of a source sees the state of the previous run."""
    made = await deploy(site, id="depot-new-call")

    answers = await asyncio.gather(*(site.http.get(path_of(made)) for _ in range(6)))
    found = await wait_for_events(site, made["id"], 6)

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(event["seen"] for event in found) == [1, 2, 3, 4, 5, 6]


async def test_a_source_registers_itself(site: Served, receiver: AnsweringServer) -> None:
    """The activate hook registers the endpoint at the app, and the deactivate hook removes it."""
    made = await deploy(site, id="depot-answers", configured_props={"hooks": receiver.url})

    await call_trigger(site, "DELETE", f"/{made['id']}")

    url = f"http://127.0.0.1:4000{path_of(made)}"
    assert [request.json() for request in receiver.requests] == [{"add": url}, {"remove": url}]
    assert (await site.http.get(path_of(made))).status_code == 404


async def test_a_source_responds_itself(site: Served, receiver: AnsweringServer) -> None:
    """With customResponse the caller gets the source's response; the source verifies the raw body's signature."""
    made = await deploy(site, id="depot-answers", configured_props={"hooks": receiver.url})

    good, bad = await send_signed(site, made, "hello"), await send_signed(site, made, "hello", key="another")
    silent, failed = await send_signed(site, made, "nothing"), await send_signed(site, made, "fail")

    assert (good.status_code, good.json(), good.headers["x-handled"]) == (202, {"got": "hello"}, "1")
    assert (bad.status_code, bad.text) == (401, "no")
    assert (silent.status_code, silent.content) == (200, b"")
    assert (failed.status_code, failed.text) == (500, "The source failed: Error: failed\n")
    assert await wait_for_events(site, made["id"], 1) == [{"said": "hello"}]


async def test_the_response_comes_before_the_end_of_the_run(site: Served) -> None:
    """The caller gets the response while the source goes on."""
    may_end = threading.Event()

    def hold(request: SentRequest) -> Answer:
        if "late" in request.json():
            may_end.wait(60)
        return 204, b""

    with serve(AnsweringServer(hold)) as app:
        made = await deploy(site, id="depot-answers", configured_props={"hooks": app.url})
        answer = await send_signed(site, made, "late")
        then = await events(site, made["id"])
        may_end.set()
        found = await wait_for_events(site, made["id"], 1)

    assert (answer.status_code, then) == (202, [])
    assert found == [{"said": "late"}]


async def test_an_inactive_trigger_has_no_endpoint(site: Served) -> None:
    """An inactive trigger is answered 404; an activated trigger has the same endpoint again."""
    made = await deploy(site, id="depot-new-call")

    await call_trigger(site, "PUT", f"/{made['id']}", json={"active": False})
    off = await site.http.get(path_of(made))
    changed = (await call_trigger(site, "PUT", f"/{made['id']}", json={"active": True, "configured_props": {}})).json()[
        "data"
    ]
    on = await site.http.get(path_of(made))

    assert (off.status_code, on.status_code) == (404, 200)
    assert path_of(changed) == path_of(made)


async def test_a_page_may_call_a_trigger(site: Served) -> None:
    """A preflight request is answered for every page, and does not run the source."""
    made = await deploy(site, id="depot-new-call")

    answer = await site.http.options(path_of(made), headers={"access-control-request-headers": "x-mine"})

    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "*")
    assert answer.headers["access-control-allow-headers"] == "x-mine"
    assert await events(site, made["id"]) == []


async def test_a_request_to_a_source_that_cannot_be_loaded(
    site: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender gets 500, so that it sends again, and the log has the reason without the key of the endpoint."""
    made = await deploy(site, id="depot-new-call")
    (tmp_path / "components/components/depot/sources/new-call/new-call.mjs").write_text("throw new Error('moved');")

    answer = await site.http.post(path_of(made))

    assert (answer.status_code, "moved" in answer.text) == (500, False)
    assert f"The deployed trigger {made['id']} did not run: " in caplog.text
    assert path_of(made)[1:] not in caplog.text


async def test_only_the_first_response_of_a_source_counts(site: Served, tmp_path: Path) -> None:
    """A source that responds twice sends its first response, and goes on."""
    twice = CALLED.replace('http: "$.interface.http"', 'http: { type: "$.interface.http", customResponse: true }')
    twice = twice.replace(
        "this.$emit(", "this.http.respond({ status: 201 });\n    this.http.respond({ status: 202 });\n    this.$emit("
    )
    write_sources(tmp_path / "components", twice=twice.replace("depot-new-call", "depot-twice"))
    made = await deploy(site, id="depot-twice")

    answer = await site.http.post(path_of(made))

    assert answer.status_code == 201
    assert len(await wait_for_events(site, made["id"], 1)) == 1


async def test_a_large_body_is_rejected(site: Served) -> None:
    """A body above the limit is answered 413 and runs nothing; a body that is not text is decoded with replacements."""
    made = await deploy(site, id="depot-new-call")

    large = await site.http.post(path_of(made), content=b"x" * (512 * 1024 + 1))
    binary = await site.http.post(path_of(made), content=b"\xff\x00")
    found = await wait_for_events(site, made["id"], 1)

    assert (large.status_code, binary.status_code) == (413, 200)
    assert [event["bodyRaw"] for event in found] == ["�\x00"]


async def test_the_endpoint_is_deleted_with_its_trigger(site: Served) -> None:
    """A deleted user and a failed activate hook leave no endpoint."""
    made = await deploy(site, id="depot-new-call")
    await deploy(site, status=400, id="depot-answers", configured_props={"hooks": "http://127.0.0.1:9/none"})

    await site.call("DELETE", "/users/ada")

    assert (await site.http.get(path_of(made))).status_code == 404
    assert site.project.endpoint_keys.find_trigger_id(path_of(made)[1:]) is None
    assert (await call_trigger(site, "GET", "")).json()["data"] == []


async def test_the_endpoint_in_a_host_name(site: Served) -> None:
    """The endpoint's key may be in the host name, as on the platform."""
    made = await deploy(site, id="depot-new-call")
    host = f"{path_of(made)[1:]}.m.pipedream.net"

    answer = await site.http.post("/x", content=b"1", headers={"Host": host})

    (got,) = await wait_for_events(site, made["id"], 1)
    assert (answer.status_code, got["path"], got["url"]) == (200, "/x", f"http://{host}/x")
