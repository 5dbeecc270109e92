"""Deployed triggers: the claim of a due one, deliveries, and the events that are kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from pdkernel.common.clock import ManualClock
from pdkernel.common.identity import Environment
from pdkernel.storage import Project
from pdkernel.storage.deployed_triggers import MAX_EVENTS_PER_TRIGGER, DeployedTrigger, Webhook
from pdkernel.storage.schedule import Schedule
from pdkernel.storage.schema import deployed_triggers
from tests.storage.conftest import Location


def add_trigger(
    project: Project,
    trigger_id: str,
    schedule: Schedule | None = None,
    *,
    user: str = "ada",
    environment: Environment = "development",
) -> DeployedTrigger:
    """Store an active trigger with the webhooks `wh_1` and `wh_2`."""
    now = project.clock.now()
    hooks = tuple(Webhook(name, "https://a.example", "key", 1.0, 2.0) for name in ("wh_1", "wh_2"))
    trigger = DeployedTrigger(
        id=trigger_id,
        external_user_id=user,
        environment=environment,
        key="slack-new-message",
        version="1.0.0",
        name="New message",
        props={"n": 1},
        accounts={"slack": "apn_1"},
        active=True,
        created_at=now,
        updated_at=now,
        schedule=schedule or Schedule(),
        webhooks=hooks,
        workflows=("p_1",),
        emits_on_deploy=False,
        public_only=True,
    )
    project.deployed_triggers.add(trigger)
    return trigger


def test_a_trigger_is_read_back(sqlite_project: Project, clock: ManualClock) -> None:
    """A trigger has every value with which it was stored; an update changes the time of the change only."""
    trigger = add_trigger(sqlite_project, "dc_1", Schedule(cron="0 9 * * *", timezone="Europe/Berlin"))
    assert sqlite_project.deployed_triggers.find("dc_1") == trigger
    clock.advance(5)

    changed = sqlite_project.deployed_triggers.update("dc_1", lambda each: replace(each, name="Renamed"))

    assert changed == replace(trigger, name="Renamed", updated_at=trigger.created_at + timedelta(seconds=5))
    assert sqlite_project.deployed_triggers.find("dc_1") == changed


def test_a_change_begins_with_the_stored_trigger(location: Location, project: Project) -> None:
    """Two processes that change one trigger keep each other's changes; a removed trigger does not change."""
    add_trigger(project, "dc_1")
    with location.open(clock=project.clock) as other:
        other.deployed_triggers.update("dc_1", lambda each: replace(each, workflows=()))
        other.deployed_triggers.record_delivery("dc_1", "wh_1", "500")

    changed = project.deployed_triggers.update("dc_1", lambda each: replace(each, name="Renamed"))

    assert changed is not None
    assert (changed.name, changed.workflows, [hook.failures for hook in changed.webhooks]) == ("Renamed", (), [1, 0])
    assert project.deployed_triggers.find("dc_1") == changed
    assert project.deployed_triggers.update("dc_2", lambda each: each) is None


def test_only_another_schedule_moves_the_next_run(sqlite_project: Project, clock: ManualClock) -> None:
    """A trigger that is renamed runs when it would have run; with another interval the time begins anew."""
    table = sqlite_project.deployed_triggers
    add_trigger(sqlite_project, "dc_1", Schedule(interval_s=60))
    begin = clock.now()
    clock.advance(50)

    table.update("dc_1", lambda each: replace(each, name="Renamed"))
    renamed = table.next_due()
    table.update("dc_1", lambda each: replace(each, schedule=Schedule(interval_s=30)))

    assert renamed == begin + timedelta(seconds=60)
    assert table.next_due() == begin + timedelta(seconds=80)


def test_triggers_are_listed_by_user_and_environment(sqlite_project: Project) -> None:
    """A list has the triggers of one user in one environment, newest first."""
    for trigger_id in ("dc_2", "dc_1", "dc_3"):
        add_trigger(sqlite_project, trigger_id)
    add_trigger(sqlite_project, "dc_4", user="bob")
    add_trigger(sqlite_project, "dc_5", environment="production")

    found = sqlite_project.deployed_triggers.list_triggers("ada", "development")

    assert [trigger.id for trigger in found] == ["dc_3", "dc_1", "dc_2"]


def due_ids(project: Project) -> list[str]:
    """The ids of the triggers that are due, the most overdue one first."""
    return [trigger.id for trigger, _ in project.deployed_triggers.list_due()]


def test_a_time_before_which_the_clock_is_set_back_is_not_due_again(
    sqlite_project: Project, clock: ManualClock
) -> None:
    """A trigger whose source has run because the clock was an hour ahead is not due at the true time, but at the one after it."""
    table = sqlite_project.deployed_triggers
    add_trigger(sqlite_project, "dc_1", Schedule(cron="0 * * * *"))
    due = table.next_due()
    assert due is not None
    table.move_due("dc_1", due, due + timedelta(days=1))

    table.correct_due()

    assert table.next_due() == due + timedelta(hours=1)
    trigger = table.find("dc_1")
    assert trigger is not None
    assert trigger.ticked == due


def test_a_trigger_is_due_until_its_time_is_moved(sqlite_project: Project, clock: ManualClock) -> None:
    """A trigger is due at its time, not before, and until its time is moved, which one of several processes does."""
    table = sqlite_project.deployed_triggers
    add_trigger(sqlite_project, "dc_1", Schedule(interval_s=60))
    add_trigger(sqlite_project, "dc_2", Schedule(interval_s=30))
    add_trigger(sqlite_project, "dc_3")
    assert table.next_due() == clock.now() + timedelta(seconds=30)

    clock.advance(29)
    assert due_ids(sqlite_project) == []
    clock.advance(1)
    assert due_ids(sqlite_project) == ["dc_2"]
    clock.advance(40)
    ((_, due), _) = table.list_due()
    upcoming = clock.now() + timedelta(seconds=30)
    assert due_ids(sqlite_project) == ["dc_2", "dc_1"]
    assert (table.is_due("dc_2", due), table.next_due()) == (True, None)
    assert [table.move_due("dc_2", due, upcoming) for _ in range(2)] == [True, False]
    assert (table.is_due("dc_2", due), table.next_due()) == (False, upcoming)
    assert due_ids(sqlite_project) == ["dc_1"]


def test_a_trigger_that_cannot_be_decrypted_is_deactivated(
    sqlite_project: Project, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reason, and the other triggers are still due."""
    for trigger_id in ("dc_1", "dc_2"):
        add_trigger(sqlite_project, trigger_id, Schedule(interval_s=60))
    with sqlite_project.sqlalchemy_engine.begin() as connection:
        is_damaged = deployed_triggers.c.id == "dc_1"
        connection.execute(update(deployed_triggers).where(is_damaged).values(sealed_settings=b"damaged"))
    clock.advance(60)

    assert [due_ids(sqlite_project) for _ in range(2)] == [["dc_2"]] * 2
    assert [trigger.id for trigger in sqlite_project.deployed_triggers.list_active()] == ["dc_2"]
    assert caplog.text.count("The deployed trigger dc_1 was deactivated: A stored value cannot be decrypted") == 1


def test_an_inactive_trigger_is_not_due(sqlite_project: Project, clock: ManualClock) -> None:
    """A trigger that is inactive is not due; it is due again an interval after it is active."""
    table = sqlite_project.deployed_triggers
    add_trigger(sqlite_project, "dc_1", Schedule(interval_s=60))
    table.update("dc_1", lambda each: replace(each, active=False))
    clock.advance(100)
    assert (due_ids(sqlite_project), table.next_due()) == ([], None)

    table.update("dc_1", lambda each: replace(each, active=True))

    assert table.next_due() == clock.now() + timedelta(seconds=60)


def test_failures_of_a_webhook_are_counted(sqlite_project: Project, clock: ManualClock) -> None:
    """Failures count up from the first one's time; a success resets them, and the other webhook is not changed."""
    table, trigger = sqlite_project.deployed_triggers, add_trigger(sqlite_project, "dc_1")
    first = clock.now().timestamp()
    for error in ("500", "timeout"):
        table.record_delivery("dc_1", "wh_1", error)
        clock.advance(10)

    failing = replace(trigger.webhooks[0], failures=2, failing_since=first, last_error="timeout")
    assert table.find("dc_1") == replace(trigger, webhooks=(failing, trigger.webhooks[1]))
    table.record_delivery("dc_1", "wh_2", None)
    table.record_delivery("dc_1", "wh_3", "500")
    table.record_delivery("dc_2", "wh_1", "500")
    table.record_delivery("dc_1", "wh_1", None)
    assert table.find("dc_1") == trigger


@pytest.mark.parametrize(("count", "oldest"), [(MAX_EVENTS_PER_TRIGGER, 0), (MAX_EVENTS_PER_TRIGGER + 1, 1)])
def test_the_newest_events_are_kept(sqlite_project: Project, count: int, oldest: int) -> None:
    """A trigger keeps its 100 newest events, listed newest first; another trigger's events stay."""
    table = sqlite_project.deployed_triggers
    for trigger_id in ("dc_1", "dc_2"):
        add_trigger(sqlite_project, trigger_id)
    table.add_events("dc_2", [{"id": "other", "e": {}}])

    table.add_events("dc_1", [{"id": number, "e": {}} for number in range(count)])

    found = [event["id"] for event in table.list_events("dc_1", 1000)]
    assert (len(found), found[0], found[-1]) == (100, count - 1, oldest)
    assert [event["id"] for event in table.list_events("dc_1", 2)] == [count - 1, count - 2]
    assert [event["id"] for event in table.list_events("dc_2", 1000)] == ["other"]


def test_a_removed_trigger_leaves_nothing(sqlite_project: Project) -> None:
    """Removing a trigger removes its events, state and endpoint key, and no other trigger's; it gets no events after that."""
    table = sqlite_project.deployed_triggers
    keys = {}
    for trigger_id in ("dc_1", "dc_2"):
        add_trigger(sqlite_project, trigger_id)
        keys[trigger_id] = sqlite_project.endpoint_keys.ensure_trigger_key(trigger_id)
        assert table.add_events(trigger_id, [{"id": "1", "e": {}}], ["p_1"])
        sqlite_project.source_states.update(f'["{trigger_id}", "key"]', lambda state: state.update(db=1))

    assert (table.remove("dc_1"), table.remove("dc_1")) == (True, False)

    assert not table.add_events("dc_1", [{"id": "2", "e": {}}])
    states = [sqlite_project.source_states.load(f'["{each}", "key"]') for each in keys]
    assert states == [{}, {"db": 1}]
    assert table.list_events("dc_1", 10) == []
    assert len(table.list_events("dc_2", 10)) == 1
    assert [sqlite_project.endpoint_keys.find_trigger_id(key) for key in keys.values()] == [None, "dc_2"]
