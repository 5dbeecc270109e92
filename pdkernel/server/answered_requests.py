"""
Runs sources again for requests that were answered before the source had ended, and whose run was interrupted.

The run of such a request has the turn of its source. So a request that is stored although no server has the turn was interrupted:
by the death of a server, the end of the source's process, or a database that could not be written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from sqlalchemy import Connection

from pdkernel.common.blocking import run_blocking
from pdkernel.engine.dispatch import look_repeatedly
from pdkernel.engine.event_sources import SourceResult
from pdkernel.engine.http_response import HttpResponse
from pdkernel.errors import DamagedRecordError, PdkernelError, ProjectError
from pdkernel.model import JSON
from pdkernel.server.app_context import AppContext
from pdkernel.server.run_registry import RunRegistry
from pdkernel.server.source_turns import TICK_RETRY_S, SourceOccasion
from pdkernel.server.trigger_events import MAX_POLL_INTERVAL_S
from pdkernel.server.trigger_runner import DeployedTriggers
from pdkernel.server.workflow_triggers import WorkflowTriggers
from pdkernel.storage import AnsweredRequest, AnsweredRequestTable

MAX_FAILURES = 10
"""How often a source may leave no result for a request that is run again; then the request is given up."""
FIRST_RETRY_S = 5.0
"""Seconds until the second try; each further wait is twice as long, so the last try is 43 minutes after the first."""
_LOG = logging.getLogger(__name__)


class PendingResponse:
    """
    The response of a source to a request that waits for it.

    A response that accepts the request (a status below 400) is passed on as soon as the request is stored. If it cannot be
    stored, the response waits for the source's result.

    Attributes:
        response: The response of the source, or None.
        sent: Done when the response may be sent.
    """

    def __init__(self, table: AnsweredRequestTable, trigger_id: str, event: Mapping[str, JSON]) -> None:
        self.response: HttpResponse | None = None
        self.sent: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()
        self._table = table
        self._trigger_id = trigger_id
        self._event = dict(event)
        self._request_id: str | None = None  # once the request may be stored

    @property
    def occasion(self) -> SourceOccasion:
        """What the source runs for."""
        return SourceOccasion(self._event, on_respond=self._respond, settle=self._settle)

    async def _respond(self, response: HttpResponse) -> None:
        self.response = response
        if response.status < 400:
            self._request_id = self._table.new_id()
            try:
                await run_blocking(self._table.add, self._trigger_id, self._event, self._request_id)
            except PdkernelError as fault:
                _LOG.warning(
                    "The response of the source %s waits for the end of its run, because the request could not be stored: %s",
                    self._trigger_id,
                    fault.message,
                )
                return
        self.sent.set_result(response)

    def _settle(self, connection: Connection) -> bool:
        if self._request_id is None:
            return True
        is_removed = self._table.finish(connection, self._request_id)
        return is_removed or not self.sent.done()  # an add that failed may have stored the request


class AnsweredRequests:
    """The interrupted requests that one server runs again. Belongs to one event loop."""

    def __init__(
        self, context: AppContext, runs: RunRegistry, triggers: WorkflowTriggers, deployed: DeployedTriggers
    ) -> None:
        self._context = context
        self._runs = runs
        self._triggers = triggers
        self._deployed = deployed
        self._table = context.project.answered_requests
        self._retry_at: dict[str, float] = {}  # of triggers whose results could not be stored
        self._corrected_jumps = -1  # the jumps of the clock after which due times were corrected

    async def run(self) -> None:
        """Run interrupted requests again until the task is cancelled; an unreadable database is tried again."""
        problem = "Requests to sources cannot be run again at the moment"
        await look_repeatedly(self._look, asyncio.Event(), problem=problem, retry_s=MAX_POLL_INTERVAL_S)

    async def _look(self) -> float:
        jumps = self._context.project.clock.jumps
        if jumps != self._corrected_jumps:
            await run_blocking(self._table.correct_due, FIRST_RETRY_S)
            self._corrected_jumps = jumps
        for trigger_id in await run_blocking(self._table.list_due_triggers):
            is_waiting = self._retry_at.get(trigger_id, 0.0) > self._context.clock.monotonic()
            if not is_waiting and not self._runs.source_turns.is_taken(trigger_id):
                self._runs.start_source(self._run_due(trigger_id))
        return MAX_POLL_INTERVAL_S

    async def _run_due(self, trigger_id: str) -> None:
        """Run the requests of a trigger again, the oldest first; a server that does not run the trigger leaves them."""
        try:
            for request in await run_blocking(self._table.list_due, trigger_id):
                await self._run_again(trigger_id, request)
        except PdkernelError as fault:
            _LOG.warning("Requests to the source %s cannot be run again at the moment: %s", trigger_id, fault.message)
            self._retry_at[trigger_id] = self._context.clock.monotonic() + TICK_RETRY_S
        else:
            self._retry_at.pop(trigger_id, None)

    async def _run_again(self, trigger_id: str, request: AnsweredRequest) -> None:
        try:
            event = await run_blocking(self._table.load_event, request.id)
        except DamagedRecordError as fault:
            await self._give_up(trigger_id, request, fault.message)
            return
        if event is None:  # its run has ended meanwhile
            return
        occasion = SourceOccasion(
            dict(event),
            is_due=lambda: self._table.exists(request.id),
            settle=lambda connection: self._table.finish(connection, request.id),
        )
        try:
            ran = await self._run(trigger_id, request, occasion)
            error = ran.record.error if ran is not None and not ran.is_stored else None
            problem = error.message if error is not None else None
        except ProjectError:
            raise  # not the fault of the request
        except PdkernelError as fault:
            problem = fault.message
        if problem is None:
            return
        if request.failures + 1 >= MAX_FAILURES:
            await self._give_up(trigger_id, request, problem)
        else:
            await run_blocking(self._table.postpone, request.id, FIRST_RETRY_S * 2**request.failures)

    async def _run(self, trigger_id: str, request: AnsweredRequest, occasion: SourceOccasion) -> SourceResult | None:
        """Run the source of a trigger; None if this server does not run it now, or if the trigger was removed."""
        deployed = await run_blocking(self._context.project.deployed_triggers.find, trigger_id)
        if deployed is not None:
            return await self._deployed.run(deployed, occasion) if deployed.active else None
        state = await run_blocking(self._context.project.workflow_triggers.find, trigger_id)
        if state is None:
            await run_blocking(self._table.remove, request.id)
            return None
        await self._context.workflows.refresh()
        found = self._triggers.find_endpoint(state)
        if found is None:
            return None
        return await self._triggers.run_source(found[0], state, occasion)

    async def _give_up(self, trigger_id: str, request: AnsweredRequest, reason: str) -> None:
        """Remove a request that has left no result too often, or cannot be decrypted; the reason becomes the trigger's result."""
        await run_blocking(self._table.remove, request.id)
        _LOG.error("A request to the source %s was given up: %s", trigger_id, reason)
        state = await run_blocking(self._context.project.workflow_triggers.find, trigger_id)
        if state is not None:
            record = partial(self._context.project.workflow_triggers.record_fired, state)
            await run_blocking(record, f"error: a request was given up: {reason}")
