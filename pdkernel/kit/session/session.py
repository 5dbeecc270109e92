"""
The session of a notebook: its state, its runs, and the services that magics and widgets use.

Magics and widgets call the session and listen to its changes.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pdkernel.common.clock import RANDOM_IDS, SYSTEM_CLOCK, Clock, IdGenerator
from pdkernel.common.loop_thread import ThreadTask
from pdkernel.egress import parse_policy
from pdkernel.engine.run_context import build_trigger_context
from pdkernel.engine.run_request import OnChange, RunRequest, RunWatcher
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.kit.session.draft import Draft, LiveNotebook
from pdkernel.kit.session.engine_thread import EngineThread
from pdkernel.kit.session.notebook_state import NotebookState
from pdkernel.language.analysis import check_header
from pdkernel.model import JSON, Workflow
from pdkernel.operations.runs import build_run_request
from pdkernel.storage import ScratchByStep, ScratchCopy

if TYPE_CHECKING:
    from pdkernel.engine.event_sources import SourceResult
    from pdkernel.engine.workflow_engine import WorkflowEngine
    from pdkernel.kit.session.actions import SessionActions
    from pdkernel.kit.session.connect_links import ConnectLinks
    from pdkernel.kit.session.debugger import KernelDebugger
    from pdkernel.kit.session.notebook_server import NotebookServer
    from pdkernel.kit.session.paused_runs import PausedRuns
    from pdkernel.operations.export import Proof
    from pdkernel.server.app_context import AppContext
    from pdkernel.storage import Project

T = TypeVar("T")


class Session(NotebookState):
    """
    A notebook's session.

    Args:
        notebook: The notebook's file, or None if the file is unknown.
        folder: The notebook's folder.
        project: The local project, or None to open the nearest project at first use.
        environ: Environment variables; the session reads `PDKERNEL_*`.
        code_name: Returns the debugger's file name for a cell's text; None disables debugging.
        live: The cells that a front end shows.
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
        live: LiveNotebook | None = None,
        clock: Clock = SYSTEM_CLOCK,
        ids: IdGenerator = RANDOM_IDS,
    ) -> None:
        environ = dict(environ or {})
        live = live or LiveNotebook()
        draft = Draft(notebook, name=folder.name or "notebook", live=live)
        super().__init__(folder=folder, draft=draft, project=project, environ=environ, clock=clock, ids=ids)
        live.on_change = self._notify
        self._may_install = environ.get("PDKERNEL_NO_INSTALL", "").lower() in ("", "0", "false", "no")
        self._code_name = code_name
        self._public_url = environ.get("PDKERNEL_PUBLIC_URL")
        self._debugger: KernelDebugger | None = None
        self._clock = clock
        self._scratch: tuple[str, ScratchByStep] | None = None  # for the event, external user and environment
        self._engine = EngineThread(self._local, clock=clock, ids=ids)

    @cached_property
    def actions(self) -> SessionActions:
        """Search for pre-built actions, their descriptions and prop options."""
        from pdkernel.kit.session.actions import SessionActions

        return SessionActions(self, call_engine=self.call_engine)

    @cached_property
    def server(self) -> NotebookServer:
        """The server of the draft; it listens after its `start`."""
        from pdkernel.kit.session.notebook_server import NotebookServer

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
        from pdkernel.kit.session.connect_links import ConnectLinks

        return ConnectLinks(self, app_context=lambda: self.app_context, public_url=self._public_url)

    @cached_property
    def paused_runs(self) -> PausedRuns:
        """The paused runs of the notebook, and what continues them."""
        from pdkernel.kit.session.paused_runs import PausedRuns

        return PausedRuns(self, self._engine)

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
        request = self._request(only, resend, external_user_id, skips_waits=skips_waits)
        watcher = RunWatcher(on_change=on_change)
        debugger = self._debugger_for(request)
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
        request = self._request(only, resend, external_user_id, skips_waits=skips_waits)
        return self._start(request, RunWatcher(on_change=on_change))

    def _start(self, request: RunRequest, watcher: RunWatcher) -> ThreadTask[Execution]:
        # a run for another external user does not change the results that the cells show
        is_detached = request.external_user_id != self.external_user_id

        async def run(runtime: WorkflowEngine) -> Execution:
            execution = await runtime.run(request, watcher)
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

    def _request(
        self, only: frozenset[str] | None, resend: bool, external_user_id: str | None, *, skips_waits: bool
    ) -> RunRequest:
        """The request for a run; pins do not apply to steps that *only* names."""
        event = self.event
        if event is None:
            raise RequestError("No event is chosen.", fix="Choose or write an event: %pdevent")
        source = self.source
        for name in only or ():
            source.workflow.step(name)
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
            previous_exports=self.get_exports(),
            idempotency=self.project.idempotency,
            resend=resend,
        )

    def _begin_scratch(self, request: RunRequest) -> ScratchByStep:
        """The scratch copies of the draft's data stores, without those of the steps that *request* runs."""
        scope = request.idempotency_scope
        if self._scratch is None or self._scratch[0] != scope:
            self._scratch = (scope, ScratchByStep(self.project.data_stores, self._clock))
        self._scratch[1].forget([step.name for step in request.workflow.steps if request.should_execute(step)])
        return self._scratch[1]

    @property
    def scratch_copy(self) -> ScratchCopy | None:
        """What the draft's steps last wrote to a scratch copy of the data stores; None before the first test run."""
        return None if self._scratch is None else self._scratch[1].latest

    def _debugger_for(self, request: RunRequest) -> KernelDebugger | None:
        """The debugger, if *request* runs a step with `--debug` in a notebook; else None."""
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
        from pdkernel.operations.sources import build_source_request

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
        ran = self._engine.start(lambda runtime: runtime.source_runner.run(request)).result()
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
        A sentence with the steps that were edited and have not run since, or None.

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
        """The redacted value of `steps` for the next step, for completion and previews."""
        event = self.event
        trigger: dict[str, Any] = {"event": dict(event.with_masked_headers().data) if event else {}}
        if event is not None:
            last = self.last_execution
            trigger["context"] = last.context if last else self._build_example_context(event)
        return {"trigger": trigger, **self.get_exports()}

    def _build_example_context(self, event: Event) -> Mapping[str, JSON]:
        """The value of `steps.trigger.context` for a run on *event*, without the ids of the run."""
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

    def close(self) -> None:
        """Stop every process and server of the session."""
        if "links" in vars(self):
            self.links.close()
        if "server" in vars(self):
            self.server.stop()
        self._engine.close()
        super().close()
