"""Simulated servers of one project, the clients that call them, and the faults that befall them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from starlette.applications import Starlette

from pdkernel.accounts import LocalDirectory
from pdkernel.common.blocking import run_blocking
from pdkernel.egress import parse_policy
from pdkernel.engine.step_packages import StepPackages
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.errors import PdkernelError
from pdkernel.files.source import RefusedSource, WorkflowSource
from pdkernel.journal.journal import Journal
from pdkernel.model import JSON, Step, Workflow
from pdkernel.server import AppContext, create_app
from pdkernel.server.app_context import ServedWorkflow, ServeSettings
from pdkernel.server.app_state import get_state
from pdkernel.server.uvicorn_server import start_background_tasks
from pdkernel.storage import Project
from tests.builders import a_block, a_workflow, python_step
from tests.simulation import commands, deliveries
from tests.simulation.backend import Disk, FaultyBackend
from tests.simulation.commands import Commands
from tests.simulation.database import Link, SharedBackend, SharedProject, SimDatabase
from tests.simulation.deliveries import Network
from tests.simulation.loop import PROCESS, InjectedBug, SeededIds, SimClock, SimLoop, SimProcess
from tests.simulation.operations import FAULT_S
from tests.simulation.pool import DECIDED, SimGateway, SimPool
from tests.simulation.sources import SOURCES
from tests.simulation.watch import StepWatch

T = TypeVar("T")

MEMORY = Path("/dev/shm")
"""Where a commit does not wait for a disk."""
NOT_STORED = "x-pd-nostore"
"""The header of an event whose run is not recorded."""
GRACE_S = 1.0
"""Seconds that runs have to end at an orderly restart."""


@cache
def workflows_of(version: int) -> tuple[Workflow, ...]:
    """The workflows of the project; another version has another text."""

    def flow(name: str, *steps: str, response: Any = "default", **settings: JSON) -> Workflow:
        return a_workflow(
            *(python_step(step, f"return {version}") for step in steps), name=name, response=response, **settings
        )

    def step(name: str, branch: str) -> Step:
        return python_step(name, f"return {version}", options=f"--in {branch}")

    branched = a_workflow(
        python_step("toss1", f"return {version}"),
        a_block(f"%%pdif {DECIDED}\nyes: {{a: {{{{steps.toss1.$return_value}}}}, op: 'true'}}\nelse:"),
        step("work1", f"{DECIDED}.yes"),
        a_block(f"%%pdparallel both --in {DECIDED}.yes\nsleeps: always\nasks: always\ncalls: always\nworks: always"),
        step("delay1", "both.sleeps"),
        step("work2", "both.sleeps"),
        step("ask1", "both.asks"),
        step("call1", "both.calls"),
        step("work3", "both.works"),
        step("work4", "both.works"),
        step("work5", f"{DECIDED}.else"),
        python_step("work6", f"return {version}"),
        name="Branched",
    )
    return (
        branched,
        flow("Plain", "work1", "work2", "work3"),
        flow("Long", "work1", "long1", "work2"),
        flow("Slow", "work1", "slow1", "work2"),
        flow("Single", "work1", "work2", concurrency=1),
        flow("Throttled", "work1", throttle={"limit": 3, "interval": 2}),
        flow("Delayed", "work1", "delay1", "work2"),
        flow("Approved", "work1", "ask1", "work2"),
        flow("Caller", "work1", "call1", "work2"),
        flow("Twins", "work1", "twins1", "work2"),
        flow("Echo", "echo1"),
        flow("Cold", "work1", "cold1", "work2"),
        flow("Failing", "work1", "fail1", "work2"),
        flow("Early", "respond1", "work1", response="custom"),
        flow("Poison", "work1", "poison1"),
        *(each.workflow for each in SOURCES.values()),
        *deliveries.WORKFLOWS,
        *commands.WORKFLOWS,
    )


class DeployedWorkflows:
    """The workflows of one server, in the text that was deployed last; implements `ServedWorkflows`."""

    not_served: Sequence[RefusedSource] = ()

    def __init__(self, world: World) -> None:
        self._world = world
        self._load()

    def _load(self) -> None:
        folder, self._version = self._world.folder, self._world.version
        self._served = {
            each.name.lower(): ServedWorkflow(
                f"p_{each.name.lower()}",
                f"eo{each.name.lower():x<20}",
                WorkflowSource(folder / f"{each.name}.ipynb", "notebook", each),
            )
            for each in workflows_of(self._version)
        }

    async def refresh(self) -> None:
        """Load the text that was deployed last, in a thread."""
        if self._version != self._world.version:
            await run_blocking(self._load)

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """All workflows."""
        return tuple(self._served.values())

    def find(self, key: str) -> ServedWorkflow | None:
        """The workflow with that key."""
        return next((each for each in self._served.values() if each.endpoint_key == key.lower()), None)

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """The workflow with that id."""
        return next((each for each in self._served.values() if each.id == workflow_id), None)


@dataclass
class Answer:
    """
    The answer to a request; without a status, the caller does not know whether it was received.

    Attributes:
        workflow: The workflow that was called; None for a URL of a run.
        sent_at: The virtual time.
        answered_at: The virtual time at which the caller knows the answer, or that there is none.
        status: The status, or None.
        headers: The headers by lower-case name.
        is_stored: Whether the run of the request is to be recorded.
        versions: The versions of the workflows that were deployed when the request was sent, and when it was answered.
    """

    workflow: str | None
    sent_at: float
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_stored: bool = True
    versions: tuple[int, int] = (1, 1)
    answered_at: float = math.inf

    @property
    def run_id(self) -> str | None:
        """The id of the run that was started, if the answer names it."""
        return self.headers.get("x-pd-event-id") or self._from_body

    _from_body: str | None = None


class Server:
    """A started server: one simulated process on a host."""

    def __init__(self, world: World, host: Host, process: SimProcess) -> None:
        self.host = host
        self.process = process
        self.app: Starlette | None = None
        self._world = world
        self._tasks: Sequence[asyncio.Task[Any]] = ()
        self._project: Project | None = None
        self._engine: WorkflowEngine | None = None

    async def start(self) -> None:
        """Open the project, and begin to work. Raises `PdkernelError`."""
        world = self._world
        database, link = world.database, self.host.link
        kind = Project if database is None else SharedProject
        self._project = project = kind.open(
            world.folder / ".pdkernel", clock=SimClock(world.loop, self.host), ids=world.ids
        )
        clock = project.clock  # one for everything, as in `pdkernel serve`
        assert project.sqlite_path is not None

        def kill() -> None:
            now = world.loop.time()
            world.faults_at.append((now, now + FAULT_S))
            self.host.kill(self)

        world.disk.attach(project.sqlalchemy_engine, self.process, world.loop, kill)
        backend: FaultyBackend
        if database is None or link is None:
            backend = FaultyBackend(project.sqlite_path, world.holders, self.process, world.disk, world.loop, kill)
        else:
            backend = SharedBackend(database, link, project, self.process, world.disk, kill)
            self.process.link = link
        journal = Journal.open(backend, clock=clock, ids=world.ids, origin="serve")
        gateway = SimGateway(world.network)
        pool = SimPool(
            world.loop,
            self.process,
            world.watch.add,
            world.resume_urls,
            kill,
            max_active_runs=world.slots,
        )
        self._engine = engine = WorkflowEngine(
            project,
            LocalDirectory(project),
            journal=journal,
            gateway=gateway,
            workers=pool,
            packages=StepPackages.for_project(project.folder, {}),
            environ={},
            clock=clock,
            ids=world.ids,
            shares_workers=False,
            origin="serve",
        )
        context = AppContext(
            project=project,
            directory=LocalDirectory(project),
            engine=engine,
            workflows=DeployedWorkflows(world),
            settings=ServeSettings(base_url="http://localhost:8000", policy=parse_policy("live")),
            clock=clock,
            ids=world.ids,
        )
        self.app = create_app(context)
        self._tasks = start_background_tasks(get_state(self.app))

    async def stop(self) -> None:
        """End in order, as after SIGTERM."""
        assert self.app is not None
        assert self._engine is not None
        state = get_state(self.app)
        state.is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await state.runs.close(GRACE_S)
        await self._engine.close()

    def forget(self) -> None:
        """Release what the operating system would."""
        if self._engine is not None:
            with contextlib.suppress(PdkernelError):
                self._engine.journal._close()
        if self._project is not None:
            self._project.close()


class Host:
    """
    A machine on which one server runs at a time.

    Attributes:
        name: For messages.
        server: The server that runs, or None.
        clock_ahead_s: The error of the machine's clock.
        link: The way to the database that the hosts share; None if this is the only one.
        is_stopping: Whether the server is ending in order.
    """

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.server: Server | None = None
        self.clock_ahead_s = 0.0
        self.link = None if world.database is None else Link(world.database)
        self.is_stopping = False
        self._world = world
        self._count = 0

    async def start(self) -> None:
        """Start a server, again and again until the disk permits it."""
        world = self._world
        while True:
            self._count += 1
            process = world.loop.add(f"{self.name} {self._count}")
            self.server = server = Server(world, self, process)
            try:
                await world.within(process, server.start)
            except Exception as fault:  # as a process ends with it
                world.note(f"{process.name} did not start: {fault}")
                self.kill(server)
            if not process.is_dead:
                return
            await asyncio.sleep(0.5)

    def kill(self, server: Server) -> None:
        """End *server* at once."""
        if not server.process.is_dead:
            self._world.loop.kill(server.process)
            self._world.dead.append(server)
            if self.server is server:
                self.server = None

    async def stop(self) -> None:
        """End the server in order."""
        server, self.server = self.server, None
        if server is not None:
            self.is_stopping = True
            try:
                await self._world.within(server.process, server.stop)
            except Exception as fault:  # as a process ends with it
                self._world.note(f"{server.process.name} did not end in order: {fault}")
            self.kill(server)
            self.is_stopping = False


class World:
    """
    A project, the hosts of its servers, clients and faults.

    Attributes:
        loop: The loop.
        folder: The project's folder.
        database: The server of the database; None for one host with a file.
        hosts: The machines, each with a server.
        slots: The number of runs that execute at once in a server.
        version: The version of the workflows that was deployed last.
        answers: The answers to all requests.
        network: The hosts that receive messages.
        watch: What steps did.
        commands: What persons do with runs.
        faults: What happened, for a failure's message.
        faults_at: The virtual times in which faults have effects.
        has_changed_clock: Whether the clock of a host was set.
        has_bugs: Whether a server has met unexpected exceptions.
        dead: The servers that have ended.
    """

    def __init__(self, loop: SimLoop, folder: Path, *, hosts: int = 1, slots: int = 3) -> None:
        self.loop, self.folder, self.slots = loop, folder, slots
        self.ids = SeededIds(loop.random)
        self.holders: dict[str, SimProcess] = {}
        self.faults_at: list[tuple[float, float]] = []
        self.disk = Disk(self.faults_at)
        self.network = Network(loop)
        self.database = SimDatabase(loop) if hosts > 1 else None
        self.commands = Commands(self)
        self.answers: list[Answer] = []
        self.watch = StepWatch(folder / ".pdkernel" / "project.db")
        self.resume_urls: list[str] = []
        self.faults: list[str] = []
        self.has_changed_clock = self.has_bugs = False
        self.hosts = [Host(self, f"host {number}") for number in range(hosts)]
        self.version = 1
        self.dead: list[Server] = []

    def note(self, fault: str) -> None:
        """Note what happens."""
        self.faults.append(f"{self.loop.time():9.3f} {fault}")

    async def within(self, process: SimProcess, act: Callable[[], Awaitable[T]]) -> T | None:
        """Await *act* in *process*; None if the process dies meanwhile."""
        context = copy_context()
        context.run(PROCESS.set, process)
        task: asyncio.Task[T] = context.run(self.loop.create_task, act())  # type: ignore[arg-type]  # a coroutine
        assert process.died is not None
        await asyncio.wait({task, cast("asyncio.Future[Any]", process.died)}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() and not process.is_dead else None

    async def call(self, workflow: str, body: JSON = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send an event to a workflow."""
        return await self.post(workflow, f"/eo{workflow.lower():x<20}", body, headers)

    async def post(
        self, workflow: str, path: str, body: JSON = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request about a workflow."""
        answer = Answer(workflow, self.loop.time(), is_stored=headers is None or NOT_STORED not in headers)
        self.answers.append(answer)
        sent = self.version
        await self._request(answer, path, body, headers or {})
        answer.versions, answer.answered_at = (sent, self.version), self.loop.time()
        return answer

    async def resume(self, url: str) -> Answer:
        """Resume a run."""
        answer = Answer(None, self.loop.time())
        await self._request(answer, url.removeprefix("http://localhost:8000"), {"approved": True}, {})
        return answer

    async def ask(self, server: Server, path: str) -> Answer:
        """Send a GET request to *server*."""
        answer = Answer(None, self.loop.time())
        await self._send(server, answer, "GET", path, b"", {})
        return answer

    async def _request(self, answer: Answer, path: str, body: JSON, headers: Mapping[str, str]) -> None:
        servers = [host.server for host in self.hosts if host.server is not None and host.server.app is not None]
        if not servers:
            return
        server = servers[0] if len(servers) == 1 else self.loop.random.choice(servers)
        await self._send(server, answer, "POST", path, json.dumps(body).encode(), headers)

    async def _send(
        self, server: Server, answer: Answer, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> None:
        app = cast("Starlette", server.app)
        raw = [(b"host", b"localhost:8000"), (b"content-type", b"application/json")]
        raw += [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path.partition("?")[0],
            "raw_path": path.partition("?")[0].encode(),
            "query_string": path.partition("?")[2].encode(),
            "root_path": "",
            "headers": raw,
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8000),
        }
        received: list[bytes] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            if server.process.is_dead:
                return
            if message["type"] == "http.response.start":
                answer.headers = {key.decode().lower(): value.decode() for key, value in message["headers"]}
                answer.status = message["status"]
            else:
                received.append(message.get("body", b""))

        try:
            await self.within(server.process, lambda: app(scope, receive, send))
        except InjectedBug:
            answer.status = None  # a 500, of which the caller learns nothing
        except Exception as error:
            self.watch.problems.append(
                f"{method} {path} raised {type(error).__name__} at {self.loop.time():.3f}: {error}"
            )
        with contextlib.suppress(ValueError):
            text = json.loads(b"".join(received))
            answer._from_body = text.get("event_id") if isinstance(text, dict) else None

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """A block in which connections are those of the shared database, if there is one."""
        if self.database is None:
            yield
            return
        self.database.prepare(self.folder / ".pdkernel" / "project.db")
        with self.database.connected():
            yield

    def heal_links(self) -> None:
        """Let all hosts reach the database again."""
        if self.database is not None:
            self.database.down_until = min(self.database.down_until, self.loop.time())
        for host in self.hosts:
            if host.link is not None:
                host.link.heal()

    def close(self) -> None:
        """Release everything."""
        for host in self.hosts:
            if host.server is not None:
                host.kill(host.server)
        for server in self.dead:
            server.forget()
        self.watch.close()
        if self.database is not None:
            self.database.close()


@contextlib.contextmanager
def a_world(seed: int, template: Path, *, hosts: int = 1, slots: int = 3) -> Iterator[World]:
    """A world with a copy of the project in *template*."""
    loop = SimLoop(seed)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # faults are expected
    with tempfile.TemporaryDirectory(prefix="pdk-sim-", dir=MEMORY if MEMORY.is_dir() else None) as place:
        folder = Path(place) / "project"
        shutil.copytree(template, folder)
        world = World(loop, folder, hosts=hosts, slots=slots)
        try:
            with world.connected():
                yield world
        finally:
            world.close()
            loop.close()
            logging.disable(level)
