"""Requests to event sources that have a response, and whose sources have not ended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from sqlalchemy import update

from pdkernel.common.clock import ManualClock
from pdkernel.errors import DamagedRecordError
from pdkernel.model import JSON
from pdkernel.storage import Project
from pdkernel.storage.schema import answered_requests
from tests.storage.test_trigger_events import TRIGGER, deploy

EVENT: dict[str, JSON] = {"method": "POST", "headers": {"authorization": "Bearer rk-5d0c1f"}}


def due_ids(project: Project, trigger: str) -> Sequence[str]:
    """The ids of the trigger's requests that are due."""
    return [each.id for each in project.answered_requests.list_due(trigger)]


def test_a_request_waits_until_it_is_finished(project: Project, clock: ManualClock) -> None:
    """Requests are due at once, in order, and finished once; one that is postponed is due later, with one more failure."""
    table = project.answered_requests
    ids = [table.add("p_a/source", EVENT), table.add("p_a/source", {}), table.add("dc_1", EVENT)]

    with project.sqlalchemy_engine.begin() as connection:
        finished = [table.finish(connection, ids[1]) for _ in range(2)]
    table.postpone(ids[2], 10)
    before = table.list_due_triggers()
    clock.advance(10)

    assert finished == [True, False]
    assert (before, table.list_due_triggers()) == (["p_a/source"], ["p_a/source", "dc_1"])
    assert due_ids(project, "p_a/source") == [ids[0]]
    assert [each.failures for each in table.list_due("dc_1")] == [1]
    assert (table.load_event(ids[0]), table.load_event(ids[1])) == (EVENT, None)
    assert [table.exists(each) for each in ids] == [True, False, True]


def test_a_request_whose_time_is_right_waits_on(project: Project, clock: ManualClock) -> None:
    """A correction lets those requests run that would wait for longer than their delay, and no others."""
    table = project.answered_requests
    ids = [table.add(f"dc_{number}", EVENT) for number in range(3)]
    for request, delays in zip(ids, ([20], [20, 40], [20, 400]), strict=True):
        for delay_s in delays:
            table.postpone(request, delay_s)

    table.correct_due(20)

    assert table.list_due_triggers() == ["dc_2"]


def test_a_request_is_encrypted(project: Project) -> None:
    """Its headers have secrets, so the database has none of its text; a request that cannot be decrypted is reported."""
    request = project.answered_requests.add("dc_1", EVENT)
    with project.sqlalchemy_engine.begin() as connection:
        (sealed,) = connection.execute(answered_requests.select()).all()
        connection.execute(update(answered_requests).values(sealed_event=sealed.sealed_event[:-1]))

    assert b"rk-5d0c1f" not in sealed.sealed_event
    with pytest.raises(DamagedRecordError):
        project.answered_requests.load_event(request)


@pytest.mark.parametrize("removed", ["trigger", "user"])
def test_requests_are_removed_with_their_trigger(sqlite_project: Project, removed: str) -> None:
    """Requests of a trigger that is removed, itself or with its user, are removed with it, and no others."""
    deploy(sqlite_project)
    for trigger in (TRIGGER, "p_a/source"):
        sqlite_project.answered_requests.add(trigger, EVENT)

    if removed == "trigger":
        sqlite_project.deployed_triggers.remove(TRIGGER)
    else:
        sqlite_project.accounts.delete_user("ada", "development")

    assert sqlite_project.answered_requests.list_due_triggers() == ["p_a/source"]
