"""
The one mutable object of a notebook: its draft workflow, the chosen event and external user, pins and results.

Knows what a person has chosen and remembers it over a restart of the kernel. Magics and widgets are faces of it:
they call it and listen to it, never each other. Knows nothing of IPython or widgets. Safe from any thread.
"""

from __future__ import annotations

import asyncio
import shlex
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, Ids
from pdkernel.definition import Sidecar, apply_sidecar, notebook_sidecar_path, read_sidecar
from pdkernel.egress import default_mode, parse_mode
from pdkernel.egress.tape import Tape
from pdkernel.engine.context import build_context
from pdkernel.engine.request import OnChange, RunRequest
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult
from pdkernel.identity import DEFAULT_ENVIRONMENT, Directory, Environment, check_external_user_id
from pdkernel.model import JSON, Workflow
from pdkernel.session.draft import Draft
from pdkernel.session.events import EventLibrary, TestEvent
from pdkernel.session.kept import Kept
from pdkernel.session.loop import LoopThread, Task
from pdkernel.session.results import Results, fingerprint
from pdkernel.source import workflows_beside
from pdkernel.variables import project_variables

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.engine.runtime import Runtime
    from pdkernel.engine.sources import SourceRequest, SourceRun
    from pdkernel.project import Project
    from pdkernel.session.actions import SessionActions
    from pdkernel.session.debugging import KernelDebugger

Listener = Callable[[], None]
T = TypeVar("T")

KEPT_RUNS = 10
"""Runs that can still be saved as tests; the outside calls of each are kept in memory."""


class Session:
    """
    A notebook's session.

    Args:
        notebook: The notebook's file, if known.
        folder: The notebook's folder.
        project: The local project, or None to open the nearest one at first use.
        environ: For `PDKERNEL_*` defaults.
        code_name: What the debugger calls a cell, by its text; None where nothing debugs.
        clock: For every time stamp.
        ids: For run ids.
    """

    def __init__(
        self,
        *,
        folder: Path,
        notebook: Path | None = None,
        project: Project | None = None,
        environ: Mapping[str, str] | None = None,
        code_name: Callable[[str], str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: Ids = RANDOM_IDS,
    ) -> None:
        self.folder = folder
        self.notebook = notebook
        self.draft = Draft(notebook, name=folder.name or "notebook")
        self.events = EventLibrary(folder)
        self._environ = dict(environ or {})
        self._code_name = code_name
        self._debugger: KernelDebugger | None = None
        self._clock = clock
        self._ids = ids
        self._lock = threading.RLock()
        self._running = threading.Lock()
        self._listeners: list[Listener] = []
        self._loop = LoopThread()
        self._runtime: Runtime | None = None
        self._starting = asyncio.Lock()
        self._project = project
        self._directory: Directory | None = None
        self._catalog: Catalog | None = None
        self._keeper: Kept | None = None
        self._loaded = False
        self._event: TestEvent | None = None
        self._event_name: str | None = None
        self._external_user_id: str | None = None
        self._environment: Environment = DEFAULT_ENVIRONMENT
        self._egress = default_mode(self._environ)
        self._pins: dict[str, dict[str, JSON]] = {}
        self._results = Results()
        self._last: Execution | None = None
        self._made: dict[str, RunRequest] = {}

    # ── the project ────────────────────────────────────────────────────────────────

    @property
    def project(self) -> Project:
        """The local project; opened, or made, at first use."""
        with self._lock:
            if self._project is None:
                from pdkernel.project import Project, find_project  # its database library waits for the first need

                folder = self._environ.get("PDKERNEL_PROJECT")
                place = Path(folder) / ".pdkernel" if folder else find_project(self.folder)
                key = self._environ.get("PDKERNEL_KEY_FILE")
                self._project = Project.open(
                    place,
                    database=self._environ.get("PDKERNEL_DATABASE"),
                    key_file=Path(key) if key else None,
                    clock=self._clock,
                    ids=self._ids,
                )
            return self._project

    @property
    def directory(self) -> Directory:
        """Users and accounts."""
        with self._lock:
            if self._directory is None:
                from pdkernel.connect import LocalDirectory

                self._directory = LocalDirectory(self.project)
            return self._directory

    @property
    def catalog(self) -> Catalog:
        """The pre-built actions that the project can run."""
        with self._lock:
            if self._catalog is None:
                from pdkernel.actions import Catalog

                self._catalog = Catalog.of(self.project, environ=self._environ)
            return self._catalog.at(self._where(), base=self.folder)

    @cached_property
    def actions(self) -> SessionActions:
        """Looking actions up, and what their props may be."""
        from pdkernel.session.actions import SessionActions

        return SessionActions(self)

    # ── what the notebook holds ────────────────────────────────────────────────────

    @property
    def workflow(self) -> Workflow:
        """The workflow in the notebook's order. Raises `DefinitionError`."""
        with self._lock:
            self._load()
            return apply_sidecar(self.draft.workflow(), self.sidecar)

    @property
    def sidecar(self) -> Sidecar | None:
        """The `NAME.pdkernel.yaml` beside the notebook, or None."""
        return read_sidecar(notebook_sidecar_path(self.notebook)) if self.notebook else None

    def cell_ran(self, source: str, *, cell_id: str | None) -> None:
        """Take a step or header cell that was run. Raises `DefinitionError`."""
        with self._lock:
            self._load()
            self.draft.ran(source, cell_id=cell_id, at=time.time())
        self._changed()

    def cells_deleted(self, cell_ids: list[str]) -> None:
        """Drop cells that were deleted."""
        if not cell_ids:
            return
        with self._lock:
            self._load()
            self.draft.forget(cell_ids)
        self._changed()

    def apps_needed(self) -> dict[str, list[str]]:
        """Apps whose account the external user must have, and the steps that need it. Runs no code."""
        needed: dict[str, list[str]] = {}
        for step in self.workflow.steps:
            if step.disabled:
                continue
            for binding in self.catalog.apps_of(step):
                if binding.account is None:
                    needed.setdefault(binding.app, []).append(step.name)
        return needed

    # ── what the person has chosen ─────────────────────────────────────────────────

    @property
    def event(self) -> TestEvent | None:
        """The chosen event, its `x-pd-*` headers as the picker has them; or None."""
        with self._lock:
            self._load()
            if self._event is None:
                return None
            if self._external_user_id is None:
                return self._event.without_user().with_identity(None, self._environment)
            return self._event.with_identity(self._external_user_id, self._environment)

    @property
    def event_name(self) -> str | None:
        """What the chosen event is called."""
        self._load()
        return self._event_name

    @property
    def external_user_id(self) -> str | None:
        """On whose behalf steps run."""
        self._load()
        return self._external_user_id

    @property
    def environment(self) -> Environment:
        """The external user's environment."""
        self._load()
        return self._environment

    @property
    def egress(self) -> str:
        """What becomes of outside calls, as `%pdegress` takes it."""
        self._load()
        return self._egress

    @property
    def pins(self) -> Mapping[str, Mapping[str, JSON]]:
        """Exports that are fixed, by step."""
        self._load()
        return dict(self._pins)

    def choose_user(self, external_user_id: str | None, environment: Environment | None = None) -> None:
        """Run as *external_user_id* from now on; None for nobody."""
        with self._lock:
            self._load()
            self._external_user_id = check_external_user_id(external_user_id) if external_user_id is not None else None
            if environment is not None:
                self._environment = environment
            self._save()
        self._changed()

    def choose_event(self, event: Event, name: str = "event") -> None:
        """
        Use *event* from now on.

        An event that names an external user or an environment in its headers chooses those too.
        """
        with self._lock:
            self._load()
            self._event = TestEvent(dict(event.data), http=event.http)
            self._event_name = name
            if event.external_user_id is not None:
                self._external_user_id = event.external_user_id
            if event.environment in ("development", "production"):
                self._environment = "production" if event.environment == "production" else "development"
            self._save()
        self._changed()

    def load_event(self, name: str) -> TestEvent:
        """Choose an event from the library or a file. Raises `EventError`."""
        stem, event = self.events.load(name, http=self._takes_requests())
        self.choose_event(event, stem)
        return event

    def _takes_requests(self) -> bool:
        """Whether events are requests, as far as the header can be read."""
        try:
            return self.workflow.trigger.type == "http"
        except DefinitionError:
            return True

    def poll_source(self) -> SourceRun:
        """
        Run the event source that is the workflow's trigger once; choose the newest of its new events.

        Raises:
            RequestError: The workflow's trigger is no source, or a run is going on.
            PdkernelError: The source cannot be run.
        """
        from pdkernel.engine.sources import SourceRequest, source_of

        request = SourceRequest(
            trigger=source_of(self.workflow.trigger),
            workflow=str((self.notebook or self.folder).resolve()),
            policy=parse_mode(self._egress),
            external_user_id=self._external_user_id,
            environment=self._environment,
            folder=self.folder,
        )
        self._claim()
        ran = self._loop.run(self._poll(request))
        if ran.events:
            newest = ran.events[-1]
            self.choose_event(newest.event, newest.summary or str(newest.id or "event"))
        return ran

    async def _poll(self, request: SourceRequest) -> SourceRun:
        try:
            return await (await self._engine()).sources.run(request)
        finally:
            self._running.release()

    def save_event(self, name: str) -> Path:
        """Save the chosen event to the library. Raises `RequestError` if none is chosen."""
        event = self.event
        if event is None:
            raise RequestError("There is no event to save.", fix="Choose one: %pdevent FILE")
        path = self.events.save(name, event)
        with self._lock:
            self._event_name = path.stem
            self._save()
        self._changed()
        return path

    def choose_egress(self, mode: str) -> None:
        """Set what becomes of outside calls. Raises `EgressModeError`."""
        parse_mode(mode)
        with self._lock:
            self._load()
            self._egress = mode
            self._save()
        self._changed()

    def pin(self, name: str, exports: Mapping[str, JSON] | None = None) -> Mapping[str, JSON]:
        """
        Fix the exports of step *name*; None takes what it exported last.

        Raises:
            UnknownStepError: There is no such step.
            RequestError: Nothing to take: the step has not run.
        """
        with self._lock:
            self._load()
            step = self.workflow.step(name)
            if exports is None:
                last = self._results.get(name)
                if last is None or not last.exports:
                    raise RequestError(
                        f"Step {name!r} has exported nothing yet that could be pinned.",
                        fix=f"Run it first, or give the exports: %pdpin {name} '{{\"$return_value\": 1}}'",
                    )
                exports = last.exports
            self._pins[name] = dict(exports)
            self._results.note(step, StepResult(name, "pinned", exports=dict(exports)), self.scope)
            self._save()
        self._changed()
        return exports

    def unpin(self, name: str) -> bool:
        """Release step *name*; False if it was not pinned."""
        with self._lock:
            self._load()
            held = self._pins.pop(name, None) is not None
            if held:
                self._results.forget(name)
                self._save()
        self._changed()
        return held

    # ── what has happened ──────────────────────────────────────────────────────────

    @property
    def scope(self) -> str:
        """Event and external user that results belong to."""
        event = self.event
        return f"{event.digest() if event else ''}/{self._environment}/{self._external_user_id or ''}"

    @property
    def last(self) -> Execution | None:
        """The last execution in this kernel."""
        return self._last

    def request_of(self, execution_id: str) -> RunRequest:
        """
        What was run, its outside calls on tape: for saving the run as a test.

        Raises:
            RequestError: Not one of the latest runs of this kernel.
        """
        request = self._made.get(execution_id)
        if request is None:
            raise RequestError(
                "What this run sent is not known any more: it is not among the latest of this kernel.",
                fix="Run it again; nothing is sent twice.",
            )
        return request

    def result(self, name: str) -> StepResult | None:
        """What step *name* did last, or None."""
        self._load()
        return self._results.get(name)

    @property
    def stale(self) -> set[str]:
        """Steps whose last result no longer holds."""
        self._load()
        return self._results.stale(self.workflow, self.scope)

    def stale_in(self, execution: Execution) -> set[str]:
        """Steps of *execution* whose result there no longer holds: those that are stale, and those edited since."""
        made = self._made.get(execution.id)
        stale = set(self.stale)
        if made is not None:
            now = {step.name: fingerprint(step) for step in self.workflow.steps}
            stale |= {step.name for step in made.workflow.steps if now.get(step.name) != fingerprint(step)}
        return stale

    def steps_value(self) -> dict[str, Any]:
        """`steps` as the next step would see it, redacted: for completion and previews."""
        event = self.event
        trigger: dict[str, Any] = {"event": dict(event.masked().data) if event else {}}
        if event is not None:
            trigger["context"] = self._last.context if self._last else self._example_context(event)
        return {"trigger": trigger, **self._results.exports()}

    # ── running ────────────────────────────────────────────────────────────────────

    def run(
        self,
        *,
        only: frozenset[str] | None = None,
        send: bool = False,
        external_user_id: str | None = None,
        on_change: OnChange | None = None,
    ) -> Execution:
        """
        Run the workflow, or *only* some of its steps, and wait.

        An interrupt ends the running step; the execution is then `cancelled`.

        Raises:
            DefinitionError: The workflow is wrong.
            RequestError: No event is chosen.
        """
        request = self._request(only, send, external_user_id, on_change)
        debugger = self._debugger_for(request)
        if debugger is None:
            return self._start(request).result()
        return debugger.serve(self._start(replace(request, debugger=debugger)))

    def start(
        self,
        *,
        only: frozenset[str] | None = None,
        send: bool = False,
        external_user_id: str | None = None,
        on_change: OnChange | None = None,
    ) -> Task[Execution]:
        """As `run`, but return at once; steps with `--debug` run like any other."""
        return self._start(self._request(only, send, external_user_id, on_change))

    def _start(self, request: RunRequest) -> Task[Execution]:
        self._claim()
        try:
            return self._loop.submit(self._run(request))
        except BaseException:
            self._running.release()
            raise

    def _request(
        self, only: frozenset[str] | None, send: bool, external_user_id: str | None, on_change: OnChange | None
    ) -> RunRequest:
        event = self.event
        if event is None:
            raise RequestError("No event is chosen.", fix="Choose or write one: %pdevent")
        user = external_user_id or self._external_user_id
        workflow = self.workflow
        for name in only or ():
            workflow.step(name)
        return RunRequest(
            workflow=workflow,
            event=event.with_identity(user, self._environment),
            policy=parse_mode(self._egress),
            external_user_id=user,
            environment=self._environment,
            variables=project_variables(self.project, self.folder),
            folder=self.folder,
            pins=self._pins if only is None else {n: p for n, p in self._pins.items() if n not in only},
            only=only,
            exports=self._results.exports(),
            sent=self.project.sent,
            send=send,
            actions=self._where(),
            tape=Tape(),
            install=self._environ.get("PDKERNEL_NO_INSTALL", "").lower() in ("", "0", "false", "no"),
            source=shlex.quote(self.notebook.name) if self.notebook else "SOURCE",
            on_change=on_change,
            pauses="skip",
            find_workflow=workflows_beside(self.notebook or self.folder / "notebook.ipynb"),
        )

    def _debugger_for(self, request: RunRequest) -> KernelDebugger | None:
        """The debugger, if *request* runs a step for it and this is a notebook."""
        wanted = [
            step for step in request.workflow.steps if step.debug and not step.disabled and request.runs(step.name)
        ]
        if not wanted or self._code_name is None:
            return None
        from pdkernel.session.debugging import KernelDebugger
        from pdkernel.session.secrets import project_redactor

        if self._debugger is None:
            self._debugger = KernelDebugger()
        cells = self.draft.cells()
        self._debugger.files = {
            step.name: self._code_name(cells[step.cell].source) for step in wanted if step.cell is not None
        }
        self._debugger.redactor = project_redactor(self)
        return self._debugger

    async def _run(self, request: RunRequest) -> Execution:
        try:
            execution = await (await self._engine()).run(request)
            self._remember(request, execution)
            return execution
        finally:
            self._running.release()

    def _where(self) -> str | None:
        """Where actions run, if the notebook's `pdkernel.yaml` says it."""
        sidecar = self.sidecar
        return sidecar.actions if sidecar else None

    def wait_for(self, act: Callable[[Runtime], Awaitable[T]]) -> T:
        """Do something with the engine that is not a run, and wait for it."""

        async def do() -> T:
            return await act(await self._engine())

        return self._loop.run(do())

    def exports(self) -> Mapping[str, Mapping[str, JSON]]:
        """What steps have exported last, with placeholders for secrets."""
        self._load()
        return self._results.exports()

    async def _engine(self) -> Runtime:
        async with self._starting:
            if self._runtime is None:
                from pdkernel.engine.runtime import Runtime

                self._runtime = await Runtime.start(
                    self.project, self.directory, clock=self._clock, ids=self._ids, size=1
                )
            return self._runtime

    def _claim(self) -> None:
        """One thing runs at a time."""
        if not self._running.acquire(blocking=False):
            raise RequestError("A run is going on in this notebook.", fix="Wait for its end, or interrupt it.")

    def _remember(self, request: RunRequest, execution: Execution) -> None:
        with self._lock:
            for result in execution.steps:
                if result.status in ("success", "error", "pinned"):
                    self._results.note(request.workflow.step(result.name), result, request.scope)
            self._last = execution
            self._made[execution.id] = request
            for old in list(self._made)[:-KEPT_RUNS]:
                del self._made[old]
            self._kept.save_later(self._state())
        self._changed()

    # ── listening, keeping, closing ────────────────────────────────────────────────

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* after every change, from whichever thread made it; returns how to stop that."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def accounts_changed(self) -> None:
        """Say to every listener that users or accounts of the project have changed."""
        self._changed()

    def close(self) -> None:
        """End every process of the session."""
        if self._runtime is not None:
            self._loop.run(self._runtime.close())
            self._runtime = None
        self._loop.close()
        if self._keeper is not None:
            self._keeper.settle()
        if self._project is not None:
            self._project.close()

    def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
            kept = self._kept.load()
            if kept is None:
                return
            http = bool(kept.get("event_http", True))
            self._event = TestEvent(kept["event"], http=http) if kept["event"] is not None else None
            self._event_name = kept["event_name"]
            self._external_user_id = kept["external_user_id"]
            self._environment = kept["environment"]
            self._pins = kept["pins"]
            self._results = Results.from_json(kept["results"])
            self.draft.restore(kept.get("cells", ()))

    @property
    def _kept(self) -> Kept:
        if self._keeper is None:
            self._keeper = Kept(self.project.notebooks, str(self.notebook or self.folder))
        return self._keeper

    def _save(self) -> None:
        self._kept.save(self._state())

    def _state(self) -> dict[str, Any]:
        # what becomes of outside calls is not kept: a cell of the notebook says it, and none means the default
        return {
            "event": dict(self._event.masked().data) if self._event is not None else None,
            "event_http": self._event is None or self._event.http,
            "event_name": self._event_name,
            "external_user_id": self._external_user_id,
            "environment": self._environment,
            "pins": dict(self._pins),
            "results": self._results.to_json(),
            "cells": self.draft.to_json(),
        }

    def _example_context(self, event: Event) -> Mapping[str, JSON]:
        request = RunRequest(
            workflow=replace(self.workflow),
            event=event,
            policy=parse_mode("deny"),
            external_user_id=self._external_user_id,
            environment=self._environment,
        )
        return build_context(request, project_id=self.project.project_id, trace_id="", run_id="", clock=self._clock)
