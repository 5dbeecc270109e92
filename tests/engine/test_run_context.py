"""The metadata of an event."""

from __future__ import annotations

from pdkernel.engine.run_context import derive_emitter_id, derive_id
from pdkernel.model import Trigger, Workflow

SCHEDULES = Workflow(
    "Work", triggers=(Trigger("schedule"), Trigger("schedule"), Trigger("email"), Trigger(config={"id": "hi_abc"}))
)


def test_each_trigger_has_an_emitter_id() -> None:
    """The id of a trigger is its own, or derived from the workflow's name; it has the prefix of its type."""
    found = [derive_emitter_id(SCHEDULES, key) for key in SCHEDULES.trigger_keys]

    assert found[0] == derive_emitter_id(SCHEDULES) == derive_id("ti_", "Work")
    assert [emitter[:3] for emitter in found] == ["ti_", "ti_", "ei_", "hi_"]
    assert found[3] == "hi_abc"
    assert len(set(found)) == 4
