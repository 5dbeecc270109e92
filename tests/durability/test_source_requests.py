"""Requests and ticks of event sources under faults: a sender that gets a 2xx response need not send again."""

from __future__ import annotations

import itertools
import json
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pdkernel.operations.triggers import enable_triggers
from pdkernel.storage import Project, Schedule
from tests.cli.fork_server import ForkServer
from tests.durability.database_proxy import each_or_nth, proxy_of
from tests.durability.faults import LIMIT_DATABASE, SLOW_EVENT
from tests.durability.hosts import hosts_of
from tests.durability.server_process import Answer, ServerProcess, logging_step, new_project, server_of
from tests.durability.sources import deploy_source, write_source
from tests.postgres import PostgresServer, stopping_postgres
from tests.waiting import wait_until

EARLY = "this.http.respond({ status: 202 });"
DEPLOYED = ["deployed", pytest.param("workflow", marks=pytest.mark.slow)]
"""The kinds of triggers, of which the usual run of the tests takes the first; both kinds share what is tested."""
WORKFLOW = ["workflow", pytest.param("deployed", marks=pytest.mark.slow)]


@dataclass(frozen=True)
class Scene:
    """A source whose run a test holds by files in *folder*."""

    folder: Path

    def source(self, before: str = "", *, custom: bool = False) -> str:
        """
        The source: it does *before*, tells that it has begun, waits until the test opens it, and emits the event's number.

        A function `first` returns whether it is the first call of all.
        """
        interface = '{ type: "$.interface.http", customResponse: true }' if custom else '"$.interface.http"'
        begun, opened = (json.dumps(str(self.folder / name)) for name in ("begun", "open"))
        return f"""
import {{ appendFileSync, existsSync, writeFileSync, readFileSync }} from "node:fs";
const begun = {begun}, open = {opened};
const first = () => existsSync(begun) && readFileSync(begun, "utf8").length === 1;
const killed = async () => {{ process.kill(process.pid, "SIGKILL"); await new Promise(() => {{}}) }};
export default {{ key: "depot-called", name: "Called", version: "0.1.0", type: "source", description: "d",
  props: {{ http: {interface}, timer: {{ type: "$.interface.timer", default: {{ intervalSeconds: 86400 }} }} }},
  async run(event) {{
    appendFileSync(begun, ".");
    {before}
    while (!existsSync(open)) await new Promise((done) => setTimeout(done, 10));
    this.$emit({{ n: event.body?.n ?? "tick", padding: event.body?.padding ?? "" }}) }} }};
"""

    def open(self) -> None:
        """Let the source end."""
        (self.folder / "open").touch()

    def wait_until_begun(self) -> None:
        """Wait until the source has begun."""
        wait_until((self.folder / "begun").exists)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A source whose run the test holds."""
    return Scene(tmp_path)


def add_source(folder: Path, text: str, kind: str, *, url: str | None = None, key: Path | None = None) -> str:
    """Add the source to the project, as the trigger of `flow.ipynb` or deployed for ada; return the path of its endpoint."""
    with Project.open(folder / ".pdkernel", database_url=url, key_file=key) as project:
        write_source(project, folder, "called", text)
        if kind == "deployed":
            return deploy_source(project, folder, "called", schedule=Schedule(86400.0))
        (view,) = enable_triggers(project, "Flow", folder)
        assert view.state is not None
        return "/" + project.endpoint_keys.ensure_trigger_key(view.state.id)


def cells_of(kind: str, log: Path) -> Sequence[str]:
    """The cells of a workflow that logs the numbers of its events."""
    trigger = "trigger: {type: source, uses: depot-called@0.1.0}\n" if kind == "workflow" else ""
    return [f"%%pdworkflow\nname: Flow\n{trigger}", logging_step("heard", log, number="trigger['event']['n']")]


@pytest.fixture
def server(fork_server: ForkServer, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server in a folder of its own, not started."""
    with server_of(fork_server, tmp_path / "project") as server:
        yield server


def start(server: ServerProcess, text: str, kind: str, *before: object) -> str:
    """Start the server with the source; return the URL of its endpoint."""
    new_project(server.folder, cells_of(kind, server.log))
    path = add_source(server.folder, text, kind)
    assert server.start(*before), server.said
    if kind == "workflow":
        server.wait_for("select 1 from workflow_triggers where active")
    return server.url + path


def heard(server: ServerProcess) -> list[object]:
    """The numbers of the events whose runs have begun."""
    return [each.event for each in server.begun()]


def wait_until_heard(server: ServerProcess, *numbers: object) -> None:
    """Wait until the runs of these events have begun, and nothing waits."""
    waiting = "select 1 from trigger_events union select 1 from answered_requests"
    server.wait_until(lambda: sorted(heard(server), key=str) == list(numbers) and not server.rows(waiting))


def make_due(server: ServerProcess, kind: str) -> None:
    """Let the time of the source's timer have come."""
    table = "workflow_triggers" if kind == "workflow" else "deployed_triggers"
    with closing(sqlite3.connect(server.database, timeout=20)) as connection, connection:
        connection.execute(f"update {table} set due = ?", (time.time() - 1,))


def post_later(server: ServerProcess, url: str, body: object) -> tuple[threading.Thread, list[Answer]]:
    """Send a request in a thread; return the thread, and the list that gets the response."""
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(server.post(url, body)))
    thread.start()
    return thread, answers


@pytest.mark.parametrize(
    ("kind", "custom"),
    [
        ("workflow", False),
        ("deployed", True),
        pytest.param("workflow", True, marks=pytest.mark.slow),
        pytest.param("deployed", False, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_accepts_no_request(server: ServerProcess, scene: Scene, kind: str, custom: bool) -> None:
    """While nothing can be stored, a sender is told to send again, also by a source that responds itself."""
    full = scene.folder / "full"
    url = start(server, scene.source(EARLY if custom else "", custom=custom), kind, LIMIT_DATABASE, str(full))
    scene.open()
    full.touch()
    refused = server.post(url, {"n": 1, "padding": "x" * 200_000})
    full.unlink()
    accepted = server.post(url, {"n": 2})

    wait_until_heard(server, 2)
    assert (refused.status, refused.retry_after) == (503, "5")
    assert accepted.status == (202 if custom else 200)


@pytest.mark.parametrize("kind", WORKFLOW)
def test_a_killed_worker_accepts_no_request(server: ServerProcess, scene: Scene, kind: str) -> None:
    """If the process of a source is killed before its events are stored, the sender is told to send again."""
    url = start(server, scene.source("this.$emit({ n: 0 }); if (first()) await killed();"), kind)
    scene.open()
    refused, accepted = server.post(url, {"n": 1}), server.post(url, {"n": 1})

    wait_until_heard(server, 0, 1)
    assert ((refused.status, refused.retry_after), accepted.status) == ((503, "5"), 200)


@pytest.mark.parametrize("kind", DEPLOYED)
def test_a_worker_that_is_killed_after_the_response_runs_again(server: ServerProcess, scene: Scene, kind: str) -> None:
    """If the process of a source is killed after the source has responded, the request runs again, without its sender."""
    url = start(server, scene.source(f"{EARLY} if (first()) await killed();", custom=True), kind)
    scene.open()
    answer = server.post(url, {"n": 1})

    wait_until_heard(server, 1)
    assert answer.status == 202


def test_a_source_that_fails_is_no_success(server: ServerProcess, scene: Scene) -> None:
    """The sender gets 500 with the error of the source, with and without a response of the source's own."""
    url = start(server, scene.source("throw new Error('no stock');"), "deployed")
    answer = server.post(url, {"n": 1})

    assert (answer.status, answer.text) == (500, "The source failed: Error: no stock\n")


@pytest.mark.parametrize("custom", [False, True], ids=["default", "custom"])
def test_a_sigterm_loses_no_request(server: ServerProcess, scene: Scene, custom: bool) -> None:
    """A request whose source is ended by a shutdown is refused, or runs again if its source has responded."""
    url = start(server, scene.source(EARLY if custom else "", custom=custom), "deployed")
    thread, answers = post_later(server, url, {"n": 1})
    scene.wait_until_begun()
    if custom:
        thread.join()
    server.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    server.send_signal(signal.SIGTERM)  # at once, without the grace
    server.wait_until_ended()
    thread.join()
    scene.open()
    assert server.start()
    if not custom:
        answers.append(server.post(url, {"n": 1}))

    wait_until_heard(server, 1)
    assert [(each.status, each.retry_after) for each in answers] == (
        [(202, None)] if custom else [(503, "5"), (200, None)]
    )


def test_a_sigterm_during_the_commit_repeats_no_request(server: ServerProcess, scene: Scene) -> None:
    """A request whose events are being stored when its source is ended is accepted: its sender does not send it again."""
    reached = scene.folder / "reached"
    url = start(server, scene.source(), "deployed", SLOW_EVENT, 2.0, str(reached))
    scene.open()
    thread, answers = post_later(server, url, {"n": 1})
    server.wait_until(reached.exists)
    for _ in range(2):
        server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    server.wait_until_ended()
    thread.join()
    assert server.start()
    if not answers[0].is_accepted:
        server.post(url, {"n": 1})

    wait_until_heard(server, 1)


@pytest.mark.parametrize("kind", WORKFLOW)
def test_a_kill_after_the_response_runs_the_request_again(server: ServerProcess, scene: Scene, kind: str) -> None:
    """A request whose source has responded runs again if the server is killed, and starts one run."""
    url = start(server, scene.source(EARLY, custom=True), kind)
    answer = server.post(url, {"n": 1})
    files = server.files_with('"n": 1', '"n":1')
    server.kill()
    scene.open()
    server.restart()

    wait_until_heard(server, 1)
    assert (answer.status, files) == (202, [])
    assert server.post(url, {"n": 2}).status == 202
    wait_until_heard(server, 1, 2)


def test_a_refusing_source_stores_nothing(server: ServerProcess, scene: Scene) -> None:
    """A request that its source rejects is not stored: its sender knows that it has to send again."""
    url = start(server, scene.source("this.http.respond({ status: 401 });", custom=True), "deployed")
    answer = server.post(url, {"n": 1})
    stored = server.rows("select 1 from answered_requests")

    assert (answer.status, stored) == (401, [])


@pytest.mark.parametrize("kind", DEPLOYED)
def test_a_killed_tick_runs_again(server: ServerProcess, scene: Scene, kind: str) -> None:
    """A tick of a timer whose server is killed runs again at the next start, although its time has passed."""
    start(server, scene.source(), kind)
    make_due(server, kind)
    scene.wait_until_begun()
    server.kill()
    scene.open()
    server.restart()

    wait_until_heard(server, "tick")
    server.wait_for(
        "select due from workflow_triggers union select due from deployed_triggers where due > ?", time.time()
    )


@pytest.mark.slow  # it waits for the next try, like `tests.server.test_source_turns` with a clock of its own
@pytest.mark.parametrize("kind", ["deployed", "workflow"])
def test_a_tick_whose_worker_is_killed_runs_again(server: ServerProcess, scene: Scene, kind: str) -> None:
    """A tick of a timer whose process is killed is tried again, and its events are stored once."""
    start(server, scene.source("this.$emit({ n: 0 }); if (first()) await killed();"), kind)
    scene.open()
    make_due(server, kind)

    wait_until_heard(server, 0, "tick")


def test_a_database_that_is_down_accepts_no_request(fork_server: ForkServer, tmp_path: Path, scene: Scene) -> None:
    """While PostgreSQL is stopped, senders are told to send again, and a request that was answered before runs again."""
    log = tmp_path / "steps.log"
    with stopping_postgres() as (postgres, stop, restart), postgres.new_database() as url:
        folder = tmp_path / "host0"
        with hosts_of(fork_server, tmp_path, [url], cells_of("deployed", log)) as hosts:
            (server,) = hosts.servers
            early = f"if (event.body.n === 1) {EARLY}"
            path = add_source(folder, scene.source(early, custom=True), "deployed", url=url, key=tmp_path / "key")
            endpoint = server.url + path
            answered = server.post(endpoint, {"n": 1})
            waiting, late = post_later(server, endpoint, {"n": 2})
            stop(signal.SIGINT)
            scene.open()
            waiting.join()
            refused = server.post(endpoint, {"n": 3})
            restart()
            again = server.wait_until(lambda: (answer := server.post(endpoint, {"n": 3})).is_accepted and answer)
            wait_until_settled(server, 2)

            assert (answered.status, again and again.status) == (202, 200)
            assert [(each.status, each.retry_after) for each in (*late, refused)] == [(503, "5")] * 2
            assert sorted(map(str, heard(server))) == ["1", "3"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("nth", [3, pytest.param(None, marks=pytest.mark.slow)], ids=["several", "each"])
@pytest.mark.parametrize("custom", [False, True], ids=["default", "custom"])
def test_a_lost_reply_to_any_commit_repeats_no_request(
    fork_server: ForkServer,
    tmp_path: Path,
    scene: Scene,
    postgres: PostgresServer,
    postgres_url: str,
    custom: bool,
    nth: int | None,
) -> None:
    """
    If the connection is lost after PostgreSQL has committed, and before it says so, each request that is accepted has one run.

    The reply to every third commit is lost; or, of each commit alone, until a request has fewer commits than that.
    """
    database, log = postgres_url.partition("@/")[2].partition("?")[0], tmp_path / "steps.log"
    with (
        proxy_of(postgres.sockets, database) as proxy,
        hosts_of(fork_server, tmp_path, [proxy.url], cells_of("deployed", log)) as hosts,
    ):
        (server,) = hosts.servers
        source = scene.source(EARLY if custom else "", custom=custom)
        path = add_source(tmp_path / "host0", source, "deployed", url=postgres_url, key=tmp_path / "key")
        server.database_url = postgres_url  # the test reads directly
        scene.open()
        asked, total = list[int](), 0
        for number in itertools.count(1) if nth is None else range(nth):
            with proxy.losing(each_or_nth(number, nth)) as lost:
                answer = server.post(server.url + path, {"n": number})
                asked.append(number)
                assert answer.is_accepted, (number, answer, server.errors)
                wait_until_settled(server, len(asked))
            total += len(lost)
            if not lost:
                break

        assert total > 5
        assert sorted(map(str, heard(server))) == sorted(map(str, asked))


def wait_until_settled(server: ServerProcess, runs: int) -> None:
    """Wait until so many runs have ended, and nothing waits."""
    server.wait_for("select 1 where (select count(*) from runs where ended is not null) >= ?", runs)
    for table in ("answered_requests", "trigger_events", "runs where ended is null"):
        server.wait_for(f"select 1 where not exists (select 1 from {table})")
