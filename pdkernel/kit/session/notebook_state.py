"""
The state of a notebook: its draft workflow, the settings of runs, the last results, and how it shows an execution.

A change is saved before the listeners are called. All methods are safe from any thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.common.identity import (
    DEFAULT_ENVIRONMENT,
    Directory,
    Environment,
    check_external_user_id,
    parse_environment,
)
from pdkernel.egress import OutboundPolicy, choose_policy, parse_policy
from pdkernel.engine.account_lookup import steps_by_external_user_app
from pdkernel.engine.run_request import RunRequest
from pdkernel.errors import DefinitionError, RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution, StepResult
from pdkernel.files.definition import Sidecar, UnansweredPolicy, apply_sidecar, get_notebook_sidecar_path, read_sidecar
from pdkernel.files.source import WorkflowSource, with_files_beside
from pdkernel.kit.session.draft import Draft, ExecutedCell
from pdkernel.kit.session.lazy_project import LazyProject
from pdkernel.kit.session.state_store import SessionState, SessionStateStore
from pdkernel.kit.session.step_results import LastStepResults, RecentRuns, StoredResult
from pdkernel.model import JSON, Workflow
from pdkernel.operations.events import EventLibrary, TestEvent
from pdkernel.operations.readiness.matrix import collect_app_bindings
from pdkernel.render import timeline
from pdkernel.render.rich_output import RichOutput
from pdkernel.render.runs import explain_status

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.storage import Project

Listener = Callable[[], None]
RESUME_LINE = "%pdruns resume"
"""The line that ends the pause of a run in a notebook, without the id of the run."""


class RunSettings:
    """
    The settings of one notebook. Not thread-safe: the session holds its lock.

    Args:
        environ: Environment variables, which choose the initial outbound policy.

    Attributes:
        event_name: The chosen event's name, or None.
        external_user_id: The external user that steps run for, or None.
        environment: The external user's environment.
        pins: Pinned exports by step.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._event: TestEvent | None = None
        self.event_name: str | None = None
        self.external_user_id: str | None = None
        self.environment: Environment = DEFAULT_ENVIRONMENT
        self._environ = environ
        self._policy: OutboundPolicy | None = None
        self.pins: dict[str, dict[str, JSON]] = {}

    @property
    def event(self) -> TestEvent | None:
        """The chosen event with the `x-pd-*` headers of the external user and environment; or None."""
        if self._event is None:
            return None
        if self.external_user_id is None:
            return self._event.without_external_user().with_identity(None, self.environment)
        return self._event.with_identity(self.external_user_id, self.environment)

    @property
    def result_scope(self) -> str:
        """A key for the event, environment and external user that results belong to."""
        event = self.event
        return f"{event.digest() if event else ''}/{self.environment}/{self.external_user_id or ''}"

    def choose_user(self, external_user_id: str | None, environment: Environment | None) -> None:
        """Choose the external user, or None; without *environment* the environment does not change."""
        self.external_user_id = check_external_user_id(external_user_id) if external_user_id is not None else None
        if environment is not None:
            self.environment = environment

    def choose_event(self, event: Event, name: str) -> None:
        """Choose *event*, and the external user and environment that its headers name."""
        self._event = TestEvent(dict(event.data), is_http=event.is_http)
        self.event_name = name
        if event.external_user_id is not None:
            self.external_user_id = event.external_user_id
        if event.environment in ("development", "production"):
            self.environment = "production" if event.environment == "production" else "development"

    @property
    def outbound_policy(self) -> OutboundPolicy:
        """The outbound policy: that of `%pdegress`, else the default. Raises `EgressModeError`."""
        return self._policy or choose_policy(None, self._environ)

    def choose_egress(self, text: str, *, origin: str = "%pdegress") -> None:
        """Choose the outbound policy; *origin* as in `OutboundPolicy`. Raises `EgressModeError`."""
        self._policy = parse_policy(text, origin=origin)

    def to_state(self, results: Mapping[str, StoredResult], cells: tuple[ExecutedCell, ...]) -> SessionState:
        """The settings with *results* and *cells*, for the next kernel; secrets of the event are masked."""
        # The outbound policy is not saved: a cell of the notebook sets it, and without such a cell the default applies.
        return SessionState(
            event=self._event.with_masked_headers().data if self._event is not None else None,
            event_http=self._event is None or self._event.is_http,
            event_name=self.event_name,
            external_user_id=self.external_user_id,
            environment=self.environment,
            pins=dict(self.pins),
            results=results,
            cells=cells,
        )

    def restore(self, state: SessionState) -> None:
        """Load the settings of an earlier kernel."""
        self._event = TestEvent(state.event, is_http=state.event_http) if state.event is not None else None
        self.event_name = state.event_name
        self.external_user_id = state.external_user_id
        self.environment = state.environment
        self.pins = dict(state.pins)


class NotebookState:
    """
    The state of one notebook; state of an earlier kernel is loaded at first use.

    Args:
        folder: The notebook's folder.
        draft: The cells of the notebook.
        project: The local project, or None to open the nearest project at first use.
        environ: Environment variables; the session reads `PDKERNEL_*`.
        clock: The clock for time stamps.
        ids: The source of run ids.
    """

    def __init__(
        self,
        *,
        folder: Path,
        draft: Draft,
        project: Project | None,
        environ: Mapping[str, str],
        clock: Clock,
        ids: IdGenerator,
    ) -> None:
        self.folder = folder
        self.notebook = draft.path
        self.draft = draft
        self.events = EventLibrary(folder)
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._local = LazyProject(folder, project=project, environ=environ, clock=clock, ids=ids)
        self._opened_state_store: SessionStateStore | None = None
        self._loaded = False
        self._run_settings = RunSettings(environ)
        self._results = LastStepResults()
        self._latest = RecentRuns()

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
        """Apps that require an account of the external user, with the steps that use them. Runs no step code."""
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
            _choose_event_of(chosen, execution, is_http=workflow.trigger.type == "http")
            chosen.choose_egress("deny", origin="%pdruns --event")
            steps = {step.name: step for step in workflow.steps}
            taken = [each for each in execution.steps if each.status in ("success", "pinned") and each.name in steps]
            for result in taken:
                self._results.record(steps[result.name], result, chosen.result_scope)
        return [result.name for result in taken]

    def choose_event_of_run(self, execution: Execution) -> None:
        """
        Choose the event and the external user of a recorded run; the results of the cells and the outbound policy do not change.

        Raises:
            RequestError: The event of the run is not shown in its record.
        """
        is_http = self._is_http_triggered()
        with self._change_settings() as chosen:
            _choose_event_of(chosen, execution, is_http=is_http)

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
        """Whether the trigger is HTTP; true if the header cell cannot be read."""
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
            step = self.workflow.step(name)
            if exports is None:
                exports = self._results.get_pinnable_exports(name)
            chosen.pins[name] = dict(exports)
            self._results.record(step, StepResult(name, "pinned", exports=dict(exports)), self.result_scope)
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
        return self._latest.last_execution

    def get_request(self, execution_id: str) -> RunRequest:
        """The request of a run with its recording. Raises `RequestError` unless it is one of the latest runs of this kernel."""
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

    def find_edited_steps(self, workflow: Workflow | None = None) -> set[str]:
        """Steps whose code was edited since their last result; *workflow* as the draft was read for an export."""
        self._load()
        return self._results.find_edited_steps(self.workflow if workflow is None else workflow)

    def get_exports(self) -> Mapping[str, Mapping[str, JSON]]:
        """The last exports of each step, with placeholders for secrets."""
        self._load()
        return self._results.exports()

    def find_request(self, execution_id: str) -> RunRequest | None:
        """As `get_request`; or None."""
        return self._latest.find_request(execution_id)

    def record_continued(self, request: RunRequest, execution: Execution) -> None:
        """Record a run again that went on after a pause. The cells show the results of a later run, if there is one."""
        last = self.last_execution
        is_detached = self._latest.is_detached(execution.id) or (last is not None and last.id != execution.id)
        self.record_run(request, execution, is_detached=is_detached)

    def record_run(self, request: RunRequest, execution: Execution, *, is_detached: bool) -> None:
        """Record a finished run; *is_detached* if its results are not the last results of the cells."""
        with self._lock:
            for result in execution.steps:
                if not is_detached and result.status in ("success", "error", "pinned"):
                    self._results.record(request.workflow.step(result.name), result, request.idempotency_scope)
            self._latest.add(request, execution, is_detached=is_detached)
            self._state_store.schedule_save(self._state())
        self._notify()

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
        """Finish pending writes, and close the project."""
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
            self._state_store.save(self._state())
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

    def _state(self) -> SessionState:
        return self._run_settings.to_state(self._results.stored_results(), self.draft.restorable_cells())


def _choose_event_of(settings: RunSettings, execution: Execution, *, is_http: bool) -> None:
    if execution.trigger.sealed:
        raise RequestError(
            f"The event of the run {execution.id} is not shown: the run ended before its accounts were known.",
            fix=f"Run it again: %pdruns replay {execution.id}",
        )
    settings.choose_event(Event(execution.event, is_http=is_http), f"run {execution.id}")
    settings.choose_user(execution.external_user, parse_environment(execution.environment))


def render_timeline(
    state: NotebookState,
    execution: Execution,
    *,
    only: Collection[str] | None = None,
    has_own_event: bool = False,
    can_stop: bool = False,
) -> RichOutput:
    """
    The timeline of *execution*.

    Args:
        state: The notebook that ran.
        execution: The execution, finished or not.
        only: Names of the steps to show, without the response. None shows the whole run.
        has_own_event: Whether the event of the run is not the chosen one: a request to the draft's endpoint started it, or
            it runs a recorded event. Its results are never stale.
        can_stop: Whether an interrupt of the kernel stops the run.
    """
    workflow = state.workflow
    finished = execution.finished_at is not None
    stale = state.find_stale_steps(execution) if finished and not has_own_event else ()
    name = None if has_own_event else state.event_name
    responds = only is None and workflow.trigger.type == "http"
    now = state.project.clock.now()
    note = explain_status(execution, now=now, resume_command=RESUME_LINE) if execution.status == "paused" else None
    if only is not None:
        execution = replace(execution, steps=tuple(step for step in execution.steps if step.name in only))
    edited = state.find_edited_steps() if stale else ()
    notes = timeline.TimelineContext(
        stale=stale,
        edited=edited,
        workflow=workflow,
        event_name=name,
        has_response=responds,
        note=note,
        now=now,
        can_stop=can_stop,
    )
    return RichOutput(timeline.render_text(execution, notes), timeline.render_html(execution, notes))
