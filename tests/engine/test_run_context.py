"""The metadata of an event."""

from __future__ import annotations

from pdkernel.engine.run_context import derive_emitter_id, derive_id, fired_by, trigger_keys
from pdkernel.model import Trigger, Workflow

SCHEDULES = Workflow(
    "Work", triggers=(Trigger("schedule"), Trigger("schedule"), Trigger("email"), Trigger(config={"id": "hi_abc"}))
)


def test_each_trigger_has_an_emitter_id() -> None:
    """The id of a trigger is its own, or derived from the workflow's name; it has the prefix of its type."""
    found = [derive_emitter_id(SCHEDULES, key) for key in trigger_keys(SCHEDULES)]

    assert found[0] == derive_emitter_id(SCHEDULES) == derive_id("ti_", "Work")
    assert [emitter[:3] for emitter in found] == ["ti_", "ti_", "ei_", "hi_"]
    assert found[3] == "hi_abc"
    assert len(set(found)) == 4


def test_trigger_keys() -> None:
    """The key of a trigger is its id, or its type with a number from the second one on."""
    assert list(trigger_keys(SCHEDULES)) == ["schedule", "schedule-2", "email", "hi_abc"]
    assert trigger_keys(SCHEDULES)["schedule-2"] is SCHEDULES.triggers[1]


def test_a_workflow_is_fired_by_a_trigger() -> None:
    """The trigger that fired is the first one; the others keep their order."""
    first, second, mail, http = SCHEDULES.triggers

    assert fired_by(SCHEDULES, mail).triggers == (mail, first, second, http)
    assert fired_by(SCHEDULES, first) is SCHEDULES
