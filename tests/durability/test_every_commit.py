"""A server that dies before or after any commit, or gets no reply to it: the run that it accepted ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.storage import Project
from tests.cli.fork_server import ForkServer
from tests.durability.database_proxy import DatabaseProxy, each_or_nth, proxy_of
from tests.durability.faults import KILL_AT_COMMIT
from tests.durability.hosts import LEASE_S, Hosts, hosts_of
from tests.durability.server_process import (
    Counts,
    ServerProcess,
    count_outcomes,
    logging_step,
    new_project,
    server_of,
)
from tests.http_servers import AnsweringServer
from tests.postgres import PostgresServer
from tests.waiting import LIMIT_S

TOKEN = "xoxb-durable-0123456789"
SIGNATURE = "sha256=durable9876543210"
TOKEN_HASH, SIGNATURE_HASH = (hashlib.sha256(secret.encode()).hexdigest() for secret in (TOKEN, SIGNATURE))
SETTINGS = (
    "%%pdworkflow\nname: Flow\ntrigger: {type: http, auth: none, response: custom}\nsettings: {auto_retry: true}\n"
)
SEND = "pd.send.http(method='POST', url={url!r}, data={{'run': trigger['context']['id'], 'step': {step!r}, 'token': {token}}})\n"
STEPS = ("answer", "notify", "nap", "ask", "call", "flaky", "last")


def workflow(log: Path, url: str) -> list[str]:
    """The cells of a workflow with a response, messages, pauses in parallel branches, a triggered workflow and an error that is retried."""
    token = "pd.steps['answer']['$return_value']"
    failed = log.with_suffix(".failed")
    return [
        SETTINGS,
        logging_step(
            "answer",
            log,
            "pd.respond(status=200, body={'run': trigger['context']['id']}, immediate=True)\n"
            "return pd.inputs['slack']['$auth']['oauth_access_token']",
            options="--app slack",
        ),
        logging_step("notify", log, SEND.format(url=url, step="notify", token=token)),
        "%%pdparallel both\nsleeps: always\nasks: always\nskips: never",
        logging_step("nap", log, "pd.flow.delay(1)", options="--in both.sleeps"),
        logging_step("ask", log, "return pd.flow.suspend(3600000)", options="--in both.asks"),
        logging_step("call", log, "return pd.flow.trigger('child', {'n': 1})"),
        logging_step(
            "flaky",
            log,
            f"failed = {str(failed)!r} + trigger['context']['id']\n"
            f"if not os.path.exists(failed):\n    open(failed, 'w').close()\n"
            f"    raise ValueError('the token is ' + {token})",
        ),
        logging_step(
            "last",
            log,
            SEND.format(url=url, step="last", token=token)
            + f"received = [{token}, trigger['event']['headers']['x-hub-signature-256']]\n"
            f"return [hashlib.sha256(each.encode()).hexdigest() for each in received] == {[TOKEN_HASH, SIGNATURE_HASH]!r}",
        ),
    ]


def child(log: Path, url: str) -> list[str]:
    """The cells of the workflow that is triggered."""
    return [
        logging_step("pause", log, SEND.format(url=url, step="pause", token="None") + "pd.flow.delay(1)"),
        logging_step("result", log, "return 'child'"),
    ]


@dataclass
class Story:
    """
    Events from their requests to the ends of their runs, one after the other, whatever happens to the server.

    Attributes:
        server: The server.
        accepted: The runs of requests with a 2xx response.
        asked: When each call that resumes `ask` was sent first, by run.
        resumed: As in `count_outcomes`.
        bodies: The body of the call of a `resume_url` that got 2xx, by `RUN/STEP`.
        deaths: The number of deaths of the server.
        leaks: Files that held a secret when the server was dead.
    """

    server: ServerProcess
    accepted: list[str] = field(default_factory=list)
    asked: dict[str, float] = field(default_factory=dict)
    resumed: list[str] = field(default_factory=list)
    bodies: dict[str, int] = field(default_factory=dict)
    deaths: int = 0
    leaks: list[str] = field(default_factory=list)
    calls: int = 0

    def run_to_end(self, *before: object) -> None:
        """Start the server with a fault, and tell one event."""
        self.server.start(*before)
        self.tell_event()

    def tell_event(self) -> None:
        """Send an event, resume the pauses and restart the server, until all is done."""
        known, ends = len(self.accepted), time.monotonic() + LIMIT_S
        while len(self.accepted) == known or self._has_unfinished():
            assert time.monotonic() < ends, (self.server.rows("select id, status from runs"), self.server.errors)
            if not self.server.is_alive:
                self.server.kill()
                self.deaths += 1
                self.leaks += self.server.files_with(TOKEN, SIGNATURE)
                self.server.restart()
            elif len(self.accepted) == known:
                self._send_event()
            else:
                self._resume()
                time.sleep(0.01)

    def _has_unfinished(self) -> bool:
        unfinished = "select 1 from runs where ended is null union all select 1 from outbox where due is not null"
        return bool(self.server.rows(unfinished))

    def _send_event(self) -> None:
        headers = {"x_pd_external_user_id": "ada", "x_hub_signature_256": SIGNATURE}
        answer = self.server.post(self.server.endpoint, {"n": 0}, **headers)
        if answer.is_accepted:
            self.accepted.append(json.loads(answer.text)["run"])

    def _resume(self) -> None:
        """Call the URL of each pause that only a call ends, until the pause has an outcome."""
        paused = self.server.rows(
            "select run_id, path, number, data from waits join runs on id = run_id"
            " where kind in ('suspend', 'retry') and outcome is null and data <> '' and status = 'paused'"
        )
        for run, path, number, data in paused:
            exports: dict[str, Any] = json.loads(data)["exports"]
            url = exports["$return_value"]["resume_url"] if path == "ask" else exports["$attempt"]["rerun_url"]
            self.calls += 1
            if path == "ask":
                self.asked.setdefault(run, time.time())
            answer = self.server.post(url, {"call": self.calls})
            if answer.is_accepted:
                self.resumed.append(f"{run}/{path}/{number}")
                self.bodies[f"{run}/{path}"] = self.calls

    def check(self, received: AnsweringServer) -> Counts:
        """Check all that must hold at the end; return the counts."""
        server = self.server
        self.leaks += server.files_with(TOKEN, SIGNATURE)
        assert self.leaks == []
        runs = server.rows("select id from runs where parent is null")
        steps = {
            (run, name): json.loads(data) for run, name, data in server.rows("select run_id, name, data from steps")
        }
        begun = defaultdict[tuple[str, str], list[float]](list)
        for each in server.begun():
            begun[each.run, each.step].append(each.at)
        for (run,) in runs:
            assert [steps[run, step]["status"] for step in STEPS] == ["success"] * len(STEPS)
            # the step after the pause has all that the steps before had
            assert steps[run, "last"]["exports"]["$return_value"] is True
            assert steps[run, "call"]["exports"]["$return_value"] == "child"
            # no approval is skipped, and the approval that was answered is the one that counts
            assert begun[run, "call"][0] > self.asked[run]
            data = steps[run, "ask"]["exports"]["$resume_data"]["call"]
            assert data == self.bodies.get(f"{run}/ask", data)
        keys = defaultdict[tuple[str, str], set[str]](set)
        for message in received.requests:
            keys[message.json()["run"], message.json()["step"]].add(message.headers["idempotency-key"])
        sent = [(run, step) for (run,) in runs for step in ("notify", "last")]
        sent += [(run, "pause") for (run,) in server.rows("select id from runs where parent is not null")]
        assert {name: len(each) for name, each in keys.items()} == dict.fromkeys(sent, 1)
        assert all(message.json()["token"] in (TOKEN, None) for message in received.requests)
        return count_outcomes(server, self.accepted, self.resumed)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose database and key exist."""
    folder = tmp_path_factory.mktemp("template") / "project"
    new_project(folder, ["%%pdstep none\ndef handler(pd): pass"], token=TOKEN)
    return folder


def tell(
    fork_server: ForkServer, folder: Path, template: Path, receiver: AnsweringServer, number: int, side: str
) -> Story:
    """The story of an event whose server dies at one commit, checked."""
    received = len(receiver.requests)
    with server_of(fork_server, folder, template=template) as server:
        url = f"http://127.0.0.1:{receiver.server_port}/"
        new_project(folder, workflow(server.log, url), child=child(server.log, url))
        server.more = ("child.ipynb",)
        story = Story(server)
        story.run_to_end(KILL_AT_COMMIT, number, side)
        del receiver.requests[:received]
        story.check(receiver).check(f"killed {side} commit {number}")
        receiver.requests.clear()
    return story


@pytest.mark.parametrize(("number", "side"), [(6, "before"), (11, "after")])
def test_a_kill_at_a_commit_loses_nothing(
    fork_server: ForkServer, tmp_path: Path, template: Path, receiver: AnsweringServer, number: int, side: str
) -> None:
    """An event whose server was killed at one commit finishes; no step and no approval is repeated after its commit."""
    story = tell(fork_server, tmp_path / "project", template, receiver, number, side)

    assert story.deaths == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_kill_at_any_commit_loses_nothing(
    fork_server: ForkServer, tmp_path: Path, template: Path, receiver: AnsweringServer, side: str
) -> None:
    """The same for each commit, until a run has fewer commits than that."""
    for number in itertools.count(1):
        if tell(fork_server, tmp_path / str(number), template, receiver, number, side).deaths == 0:
            break

    assert number > 15


@contextmanager
def hosts_behind_proxy(
    fork_server: ForkServer, folder: Path, postgres: PostgresServer, url: str, receiver: AnsweringServer, *, others: int
) -> Iterator[tuple[Hosts, DatabaseProxy]]:
    """A host that reaches its database through a proxy, and beside it *others* that reach it directly; all serve the workflow."""
    log, receives = folder / "steps.log", f"http://127.0.0.1:{receiver.server_port}/"
    with proxy_of(postgres.sockets, url.partition("@/")[2].partition("?")[0]) as proxy:
        urls = [*[url] * others, proxy.url]
        cells, called = workflow(log, receives), child(log, receives)
        with hosts_of(fork_server, folder, urls, cells, options=("child.ipynb",), child=called) as hosts:
            with Project.open(folder / "host0" / ".pdkernel", database_url=url, key_file=folder / "key") as project:
                LocalDirectory(project).add_account(
                    external_user_id="ada", app="slack", credentials={"oauth_access_token": TOKEN}
                )
            for server in hosts.servers:
                server.database_url = url  # the tests read directly
            yield hosts, proxy


@pytest.mark.timeout(600)
@pytest.mark.parametrize("nth", [3, pytest.param(None, marks=pytest.mark.slow)], ids=["several", "each"])
def test_a_lost_reply_to_any_commit_changes_nothing(
    fork_server: ForkServer,
    tmp_path: Path,
    postgres: PostgresServer,
    postgres_url: str,
    receiver: AnsweringServer,
    nth: int | None,
) -> None:
    """
    If the connection is lost after PostgreSQL has committed, and before it says so, each event has one run, which finishes.

    The reply to every third commit is lost; or, of each commit alone, until an event has fewer commits than that.
    """
    with hosts_behind_proxy(fork_server, tmp_path, postgres, postgres_url, receiver, others=0) as (hosts, proxy):
        story, total = Story(hosts.reader), 0
        for number in itertools.count(1) if nth is None else range(nth):
            with proxy.losing(each_or_nth(number, nth)) as lost:
                story.tell_event()
            total += len(lost)
            if not lost:
                break

        assert total > 15
        assert [run for (run,) in hosts.reader.rows("select id from runs where parent is null")] == story.accepted
        story.check(receiver).check(f"no reply to {total} commits")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_host_that_is_cut_off_at_any_commit_loses_nothing(
    fork_server: ForkServer, tmp_path: Path, postgres: PostgresServer, postgres_url: str, receiver: AnsweringServer
) -> None:
    """If a host gets no reply to a commit, and does not reach its database for two leases, another host continues the run."""
    with hosts_behind_proxy(fork_server, tmp_path, postgres, postgres_url, receiver, others=1) as (hosts, proxy):
        story = Story(hosts.servers[1])

        def cut_off() -> None:
            proxy.cut()
            threading.Timer(2 * LEASE_S, proxy.heal).start()

        for number in itertools.count(1):
            with proxy.losing(each_or_nth(number, None), cut_off) as lost:
                story.tell_event()
            if not lost:
                break

        assert number > 8  # the other host makes the rest of the commits
        story.check(receiver).check(f"cut off at {number - 1} commits")
