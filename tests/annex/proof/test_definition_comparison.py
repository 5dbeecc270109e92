"""Comparison of definitions: a workflow that is written and read back is equal."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.annex.proof.definition_comparison import compare_workflows
from pdkernel.annex.proof.exported_folder import normalize_for_run, read_exported_folder
from pdkernel.annex.proof.value_differences import MISSING
from pdkernel.files.definition import Sidecar, export_to_synced_folder, grade_fields, plan_files, write_files
from pdkernel.files.source import load_source
from pdkernel.model import (
    JSON,
    LANGUAGES,
    ROUND_TRIP_KEY,
    AppBinding,
    Step,
    StoreBinding,
    Trigger,
    UnsupportedEntry,
    Workflow,
)
from tests.builders import with_step

PROJECTS = Path(__file__).parents[2] / "files" / "definition" / "projects"
TRIGGERS = (
    Trigger(auth="bearer", token_env="TOKEN", response="custom"),
    Trigger(config={"id": "hi_1"}),
    Trigger("schedule", config={"cron": "0 * * * *", "timezone": "UTC"}),
    Trigger("email", config={"id": "ei_1"}),
)
SETTINGS = {"lambda_timeout": 40, "memory": 512, "concurrency": 2, "error_notification": False}
values = st.sampled_from(
    [1, 1.5, "1", "yes", "on", "null", "", " x ", "a\nb\n", "é 世界 🎉", "{{steps.a.b}}", "# no", "x: y", True, None, [], {}, ["a", ["b"]], {"k": {"l": "~"}}, "2026-03-01", "12:30", "0899", "word " * 40]
)  # fmt: skip


@st.composite
def steps(draw: st.DrawFn, name: str) -> Step:
    """A step that a cell can hold."""
    uses = draw(st.sampled_from([None, None, "slack-send-message@0.0.20"]))
    props = [("a", "slack")] if uses else [("a", "slack"), ("github", "github")]
    account = st.sampled_from([None, "apn_1", "apn_2"])
    return Step(
        name,
        "node" if uses else draw(st.sampled_from(LANGUAGES)),
        "" if uses else draw(st.sampled_from(["def handler(pd):\n    return 1\n", "x = 'é'", "\n\n", "a\r\nb"])),
        uses=uses,
        apps=tuple(AppBinding(prop, app, draw(account)) for prop, app in draw(st.sets(st.sampled_from(props)))),
        stores=tuple(
            StoreBinding(prop, draw(st.sampled_from([None, "mine", "ds_1"])))
            for prop in draw(st.sets(st.sampled_from(["s", "t"])))
        ),
        props=draw(st.dictionaries(st.sampled_from(["x", "yes", "z z"]), values)),
        timeout_s=draw(st.sampled_from([None, 5.0])),
        disabled=draw(st.booleans()),
        debug=draw(st.booleans()),
        notes=draw(st.sampled_from([None, "a\nnote"])),
        line_offset=draw(st.integers(0, 3)),
    )


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """A workflow that a notebook can hold."""
    names = draw(st.lists(st.sampled_from(["a", "b", "off", "No"]), unique=True))
    return Workflow(
        draw(st.sampled_from(["W", "yes", "a: b"])),
        triggers=(draw(st.sampled_from(TRIGGERS)),),
        steps=tuple(draw(steps(name)) for name in names),
        settings={key: SETTINGS[key] for key in draw(st.sets(st.sampled_from(list(SETTINGS))))},
        variables=tuple(draw(st.lists(st.sampled_from(["A", "B"]), unique=True))),
    )


@given(workflows())
def test_a_plan_reads_back_the_same(workflow: Workflow) -> None:
    """A workflow that a notebook can hold has no difference, and both sides run equal workflows."""
    with tempfile.TemporaryDirectory() as folder:
        write_files(plan_files(workflow), Path(folder) / "flow")
        read = read_exported_folder(Path(folder) / "flow", workflow, None)

    assert list(compare_workflows(workflow, read.workflow, folder_sidecar=read.sidecar)) == []
    assert read.unquoted_texts == ()
    assert normalize_for_run(read.workflow, workflow).version == normalize_for_run(workflow, workflow).version


@pytest.mark.parametrize("name", sorted(path.name for path in PROJECTS.iterdir()))
def test_synced_projects(tmp_path: Path, name: str) -> None:
    """An imported synced folder has no difference after it is patched, unchanged or changed."""
    folder = Path(shutil.copytree(PROJECTS / name, tmp_path / name))
    notebook = tmp_path / "made.ipynb"
    ended = CliRunner().invoke(
        importlib.import_module("pdkernel.cli").pdkernel,
        ["--project", str(tmp_path), "import", str(folder), "--to", str(notebook)],
    )
    assert ended.exit_code == 0, ended.output
    opened = load_source(notebook, unanswered="keep")
    changed = with_step(opened.workflow, Step("added", source="def handler(pd):\n    return 1\n", props={"n": "1"}))

    for workflow in (opened.workflow, changed):
        export_to_synced_folder(workflow, folder, sidecar=opened.sidecar)
        read = read_exported_folder(folder, workflow, opened.sidecar)
        differing = compare_workflows(
            workflow, read.workflow, notebook_sidecar=opened.sidecar, folder_sidecar=read.sidecar, is_patched=True
        )
        assert list(differing) == []
        assert {field.grade for field in grade_fields(read.files, workflow)} <= {"observed", "inferred", "documented"}


WHOLE = Workflow(
    "W",
    triggers=(TRIGGERS[0], TRIGGERS[2]),
    steps=(
        Step(
            "a",
            "bash",
            "one\ntwo\n",
            apps=(AppBinding("slack", "slack", "apn_1"),),
            stores=(StoreBinding("db", "mine"),),
            props={"x": 1},
            timeout_s=5.0,
            notes="Note",
            extra={"runtime": "bash"},
        ),
        Step("b"),
    ),
    settings={"lambda_timeout": 40},
    variables=tuple("HGFEDCBA"),
    extra={"schema": "workflow/2022.04", "kept_key": 1},
)
WHOLE = WHOLE.with_unsupported_entries([UnsupportedEntry("a", {"namespace": "branch"})])
LABELLED: dict[str, JSON] = {"__lv": {"label": "One", "value": 1}}
SIDECAR = Sidecar(
    endpoint="eo1", actions=("npm",), test_users=("ada",), test_events=("e.json",), control_flow=("b",), path=Path("p")
)


def change(**changes: Any) -> Workflow:
    """The workflow with changes of its step `a`."""
    return with_step(WHOLE, replace(WHOLE.steps[0], **changes))


@pytest.mark.parametrize(
    ("files", "differences"),
    [
        (WHOLE, {}),
        (replace(WHOLE, name="V"), {"name": ("W", "V")}),
        (replace(WHOLE, settings={"lambda_timeout": 41}), {"settings.lambda_timeout": (40, 41)}),
        (replace(WHOLE, variables=tuple("ABCDEFG")), {"variables[7]": ("H", MISSING)}),
        (replace(WHOLE, extra={**WHOLE.extra, "kept_key": True}), {"kept_key": (1, True)}),
        (replace(WHOLE, steps=WHOLE.steps[::-1]), {"steps[0]": ("a", "b"), "steps[1]": ("b", "a")}),
        (WHOLE.with_unsupported_entries([UnsupportedEntry("b", {})]), {"kept[0][0]": ("a", "b"), "kept[0][1].namespace": ("branch", MISSING)}),
        (replace(WHOLE, triggers=(Trigger(), TRIGGERS[2])), {"triggers[0].auth": ("bearer", "none"), "triggers[0].token_env": ("TOKEN", None), "triggers[0].response": ("custom", "default")}),
        (replace(WHOLE, triggers=(TRIGGERS[0], Trigger("email", config={"cron": "0 * * * *", "timezone": "CET"}))), {"triggers[1].type": ("schedule", "email"), "triggers[1].timezone": ("UTC", "CET")}),
        (change(language="python"), {"steps.a.language": ("bash", "python")}),
        (change(uses="slack-send@1.0.0"), {"steps.a.uses": (None, "slack-send@1.0.0")}),
        (change(disabled=True), {"steps.a.disabled": (False, True)}),
        (change(notes=None), {"steps.a.notes": ("Note", None)}),
        (change(timeout_s=6.0), {"steps.a.timeout": (5.0, 6.0)}),
        (change(apps=(AppBinding("slack", "discord"),)), {"steps.a.accounts.slack.app": ("slack", "discord"), "steps.a.accounts.slack.account": ("apn_1", "external_user")}),
        (change(stores=(StoreBinding("db"),)), {"steps.a.stores.db": ("mine", None)}),
        (change(props={"x": 2}), {"steps.a.props.x": (1, 2)}),
        (change(source="one\n2\n"), {"steps.a.code line 2": ("two\n", "2\n")}),
        (change(extra={"runtime": "other"}), {"steps.a.runtime": ("bash", "other")}),
        (change(files={"lib.sh": "1"}), {'steps.a.files["lib.sh"]': (MISSING, "1")}),
        (change(extra={"runtime": "bash", ROUND_TRIP_KEY: {"picked": {"x": {"written": LABELLED, "value": 1}}}}), {"steps.a.picked.x": (MISSING, LABELLED)}),
    ],
)  # fmt: skip
def test_every_field_is_compared(files: Workflow, differences: dict[str, tuple[Any, Any]]) -> None:
    """A change of any field of a workflow or a step is a difference with its path and both values."""
    found = {each.path: (each.notebook, each.files) for each in compare_workflows(WHOLE, files)}

    assert found == differences


@pytest.mark.parametrize("patched", [False, True])
def test_keys_of_the_files_only(patched: bool) -> None:
    """After an update of a synced folder, keys that the notebook lacks are not differences."""
    more = replace(
        WHOLE,
        triggers=tuple(replace(trigger, config={**trigger.config, "id": "hi_1"}) for trigger in WHOLE.triggers),
        settings={**WHOLE.settings, "memory": 512},
        extra={**WHOLE.extra, "more": 1},
    )

    found = [each.path for each in compare_workflows(WHOLE, more, is_patched=patched)]

    assert found == ([] if patched else ["triggers[0].id", "triggers[1].id", "settings.memory", "more"])
    lost = replace(WHOLE, triggers=WHOLE.triggers[:1], settings={}, extra={})
    assert [each.path for each in compare_workflows(WHOLE, lost, is_patched=patched)][:2] == [
        "triggers[1]",
        "settings.lambda_timeout",
    ]


def test_entries_of_the_files_only() -> None:
    """An update keeps entries that are not steps, so only a lost entry is a difference."""
    more = WHOLE.with_unsupported_entries([*WHOLE.unsupported_entries, UnsupportedEntry("b", {"namespace": "new"})])
    lost = replace(WHOLE, extra={key: value for key, value in WHOLE.extra.items() if key != ROUND_TRIP_KEY})

    assert list(compare_workflows(WHOLE, more, is_patched=True)) == []
    assert [each.path for each in compare_workflows(WHOLE, more)] == ["kept[1]"]
    assert [each.path for each in compare_workflows(WHOLE, lost, is_patched=True)] == ["kept[0]"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({}, []),
        ({"endpoint": "eo2"}, ["pdkernel.yaml.endpoint"]),
        ({"actions": ("builtin",)}, ["pdkernel.yaml.actions[0]"]),
        ({"test_users": ("bob",)}, ["pdkernel.yaml.test_users[0]"]),
        ({"test_events": ()}, ["pdkernel.yaml.test_events"]),
        ({"control_flow": ("b", "c")}, ["pdkernel.yaml.control_flow[1]"]),
        ({"path": Path("q")}, []),
    ],
)
def test_every_field_of_the_sidecar_is_compared(changes: dict[str, Any], path: list[str]) -> None:
    """A change of a field of `pdkernel.yaml` is a difference; a field of the folder's file alone is not."""
    files = replace(SIDECAR, **changes)

    differing = compare_workflows(WHOLE, WHOLE, notebook_sidecar=SIDECAR, folder_sidecar=files)

    assert [each.path for each in differing] == path
    assert list(compare_workflows(WHOLE, WHOLE, folder_sidecar=SIDECAR)) == []
    assert list(compare_workflows(WHOLE, WHOLE, notebook_sidecar=SIDECAR)) == []
