"""Variables, notebook states, recorded answers and settings."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from pdkernel.common.clock import ManualClock
from pdkernel.errors import RequestError
from pdkernel.execution import StoredResponse
from pdkernel.storage import IdempotencyTable, Project
from pdkernel.storage.schema import sent
from pdkernel.storage.source_states import delete_source_states


def test_variables_are_stored(project: Project) -> None:
    """Variables are stored by name, the last value wins, and names are listed sorted; a wrong name is refused."""
    project.variables.set("B_URL", "https://example.com")
    project.variables.set("A", "old")
    project.variables.set("A", "new")
    with pytest.raises(RequestError, match="is not a valid name of an environment variable"):
        project.variables.set("1A", "1")

    assert project.variables.list() == ["A", "B_URL"]
    assert project.variables.values() == {"A": "new", "B_URL": "https://example.com"}


def test_a_notebook_state_is_stored(project: Project) -> None:
    """A notebook's next kernel loads the state that its session saved last."""
    project.notebook_states.save("/notebooks/a.ipynb", {"event": {"body": {"é": [1, None]}}, "pins": {}})
    project.notebook_states.save("/notebooks/a.ipynb", {"event": {"body": "\ud800"}})
    project.notebook_states.save("/notebooks/b.ipynb", {})

    assert project.notebook_states.load("/notebooks/a.ipynb", dict) == {"event": {"body": "\ud800"}}
    assert project.notebook_states.load("/notebooks/b.ipynb", dict) == {}
    assert project.notebook_states.load("/notebooks/c.ipynb", dict) is None
    assert [project.notebook_states.exists(path) for path in ("/notebooks/b.ipynb", "/notebooks/c.ipynb")] == [
        True,
        False,
    ]


def test_an_answer_is_recorded(project: Project) -> None:
    """A recorded answer has every byte of its body and its headers in order, and replaces an earlier one."""
    answer = StoredResponse(
        200, "OK", (("a", "1"), ("set-cookie", "x"), ("set-cookie", "y")), b"\xff\0body", "2026-01-01T00:00:00.000Z"
    )

    project.idempotency.add("key", StoredResponse(500, "", (), b"", "2026-01-01T00:00:00.000Z"))
    project.idempotency.add("key", answer)

    assert project.idempotency.find("key") == answer
    assert project.idempotency.find("other") is None


def test_an_old_answer_is_removed(project: Project, clock: ManualClock) -> None:
    """An answer that is older than ninety days is not returned any more; recording another answer removes it."""
    project.idempotency.add("old", StoredResponse(200, "", (), b"", "2026-01-01T00:00:00.000Z"))
    clock.advance(90 * 86400)
    project.idempotency.add("new", StoredResponse(200, "", (), b"", "2026-01-01T00:00:00.000Z"))
    assert project.idempotency.find("old") is not None
    clock.advance(1)
    assert project.idempotency.find("old") is None

    project.idempotency.add("new", StoredResponse(200, "", (), b"", "2026-01-01T00:00:00.000Z"))

    with project.sqlalchemy_engine.connect() as connection:
        assert connection.execute(select(sent.c.request)).scalars().all() == ["new"]
    assert project.idempotency.find("new") is not None


def test_the_number_of_answers_is_limited(project: Project, clock: ManualClock) -> None:
    """If there are too many answers, the oldest are removed."""
    table = IdempotencyTable(project._database, project._vault, clock, max_answers=3)
    for number in range(5):
        clock.advance(1)
        table.add(f"key{number}", StoredResponse(200, "", (), b"", "2026-01-01T00:00:00.000Z"))

    assert [number for number in range(5) if table.find(f"key{number}")] == [2, 3, 4]


def test_settings_are_stored(project: Project) -> None:
    """A setting is any JSON value; a missing setting returns the default."""
    project.settings.set("actions", {"npm": True})
    project.settings.set("nothing", None)

    assert project.settings.get("actions") == {"npm": True}
    assert project.settings.get("nothing", "default") is None
    assert project.settings.get("other", "default") == "default"
    assert project.settings.all_settings() == {"actions": {"npm": True}, "nothing": None}
    project.set_connect_data_stores(["b", "a"])
    assert project.connect_data_stores == {"a", "b"}
    project.set_connect_data_stores([])
    assert project.connect_data_stores == frozenset()


def test_the_states_of_a_source_go_with_its_owner(project: Project) -> None:
    """A removed owner takes its states along, not those of owners with a similar id; a failed change stores nothing."""
    table, keys = project.source_states, [json.dumps([owner, "source"]) for owner in ("dc_1", "dc_10", "dcx1")]
    stored: list[str] = []
    for key in keys:
        assert (
            table.update(key, lambda state: str(state.setdefault("db", "new")), lambda _, result: stored.append(result))
            == "new"
        )
    with pytest.raises(ZeroDivisionError):
        table.update(keys[1], lambda state: state.update(db="lost"), lambda _connection, _result: 1 / 0)

    with project.sqlalchemy_engine.begin() as connection:
        delete_source_states(connection, "dc_1")

    assert [table.load(key) for key in keys] == [{}, {"db": "new"}, {"db": "new"}]
    assert (stored, table.remove(keys[1]), table.remove(keys[1])) == (["new"] * 3, True, False)


def test_setting_is_removed(project: Project) -> None:
    """A removed setting returns the default."""
    project.settings.set("actions", "npm")

    assert (project.settings.remove("actions"), project.settings.remove("actions")) == (True, False)
    assert project.settings.get("actions") is None
