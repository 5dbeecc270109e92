"""Comparison of definitions: a workflow that is written and read back is equal."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.definition import export_to_synced_folder, grade_fields, plan_files, write_files
from pdkernel.model import LANGUAGES, AppBinding, Step, StoreBinding, Trigger, Workflow
from pdkernel.proof.definition_comparison import compare_workflows
from pdkernel.proof.exported_folder import normalize_for_run, read_exported_folder
from pdkernel.source import load_source
from tests.builders import with_step

PROJECTS = Path(__file__).parents[1] / "definition" / "projects"
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
        importlib.import_module("pdkernel.cli.commands").pdkernel,
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
