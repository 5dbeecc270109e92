"""A server that dies around the commit of a deployed trigger's events: each event starts one run and reaches the webhook."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from pdkernel.storage import Project, Webhook
from tests.cli.fork_server import ForkServer
from tests.durability.faults import KILL_AT_EVENT
from tests.durability.server_process import ENDED, logging_step, new_project, server_of
from tests.durability.sources import deploy_source, write_source
from tests.http_servers import Answer, AnsweringServer, SentRequest, serve
from tests.waiting import LIMIT_S

SOURCE = """
export default { key: "depot-called", name: "Called", version: "0.1.0", type: "source", dedupe: "unique", description: "d",
  props: { http: "$.interface.http" },
  async run(event) { this.$emit({ n: event.body.n }, { id: event.body.n }) } };
"""
TRIGGER = "dc_called"
HANDED_OVER = "select 1 where not exists (select 1 from trigger_events)"


def deploy(folder: Path, url: str, *, hooks: tuple[str, ...] = ("wh_1",)) -> str:
    """Deploy the source for ada, with the workflow and webhooks as targets; return the path of its endpoint."""
    with Project.open(folder / ".pdkernel") as project:
        write_source(project, folder, "called", SOURCE)
        webhooks = [Webhook(each, url, "key", 1.0, 1.0) for each in hooks]
        return deploy_source(project, folder, "called", webhooks=webhooks)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_kill_loses_and_repeats_no_event(
    fork_server: ForkServer, tmp_path: Path, receiver: AnsweringServer, side: str
) -> None:
    """
    An event starts one run and reaches the webhook once, whichever side of its commit the server dies on.

    Before the commit, the sender has no response and sends again. After it, the sender also sends again, because the response is
    sent later; the state of the source knows the event.
    """
    folder = tmp_path / "project"
    with server_of(fork_server, folder) as server:
        new_project(folder, [logging_step("heard", server.log)])
        url = f"{server.url}{deploy(folder, receiver.url)}"
        server.start(KILL_AT_EVENT, side)
        lost = server.post(url, {"n": 1})
        server.wait_until_ended()
        waiting = server.rows("select workflow from trigger_events")
        server.restart()
        again = [server.post(url, {"n": 1}), server.post(url, {"n": 2})]
        server.wait_for("select 1 where (select count(*) from runs where status = 'success') = 2")
        server.wait_for(HANDED_OVER)

        assert (lost.status, [each.status for each in again]) == (0, [200, 200])
        assert len(waiting) == (0 if side == "before" else 2)
        assert [begun.step for begun in server.begun()] == ["heard", "heard"]
        assert [json.loads(request.body) for request in receiver.requests] == [{"n": 1}, {"n": 2}]
        assert server.rows("select distinct external_user from runs") == [("ada",)]


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_kill_at_the_removal_of_an_event_loses_none(
    fork_server: ForkServer, tmp_path: Path, receiver: AnsweringServer, side: str
) -> None:
    """An event is removed after its run is recorded: a server that dies around the removal has started the run, once."""
    folder = tmp_path / "project"
    with server_of(fork_server, folder) as server:
        new_project(folder, [logging_step("heard", server.log)])
        url = f"{server.url}{deploy(folder, receiver.url, hooks=())}"
        server.start(KILL_AT_EVENT, side, "DELETE FROM trigger_events")
        server.post(url, {"n": 1})
        server.wait_until_ended()
        recorded = server.rows("select count(*) from runs")
        server.restart()
        server.wait_for(HANDED_OVER)
        server.wait_for(ENDED)

        assert recorded == [(1,)]
        assert server.rows("select status from runs") == [("success",)]


def test_a_kill_during_a_webhooks_request_sends_it_again(fork_server: ForkServer, tmp_path: Path) -> None:
    """An event is removed after its webhook has answered: a server that dies before sends it again, under the same key."""
    folder, may_answer = tmp_path / "project", threading.Event()

    def answer(_: SentRequest) -> Answer:
        may_answer.wait(LIMIT_S)
        return 204, b""

    with serve(AnsweringServer(answer)) as product, server_of(fork_server, folder) as server:
        new_project(folder, [logging_step("heard", server.log)])
        url = f"{server.url}{deploy(folder, product.url)}"
        server.start()
        assert server.post(url, {"n": 1}).is_accepted
        server.wait_until(lambda: product.requests)
        server.kill()
        may_answer.set()
        server.restart()
        server.wait_for(HANDED_OVER)

        keys = [request.headers["idempotency-key"] for request in product.requests]
        assert len(keys) == 2
        assert len(set(keys)) == 1


def test_a_kill_during_a_deployment_leaves_no_trigger(
    fork_server: ForkServer, tmp_path: Path, receiver: AnsweringServer
) -> None:
    """The caller has no response and deploys another trigger, so the next server deactivates and removes the first one."""
    folder, begun = tmp_path / "project", tmp_path / "begun"
    hooks = f"""hooks: {{
      async activate() {{ appendFileSync({json.dumps(str(begun))}, "."); await new Promise(() => {{ setTimeout(() => 0, 1e6) }}) }},
      async deactivate() {{ await fetch({json.dumps(receiver.url)}, {{ method: "POST", body: "{{}}" }}) }},
    }}, async run"""
    source = 'import { appendFileSync } from "node:fs";' + SOURCE.replace("async run", hooks)
    with server_of(fork_server, folder) as server:
        new_project(folder, [logging_step("heard", server.log)])
        deploy(folder, receiver.url)
        (folder / "components/components/depot/sources/called/called.mjs").write_text(source)
        with Project.open(folder / ".pdkernel") as project:
            project.deployed_triggers.remove(TRIGGER)
            client = project.oauth_clients.create("product").client
            token = project.access_tokens.issue(client.id, ("*",))
            url = f"{server.url}/v1/connect/{project.project_id}/triggers/deploy"
        server.start()
        body = {"external_user_id": "ada", "id": "depot-called", "configured_props": {}}
        headers = {"authorization": f"Bearer {token}", "x_pd_environment": "development"}
        caller = threading.Thread(target=server.post, args=(url, body), kwargs=headers)
        caller.start()
        server.wait_until(begun.exists)
        server.kill()
        caller.join()
        left = server.rows("select count(*) from deployed_triggers")
        server.restart()
        server.wait_for("select 1 where not exists (select 1 from deployed_triggers)")

        assert left == [(1,)]
        assert len(receiver.requests) == 1
