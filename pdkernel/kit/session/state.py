"""
The settings of a notebook's runs, and the state of its session that survives a restart of the kernel.

A change of the settings is written before the call returns, so that the call raises a write error. The results of a run
are written a moment later in a thread, so that the next cell does not wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from pdkernel.common.encode import JsonStruct
from pdkernel.common.identity import DEFAULT_ENVIRONMENT, Environment, check_external_user_id, parse_environment
from pdkernel.egress import OutboundPolicy, choose_policy, parse_policy
from pdkernel.errors import RequestError
from pdkernel.event import Event
from pdkernel.execution import Execution
from pdkernel.files.notebook import read_cells
from pdkernel.kit.session.draft import ExecutedCell
from pdkernel.kit.session.step_results import StoredResult
from pdkernel.model import JSON
from pdkernel.operations.events import TestEvent

if TYPE_CHECKING:
    from pathlib import Path

    from pdkernel.storage import NotebookStateTable, Project

_log = logging.getLogger(__name__)
_WRITER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pdkernel-kept")
"""One per process: writes keep their order, and the interpreter waits for them at exit."""

_FLUSH_REQUESTED = threading.Event()
"""Set while a thread waits for pending writes."""

SAVE_DELAY_S = 0.02
"""Seconds before the results of a run are written: consecutive cells then share one write."""


class SessionState(JsonStruct, frozen=True, kw_only=True):
    """
    What the next kernel of a notebook restores.

    Attributes:
        event: The chosen event, or None.
        event_http: Whether the event is an HTTP request.
        event_name: The event's name, or None.
        external_user_id: The external user that steps run for, or None.
        environment: The external user's environment.
        pins: Pinned exports by step.
        results: The last result of each step.
        cells: The executed cells.
    """

    event: Mapping[str, JSON] | None
    event_http: bool = True
    event_name: str | None
    external_user_id: str | None
    environment: Environment
    pins: Mapping[str, dict[str, JSON]]
    results: Mapping[str, StoredResult]
    cells: tuple[ExecutedCell, ...] = ()


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

    def choose_event_of(self, execution: Execution, *, is_http: bool) -> None:
        """
        Choose the event, the external user and the environment of a recorded run.

        Raises:
            RequestError: The event of the run is not shown in its record.
        """
        if execution.trigger.sealed:
            raise RequestError(
                f"The event of the run {execution.id} is not shown: the run ended before its accounts were known.",
                fix=f"Run it again: %pdruns replay {execution.id}",
            )
        self.choose_event(Event(execution.event, is_http=is_http), f"run {execution.id}")
        self.choose_user(execution.external_user, parse_environment(execution.environment))

    @property
    def outbound_policy(self) -> OutboundPolicy:
        """The outbound policy: that of `%pdegress`, else the default. Raises `EgressModeError`."""
        return self._policy or choose_policy(None, self._environ)

    def choose_egress(self, text: str, *, origin: str = "%pdegress") -> None:
        """Choose the outbound policy; *origin* as in `OutboundPolicy`. Raises `EgressModeError`."""
        self._policy = parse_policy(text, origin=origin)

    def to_state(self, results: Mapping[str, StoredResult], cells: tuple[ExecutedCell, ...]) -> SessionState:
        """Return the settings with *results* and *cells*, for the next kernel; secrets of the event are masked."""
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


def read_pinned_steps(project: Project, notebook: Path) -> frozenset[str]:
    """Return the steps that the session of *notebook* has pinned. Raises `ProjectError` if the state cannot be read."""
    state = project.notebook_states.load(str(notebook.resolve()), SessionState)
    return frozenset() if state is None else frozenset(state.pins)


def find_unsaved_steps(project: Project, notebook: Path) -> tuple[str, ...]:
    """
    Steps whose cells have run in a kernel, after *notebook* was saved, with another text than the file has.

    Raises:
        ProjectError: The state cannot be read.
        NotebookError: *notebook* cannot be read.
    """
    state = project.notebook_states.load(str(notebook.resolve()), SessionState)
    if state is None:
        return ()
    saved, saved_at = {cell.id: cell.source for cell in read_cells(notebook)}, notebook.stat().st_mtime
    return tuple(cell.name for cell in state.cells if cell.at > saved_at and saved.get(cell.cell_id) != cell.source)


class SessionStateStore:
    """
    The row of a notebook in the project's state table.

    Args:
        table: The state table.
        key: The notebook's key.
    """

    def __init__(self, table: NotebookStateTable, key: str) -> None:
        self._table = table
        self._key = key
        self._lock = threading.Lock()
        self._latest: SessionState | None = None
        self._writing: Future[None] | None = None

    def load(self) -> SessionState | None:
        """
        Return the saved state, or None; includes all pending writes of this process.

        Raises:
            ProjectError: The state cannot be read.
        """
        _wait_for_write(_WRITER.submit(lambda: None))
        return self._table.load(self._key, SessionState)

    def save(self, state: SessionState) -> None:
        """Write *state* before returning. Raises `ProjectError`."""
        with self._lock:
            self._latest = None
        _wait_for_write(_WRITER.submit(self._table.save, self._key, state))

    def schedule_save(self, state: SessionState) -> None:
        """Write *state* in the background; of several states in a row, the last is written. An error is logged."""
        with self._lock:
            is_pending = self._latest is not None
            self._latest = state
            if not is_pending:
                self._writing = _WRITER.submit(self._write)

    def flush(self) -> None:
        """Wait for pending writes."""
        writing = self._writing
        if writing is not None:
            _wait_for_write(writing)

    def _write(self) -> None:
        _FLUSH_REQUESTED.wait(SAVE_DELAY_S)
        with self._lock:
            state, self._latest = self._latest, None
        if state is None:
            return
        try:
            self._table.save(self._key, state)
        except Exception as fault:  # noqa: BLE001 - the journal has the run; only the notebook's copy of the results is lost
            _log.warning("Cannot save the results of the last run for the next kernel: %s", fault)


def _wait_for_write(writing: Future[None]) -> None:
    _FLUSH_REQUESTED.set()
    try:
        writing.result()
    finally:
        _FLUSH_REQUESTED.clear()
