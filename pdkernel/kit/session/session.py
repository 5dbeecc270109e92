"""
The session of a notebook: its draft workflow, the settings of runs, the runs and their results, and its services.

Magics and widgets call the session and listen to its changes. A change is saved before the listeners are called.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.common.identity import Directory, Environment
from pdkernel.common.loop_thread import ThreadTask
from pdkernel.egress import OutboundPolicy, parse_policy
from pdkernel.engine.account_lookup import steps_by_external_user_app
from pdkernel.engine.run_context import build_trigger_context
from pdkernel.engine.run_request import OnChange, RunRequest, RunWatcher
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult, StepStatus
from pdkernel.files.definition import Sidecar, UnansweredPolicy, apply_sidecar, get_notebook_sidecar_path, read_sidecar
from pdkernel.files.source import WorkflowSource, with_files_beside
from pdkernel.kit.session.draft import Draft, LiveNotebook
from pdkernel.kit.session.engine_thread import EngineThread, LazyProject, PausedRuns
from pdkernel.kit.session.state import RunSettings, SessionState, SessionStateStore
from pdkernel.kit.session.step_results import LastStepResults, RecentRuns
from pdkernel.language.analysis import check_header
from pdkernel.model import JSON, Workflow
from pdkernel.operations.events import EventLibrary, TestEvent
from pdkernel.operations.readiness.matrix import collect_app_bindings
from pdkernel.operations.runs import build_run_request
from pdkernel.storage import ScratchByStep, ScratchCopy

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.engine.event_sources import SourceResult
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.kit.session.connect_links import ConnectLinks
    from pdkernel.kit.session.debugger import KernelDebugger
    from pdkernel.kit.session.notebook_server import NotebookServer
    from pdkernel.operations.export import Proof
    from pdkernel.server.app_context import AppContext
    from pdkernel.storage import Project

T = TypeVar("T")
Listener = Callable[[], None]


class Session:
    """
    A notebook's session; the state of an earlier kernel is loaded at first use. Safe from any thread.

    Args:
        notebook: The notebook's file, or None if the file is unknown.
        folder: The notebook's folder.
        project: The local project, or None to open the nearest project at first use.
        environ: Environment variables; the session reads `PDKERNEL_*`.
        code_name: Returns the debugger's file name for a cell's text; None disables debugging.
        live: The cells that a front end shows.
        clock: The clock for time stamps.
        ids: The source of run ids.

    Attributes:
        folder: The notebook's folder.
        notebook: The notebook's file, or None.
        draft: The cells of the notebook.
        events: The saved events of the folder.
        paused_runs: The paused runs of the notebook, and what continues them.
    """

    def __init__(
        self,
        *,
        folder: Path,
        notebook: Path | None = None,
        project: Project | None = None,
        environ: Mapping[str, str] | None = None,
        code_name: Callable[[str], str] | None = None,
        live: LiveNotebook | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
    ) -> None:
        environ = dict(environ or {})
        live = live or LiveNotebook()
        self.folder = folder
        self.notebook = notebook
        self.draft = Draft(notebook, name=folder.name or "notebook", live=live)
        self.events = EventLibrary(folder)
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._clock = clock
        self._local = LazyProject(folder, project=project, environ=environ, clock=clock, ids=ids)
        self._engine = EngineThread(self._local, clock=clock, ids=ids)
        self._opened_state_store: SessionStateStore | None = None
        self._loaded = False
        self._run_settings = RunSettings(environ)
        self._results = LastStepResults()
        self._recent = RecentRuns()
        self._scratch: tuple[str, ScratchByStep] | None = None  # for the event, external user and environment
        self._may_install = environ.get("PDKERNEL_NO_INSTALL", "").lower() in ("", "0", "false", "no")
        self._public_url = environ.get("PDKERNEL_PUBLIC_URL")
        self._code_name = code_name
        self._debugger: KernelDebugger | None = None
        self.paused_runs = PausedRuns(self._engine, self._recent, on_continued=self._record_continued)
        live.on_change = self._notify

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
        return self._local.catalog.with_sources(self.action_sources, base=self.folder)

    @cached_property
    def server(self) -> NotebookServer:
        """The server of the draft; it listens after its `start`."""
        from pdkernel.kit.session.notebook_server import NotebookServer

        return NotebookServer(
            self._local,
            read_draft=lambda: (self.source, self.outbound_policy),
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
        from pdkernel.kit.session.connect_links import ConnectLinks

        return ConnectLinks(self._local, app_context=lambda: self.app_context, public_url=self._public_url)

    # ── the draft ────────────────────────────────────────────────────

    @property
    def source(self) -> WorkflowSource:
        """The workflow in the notebook's order, with its files. Raises `DefinitionError`."""
        return self._build_source("refuse")

    @property
    def source_for_export(self) -> WorkflowSource:
        """As `source`, for an export: unanswered account questions are kept instead of raising an error."""
        return self._build_source("keep")

    def _build_source(self, unanswered: UnansweredPolicy) -> WorkflowSource:
        sidecar = self.sidecar
        with self._lock:
            self._load()
            workflow = with_files_beside(self.draft.workflow(), self.folder)
            workflow = apply_sidecar(workflow, sidecar, unanswered_policy=unanswered)
        return WorkflowSource(self.notebook or self.folder / "notebook.ipynb", "notebook", workflow, sidecar)

    @property
    def workflow(self) -> Workflow:
        """The workflow in the notebook's order. Raises `DefinitionError`."""
        return self.source.workflow

    @property
    def sidecar(self) -> Sidecar | None:
        """The `NAME.pdkernel.yaml` beside the notebook, or None."""
        return read_sidecar(get_notebook_sidecar_path(self.notebook)) if self.notebook else None

    @property
    def action_sources(self) -> tuple[str, ...]:
        """The action sources that the notebook's `pdkernel.yaml` sets; empty for the project's setting."""
        sidecar = self.sidecar
        return sidecar.actions if sidecar else ()

    def record_cell(self, source: str, *, cell_id: str | None, execution_count: int | None = None) -> None:
        """Record a step or header cell that was run. Raises `DefinitionError`."""
        with self._lock:
            self._load()
            self.draft.record_cell(source, cell_id=cell_id, at=time.time(), execution_count=execution_count)
        self._notify()

    def remove_cells(self, cell_ids: list[str]) -> None:
        """Remove deleted cells from the draft."""
        if not cell_ids:
            return
        with self._lock:
            self._load()
            self.draft.remove_cells(cell_ids)
        self._notify()

    def find_needed_apps(self) -> Mapping[str, Sequence[str]]:
        """Return the apps that require an account of the external user, with the steps that use them. Runs no step code."""
        return steps_by_external_user_app(collect_app_bindings(self.workflow, self.catalog))

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
    def outbound_policy(self) -> OutboundPolicy:
        """The outbound policy. Raises `EgressModeError` if that of the environment is invalid."""
        return self._loaded_settings.outbound_policy

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

    def take_over_run(self, execution: Execution) -> Sequence[str]:
        """
        Choose the event and the external user of a recorded run, and take its exports as the results of the cells.

        Outbound calls are refused from then on.

        Returns:
            The steps whose exports were taken.

        Raises:
            DefinitionError: The workflow is invalid.
            RequestError: The event of the run is not shown in its record.
        """
        with self._change_settings() as chosen:
            workflow = self.workflow
            chosen.choose_event_of(execution, is_http=workflow.trigger.type == "http")
            chosen.choose_egress("deny", origin="%pdruns --event")
            return self._results.record_all(workflow, execution.steps, chosen.result_scope, ("success", "pinned"))

    def choose_event_of_run(self, execution: Execution) -> None:
        """
        Choose the event and the external user of a recorded run; the results of the cells and the outbound policy do not change.

        Raises:
            RequestError: The event of the run is not shown in its record.
        """
        is_http = self._is_http_triggered()
        with self._change_settings() as chosen:
            chosen.choose_event_of(execution, is_http=is_http)

    def choose_egress(self, text: str, *, origin: str = "%pdegress") -> None:
        """Set the outbound policy; *origin* as in `OutboundPolicy`. Raises `EgressModeError`."""
        with self._change_settings() as chosen:
            chosen.choose_egress(text, origin=origin)

    def load_event(self, name: str) -> TestEvent:
        """Choose an event from the library or a file. Raises `EventError`."""
        stem, event = self.events.load(name, http=self._is_http_triggered())
        self.choose_event(event, stem)
        return event

    def _is_http_triggered(self) -> bool:
        """Return whether the trigger is HTTP; true if the header cell cannot be read."""
        try:
            return self.source_for_export.workflow.trigger.type == "http"
        except DefinitionError:
            return True

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
            entry = self.workflow.entry(name)
            if exports is None:
                exports = self._results.get_pinnable_exports(name)
            chosen.pins[name] = dict(exports)
            self._results.record(entry, StepResult(name, "pinned", exports=dict(exports)), self.result_scope)
        return exports

    def unpin(self, name: str) -> bool:
        """Release the pin of step *name*; False if the step was not pinned."""
        with self._change_settings() as chosen:
            held = chosen.pins.pop(name, None) is not None
            if held:
                self._results.discard(name)
        return held

    @property
    def result_scope(self) -> str:
        """A key for the event, environment and external user that results belong to."""
        return self._loaded_settings.result_scope

    @property
    def last_execution(self) -> Execution | None:
        """The last execution in this kernel, or None."""
        return self._recent.last_execution

    def get_request(self, execution_id: str) -> RunRequest:
        """Return the request of a run with its recording. Raises `RequestError` unless it is one of the latest runs of this kernel."""
        return self._recent.get_request(execution_id)

    def get_result(self, name: str) -> StepResult | None:
        """Return the last result of step *name*, or None."""
        self._load()
        return self._results.get(name)

    @property
    def stale_steps(self) -> set[str]:
        """Steps whose last result is stale."""
        self._load()
        return self._results.find_stale_steps(self.workflow, self.result_scope)

    def find_stale_steps(self, execution: Execution) -> set[str]:
        """Return the steps of *execution* whose result there is stale, or whose code was edited since."""
        stale = set() if self._recent.is_detached(execution.id) else self.stale_steps
        return stale | self._recent.find_edited_steps(execution.id, self.workflow)

    def find_edited_steps(self, workflow: Workflow | None = None) -> set[str]:
        """Return the steps whose code was edited since their last result; *workflow* as the draft was read for an export."""
        self._load()
        return self._results.find_edited_steps(self.workflow if workflow is None else workflow)

    def get_exports(self) -> Mapping[str, Mapping[str, JSON]]:
        """Return the last exports of each step, with placeholders for secrets."""
        self._load()
        return self._results.exports()

    def _record_continued(self, request: RunRequest, execution: Execution) -> None:
        """Record a run again that went on after a pause. The cells show the results of a later run, if there is one."""
        last = self.last_execution
        is_detached = self._recent.is_detached(execution.id) or (last is not None and last.id != execution.id)
        self.record_run(request, execution, is_detached=is_detached)

    def record_run(self, request: RunRequest, execution: Execution, *, is_detached: bool) -> None:
        """Record a finished run; *is_detached* if its results are not the last results of the cells."""
        with self._lock:
            if not is_detached:
                ended: tuple[StepStatus, ...] = ("success", "error", "pinned")
                self._results.record_all(request.workflow, execution.steps, request.idempotency_scope, ended)
            self._recent.add(request, execution, is_detached=is_detached)
            self._state_store.schedule_save(self._build_state())
        self._notify()

    # ── running ────────────────────────────────────────────────────────────────────

    def run(
        self,
        *,
        only: frozenset[str] | None = None,
        resend: bool = False,
        external_user_id: str | None = None,
        skips_waits: bool = False,
        on_change: OnChange | None = None,
        while_waiting: Callable[[], object] | None = None,
    ) -> Execution:
        """
        Run the workflow, or *only* some of its steps, and wait for the end or the first pause.

        With *skips_waits* the run goes on at once where the workflow pauses. An interrupt ends the running step; the
        execution's status is then `cancelled`.
        *while_waiting* is called twice a second, except in a step with `--debug`.

        Raises:
            DefinitionError: The workflow is invalid.
            RequestError: No event is chosen.
        """
        request = self._build_request(only, resend, external_user_id, skips_waits=skips_waits)
        watcher = RunWatcher(on_change=on_change)
        debugger = self._prepare_debugger(request)
        if debugger is None:
            return self._start(request, watcher).result(while_waiting=while_waiting)
        return debugger.run_in_main_thread(self._start(request, replace(watcher, debugger=debugger)))

    def start(
        self,
        *,
        only: frozenset[str] | None = None,
        resend: bool = False,
        external_user_id: str | None = None,
        skips_waits: bool = False,
        on_change: OnChange | None = None,
    ) -> ThreadTask[Execution]:
        """As `run`, but return at once; steps with `--debug` run without the debugger."""
        request = self._build_request(only, resend, external_user_id, skips_waits=skips_waits)
        return self._start(request, RunWatcher(on_change=on_change))

    def _start(self, request: RunRequest, watcher: RunWatcher) -> ThreadTask[Execution]:
        # a run for another external user does not change the results that the cells show
        is_detached = request.external_user_id != self.external_user_id

        async def run(engine: WorkflowEngine) -> Execution:
            execution = await engine.run(request, watcher)
            self.record_run(request, execution, is_detached=is_detached)
            return execution

        return self._engine.start(run)

    def run_recorded(
        self,
        operation: Callable[[WorkflowEngine, RunWatcher], Awaitable[Execution]],
        *,
        on_change: OnChange | None = None,
        while_waiting: Callable[[], object] | None = None,
    ) -> Execution:
        """
        Replay or continue a recorded run with *operation*, and wait for the end. The results of the cells do not change.

        Raises:
            RequestError: Another run is in progress.
        """
        watcher = RunWatcher(on_change=on_change)
        task = self._engine.start(lambda engine: operation(engine, watcher))
        return task.result(while_waiting=while_waiting)

    def _build_request(
        self, only: frozenset[str] | None, resend: bool, external_user_id: str | None, *, skips_waits: bool
    ) -> RunRequest:
        """Build the request for a run; pins do not apply to steps that *only* names."""
        event = self.event
        if event is None:
            raise RequestError("No event is chosen.", fix="Choose or write an event: %pdevent")
        source = self.source
        for name in only or ():
            source.workflow.entry(name)
        request = build_run_request(
            source,
            event,
            project=self.project,
            policy=self.outbound_policy,
            external_user_id=external_user_id or self.external_user_id,
            environment=self.environment,
            interface="notebook",
            source_argument=shlex.quote(self.notebook.name) if self.notebook else "SOURCE",
            only_steps=only,
            pinned_exports={name: pinned for name, pinned in self.pins.items() if name not in (only or ())},
            pause_mode="skip" if skips_waits else "park",
            install=self._may_install,
            is_recorded=True,
        )
        app_context = self.app_context
        is_detached = request.external_user_id != self.external_user_id
        return replace(
            request,
            data_stores=None if is_detached or not request.policy.is_test else self._begin_scratch(request),
            base_url=None if app_context is None else app_context.settings.base_url,
            options=replace(request.options, previous_exports=self.get_exports(), resend=resend),
            idempotency=self.project.idempotency,
        )

    def _begin_scratch(self, request: RunRequest) -> ScratchByStep:
        """Return the scratch copies of the draft's data stores, without those of the steps that *request* runs."""
        scope = request.idempotency_scope
        if self._scratch is None or self._scratch[0] != scope:
            self._scratch = (scope, ScratchByStep(self.project.data_stores, self._clock))
        self._scratch[1].forget([step.name for step in request.workflow.steps if request.should_execute(step)])
        return self._scratch[1]

    @property
    def scratch_copy(self) -> ScratchCopy | None:
        """What the draft's steps last wrote to a scratch copy of the data stores; None before the first test run."""
        return None if self._scratch is None else self._scratch[1].latest

    def _prepare_debugger(self, request: RunRequest) -> KernelDebugger | None:
        """Prepare the debugger if *request* runs a step with `--debug` in a notebook, and return it; else return None."""
        steps = [step for step in request.workflow.steps if step.debug and request.should_execute(step)]
        if not steps or self._code_name is None:
            return None
        from pdkernel.kit.session.debugger import KernelDebugger

        if self._debugger is None:
            self._debugger = KernelDebugger()
        self._debugger.prepare(steps, self.draft.cells(), debug_filename=self._code_name)
        return self._debugger

    def call_engine(self, operation: Callable[[WorkflowEngine], Awaitable[T]]) -> T:
        """Run *operation* on the engine beside any run, and return its result."""
        return self._engine.call(operation)

    def poll_source(self, *, on_event: bool) -> SourceResult:
        """
        Run the event source that is the workflow's trigger once, and choose the newest of its new events.

        With *on_event* the source receives the chosen event, such as a webhook's request; otherwise a timer tick.

        Raises:
            RequestError: The workflow's trigger is not a source, or another run is in progress.
            PdkernelError: The source cannot run.
        """
        from pdkernel.operations.triggers import build_source_request

        event, source = self.event if on_event else None, self.source
        check_header(source.workflow)
        request = build_source_request(
            source,
            policy=self.outbound_policy,
            external_user_id=self.external_user_id,
            environment=self.environment,
            event=dict(event.data) if event is not None else None,
            install=self._may_install,
            interface="notebook",
        )
        ran = self._engine.start(lambda engine: engine.source_runner.run(request)).result()
        if ran.events:
            newest = ran.events[-1]
            self.choose_event(newest.event, newest.summary or str(newest.id or "event"))
        return ran

    def save_as_test(self, execution: Execution, name: str, *, non_secret_names: Collection[str] = ()) -> str:
        """
        Save *execution* as the snapshot test *name*; returns a summary of the written files.

        Args:
            execution: One of the latest runs of this kernel, of the workflow as it is now. If the file is older, the summary
                reports it.
            name: The test's name.
            non_secret_names: Names of variables and credentials that are not secret.

        Raises:
            RequestError: The run cannot be saved as a test; no file was written.
        """
        from pdkernel.annex.snapshot_tests import save_test

        if self.notebook is None or not self.notebook.is_file():
            raise RequestError(
                "A test runs the notebook's file, and the file of this notebook is unknown.",
                fix="Save the notebook. Outside Jupyter, set PDKERNEL_NOTEBOOK to its path.",
            )
        saved = save_test(
            self.get_request(execution.id),
            execution,
            name=name,
            source=self.source,
            directory=self.directory,
            non_secret_names=non_secret_names,
        )
        return saved.format_summary(self.folder)

    def prove_export(self, folder: Path, *, is_patch: bool = False) -> Proof:
        """
        Prove the files that an export of the notebook wrote to *folder*; the chosen external user is also a test user.

        Args:
            folder: The exported folder.
            is_patch: Whether the export updated a synced folder.

        Raises:
            DefinitionError: The notebook's workflow is invalid.
            RequestError: The owner of a step's account is not decided.
        """
        from pdkernel.operations.export import prove_export

        chosen = self.external_user_id
        proof = prove_export(
            self.source,
            folder,
            project=self.project,
            directory=self.directory,
            environ=os.environ,
            is_patch=is_patch,
            extra_users=() if chosen is None else (chosen,),
            pinned_steps=tuple(self.pins),
        )
        edited = self.describe_edited_steps()
        # a relative path: the saved notebook should not contain paths of this machine
        shown = folder.relative_to(self.folder) if folder.is_relative_to(self.folder) else folder
        notes = (*proof.notes, *((edited,) if edited else ()))
        return msgspec.structs.replace(proof, folder=str(shown), notes=notes)

    def describe_edited_steps(self, workflow: Workflow | None = None) -> str | None:
        """
        Return a sentence with the steps that were edited and have not run since, or None.

        Args:
            workflow: The workflow of `source_for_export`; None for that of `source`.

        Raises:
            DefinitionError: The notebook's workflow is invalid.
            RequestError: The owner of a step's account is not decided.
        """
        workflow = self.workflow if workflow is None else workflow
        edited = self.find_edited_steps(workflow)
        named = ", ".join(step.name for step in workflow.steps if step.name in edited)
        return f"Edited, not run: {named}. The code on the screen counts." if edited else None

    def build_steps_value(self) -> dict[str, Any]:
        """Return the redacted value of `steps` for the next step, for completion and previews."""
        event = self.event
        trigger: dict[str, Any] = {"event": dict(event.with_masked_headers().data) if event else {}}
        if event is not None:
            last = self.last_execution
            trigger["context"] = last.context if last else self._build_example_context(event)
        return {"trigger": trigger, **self.get_exports()}

    def _build_example_context(self, event: Event) -> Mapping[str, JSON]:
        """Return the value of `steps.trigger.context` for a run on *event*, without the ids of the run."""
        request = RunRequest(
            workflow=self.workflow,
            event=event,
            policy=parse_policy("deny"),
            external_user_id=self.external_user_id,
            environment=self.environment,
        )
        return build_trigger_context(
            request, project_id=self.project.project_id, trace_id="", run_id="", clock=self._clock
        )

    # ── listeners, saved state ────────────────────────────────────────────────

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* after every change, in the thread of the change; returns a function that removes it."""
        with self._lock:
            self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def notify_accounts_changed(self) -> None:
        """Call every listener: external users or accounts of the project have changed."""
        self._notify()

    def close(self) -> None:
        """Stop every process and server of the session, finish pending writes, and close the project."""
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
            self._state_store.save(self._build_state())
        self._notify()

    def _notify(self) -> None:
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:
                logging.getLogger(__name__).exception("A form or an output of the notebook cannot show the change.")

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
            saved = self._state_store.load()
            if saved is None:
                return
            self._run_settings.restore(saved)
            self._results = LastStepResults(saved.results)
            self.draft.restore(saved.cells)

    @property
    def _state_store(self) -> SessionStateStore:
        if self._opened_state_store is None:
            self._opened_state_store = SessionStateStore(
                self.project.notebook_states, str(self.notebook or self.folder)
            )
        return self._opened_state_store

    def _build_state(self) -> SessionState:
        return self._run_settings.to_state(self._results.stored_results(), self.draft.restorable_cells())
