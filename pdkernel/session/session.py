"""
The session of a notebook: its draft workflow, chosen event and external user, pins and results.

Magics and widgets call the session and listen to its changes. A change is saved before the listeners are called.
All methods are safe from any thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pdkernel.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.definition import Sidecar, apply_sidecar, get_notebook_sidecar_path, read_sidecar
from pdkernel.egress import default_mode
from pdkernel.engine.run_request import OnChange, RunRequest
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult
from pdkernel.identity import Directory, Environment
from pdkernel.loop_thread import ThreadTask
from pdkernel.model import JSON, Workflow
from pdkernel.operations.events import EventLibrary, TestEvent
from pdkernel.redaction import Redactor
from pdkernel.session.draft import Draft
from pdkernel.session.engine_thread import EngineThread
from pdkernel.session.lazy_project import LazyProject
from pdkernel.session.recent_runs import RecentRuns
from pdkernel.session.run_requests import (
    build_example_context,
    build_run_request,
    build_source_request,
    find_debug_steps,
    is_install_allowed,
)
from pdkernel.session.run_settings import RunSettings
from pdkernel.session.state_store import SessionStateStore
from pdkernel.session.step_results import LastStepResults
from pdkernel.variables import collect_secrets

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.engine.event_sources import SourceResult
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.project import Project
    from pdkernel.server.app_context import AppContext
    from pdkernel.session.actions import SessionActions
    from pdkernel.session.connect_links import ConnectLinks
    from pdkernel.session.debugger import KernelDebugger
    from pdkernel.session.notebook_server import NotebookServer

Listener = Callable[[], None]
T = TypeVar("T")


class Session:
    """
    A notebook's session.

    Args:
        notebook: The notebook's file, or None if the file is unknown.
        folder: The notebook's folder.
        project: The local project, or None to open the nearest project at first use.
        environ: Environment variables; the session reads `PDKERNEL_*`.
        code_name: Returns the debugger's file name for a cell's text; None disables debugging.
        clock: The clock for time stamps.
        ids: The source of run ids.
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
        ids: IdGenerator = RANDOM_IDS,
    ) -> None:
        self.folder = folder
        self.notebook = notebook
        self.draft = Draft(notebook, name=folder.name or "notebook")
        self.events = EventLibrary(folder)
        environ = dict(environ or {})
        self._may_install = is_install_allowed(environ)
        self._code_name = code_name
        self._public_url = environ.get("PDKERNEL_PUBLIC_URL")
        self._debugger: KernelDebugger | None = None
        self._clock = clock
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._local = LazyProject(folder, project=project, environ=environ, clock=clock, ids=ids)
        self._engine = EngineThread(self._local, clock=clock, ids=ids)
        self._opened_state_store: SessionStateStore | None = None
        self._loaded = False
        self._run_settings = RunSettings(egress=default_mode(environ))
        self._results = LastStepResults()
        self._latest = RecentRuns()

    # ── the project ────────────────────────────────────────────────────────────────

    @property
    def project(self) -> Project:
        """The local project; opened or created at first use."""
        return self._local.project

    @property
    def directory(self) -> Directory:
        """External users and their accounts."""
        return self._local.directory

    @property
    def catalog(self) -> Catalog:
        """The pre-built actions that the project can run."""
        return self._local.catalog.with_source(self.action_source, base=self.folder)

    @cached_property
    def actions(self) -> SessionActions:
        """Search for pre-built actions, their descriptions and prop options."""
        from pdkernel.session.actions import SessionActions

        return SessionActions(self, call_engine=self.call_engine, find_needed_apps=self.find_needed_apps)

    @cached_property
    def server(self) -> NotebookServer:
        """The server of the draft; it listens after its `start`."""
        from pdkernel.session.notebook_server import NotebookServer

        return NotebookServer(
            self,
            choose_event=self.choose_event,
            on_link_event=self.links.handle_event,
            public_url=self._public_url,
        )

    @property
    def app_context(self) -> AppContext | None:
        """The context of the draft's server, or None while the draft is not served."""
        return self.server.app_context if "server" in vars(self) else None

    @cached_property
    def links(self) -> ConnectLinks:
        """Links where a person connects an account; their server starts with the first link."""
        from pdkernel.session.connect_links import ConnectLinks

        return ConnectLinks(self, app_context=lambda: self.app_context, public_url=self._public_url)

    # ── the draft ────────────────────────────────────────────────────

    @property
    def workflow(self) -> Workflow:
        """The workflow in the notebook's order. Raises `DefinitionError`."""
        with self._lock:
            self._load()
            return apply_sidecar(self.draft.workflow(), self.sidecar)

    @property
    def workflow_for_export(self) -> Workflow:
        """As `workflow`, for an export: unanswered account questions are kept instead of raising an error."""
        with self._lock:
            self._load()
            return apply_sidecar(self.draft.workflow(), self.sidecar, unanswered_policy="keep")

    @property
    def sidecar(self) -> Sidecar | None:
        """The `NAME.pdkernel.yaml` beside the notebook, or None."""
        return read_sidecar(get_notebook_sidecar_path(self.notebook)) if self.notebook else None

    @property
    def action_source(self) -> str | None:
        """The action source that the notebook's `pdkernel.yaml` sets; None for the project's setting."""
        sidecar = self.sidecar
        return sidecar.actions if sidecar else None

    def record_cell(self, source: str, *, cell_id: str | None) -> None:
        """Record a step or header cell that was run. Raises `DefinitionError`."""
        with self._lock:
            self._load()
            self.draft.record_cell(source, cell_id=cell_id, at=time.time())
        self._notify()

    def remove_cells(self, cell_ids: list[str]) -> None:
        """Remove deleted cells from the draft."""
        if not cell_ids:
            return
        with self._lock:
            self._load()
            self.draft.remove_cells(cell_ids)
        self._notify()

    def find_needed_apps(self) -> dict[str, list[str]]:
        """Apps that require an account of the external user, with the steps that use them. Runs no step code."""
        needed: dict[str, list[str]] = {}
        for step in self.workflow.steps:
            if step.disabled:
                continue
            for binding in self.catalog.find_app_bindings(step):
                if binding.account is None:
                    needed.setdefault(binding.app, []).append(step.name)
        return needed

    # ── settings ─────────────────────────────────────────────────

    @property
    def event(self) -> TestEvent | None:
        """The chosen event with the `x-pd-*` headers of the chosen external user and environment; or None."""
        with self._lock:
            return self._loaded_settings.event

    @property
    def event_name(self) -> str | None:
        """The chosen event's name, or None."""
        return self._loaded_settings.event_name

    @property
    def external_user_id(self) -> str | None:
        """The external user that steps run for, or None."""
        return self._loaded_settings.external_user_id

    @property
    def environment(self) -> Environment:
        """The external user's environment."""
        return self._loaded_settings.environment

    @property
    def egress(self) -> str:
        """The outbound policy, as `%pdegress` takes it."""
        return self._loaded_settings.egress

    @property
    def pins(self) -> Mapping[str, Mapping[str, JSON]]:
        """Pinned exports by step."""
        return dict(self._loaded_settings.pins)

    def choose_user(self, external_user_id: str | None, environment: Environment | None = None) -> None:
        """Run steps for *external_user_id* from now on; None for no external user."""
        with self._change_settings() as chosen:
            chosen.choose_user(external_user_id, environment)

    def choose_event(self, event: Event, name: str = "event") -> None:
        """
        Use *event* as the test event from now on.

        If the event's headers name an external user or an environment, these are chosen as well.
        """
        with self._change_settings() as chosen:
            chosen.choose_event(event, name)

    def choose_egress(self, mode: str) -> None:
        """Set the outbound policy. Raises `EgressModeError`."""
        with self._change_settings() as chosen:
            chosen.choose_egress(mode)

    def load_event(self, name: str) -> TestEvent:
        """Choose an event from the library or a file. Raises `EventError`."""
        stem, event = self.events.load(name, http=self._is_http_triggered())
        self.choose_event(event, stem)
        return event

    def _is_http_triggered(self) -> bool:
        """Whether the trigger is HTTP; true if the header cell cannot be read."""
        try:
            return self.workflow.trigger.type == "http"
        except DefinitionError:
            return True

    def poll_source(self, *, on_event: bool = False) -> SourceResult:
        """
        Run the event source that is the workflow's trigger once, and choose the newest of its new events.

        With *on_event* the source receives the chosen event, such as a webhook's request; otherwise a timer tick.

        Raises:
            RequestError: The workflow's trigger is not a source, or another run is in progress.
            PdkernelError: The source cannot run.
        """
        request = build_source_request(self, on_event=on_event)
        ran = self._engine.start(lambda runtime: runtime.source_runner.run(request)).result()
        if ran.events:
            newest = ran.events[-1]
            self.choose_event(newest.event, newest.summary or str(newest.id or "event"))
        return ran

    def save_event(self, name: str) -> Path:
        """Save the chosen event to the library. Raises `RequestError` if none is chosen."""
        event = self.event
        if event is None:
            raise RequestError("There is no event to save.", fix="Choose one: %pdevent FILE")
        path = self.events.save(name, event)
        with self._change_settings() as chosen:
            chosen.event_name = path.stem
        return path

    def pin(self, name: str, exports: Mapping[str, JSON] | None = None) -> Mapping[str, JSON]:
        """
        Pin the exports of step *name*; None pins the step's last exports.

        Raises:
            UnknownStepError: The workflow has no such step.
            RequestError: The step has no exports yet.
        """
        with self._change_settings() as chosen:
            step = self.workflow.step(name)
            if exports is None:
                exports = self._results.get_pinnable_exports(name)
            chosen.pins[name] = dict(exports)
            self._results.record(step, StepResult(name, "pinned", exports=dict(exports)), self.result_scope)
        return exports

    def unpin(self, name: str) -> bool:
        """Release the pin of step *name*; False if the step was not pinned."""
        with self._lock:
            held = self._loaded_settings.pins.pop(name, None) is not None
            if held:
                self._results.discard(name)
                self._save()
        self._notify()
        return held

    # ── results ──────────────────────────────────────────────────────────

    @property
    def result_scope(self) -> str:
        """A key for the event, environment and external user that results belong to."""
        return self._loaded_settings.result_scope

    @property
    def last_execution(self) -> Execution | None:
        """The last execution in this kernel, or None."""
        return self._latest.last_execution

    def get_request(self, execution_id: str) -> RunRequest:
        """
        The request of a run with its recording, for saving the run as a test.

        Raises:
            RequestError: The run is not among the latest runs of this kernel.
        """
        return self._latest.get_request(execution_id)

    def get_result(self, name: str) -> StepResult | None:
        """The last result of step *name*, or None."""
        self._load()
        return self._results.get(name)

    @property
    def stale_steps(self) -> set[str]:
        """Steps whose last result is stale."""
        self._load()
        return self._results.find_stale_steps(self.workflow, self.result_scope)

    def find_stale_steps(self, execution: Execution) -> set[str]:
        """Steps of *execution* whose result there is stale, or whose code was edited since."""
        stale = set() if self._latest.is_detached(execution.id) else self.stale_steps
        return stale | self._latest.find_edited_steps(execution.id, self.workflow)

    def build_steps_value(self) -> dict[str, Any]:
        """The redacted value of `steps` for the next step, for completion and previews."""
        event = self.event
        trigger: dict[str, Any] = {"event": dict(event.with_masked_headers().data) if event else {}}
        if event is not None:
            trigger["context"] = (
                self.last_execution.context if self.last_execution else build_example_context(self, event, self._clock)
            )
        return {"trigger": trigger, **self._results.exports()}

    # ── running ────────────────────────────────────────────────────────────────────

    def run(
        self,
        *,
        only: frozenset[str] | None = None,
        resend: bool = False,
        external_user_id: str | None = None,
        on_change: OnChange | None = None,
    ) -> Execution:
        """
        Run the workflow, or *only* some of its steps, and wait for the end.

        An interrupt ends the running step; the execution's status is then `cancelled`.

        Raises:
            DefinitionError: The workflow is invalid.
            RequestError: No event is chosen.
        """
        request = self._request(only, resend, external_user_id, on_change)
        debugger = self._debugger_for(request)
        if debugger is None:
            return self._start(request).result()
        return debugger.run_in_main_thread(self._start(replace(request, debugger=debugger)))

    def start(
        self,
        *,
        only: frozenset[str] | None = None,
        resend: bool = False,
        external_user_id: str | None = None,
        on_change: OnChange | None = None,
    ) -> ThreadTask[Execution]:
        """As `run`, but return at once; steps with `--debug` run without the debugger."""
        return self._start(self._request(only, resend, external_user_id, on_change))

    def _start(self, request: RunRequest) -> ThreadTask[Execution]:
        # a run for another external user does not change the results that the cells show
        is_detached = request.external_user_id != self.external_user_id

        async def run(runtime: WorkflowEngine) -> Execution:
            execution = await runtime.run(request)
            self._record_run(request, execution, is_detached=is_detached)
            return execution

        return self._engine.start(run)

    def _request(
        self, only: frozenset[str] | None, resend: bool, external_user_id: str | None, on_change: OnChange | None
    ) -> RunRequest:
        return build_run_request(
            self,
            only=only,
            resend=resend,
            external_user_id=external_user_id,
            on_change=on_change,
            install=self._may_install,
        )

    def _debugger_for(self, request: RunRequest) -> KernelDebugger | None:
        """The debugger, if *request* runs a step with `--debug` in a notebook; else None."""
        steps = find_debug_steps(request)
        if not steps or self._code_name is None:
            return None
        from pdkernel.session.debugger import KernelDebugger

        if self._debugger is None:
            self._debugger = KernelDebugger()
        self._debugger.prepare(
            steps,
            self.draft.cells(),
            debug_filename=self._code_name,
            redactor=Redactor(collect_secrets(self.project, self.folder)),
        )
        return self._debugger

    def call_engine(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> T:
        """Run *operation* on the engine beside any run, and return its result."""
        return self._engine.call(operation)

    def get_exports(self) -> Mapping[str, Mapping[str, JSON]]:
        """The last exports of each step, with placeholders for secrets."""
        self._load()
        return self._results.exports()

    def _record_run(self, request: RunRequest, execution: Execution, *, is_detached: bool) -> None:
        with self._lock:
            for result in execution.steps:
                if not is_detached and result.status in ("success", "error", "pinned"):
                    self._results.record(request.workflow.step(result.name), result, request.idempotency_scope)
            self._latest.add(request, execution, is_detached=is_detached)
            self._state_store.schedule_save(self._state())
        self._notify()

    # ── listeners, saved state, closing ────────────────────────────────────────────────

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* after every change, in the thread of the change; returns a function that removes it."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def notify_accounts_changed(self) -> None:
        """Call every listener: external users or accounts of the project have changed."""
        self._notify()

    def close(self) -> None:
        """Stop every process and server of the session."""
        if "links" in vars(self):
            self.links.close()
        if "server" in vars(self):
            self.server.stop()
        self._engine.close()
        if self._opened_state_store is not None:
            self._opened_state_store.flush()
        self._local.close()

    @property
    def _loaded_settings(self) -> RunSettings:
        """The settings, after loading the state of an earlier kernel."""
        self._load()
        return self._run_settings

    @contextlib.contextmanager
    def _change_settings(self) -> Iterator[RunSettings]:
        """Change the settings; if the change succeeds, save the state and call the listeners."""
        with self._lock:
            yield self._loaded_settings
            self._save()
        self._notify()

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
            saved = self._state_store.load()
            if saved is None:
                return
            self._run_settings.restore(saved)
            self._results = LastStepResults.from_json(saved["results"])
            self.draft.restore(saved.get("cells", ()))

    @property
    def _state_store(self) -> SessionStateStore:
        if self._opened_state_store is None:
            self._opened_state_store = SessionStateStore(
                self.project.notebook_states, str(self.notebook or self.folder)
            )
        return self._opened_state_store

    def _save(self) -> None:
        self._state_store.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {**self._run_settings.to_json(), "results": self._results.to_json(), "cells": self.draft.to_json()}
