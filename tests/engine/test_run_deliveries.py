"""Which failed runs notify someone. `tests/server/test_run_registry.py` has the notification of a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.clock import ManualClock
from pdkernel.egress import parse_policy
from pdkernel.engine.deliveries import FIRST_RETRY_S, NOTIFICATION_STEP
from pdkernel.engine.restored_run import RestoredRun
from pdkernel.engine.run_deliveries import RunDeliveries
from pdkernel.engine.run_record import RunRecord
from pdkernel.engine.run_request import UNWATCHED, RunRequest
from pdkernel.errors import ProjectError, RequestError
from pdkernel.journal import Claim, OutboxRow, UnrecordedRuns
from tests.builders import a_workflow, an_event, python_step

SERVED = RunRequest(
    a_workflow(python_step("one")),
    an_event(),
    parse_policy("deny"),
    interface="http",
    variables={"KEY": "key-0123456789"},
)


def new_record(request: RunRequest) -> RunRecord:
    """The record of a run that begins."""
    return RunRecord(
        request,
        state=RestoredRun(Claim.first("run"), "trace", {}),
        watcher=UNWATCHED,
        journal=UnrecordedRuns(),
        clock=ManualClock(),
        vault=None,
        root=Path("/"),
        may_have_accounts=False,
    )


def queue(
    directory: LocalDirectory, request: RunRequest, target: Callable[[], str | None], *, fails: bool = True
) -> list[tuple[str, str]]:
    """Return path and shown text of the messages that the end of *request* queues."""
    deliveries = RunDeliveries(
        directory=directory,
        journal=UnrecordedRuns(),
        gateway=None,
        clock=ManualClock(),
        error_notification=target,
        emitted_events=None,
    )
    record = new_record(request)
    if fails:
        record.record_refusal(RequestError("No key-0123456789."))
    else:
        record.set_final_status("success")
    deliveries.queue_failure(request, record)
    return [(row.path, row.shown) for row in record.outbox.rows]


@pytest.mark.parametrize(
    ("request_of", "fails", "target", "count"),
    [
        (SERVED, True, "https://hooks.test", 1),
        (replace(SERVED, workflow=a_workflow(python_step("one"), error_notification=True)), True, "ops@a.test", 1),
        (replace(SERVED, workflow=a_workflow(python_step("one"), error_notification=False)), True, "ops@a.test", 0),
        (SERVED, False, "https://hooks.test", 0),
        (SERVED, True, None, 0),
        (replace(SERVED, interface="terminal"), True, "https://hooks.test", 0),
        (replace(SERVED, keep_in_journal=False), True, "https://hooks.test", 0),
    ],
    ids=["failed", "switched on", "switched off", "success", "no target", "terminal", "not recorded"],
)
def test_a_failed_served_run_notifies(
    directory: LocalDirectory, request_of: RunRequest, fails: bool, target: str | None, count: int
) -> None:
    """A served run that failed queues one message if the project has an address and the workflow does not switch it off."""
    messages = queue(directory, request_of, lambda: target, fails=fails)

    assert [path for path, _ in messages] == [NOTIFICATION_STEP] * count
    assert all("key-0123456789" not in shown and "env/KEY" in shown for _, shown in messages)


class Deliveries(UnrecordedRuns):
    """Stores when each delivery is tried again."""

    def __init__(self) -> None:
        self.retries: list[float | None] = []

    async def record_delivery(self, run_id: str, row: OutboxRow, shown: str, *, retry_at: float | None = None) -> bool:
        """Store the time."""
        self.retries.append(retry_at)
        return True


async def test_the_notification_of_a_refused_run_is_tried_again(directory: LocalDirectory) -> None:
    """A notification about a run that was refused before its first step has its second try after ten seconds."""
    clock, journal = ManualClock(), Deliveries()
    deliveries = RunDeliveries(
        directory=directory,
        journal=journal,
        gateway=None,
        clock=clock,
        error_notification=lambda: "http://127.0.0.1:9/closed",
    )
    record = new_record(SERVED)
    record.record_refusal(RequestError("No."))
    deliveries.queue_failure(SERVED, record)

    await deliveries.deliver_refusal(SERVED, record)

    assert journal.retries == [clock.now().timestamp() + FIRST_RETRY_S]


def test_settings_that_cannot_be_read(directory: LocalDirectory) -> None:
    """If the address cannot be read, the caller has the reason, and tries again."""

    def fail() -> str:
        raise ProjectError("The disk is full.")

    with pytest.raises(ProjectError, match="The disk is full"):
        queue(directory, SERVED, fail)
