"""The written folder, read back as a workflow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.annex.proof.definition_comparison import compare_workflows
from pdkernel.annex.proof.exported_folder import read_exported_folder
from pdkernel.model import Trigger, Workflow

HTTP = Trigger(auth="bearer", token_env="TOKEN", response="custom")
SYNCED_HTTP = replace(HTTP, config={"id": "hi_1"})
SCHEDULE = Trigger("schedule", config={"id": "ti_1", "cron": "0 * * * *"})


@pytest.mark.parametrize(
    ("notebook", "ids", "differing"),
    [
        ([HTTP], "", []),
        ([HTTP], "{id: hi_1}", []),
        ([SYNCED_HTTP], "{id: hi_1}", []),
        ([HTTP, SCHEDULE], "{id: ti_1}", []),
        ([SYNCED_HTTP, SCHEDULE], "{id: ti_1}, {id: hi_1}", []),
        ([SCHEDULE, SYNCED_HTTP], "{id: ti_1}", ["triggers[1]"]),
        ([SYNCED_HTTP], "{id: hi_1}, {id: ti_1}", ["triggers[1]"]),
        ([SCHEDULE], "{id: ti_2}", ["triggers[0].id", "triggers[0].cron"]),
    ],
    ids=[
        "not synced",
        "id unknown",
        "the same",
        "one is new",
        "another order",
        "one is lost",
        "one more",
        "another id",
    ],
)
def test_triggers_are_compared_by_their_ids(
    tmp_path: Path, notebook: list[Trigger], ids: str, differing: list[str]
) -> None:
    """Without `pdkernel.yaml`, an id that the folder lost, changed or added is a difference, and the settings of a trigger are not."""
    (tmp_path / "workflow.yaml").write_text(f"schema: workflow/2022.04\nname: W\ntriggers: [{ids}]\n")
    workflow = Workflow("W", triggers=tuple(notebook), extra={"schema": "workflow/2022.04"})

    read = read_exported_folder(tmp_path, workflow, None)

    found = [place.path for place in compare_workflows(workflow, read.workflow, is_patched=True)]
    assert sorted(found) == sorted(differing)
