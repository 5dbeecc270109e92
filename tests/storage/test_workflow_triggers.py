"""Triggers of workflows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pdkernel.model import JSON
from pdkernel.storage import Project, Schedule, TriggerState, is_workflow_named

EVENT: Mapping[str, JSON] = {"timestamp": 1, "token": "a-long-secret-value"}


def a_state(project: Project) -> TriggerState:
    """Store a trigger that is due in a minute, and return its state."""
    now = project.clock.now()
    state = TriggerState(
        "p_a", "schedule", "A", "/a.ipynb", {"interval_seconds": 60}, enabled=True, since=now, schedule=Schedule(60.0)
    )
    project.workflow_triggers.save([replace(state, due=now + timedelta(seconds=60))])
    (stored,) = project.workflow_triggers.list_states()
    return stored


def test_a_state_is_stored(project: Project) -> None:
    """A state is read as it was stored, by its id too."""
    stored = a_state(project)

    assert project.workflow_triggers.find("p_a/schedule") == stored
    assert project.workflow_triggers.find("p_a/other") is None
    assert (stored.schedule, stored.settings) == (Schedule(60.0), {"interval_seconds": 60})


def test_one_process_fires_a_due_trigger(project: Project) -> None:
    """Of two processes that find a trigger due, the first moves it to its next time and stores the event."""
    table, stored = project.workflow_triggers, a_state(project)
    assert stored.due is not None
    upcoming = stored.due + timedelta(seconds=60)

    first = table.fire(stored, upcoming, [("p_a/schedule/1", EVENT)])
    second = table.fire(stored, upcoming, [("p_a/schedule/2", EVENT)])
    (event,) = project.trigger_events.list_waiting([stored.target], 10)

    assert (first, second) == (True, False)
    assert (event.dedupe_key, event.data) == ("p_a/schedule/1", EVENT)
    assert (table.list_states()[0].due, table.list_states()[0].ticked) == (upcoming, stored.due)


def test_a_disabled_trigger_does_not_fire(project: Project) -> None:
    """A trigger that was disabled after it was read is not fired."""
    table, stored = project.workflow_triggers, a_state(project)
    table.save([replace(stored, enabled=False)])

    assert not table.fire(stored, None, [("key", EVENT)])
    assert not project.trigger_events.list_targets()


def test_new_settings_are_those_of_a_trigger_that_stayed_on(project: Project) -> None:
    """Settings, times and activity are stored, unless the trigger was disabled after it was read."""
    table, stored = project.workflow_triggers, a_state(project)
    changed = replace(
        stored, settings={"a": 1}, due=None, is_active=True, result="ok", schedule=Schedule(cron="0 9 * * *")
    )

    table.configure(changed)
    assert table.list_states() == [changed]
    table.save([replace(changed, enabled=False)])
    table.configure(stored)
    assert table.list_states() == [replace(changed, enabled=False)]


@pytest.mark.parametrize(
    ("name", "is_named"),
    [("A", True), ("p_a", True), ("a.ipynb", True), ("a", True), ("../x/a.ipynb", True), ("b", False), ("x", False)],
)
def test_a_workflow_is_named_by_its_name_id_or_source(tmp_path: Path, name: str, is_named: bool) -> None:
    """A path is relative to the folder of the workflow that names it; a file name needs no ending."""
    source = tmp_path / "x" / "a.ipynb"
    folder = tmp_path / "y"
    for each in (source.parent, folder):
        each.mkdir()

    assert is_workflow_named(name, folder, workflow_name="A", workflow_id="p_a", source=source) is is_named
    assert is_workflow_named(name, folder, workflow_name="A", workflow_id=None, source=None) is (name == "A")


@contextmanager
def crashing(project: Project, event: str, table: str) -> Iterator[None]:
    """In the block, the database fails each *event* (`insert`) of the table."""
    create, drop = (
        f"create trigger crash before {event} on {table} begin select raise(rollback, 'crash'); end",
        "drop trigger crash",
    )
    if project.sqlite_path is None:
        create = (
            "create function crash() returns trigger language plpgsql as $$ begin raise 'crash'; end $$;"
            f" create trigger crash before {event} on {table} for each row execute function crash()"
        )
        drop = f"drop trigger crash on {table}; drop function crash()"
    with project.sqlalchemy_engine.begin() as connection:
        connection.exec_driver_sql(create)
    try:
        yield
    finally:
        with project.sqlalchemy_engine.begin() as connection:
            connection.exec_driver_sql(drop)


@pytest.mark.parametrize("fault", [("insert", "trigger_events"), ("update", "workflow_triggers")])
def test_a_crash_while_an_email_is_stored(project: Project, fault: tuple[str, str]) -> None:
    """If one of the two writes of an e-mail fails, neither is stored; sent again, the e-mail is one event."""
    table, stored = project.workflow_triggers, a_state(project)
    with crashing(project, *fault):
        with pytest.raises(Exception, match=r"crash|exists already"):  # the error of a constraint
            table.receive(stored, "p_a/email/1", EVENT)
        before = (project.trigger_events.list_targets(), table.list_states()[0].fired)
    table.receive(stored, "p_a/email/1", EVENT)

    assert before == ([], None)
    assert [event.data for event in project.trigger_events.list_waiting([stored.target], 10)] == [EVENT]
    assert table.list_states()[0].fired is not None
