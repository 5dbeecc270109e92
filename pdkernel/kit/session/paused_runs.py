"""The paused runs of a notebook: they go on in the background, and persons end their pauses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from pdkernel.common.loop_thread import ThreadTask
from pdkernel.engine.run_request import OnChange, RunWatcher
from pdkernel.execution import Execution, Status
from pdkernel.journal import NewDecision
from pdkernel.kit.session.engine_thread import EngineThread
from pdkernel.kit.session.notebook_state import NotebookState
from pdkernel.model import JSON
from pdkernel.operations.run_history import cancel_run, end_pause, name_caller

if TYPE_CHECKING:
    from pdkernel.engine.workflow_engine import WorkflowEngine


class PausedRuns:
    """
    The paused runs of one session.

    Args:
        state: The notebook that ran.
        engine: The engine that continues the runs.
    """

    def __init__(self, state: NotebookState, engine: EngineThread) -> None:
        self._state = state
        self._engine = engine
        self._followed: dict[str, Future[Execution | None]] = {}

    def follow(
        self,
        execution: Execution,
        *,
        on_change: OnChange | None = None,
        on_stop: Callable[[Execution | None], None] | None = None,
    ) -> ThreadTask[Execution]:
        """
        Wait for the end of the pause of *execution* and continue the run, in the background; other runs can start meanwhile.

        The task ends at the next pause or the end of the run, in this or in another process. Cancelling the task cancels
        the run; the end of the session leaves a paused run to the next kernel.

        Args:
            execution: The record of the paused run.
            on_change: Receives the execution after each change, in the engine's thread.
            on_stop: Receives the record at the next pause or the end, before the task ends; None if there is no record.
        """
        request = self._state.find_request(execution.id)
        watcher = RunWatcher(on_change=on_change)
        stopped: Future[Execution | None] = Future()
        self._followed[execution.id] = stopped

        async def go_on(engine: WorkflowEngine) -> Execution:
            continued: Execution | None = None
            try:
                continued = await engine.continue_after_pause(
                    execution.id, watcher, request=request, is_ending=lambda: self._engine.is_closing
                )
                if request is not None:
                    self._state.record_continued(request, continued)
                return continued
            finally:
                if self._followed.get(execution.id) is stopped:
                    del self._followed[execution.id]
                if on_stop is not None:
                    on_stop(continued)
                stopped.set_result(continued)

        return self._engine.follow(go_on)

    def wait(self, run_id: str) -> Execution | None:
        """Wait for the next pause or the end of a run that this session follows; None if there is no record of it."""
        stopped = self._followed.get(run_id)
        while stopped is not None and not stopped.done():
            with suppress(TimeoutError):  # a wait without a timeout cannot be interrupted on some platforms
                stopped.result(timeout=0.5)
        return None if stopped is None else stopped.result()

    @property
    def newest(self) -> str | None:
        """The id of the run that this session has followed last, or None."""
        return next(reversed(self._followed), None)

    def is_followed(self, run_id: str) -> bool:
        """Whether this session continues the run at the end of its pause."""
        return run_id in self._followed

    def end_pause(self, run_id: str, body: JSON = None) -> None:
        """
        End the pause of a run, which goes on in the process that follows it; *body* is what its step gets.

        Raises:
            RequestError: There is no such run, or it is not paused.
        """
        decision = NewDecision("resumed", name_caller("notebook"))
        self._engine.call(lambda engine: end_pause(engine, run_id, body, decision=decision))

    def cancel(self, run_id: str) -> Execution:
        """Cancel a run, and return its record. Raises `RequestError` if there is no such run, or it has ended."""
        return self._engine.call(lambda engine: cancel_run(engine.journal, run_id, by=name_caller("notebook")))

    def list_left(self) -> Sequence[Execution]:
        """The paused runs of the notebook's workflow that this session does not follow, newest first."""

        async def find(engine: WorkflowEngine) -> Sequence[Execution]:
            unfinished: tuple[Status, ...] = ("paused", "resumed")
            return [
                execution
                for status in unfinished
                for execution in await engine.journal.list_executions(workflow=self._state.workflow.name, status=status)
                if not self.is_followed(execution.id)
                if (found := await engine.journal.load_run(execution.id)) and found[1].origin == engine.origin
            ]

        return self._engine.call(find)
