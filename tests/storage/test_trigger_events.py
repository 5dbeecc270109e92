"""Events of triggers that wait for runs and webhooks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import update

from pdkernel.common.clock import ManualClock
from pdkernel.model import JSON
from pdkernel.storage import DeployedTrigger, EventTarget, Project, Webhook
from pdkernel.storage.schema import trigger_events
from tests.storage.test_workflow_triggers import EVENT, a_state

TRIGGER = "dc_parcels"
WEBHOOK = EventTarget("wh_1", f"trigger:{TRIGGER}")
WORKFLOW = EventTarget("p_a", f"trigger:{TRIGGER}")


def deploy(project: Project) -> DeployedTrigger:
    """Store a trigger of ada with a webhook and a workflow."""
    now = project.clock.now()
    trigger = DeployedTrigger(TRIGGER, "ada", "development", "k", "1", "n", {}, {}, True, now, now)
    project.deployed_triggers.add(
        replace(trigger, workflows=("p_a",), webhooks=(Webhook("wh_1", "https://product.example", "key", 1.0, 1.0),))
    )
    return trigger


def add_event(project: Project) -> None:
    """Store an event of the deployed trigger for its webhook and its workflow."""
    project.deployed_triggers.add_events(TRIGGER, [{"id": "1", "e": dict(EVENT)}], ["wh_1", "p_a"])


def test_an_event_waits_until_its_run_is_recorded(project: Project, clock: ManualClock) -> None:
    """An event with a key that waits already is dropped; the end of an event stores the run at its trigger alone."""
    table, events, stored = project.workflow_triggers, project.trigger_events, a_state(project)
    table.save([replace(stored, key="another")])
    for _ in range(2):
        table.receive(stored, "key", EVENT)

    (event,) = events.list_waiting([stored.target], 10)
    others = events.list_waiting([EventTarget("p_a", "other"), EventTarget("p_b", "schedule")], 10)
    events.finish(event, "run")

    assert not others
    assert not events.list_targets()
    assert [state.run_id for state in table.list_states()] == [None, "run"]
    assert [state.fired for state in table.list_states()] == [None, clock.now()]


def test_the_second_end_of_an_event_has_no_effect(project: Project) -> None:
    """Of two processes that hand over an event, the later one neither removes an event stored since nor sets the last run."""
    table, events, stored = project.workflow_triggers, project.trigger_events, a_state(project)
    table.receive(stored, "first", EVENT)
    (first,) = events.list_waiting([stored.target], 10)
    events.finish(first, "run of first")
    table.receive(stored, "second", EVENT)  # in a file it gets the row number of the first
    table.save([replace(stored, run_id="run of second")])

    events.finish(first, "run of first")

    assert [each.dedupe_key for each in events.list_waiting([stored.target], 10)] == ["second"]
    assert [state.run_id for state in table.list_states()] == ["run of second"]


def test_a_delivery_of_a_removed_trigger_leaves_other_events(project: Project) -> None:
    """If a trigger is removed while its webhook receives an event, the end of the delivery removes no event of another trigger."""
    deploy(project)
    add_event(project)
    (sent,) = project.trigger_events.list_waiting([WEBHOOK], 10)
    project.deployed_triggers.remove(TRIGGER)
    stored = a_state(project)
    for key in ("a", "b"):
        project.workflow_triggers.receive(stored, key, EVENT)

    project.deployed_triggers.record_delivery(TRIGGER, WEBHOOK.id, None, event=sent)

    assert [each.dedupe_key for each in project.trigger_events.list_waiting([stored.target], 10)] == ["a", "b"]


def test_an_event_has_the_user_of_the_run_that_sends_it(project: Project) -> None:
    """The user and the environment are stored with the event, and no content of an event passes for them."""
    table, stored = project.workflow_triggers, a_state(project)
    forged: dict[str, JSON] = {"0": {}, "1": "bob", "external_user_id": "bob", "sender": ["bob", "production"]}
    table.receive(stored, "a", EVENT, sender=("ada", "production"))
    table.receive(stored, "b", EVENT, sender=(None, "production"))
    table.receive(stored, "c", forged)

    events = project.trigger_events.list_waiting([stored.target], 10)

    assert [(each.external_user_id, each.environment) for each in events] == [
        ("ada", "production"),
        (None, "production"),
        (None, "development"),
    ]
    assert [each.data for each in events] == [EVENT, EVENT, forged]


def test_events_are_listed_in_order(project: Project) -> None:
    """The oldest events come first and not more than the limit, also if a database moves a row that is encrypted again."""
    stored = a_state(project)
    for key in ("z", "a", "m"):
        project.workflow_triggers.receive(stored, key, EVENT)
    with project.sqlalchemy_engine.begin() as connection:
        row = update(trigger_events).where(trigger_events.c.dedupe_key == "z")
        connection.execute(row.values(sealed_event=trigger_events.c.sealed_event))

    listed = project.trigger_events.list_waiting([stored.target], 2)

    assert [event.dedupe_key for event in listed] == ["z", "a"]


def test_an_event_of_a_deployed_trigger_waits_for_each_target(project: Project) -> None:
    """Webhook and workflow have an event each, with a key of its own; the end of one leaves the other."""
    deploy(project)
    add_event(project)
    targets = project.trigger_events.list_targets()

    events = [project.trigger_events.list_waiting([each], 10)[0] for each in targets]
    project.trigger_events.finish(events[0], "run")

    assert targets == [WORKFLOW, WEBHOOK]
    assert [(each.dedupe_key, each.data) for each in events] == [
        (f"{TRIGGER}/1/p_a", EVENT),
        (f"{TRIGGER}/1/wh_1", EVENT),
    ]
    assert project.trigger_events.list_targets() == [WEBHOOK]
    assert [(each.is_webhook, each.deployed_trigger_id) for each in targets] == [(False, TRIGGER), (True, TRIGGER)]


@pytest.mark.parametrize("what", ["trigger", "user"])
def test_events_are_removed_with_their_trigger(project: Project, what: str) -> None:
    """Neither a removed trigger nor one of a removed user has events or an endpoint, and both store no event any more."""
    stored = a_state(project)
    project.workflow_triggers.receive(stored, "key", EVENT)
    deploy(project)
    add_event(project)
    key = project.endpoint_keys.ensure_trigger_key(TRIGGER)

    if what == "trigger":
        project.deployed_triggers.remove(TRIGGER)
    else:
        project.accounts.delete_user("ada", "development")
    add_event(project)

    assert project.trigger_events.list_targets() == [stored.target]
    assert project.deployed_triggers.list_events(TRIGGER, 10) == []
    assert project.endpoint_keys.find_trigger_id(key) is None


def test_events_are_encrypted(project: Project) -> None:
    """The database does not hold the values of an event as text."""
    project.workflow_triggers.receive(a_state(project), "key", EVENT)

    with project.sqlalchemy_engine.connect() as connection:
        sealed = connection.exec_driver_sql("select sealed_event from trigger_events").scalar_one()
    assert b"a-long-secret-value" not in sealed
