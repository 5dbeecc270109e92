"""Turns of runs of limited workflows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pdkernel.egress import parse_policy
from pdkernel.engine.http_response import build_text_response
from pdkernel.engine.queue_turns import QueueFullError, QueueLimits, QueueTurn, find_limits, queue_limits
from pdkernel.engine.run_request import RequestRefusal, RunRequest
from pdkernel.errors import ProjectError, RequestError
from pdkernel.journal import Claim, UnrecordedRuns
from tests.builders import a_workflow, an_event, python_step

LIMITS = QueueLimits("p_1", 1, None, None, 100)


class Journal(UnrecordedRuns):
    """A journal that refuses the first two grants."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.has_room = True
        self.fails = False

    async def add_turn(self, queue: str, run_id: str, *, size: int | None) -> bool:
        """Note the size."""
        self.calls.append(f"add {queue} {run_id} {size}")
        return self.has_room

    async def grant_turn(self, queue: str, run_id: str) -> bool:
        """Grant the third time."""
        self.calls.append(f"grant {queue} {run_id}")
        return len(self.calls) > 3

    async def record_start(self, queue: str, claim: Claim) -> float:
        """Note the start; the first one must wait."""
        self.calls.append(f"start {queue} {claim.run_id}")
        return 0.01 if len(self.calls) == 1 else 0.0

    async def confirm_start(self, claim: Claim) -> None:
        """Note that the step has begun."""
        self.calls.append(f"begun {claim.run_id}")

    async def end_turn(self, run_id: str) -> None:
        """Note the end, or fail."""
        self.calls.append(f"end {run_id}")
        if self.fails:
            raise ProjectError("The database cannot be written.")


async def test_a_turn_waits_until_it_is_granted() -> None:
    """Who watches the run reads once why it waits."""
    journal, lines = Journal(), list[str]()

    turn = await QueueTurn.enter(journal, LIMITS, Claim.first("run"), is_new=True)
    await turn.wait(lines.append)
    await turn.wait(lines.append)
    await turn.end()

    assert journal.calls == ["add p_1 run 100", *["grant p_1 run"] * 3, "end run"]
    assert lines == ["The run waits for the limits of its workflow (settings: concurrency, throttle)."]


async def test_a_run_that_goes_on_is_not_refused() -> None:
    """Only a new run finds a full queue."""
    journal = Journal()
    journal.has_room = False

    with pytest.raises(QueueFullError, match="Event Queue Full"):
        await QueueTurn.enter(journal, LIMITS, Claim.first("run"), is_new=True)
    journal.has_room = True
    await QueueTurn.enter(journal, LIMITS, Claim.first("run"), is_new=False)

    assert journal.calls == ["add p_1 run 100", "add p_1 run None"]


@pytest.mark.parametrize(("max_starts", "recorded"), [(None, []), (5, [*["start p_1 run"] * 2, "begun run"])])
async def test_the_turn_of_a_claimed_run_records_its_start(max_starts: int | None, recorded: list[str]) -> None:
    """It need not wait for a claim, has nothing to end, and records once, if starts are limited, that it may start and has begun."""
    journal = Journal()
    turn = QueueTurn(journal, replace(LIMITS, max_starts=max_starts), Claim.first("run"), is_claimed=True)

    await turn.wait(None)
    for _ in range(2):
        await turn.record_start()
        await turn.confirm_start()
    await turn.end()

    assert journal.calls == recorded


async def test_a_turn_that_cannot_be_removed_ends_with_its_process() -> None:
    """The run has ended, so the error changes nothing for it."""
    journal = Journal()
    journal.fails = True
    turn = await QueueTurn.enter(journal, LIMITS, Claim.first("run"), is_new=True)

    await turn.end()

    assert journal.calls[-1] == "end run"


@pytest.mark.parametrize(
    ("changes", "is_limited"),
    [
        ({}, True),
        ({"keep_in_journal": False}, True),
        ({"interface": "terminal"}, False),
        ({"is_only_recorded": True}, False),
        ({"refusal": RequestRefusal(RequestError("No."), build_text_response(400, "No."))}, False),
        ({"workflow": a_workflow()}, False),
    ],
)
def test_limits_apply_to_runs_of_a_served_workflow(changes: dict[str, Any], is_limited: bool) -> None:
    """Tests of a workflow, refused events and events that run no step have no limits."""
    request = RunRequest(
        a_workflow(concurrency=1), an_event(), parse_policy("deny"), interface="http", workflow_id="p_1"
    )

    assert find_limits(replace(request, **changes)) == (LIMITS if is_limited else None)


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({"rate_limit": 20, "rate_limit_bucket_size_seconds": 60}, (None, 20, 60, 100)),
        ({"rate_limit": 5, "max_event_queue_size": 500}, (None, 5, 1, 500)),
        ({"concurrency": 2, "throttle": {"limit": 3, "interval": 10}, "queue": 7}, (2, 3, 10, 7)),
        ({"rate_limit": 0}, (None, 0, 1, 100)),
        ({"throttle": {"limit": 5, "interval": 0}}, None),
        ({"concurrency": 0}, None),
        ({"concurrency": 1, "queue": 0}, (1, None, None, 0)),
        ({"concurrency": {"default": False, "limit": 4}}, (4, None, None, 100)),
        ({"concurrency": {"default": True}}, None),
        ({"concurrency": {"default": True, "limit": 4}}, None),
        ({"concurrency": {"a": 1, "b": 2}}, None),
        ({"max_event_queue_size": 500}, None),
        ({"rate_limit": "20", "concurrency": True, "max_event_queue_size": None}, None),
    ],
)
def test_queue_limits(settings: dict[str, Any], limits: tuple[Any, ...] | None) -> None:
    """The names of synced files and the header's own set the same limits; a value of an unknown form sets none."""
    expected = None if limits is None else QueueLimits("p_1", *limits)

    assert queue_limits(a_workflow(python_step(), **settings), "p_1") == expected
