"""Grades of the fields of definition files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdkernel.files.definition import DefinitionFile, Sidecar, grade_fields, plan_files, read_folder_workflow
from pdkernel.files.definition.file_plan import SIDECAR_SETTINGS
from pdkernel.language.directive.workflow_header import SETTING_RULES
from pdkernel.model import LANGUAGES, AppBinding, Step, StoreBinding, Trigger, Workflow
from tests.files.definition.builders import PYTHON, quickstart, synced

SYNCED = """schema: workflow/2022.04
name: Kept
inactive: true
color: blue
settings:
  error_notification: true
  something_new: 3
triggers:
- id: hi_1
  more: 1
steps:
- namespace: add
  runtime: nodejs20.x
  uses: google_sheets-add-single-row@2.1.2
  _props_cursor: dyp_1
  odd: 1
  props:
    googleSheets:
      authProvisionId: apn_1
    sheet:
      __lv:
        label: One
        value: '1'
- namespace: py
  runtime: python3.12
  uses: "./py/entry.py"
  props:
    __configurableProps:
    - app: slack
      name: slack
      type: app
      authType: oauth
      appId: app_1
      extra: 1
    slack:
      authProvisionId: apn_2
"""
words = st.sampled_from(["a", "b", "c"])


@st.composite
def steps(draw: st.DrawFn, name: str) -> Step:
    """A step with every feature of a cell."""
    language = draw(st.sampled_from(LANGUAGES))
    uses = draw(st.sampled_from([None, "slack-send-message@0.0.20", "@me/private-thing@1.0.0"]))
    return Step(
        name,
        "node" if uses else language,
        "" if uses else PYTHON,
        uses=uses,
        apps=tuple(draw(st.lists(st.builds(AppBinding, words, words, st.sampled_from([None, "apn_1"])), max_size=2))),
        stores=tuple(
            draw(st.lists(st.builds(StoreBinding, words, st.sampled_from([None, "mine", "ds_1"])), max_size=2))
        ),
        props=draw(st.dictionaries(words, st.sampled_from([1, "x", [1], {"k": 1}, None]), max_size=2)),
        timeout_s=draw(st.sampled_from([None, 5.0])),
        disabled=draw(st.booleans()),
        debug=draw(st.booleans()),
        notes=draw(st.sampled_from([None, "note"])),
    )


@st.composite
def workflows(draw: st.DrawFn) -> Workflow:
    """A workflow that a notebook can hold."""
    settings = draw(st.dictionaries(st.sampled_from(list(SETTING_RULES)), st.sampled_from([1, True])))
    trigger = st.builds(
        Trigger,
        st.sampled_from(["http", "schedule", "email", "source", "errors", "emit"]),
        config=st.sampled_from([{}, {"id": "hi_1"}, {"cron": "* * * * *"}]),
    )
    return Workflow(
        "W",
        triggers=tuple(draw(st.lists(trigger, min_size=1, max_size=2))),
        steps=tuple(draw(steps(name)) for name in draw(st.lists(words, unique=True))),
        settings=settings,
        variables=tuple(draw(st.lists(words, unique=True))),
    )


@given(workflows(), st.sampled_from([None, Sidecar(endpoint="eo1", test_users=("ada",), actions=("npm",))]))
def test_every_key_that_a_plan_writes_is_graded(workflow: Workflow, sidecar: Sidecar | None) -> None:
    """For any notebook, each key of the planned files has a grade; those of pdkernel.yaml have `ours`."""
    fields = grade_fields(plan_files(workflow, sidecar=sidecar), workflow)

    assert {field.grade for field in fields if field.file == "pdkernel.yaml"} == {"ours"}
    assert not any(field.grade == "ours" for field in fields if field.file != "pdkernel.yaml")
    assert {step for field in fields if field.field == "steps[].uses" for step in field.steps} == {
        step.name for step in workflow.steps
    }


def test_settings_of_the_header_are_graded(tmp_path: Path) -> None:
    """Every setting of a header is either graded or written to pdkernel.yaml."""
    for name in SETTING_RULES:
        workflow = Workflow("W", settings={name: 1})
        fields = {field.field: field.grade for field in grade_fields(plan_files(workflow), workflow)}
        assert fields.get(f"settings.{name}") == (None if name in SIDECAR_SETTINGS else "observed")


def test_bash_steps_are_inferred() -> None:
    """Bash steps and their files are inferred, with the step's name; the rest of the quickstart is observed."""
    fields = grade_fields(plan_files(quickstart()), quickstart())

    assert [(each.file, each.field, each.steps) for each in fields if each.grade == "inferred"] == [
        ("workflow.yaml", "steps[].uses", ("count",)),
        ("entry.sh", "", ("count",)),
    ]
    observed = next(each for each in fields if each.field == "steps[].uses" and each.grade == "observed")
    assert observed.steps == ("check", "build", "send")


def test_private_actions_and_stores() -> None:
    """A private action's key is documented; a data store in a Python step's props is inferred."""
    workflow = Workflow(
        "W",
        steps=(
            Step("mine", "node", uses="@me/thing@1.0.0"),
            Step("keep", source=PYTHON, stores=(StoreBinding("data", "ds_1"),), props={"n": 1}),
        ),
    )

    grades = {(field.field, field.steps): field.grade for field in grade_fields(plan_files(workflow), workflow)}

    assert grades["steps[].uses", ("mine",)] == "documented"
    assert grades["steps[].props.__configurableProps[].type", ("keep",)] == "inferred"
    assert grades["steps[].props.*.storeId", ("keep",)] == "observed"
    assert grades["steps[].props.*", ("keep",)] == "inferred"


def test_keys_of_a_synced_file_are_observed(tmp_path: Path) -> None:
    """Unknown keys of a synced file are observed, and are written back."""
    folder = synced(tmp_path / "flow", SYNCED, py__entry_DOT_py=PYTHON)
    workflow = read_folder_workflow(folder)

    fields = grade_fields(plan_files(workflow), workflow)

    assert {field.grade for field in fields if field.file == "workflow.yaml"} == {"observed"}
    assert {"color", "settings.something_new", "triggers[].more", "steps[].odd"} <= {field.field for field in fields}


@pytest.mark.parametrize(
    ("before", "after", "where"),
    [
        ("name:", "colour:", "workflow.yaml: colour"),
        ("  error_notification:", "  alarms:", "settings: alarms"),
        ("- namespace: check\n", "- namespace: check\n  icon: 1\n", r"steps\[\]: icon"),
    ],
)
def test_an_unknown_key_has_no_grade(before: str, after: str, where: str) -> None:
    """A key without a grade raises `LookupError`."""
    first, *rest = plan_files(quickstart())
    assert before in first.text

    with pytest.raises(LookupError, match=where):
        grade_fields([replace(first, text=first.text.replace(before, after, 1)), *rest], quickstart())


def test_an_unknown_file_has_no_grade() -> None:
    """A file that is not part of a definition raises `LookupError`."""
    with pytest.raises(LookupError, match="README"):
        grade_fields([DefinitionFile("README.md", "")], quickstart())
