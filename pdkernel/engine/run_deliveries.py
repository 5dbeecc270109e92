"""
Delivers the messages of a run: those that steps have queued, and the notifications that a served run has failed.

`deliveries` sends one message; `emitted_events` passes events on to other workflows.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Self

from msgspec.structs import replace

from pdkernel.common.blocking import run_blocking
from pdkernel.common.clock import Clock
from pdkernel.common.encode import decode_json, encode_json
from pdkernel.common.identity import AccountGoneError, Directory
from pdkernel.common.redaction import Redactor, find_redacted_values, get_redactor
from pdkernel.egress import CallContext
from pdkernel.egress.gateway import GatewayAddress
from pdkernel.engine.account_resolution import restore_proxy_access
from pdkernel.engine.deliveries import (
    NOT_SENT,
    NOTIFICATION_STEP,
    MailSettings,
    SendDelivery,
    build_batch_notification,
    build_notification,
    may_retry,
    parse_mail_settings,
    retry_delay_s,
)
from pdkernel.engine.emitted_events import ERRORS_CHANNEL, EmittedEvents
from pdkernel.engine.outbound_calls import build_call_binding
from pdkernel.engine.run_record import RunOutbox, RunRecord
from pdkernel.engine.run_request import RunRequest, collect_request_secrets
from pdkernel.engine.run_state import RunState
from pdkernel.errors import InternalError, PdkernelError
from pdkernel.execution import Delivery, Execution
from pdkernel.journal import OutboxRow, RunJournal
from pdkernel.model import JSON
from pdkernel.storage import Project
from pdkernel.workers import Effect

MAX_IN_FLIGHT = 32
"""Runs that send their messages to one destination at the same time."""
MAX_MAILS_IN_FLIGHT = 2
"""The same for e-mail, of which each waits in one of the few threads that also read the database."""
MAX_OWN_SENDING_S = 10.0
"""Seconds in which a served run begins to send its messages to one destination itself."""

_log = logging.getLogger(__name__)


class RunDeliveries:
    """
    Delivers the messages of runs.

    Args:
        directory: Accounts whose credentials Connect withholds.
        journal: The journal.
        gateway: The gateway for outbound calls, or None to connect directly.
        clock: For the times of further tries.
        mail: Returns the settings for each `$.send.email`; None only shows the message.
        error_notification: Returns the URL or e-mail address that receives failed served runs, or None.
        emitted_events: Passes on what served runs emit; None outside of a server.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        journal: RunJournal,
        gateway: GatewayAddress | None,
        clock: Clock,
        mail: Callable[[], MailSettings | None] = lambda: None,
        error_notification: Callable[[], str | None] = lambda: None,
        emitted_events: EmittedEvents | None = None,
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._gateway = gateway
        self._clock = clock
        self._mail = mail
        self._error_notification = error_notification
        self._emitted = emitted_events
        self._in_flight = Counter[str]()  # runs that send a message, by lane

    @classmethod
    def for_project(
        cls,
        project: Project,
        directory: Directory,
        journal: RunJournal,
        gateway: GatewayAddress | None,
        clock: Clock,
        emitted_events: EmittedEvents | None,
    ) -> Self:
        """Return the deliveries with the mail server and the `error_notification` of the project's settings."""
        return cls(
            directory=directory,
            journal=journal,
            gateway=gateway,
            clock=clock,
            mail=lambda: parse_mail_settings(project.settings.all_settings(), project.variables.values()),
            error_notification=lambda: _as_text(project.settings.get("error_notification")),
            emitted_events=emitted_events,
        )

    def queue_failure(self, request: RunRequest, record: RunRecord) -> None:
        """
        Queue the messages about a failed served run: the event for workflows with an errors trigger, and the notification.

        Blocks: it reads the triggers and the settings. Raises `ProjectError`; then nothing is queued.
        """
        execution = record.execution
        if execution.status != "error" or not request.is_served or request.batch is not None:
            return  # the end of a batch is reported once
        build = partial(build_notification, execution, base_url=request.base_url)
        self._add_failure_messages(request, execution, record.outbox, record.redactor, build)

    def build_batch_messages(
        self, request: RunRequest, execution: Execution, facts: Mapping[str, JSON], outbox: RunOutbox, number: int
    ) -> Sequence[OutboxRow]:
        """
        Build the messages about a batch with failed runs, of which *execution* is the first: as `queue_failure`, but one for all.

        Blocks, as `queue_failure`.

        Args:
            request: The request of the first failed run.
            execution: The record of that run.
            facts: The summary of the batch, for the notification.
            outbox: The outbox of that run.
            number: The number of the retry, from 1, so that each retry is reported.
        """
        redactor = get_redactor(*collect_request_secrets(request))
        build = partial(build_batch_notification, execution, facts=facts)
        self._add_failure_messages(request, execution, outbox, redactor, build, number)
        return outbox.rows

    def _add_failure_messages(
        self,
        request: RunRequest,
        execution: Execution,
        outbox: RunOutbox,
        redactor: Redactor,
        build: Callable[[str], Effect],
        number: int = 1,
    ) -> None:
        """Queue the event for errors triggers, and the notification that *build* builds for the project's target."""
        is_off = request.workflow.settings.get("error_notification") is False
        target = None if is_off else self._error_notification()
        if self._emitted is not None and self._emitted.has_error_listener(request, execution):
            outbox.add(ERRORS_CHANNEL, number, [self._emitted.new_error()], redactor)
        if target:
            outbox.add(NOTIFICATION_STEP, number, [build(target)], redactor)

    async def deliver(self, run: RunState) -> None:
        """Try once to deliver the messages that the steps of *run* have queued and those about its failure; record the results."""
        tries_again = run.request.is_served

        async def send(row: OutboxRow, step: str, effect: Effect) -> None:
            binding = build_call_binding(run, step, lambda _: None)
            delivery = await self._send(run.request, run.record.run_id, row, effect, binding, run.record.redactor)
            delay_s = retry_delay_s(1) if tries_again and may_retry(delivery) else None
            retry_at = None if delay_s is None else self._clock.now().timestamp() + delay_s
            await run.record.add_delivery(row, delivery, retry_at=retry_at)

        await self._deliver_lanes(run.request, run.record, send)

    async def deliver_refusal(self, request: RunRequest, record: RunRecord) -> None:
        """Deliver the messages about the run of *request*, which was refused."""

        async def send(row: OutboxRow, _: str, effect: Effect) -> None:
            await self.deliver_again(request, record.run_id, row, effect, 0)

        await self._deliver_lanes(request, record, send)

    async def _deliver_lanes(
        self, request: RunRequest, record: RunRecord, send: Callable[[OutboxRow, str, Effect], Awaitable[None]]
    ) -> None:
        """
        Call *send* for each message of the run: at the same time for different destinations, in order for one.

        A destination that hangs must hold up neither the other ones nor many runs, so that the server has no room for further
        runs: what a served run cannot send soon is left to the delivery of messages that are due.
        """
        lanes: dict[str, list[tuple[OutboxRow, str, Effect]]] = {}
        for message in record.outbox.take():
            lanes.setdefault(message[0].lane, []).append(message)

        async def deliver_lane(lane: str, messages: list[tuple[OutboxRow, str, Effect]]) -> None:
            ends = self._clock.monotonic() + MAX_OWN_SENDING_S
            most = MAX_MAILS_IN_FLIGHT if messages[0][2].kind == "email" else MAX_IN_FLIGHT
            if request.is_served and self._in_flight[lane] >= most:
                ends = -math.inf
            self._in_flight[lane] += 1
            try:
                for number, message in enumerate(messages):
                    if request.is_served and self._clock.monotonic() >= ends:
                        await self._journal.leave_deliveries(record.run_id, [row for row, _, _ in messages[number:]])
                        return
                    await send(*message)
            finally:
                self._in_flight[lane] -= 1
                if not self._in_flight[lane]:
                    del self._in_flight[lane]

        if len(lanes) == 1:
            await deliver_lane(*lanes.popitem())
        elif lanes:
            done = await asyncio.gather(*(deliver_lane(*each) for each in lanes.items()), return_exceptions=True)
            for fault in done:
                if fault is not None:
                    raise fault

    async def deliver_again(self, request: RunRequest, run_id: str, row: OutboxRow, effect: Effect, tries: int) -> None:
        """Deliver a message of the run of *request*, which has ended or waits, after *tries* tries; record the result."""
        shown = decode_json(row.shown, Delivery)
        # the first record of the message was redacted with the secrets of the run's accounts, which are not resolved here
        secrets = find_redacted_values(dict(effect.payload), shown.payload)
        redactor = get_redactor(*collect_request_secrets(request), *secrets)
        try:
            proxies = await run_blocking(restore_proxy_access, secrets, self._directory)
        except AccountGoneError as gone:
            note = f"The message cannot be sent again: the account {gone} was removed, or connected in another way."
            delivery = replace(shown, outcome="failed", note=note, request=None)
        except PdkernelError as fault:
            delivery = replace(shown, outcome="failed", note=f"{NOT_SENT}{fault.message}", request=None)
        else:
            binding = CallContext(
                step=row.path,
                policy=request.outbound_policy,
                redactor=redactor,
                external_user_id=request.external_user_id,
                environment=request.environment,
                proxy_by_secret_ref=proxies,
                on_call_finished=lambda _: None,
                on_call_refused=lambda _: None,
            )
            delivery = await self._send(request, run_id, row, effect, binding, redactor)
        delay_s = retry_delay_s(tries + 1) if may_retry(delivery) else None
        retry_at = None if delay_s is None else self._clock.now().timestamp() + delay_s
        delivery = replace(shown, outcome=delivery.outcome, to=delivery.to, status=delivery.status, note=delivery.note)
        await self._journal.record_delivery(run_id, row, encode_json(delivery).decode(), retry_at=retry_at)

    async def record_failure(self, run_id: str, row: OutboxRow, tries: int, reason: str) -> None:
        """Record that a message was not sent because of *reason*; it is due again unless *tries* tries are enough."""
        try:
            shown = decode_json(row.shown, Delivery)
        except ValueError:
            shown = Delivery(row.path, "http", "failed")
        delay_s = retry_delay_s(tries)
        retry_at = None if delay_s is None else self._clock.now().timestamp() + delay_s
        delivery = replace(shown, outcome="failed", note=f"{NOT_SENT}{reason}", request=None)
        await self._journal.record_delivery(run_id, row, encode_json(delivery).decode(), retry_at=retry_at)

    async def _send(
        self, request: RunRequest, run_id: str, row: OutboxRow, effect: Effect, binding: CallContext, redactor: Redactor
    ) -> Delivery:
        """Send a message of the run of *request* once; the result has the outcome."""
        key = row.idempotency_key(run_id) if request.is_served else None
        if effect.kind == "emit" and key is not None and self._emitted is not None and not request.test:
            recorded = await self._journal.load_run(run_id)
            if recorded is None:
                raise InternalError(f"The record of the run {run_id} is gone.")
            return await self._emitted.deliver(decode_json(row.shown, Delivery), request, recorded[0], key)
        mail = await run_blocking(self._mail) if effect.kind == "email" else None
        sending = SendDelivery(self._gateway, mail)
        return await sending.deliver(row.path, effect, binding=binding, redactor=redactor, idempotency_key=key)


def _as_text(value: JSON) -> str | None:
    return value if isinstance(value, str) and value else None
