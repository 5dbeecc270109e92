"""Keys of endpoints: one for each workflow and trigger, the same after a restart."""

from __future__ import annotations

import re
from pathlib import Path

from pdkernel.common.clock import ManualClock
from pdkernel.storage import Project


def test_keys_and_ids_have_the_platforms_form(sqlite_project: Project, tmp_path: Path) -> None:
    """A workflow's key begins with `eo`, a trigger's with `en`, a workflow's id with `p_`; each is created once, for any path."""
    table = sqlite_project.endpoint_keys
    found, again = (
        (table.ensure_workflow_key(tmp_path / "a"), table.ensure_trigger_key("dc_1"), table.workflow_id(tmp_path / "a"))
        for _ in range(2)
    )

    assert found == again
    for key, prefix in zip(found, ("eo", "en", "p_"), strict=True):
        assert re.fullmatch(rf"{prefix}[a-z0-9]{{16}}", key)
    assert table.ensure_workflow_key(tmp_path / "b") != found[0]
    (tmp_path / "link").symlink_to("a")
    assert table.ensure_workflow_key(tmp_path / "link") == found[0]


def test_a_triggers_key_names_the_trigger(sqlite_project: Project, tmp_path: Path) -> None:
    """A key finds its trigger in any case; a workflow's key and an unknown key find no trigger."""
    table = sqlite_project.endpoint_keys
    key = table.ensure_trigger_key("dc_1")

    assert table.find_trigger_id(key) == table.find_trigger_id(key.upper()) == "dc_1"
    assert table.find_trigger_id(table.ensure_workflow_key(tmp_path / "a")) is None
    assert table.find_trigger_id("en0000000000000000") is None


def test_a_moved_project_keeps_its_keys(tmp_path: Path, clock: ManualClock) -> None:
    """The path of a workflow in the project's folder is relative; one outside is absolute."""
    inside, outside = tmp_path / "one", tmp_path / "outside"
    with Project.open(inside / ".pdkernel", clock=clock) as project:
        before = [project.endpoint_keys.ensure_workflow_key(path) for path in (inside / "a", outside)]
    inside.rename(tmp_path / "two")
    with Project.open(tmp_path / "two" / ".pdkernel", clock=clock) as project:
        after = [project.endpoint_keys.ensure_workflow_key(path) for path in (tmp_path / "two" / "a", outside)]

    assert after == before
