"""
Servers under load whose faults a seed chooses, and the promises that must hold: accepted runs end once, limits hold, failures are told.

The figures are printed each minute. The error about a broken promise has the runs, the last faults, and the folder with the
database and the logs.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pdkernel.journal import MAX_DEATHS_ALONE
from pdkernel.operations.triggers import enable_triggers
from pdkernel.storage import Project
from tests.cli.fork_server import ForkServer
from tests.durability.database_proxy import DatabaseProxy, proxy_of
from tests.durability.faults import ALL_OF, LIMIT_DATABASE, SHIFT_CLOCK, SHORTEN_LEASE
from tests.durability.hosts import BEAT_S, LEASE_S
from tests.durability.server_process import Began, ServerProcess, logging_step
from tests.durability.sources import deploy_source, write_source
from tests.notebook_files import notebook_of
from tests.ports import free_port
from tests.postgres import PostgresServer, stopping_postgres

HOSTS = 3
CLIENTS = 4
MAX_WAITING = 150
"""Runs beyond which clients wait, so that the end of the load is not far from the end of the runs."""
END_LIMIT_S = 300.0
"""Seconds in which all runs end after the last fault."""
LOST_REPLIES = 0.02
"""The part of the commits to PostgreSQL whose reply is lost at any time."""
STEPS = ("one", "slow", "nap", "call", "last")
STARTS, PERIOD_S = 5, 10
"""The limit of the workflow `Throttled`; on a busy machine, a step logs its begin up to half of a period later."""
KINDS = {"Load": 6, "One": 2, "Throttled": 1, "Bad": 1, "plain": 2, "early": 1}
"""The events that clients send, by how often: to a workflow, or to a source."""
SOURCE = """
export default {{ key: "depot-{name}", name: "Called", version: "0.1.0", type: "source", description: "d",
  props: {{ http: {{ type: "$.interface.http", customResponse: {custom} }} }},
  async run(event) {{
    if ({custom}) this.http.respond({{ status: 202 }});
    await new Promise((done) => setTimeout(done, 50));
    this.$emit({{ n: event.body.n }}) }} }};
"""


def notebooks_of(log: Path) -> dict[str, list[str]]:
    """The notebooks that are served: a long workflow and its child, two with limits, and listeners of errors and of sources."""

    def flow(name: str, *steps: str, settings: str = "lambda_timeout: 300", trigger: str = "") -> list[str]:
        return [f"%%pdworkflow\nname: {name}\nsettings: {{{settings}}}\n{trigger}", *steps]

    call = "return pd.flow.trigger('child', {'body': {'n': body['n']}})"
    bodies = (
        "return 1",
        "time.sleep(0.05)",
        "pd.flow.delay(200)",
        call,
        "assert pd.steps['call']['$return_value'] == body['n']",
    )
    ended = 'line[1], line[3] = "ended", time.time()'
    write = "log = os.open({!r}, os.O_WRONLY | os.O_APPEND)\nos.write(log, (json.dumps(line) + chr(10)).encode())\nos.close(log)"
    return {
        "flow": flow("Load", *(logging_step(name, log, body) for name, body in zip(STEPS, bodies, strict=True))),
        "child": flow("Child", logging_step("child", log, "return body['n']")),
        "one": flow(
            "One",
            logging_step("span", log, f"time.sleep(0.1)\n{ended}\n{write.format(str(log))}"),
            settings="concurrency: 1",
        ),
        "throttled": flow(
            "Throttled", logging_step("start", log), settings=f"throttle: {{limit: {STARTS}, interval: {PERIOD_S}}}"
        ),
        "bad": flow("Bad", logging_step("bad", log, "raise ValueError('no stock')")),
        "ears": flow(
            "Ears",
            logging_step("told", log, number="trigger['event']['original_context']['id']"),
            trigger="trigger: {type: errors}",
        ),
        "heard": flow("Heard", logging_step("heard", log, number="trigger['event']['n']")),
    }


@dataclass
class Stress:
    """
    Servers, the events that they have accepted, and the faults so far.

    Attributes:
        seed: Chooses the faults.
        folder: Has the databases and the logs.
        servers: The servers, one or several hosts of one database.
        proxies: A proxy before the database of each host, or none on SQLite.
        database: Stops PostgreSQL by a signal, and starts it; None on SQLite.
        sources: The paths of the endpoints of the sources.
        sent: The kind of each event by its number.
        accepted: The run of each event that got a 2xx response, by its number; None for a request to a source.
        refused: The status of each other event; 0 without a response.
        faults: All faults, with the seconds since the start.
    """

    seed: int
    folder: Path
    servers: Sequence[ServerProcess]
    proxies: Sequence[DatabaseProxy] = ()
    database: tuple[Callable[[signal.Signals], None], Callable[[], None]] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    sent: dict[int, str] = field(default_factory=dict)
    accepted: dict[int, str | None] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    faults: list[tuple[float, str]] = field(default_factory=list)
    waiting: int = 0

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self._chance = random.Random(self.seed)
        self._numbers = itertools.count()
        self._endpoints: dict[str, str] = {}
        self._stopped = threading.Event()

    @property
    def reader(self) -> ServerProcess:
        """Reads the database and the log of steps, which all hosts share."""
        return self.servers[0]

    def start(self, server: ServerProcess, *, must: bool = True) -> None:
        """Start a server, unless it runs; without its database it may not start."""
        if server.is_alive:
            return
        shift = [SHIFT_CLOCK, str(server.folder / "shift")]
        if self.proxies:
            proxy, direct = self.proxies[self.servers.index(server)], server.database_url
            server.database_url = proxy.url
            is_started = server.start(ALL_OF, shift, [SHORTEN_LEASE, LEASE_S, BEAT_S, str(server.folder / "executor")])
            server.database_url = direct
        else:
            is_started = server.start(ALL_OF, shift, [LIMIT_DATABASE, str(self.folder / "full")])
        assert is_started or not must, (server.said, server.errors)
        if is_started:
            self._endpoints = {each["name"]: each["url"] for each in json.loads(server.said)["workflows"]}

    def run(self, seconds: float, *, say: Callable[[str], object] = print) -> None:
        """Load the servers and let faults happen for so long; at last wait for the ends of all runs. Raises `AssertionError`."""
        for number, server in enumerate(self.servers):
            self.start(server)
            if self.proxies:
                self._lose_replies(number, LOST_REPLIES)
        clients = [threading.Thread(target=self._send_events, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        ends, reported = time.monotonic() + seconds, time.monotonic()
        try:
            while time.monotonic() < ends:
                self._befall()
                if time.monotonic() > reported + 60:
                    reported = time.monotonic()
                    self.report(say)
        finally:
            self._stopped.set()
            for client in clients:
                client.join()
        self._wait_until_ended()
        self.report(say, is_over=True)

    def _send_events(self, client: int) -> None:
        chance = random.Random(f"{self.seed} {client}")
        while not self._stopped.wait(chance.uniform(0.2, 1.0)):
            if self.waiting < MAX_WAITING:
                self._send(chance.choices([*KINDS], [*KINDS.values()])[0], chance.choice(self.servers))

    def _send(self, kind: str, server: ServerProcess) -> None:
        number = next(self._numbers)
        self.sent[number] = kind
        url = self._endpoints[kind] if kind in self._endpoints else server.url + self.sources[kind]
        answer = server.post(url, {"n": number})
        while answer.status == 503 and kind in self.sources and not self._stopped.wait(0.5):  # nothing was stored
            answer = server.post(url, {"n": number})
        if not answer.is_accepted:
            self.refused[number] = answer.status
        else:
            self.accepted[number] = None if kind in self.sources else json.loads(answer.text)["event_id"]

    def _befall(self) -> None:
        """Let one fault happen, or another one within it; then all servers run again."""
        chance = self._chance
        time.sleep(chance.uniform(0.2, 2.5))
        while self._has_often_interrupted():
            time.sleep(0.1)
        server = chance.choice(self.servers)
        kinds: list[Callable[[ServerProcess], AbstractContextManager[object]]] = [
            self.killed,
            self.killed,
            self.stopped,
            self.loaded,
        ]
        kinds += [self.cut_off, self.silent, self.lossy, self.down] if self.proxies else [self.full]
        outer, inner = chance.sample(kinds, 2)
        with outer(server):
            time.sleep(chance.uniform(0.0, 3.0))
            if chance.random() < 0.3:
                with inner(chance.choice(self.servers)):
                    time.sleep(chance.uniform(0.0, 2.0))
        for each in self.servers:
            self.start(each)
        if chance.random() < 0.3:
            with self.jumped(server):
                time.sleep(chance.uniform(0.5, 10.0))
        self.waiting = self.reader.rows("select count(*) from runs where ended is null")[0][0]

    def _has_often_interrupted(self) -> bool:
        """Whether a run is near to being given up by too many kills, which would be correct."""
        query = "select 1 from runs join interruptions on run_id = id where ended is null and alone group by id having count(*) > ?"
        return bool(self.reader.rows(query, MAX_DEATHS_ALONE // 2))

    def _note(self, fault: str, server: ServerProcess | None = None) -> None:
        host = "" if server is None or len(self.servers) == 1 else f" {self.servers.index(server)}"
        self.faults.append((time.monotonic() - self.began, fault + host))

    @contextmanager
    def killed(self, server: ServerProcess) -> Iterator[None]:
        """The server is killed, and starts at the end of the block."""
        self._note("kill", server)
        server.kill()
        yield
        self.start(server, must=False)

    @contextmanager
    def stopped(self, server: ServerProcess) -> Iterator[None]:
        """The server stops in order, or by a second signal at once, and starts at the end of the block."""
        self._note("stop", server)
        if server.is_alive:
            server.send_signal(signal.SIGTERM)
            if self._chance.random() < 0.5:
                time.sleep(0.3)
                server.send_signal(signal.SIGTERM)
            server.wait_until_ended()
        yield
        self.start(server, must=False)

    @contextmanager
    def loaded(self, server: ServerProcess) -> Iterator[None]:
        """Many events arrive at once, so runs wait for a place."""
        self._note("load", server)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: self._send("Load", server), range(24)))
        yield

    @contextmanager
    def jumped(self, server: ServerProcess) -> Iterator[None]:
        """The wall clock of the server is an hour ahead, or behind, for seconds."""
        self._note("jump", server)
        shift = server.folder / "shift"
        shift.write_text(self._chance.choice(("3600", "-3600")))
        yield
        shift.write_text("0")

    @contextmanager
    def full(self, _: ServerProcess) -> Iterator[None]:
        """The disk is full."""
        self._note("full disk")
        (self.folder / "full").touch()
        yield
        (self.folder / "full").unlink()

    @contextmanager
    def cut_off(self, server: ServerProcess) -> Iterator[None]:
        """The host does not reach its database."""
        self._note("cut off", server)
        proxy = self.proxies[self.servers.index(server)]
        proxy.cut()
        yield
        proxy.heal()

    @contextmanager
    def silent(self, server: ServerProcess) -> Iterator[None]:
        """The host gets no answers of its database, and then has no connections."""
        self._note("silent", server)
        proxy = self.proxies[self.servers.index(server)]
        proxy.is_held = True
        yield
        proxy.cut()
        proxy.heal()

    @contextmanager
    def lossy(self, server: ServerProcess) -> Iterator[None]:
        """The host gets no reply to many of its commits."""
        self._note("lost replies", server)
        number = self.servers.index(server)
        self._lose_replies(number, 0.3)
        yield
        self._lose_replies(number, LOST_REPLIES)

    def _lose_replies(self, number: int, part: float) -> None:
        chance = random.Random(f"{self.seed} {number} {part}")
        self.proxies[number].on_commit = lambda _: chance.random() < part

    @contextmanager
    def down(self, _: ServerProcess) -> Iterator[None]:
        """PostgreSQL is stopped, fast or at once."""
        self._note("database down")
        assert self.database is not None
        stop, start = self.database
        stop(self._chance.choice((signal.SIGINT, signal.SIGQUIT)))
        try:
            yield
        finally:
            start()

    def _wait_until_ended(self) -> None:
        ends = time.monotonic() + END_LIMIT_S
        tables = (
            "runs where ended is null",
            "trigger_events",
            "answered_requests",
            "outbox where due is not null",
            "turns",
        )
        query = " union all ".join(f"select '{table}' from {table}" for table in tables)
        while (left := self.reader.rows(query)) and time.monotonic() < ends:
            time.sleep(0.2)
        assert not left, self.explain(
            [f"{count} rows are left in {table}" for (table,), count in Counter(left).items()]
        )

    def report(self, say: Callable[[str], object], *, is_over: bool = False) -> None:
        """Print the figures. Raises `AssertionError` if a promise is broken."""
        accepted = {run for run in self.accepted.copy().values() if run is not None}
        runs = dict(self.reader.rows("select id, ended from runs"))
        begun = self.reader.begun()
        broken = {
            "lost": sorted(accepted - runs.keys()),
            "repeated": find_repeated(begun),
            "violated": find_beyond_limits(begun),
        }
        broken["violated"] += self._find_failed()
        if not self.proxies:  # a host that does not reach PostgreSQL cannot know what it has committed
            broken["violated"] += [f"refused: {each}" for each in begun if self.refused.get(each.event) == 503]
        if is_over:
            broken["lost"] += self._find_unheard(begun)
            broken["violated"] += self._find_untold(begun)
        finished = sum(runs.get(run) is not None for run in accepted)
        counts = ", ".join(f"{len(each)} {name}" for name, each in broken.items())
        kinds = Counter(fault.rstrip(" 0123456789") for _, fault in self.faults)
        refused = Counter(status or "no response" for status in self.refused.copy().values())
        kind = "PostgreSQL" if self.proxies else "SQLite"
        say(
            f"{time.monotonic() - self.began:.0f} s, {kind}, seed {self.seed}: {len(self.sent)} sent, {len(self.accepted)} accepted "
            f"(else {_join(refused)}), {finished} runs of {len(accepted)} finished, {counts}; faults: {_join(kinds)}"
        )
        assert not any(broken.values()), self.explain(
            [f"{name}: {each}" for name, several in broken.items() for each in several]
        )

    def _find_failed(self) -> list[str]:
        """The runs that have ended otherwise than their workflow does without faults."""
        query = "select workflow, id, status, output from runs where ended is not null and status <> case when workflow = 'Bad' then 'error' else 'success' end"
        return [str(row) for row in self.reader.rows(query)]

    def _find_unheard(self, begun: Sequence[Began]) -> list[str]:
        """The requests of sources that were accepted and started no run, or that started two."""
        runs = defaultdict[object, set[str]](set)
        for each in begun:
            if each.step == "heard":
                runs[each.event].add(each.run)
        asked = [number for number, kind in self.sent.items() if kind in self.sources]
        return [
            f"request {number} of the source {self.sent[number]} started the runs {runs[number]}, and was accepted: {number in self.accepted}"
            for number in asked
            if len(runs[number]) > 1 or (number in self.accepted and not runs[number])
        ]

    def _find_untold(self, begun: Sequence[Began]) -> list[str]:
        """The failed runs that the listener of errors has not heard of, or twice."""
        told = Counter(failed for failed, _ in {(each.event, each.run) for each in begun if each.step == "told"})
        failed = [run for (run,) in self.reader.rows("select id from runs where status = 'error'")]
        return [f"the failure of {run} was told {told[run]} times" for run in failed if told[run] != 1]

    def explain(self, problems: Sequence[str]) -> str:
        """The text of an error: the problems, their runs, and the last faults."""
        lines = [f"seed {self.seed}: {len(problems)} problems", *problems[:20]]
        for run, *rest in self.reader.rows(
            "select id, workflow, status, attempt, fence, owner, created, ended from runs"
        ):
            if any(run in problem for problem in problems[:3]):
                lines += [f"run {run}: {rest}", *map(str, [each for each in self.reader.begun() if each.run == run])]
                lines += [
                    f"  step {row}" for row in self.reader.rows("select name, at from steps where run_id = ?", run)
                ]
                lines += [f"  log {line}" for line in self.reader.errors.splitlines() if run in line]
        zero = time.time() - time.monotonic() + self.began
        lines += ["the last faults:", *(f"  {at:.1f} s ({zero + at:.1f}) {fault}" for at, fault in self.faults[-12:])]
        lines += ["the end of the log:", *self.reader.errors.splitlines()[-30:], f"see {self.folder}"]
        return "\n".join(lines)


def find_repeated(begun: Sequence[Began]) -> list[str]:
    """The attempts that began after a later step of their run, or that have the number of an earlier attempt."""
    found, latest, places = [], dict[tuple[str, str], int](), dict[str, int]()
    for each in begun:
        if each.step == "ended":
            continue
        place = STEPS.index(each.step) if each.step in STEPS else 0
        if place < places.get(each.run, 0) or each.attempt <= latest.get((each.run, each.step), 0):
            found.append(str(each))
        places[each.run], latest[each.run, each.step] = max(place, places.get(each.run, 0)), each.attempt
    return found


def find_beyond_limits(begun: Sequence[Began]) -> list[str]:
    """The steps of `One` that began while another one executed, and the starts of `Throttled` that were too many in a period."""
    ends = {(each.run, each.attempt): each.at for each in begun if each.step == "ended"}
    spans = sorted(
        (each.at, ends.get((each.run, each.attempt), each.at), each) for each in begun if each.step == "span"
    )
    found = [
        f"{other} began before the end of {each}"
        for (_, end, each), (at, _, other) in itertools.pairwise(spans)
        if at < end
    ]
    starts = sorted((each.at, each) for each in begun if each.step == "start")
    return found + [
        f"{STARTS + 1} starts between {each} and {starts[place + STARTS][1]}"
        for place, (at, each) in enumerate(starts[:-STARTS])
        if starts[place + STARTS][0] < at + PERIOD_S / 2
    ]


def _join(counts: Counter[Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


@contextmanager
def stress_of(fork_server: ForkServer, folder: Path, seed: int, *, on_postgres: bool) -> Iterator[Stress]:
    """Servers that are not started, and are killed at last."""
    log, url, proxies, database = folder / "steps.log", None, list[DatabaseProxy](), None
    notebooks = notebooks_of(log)
    more = (*(f"{name}.ipynb" for name in notebooks if name != "flow"), "--max-active-runs", "4")
    with ExitStack() as ending:
        if on_postgres:
            postgres, stop, start = ending.enter_context(stopping_postgres())
            url = ending.enter_context(postgres.new_database())
            database = (stop, start)
            proxies = [ending.enter_context(_proxy(postgres, url)) for _ in range(HOSTS)]
        servers = []
        for number in range(HOSTS if on_postgres else 1):
            place = folder / f"host{number}"
            place.mkdir()
            for name, cells in notebooks.items():
                notebook_of(place / f"{name}.ipynb", *cells)
            key = folder / "key" if on_postgres else None
            servers.append(ServerProcess(fork_server, place, log, free_port(), url, key, more=more))
            ending.callback(servers[-1].kill)
        place = servers[0].folder
        with Project.open(place / ".pdkernel", database_url=url, key_file=servers[0].key_file) as project:
            enable_triggers(project, "Ears", place)
            sources = {}
            for name, custom in (("plain", "false"), ("early", "true")):
                write_source(project, place, name, SOURCE.format(name=name, custom=custom))
                sources[name] = deploy_source(project, place, name, workflow="heard")
        yield Stress(seed, folder, servers, proxies, database, sources)


def _proxy(postgres: PostgresServer, url: str) -> AbstractContextManager[DatabaseProxy]:
    return proxy_of(postgres.sockets, url.partition("@/")[2].partition("?")[0])
