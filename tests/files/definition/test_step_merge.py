"""A notebook's step, merged into its entry of a synced folder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.files.definition.sidecar import AccountChoice, StepSidecar
from pdkernel.files.definition.step_merge import (
    MergedStep,
    build_new_step,
    insert_key,
    match_steps,
    merge_step,
    merge_value,
)
from pdkernel.files.definition.synced_folder import build_workflow
from pdkernel.model import AppBinding, Step, StoreBinding
from tests.files.definition.builders import PYTHON, document_of

SLACK = """
  uses: slack-send@1.0.0
  _props_cursor: dyp_1
  props:
    slack:
      authProvisionId: apn_file
    text: Hello
"""
SHEETS = """
  uses: sheets-add@1.0.0
  props:
    sheet: {__lv: {label: Orders, value: 1}}
    columns: [{__lv: {label: Name, value: a}}, {__lv: {label: City, value: b}}]
    deep: {row: {__lv: {label: First, value: 1}}, column: {__lv: {label: Second, value: 2}}}
    plain: key
    dataStore: {storeId: ds_file}
"""
CODE = "\n  runtime: nodejs18.x\n  uses: ./a/entry.js\n  note: Why\n  retries: 3\n"


def folder_step(entry: str) -> tuple[Step, dict[str, Any]]:
    """The step of a folder with *entry* below its namespace `a`, and the entry's value."""
    document = document_of(f"name: W\nsteps:\n- namespace: a{entry}")
    step = build_workflow(document, require_code=False, assumed_account="own").steps[0]
    return step, document.data["steps"][0]


def merged(
    entry: str, *, is_complete: bool = True, accounts: dict[str, AccountChoice] | None = None, **changes: Any
) -> MergedStep:
    """The step of *entry* with *changes* in the notebook, merged into *entry*."""
    step, value = folder_step(entry)
    sidecar = None if accounts is None else StepSidecar(accounts=accounts)
    return merge_step(replace(step, **changes), step, value, step_sidecar=sidecar, is_complete=is_complete)


EMPTY_NOTES = "\n  uses: k-x@1.0.0\n  notes: ''\n"
TWO_NOTES = "\n  uses: k-x@1.0.0\n  note: old\n  notes: new\n"


@pytest.mark.parametrize("entry", [SLACK, SHEETS, CODE, EMPTY_NOTES, TWO_NOTES])
def test_an_unchanged_step_keeps_its_entry(entry: str) -> None:
    """The entry of a step that the notebook has not changed is the folder's, with labels, unknown keys and the old key for notes."""
    assert merged(entry).entry == folder_step(entry)[1]


@pytest.mark.parametrize(
    ("answer", "on_the_step", "in_git", "is_kept"),
    [
        ("unanswered", None, "apn_file", True),
        ("external_user", None, "apn_file", True),
        ("apn_here", "apn_here", "apn_file", True),
        ("unanswered", "apn_theirs", "apn_theirs", False),
    ],
)
def test_account_ids_are_the_folders(answer: str, on_the_step: str | None, in_git: str, is_kept: bool) -> None:
    """The file keeps its account id, whatever the local choice is; only an id in the cell replaces it."""
    found = merged(
        SLACK,
        apps=(AppBinding("slack", "slack", on_the_step),),
        accounts={"slack": AccountChoice(answer, synced="apn_file")},
    )

    assert found.entry["props"] == {"slack": {"authProvisionId": in_git}, "text": "Hello"}
    assert found.kept_accounts == ({"slack": in_git} if is_kept else {})


def test_a_new_steps_account_is_the_one_of_its_file() -> None:
    """A step that the folder does not have is written with the account id of the file from which it was imported."""
    step = Step("tell", source=PYTHON, apps=(AppBinding("slack", "slack"),))

    found = build_new_step(step, StepSidecar(accounts={"slack": AccountChoice("unanswered", synced="apn_9")}))

    assert found.step.apps == (AppBinding("slack", "slack", "apn_9"),)
    assert found.kept_accounts == {"slack": "apn_9"}
    assert build_new_step(step, None).kept_accounts == {}


def test_an_empty_account_id_is_missing() -> None:
    """An app prop whose account id in the file is empty has no account to keep."""
    assert merged("\n  uses: slack-send@1.0.0\n  props:\n    slack: {authProvisionId: ''}\n").kept_accounts == {}


@pytest.mark.parametrize(("store", "in_git"), [(None, "ds_file"), ("A local name", "ds_file"), ("ds_cell", "ds_cell")])
def test_a_data_store_keeps_the_folders_id(store: str | None, in_git: str) -> None:
    """The default store and a store with a local name have the file's id; an id in the cell replaces it."""
    found = merged(SHEETS, stores=(StoreBinding("dataStore", store),))

    assert found.step.stores == (StoreBinding("dataStore", in_git),)


def test_a_label_belongs_to_its_value() -> None:
    """A picked option keeps its label, also in a list and in an object, until its value changes."""
    step, entry = folder_step(SHEETS)

    same, other = (
        merged(
            SHEETS,
            props={
                **step.props,
                "sheet": sheet,
                "columns": ["a", column],
                "deep": {"row": sheet, "column": 2},
                "plain": {"key": "k"} if sheet == 2 else "key",
            },
        ).entry
        for sheet, column in ((1, "b"), (2, "c"))
    )

    assert same == entry
    assert other["props"] == {
        "sheet": 2,
        "columns": [{"__lv": {"label": "Name", "value": "a"}}, "c"],
        "deep": {"row": 2, "column": {"__lv": {"label": "Second", "value": 2}}},
        "plain": {"key": "k"},
        "dataStore": {"storeId": "ds_file"},
    }


@pytest.mark.parametrize(("is_complete", "stays"), [(True, False), (False, True)])
def test_a_prop_that_the_notebook_lacks(is_complete: bool, stays: bool) -> None:
    """A prop that an imported notebook or an action's cell lacks is removed; one that hand-written code lacks stays."""
    entry = "\n  uses: ./a/entry.py\n  props:\n    text: Hello\n    more: 1\n"

    found = merged(entry, is_complete=is_complete, props={"text": "Hi"})

    assert ("more" in found.step.props, found.step.props["text"]) == (stays, "Hi")
    action = merged(SLACK, is_complete=is_complete, props={})
    assert "text" not in action.step.props


def test_the_settings_of_code_that_the_notebook_lacks() -> None:
    """The apps and stores of a hand-written code step are the folder's, and those of an imported one are its own."""
    entry = (
        "\n  uses: ./a/entry.py\n  props:\n    __configurableProps: [{name: chat, type: app, app: slack}]\n"
        "    chat: {authProvisionId: apn_1}\n    db: {storeId: ds_1}\n"
    )

    by_hand, imported = (merged(entry, is_complete=is_complete, apps=(), stores=()) for is_complete in (False, True))

    assert (by_hand.step.apps, by_hand.step.stores) == (
        (AppBinding("chat", "slack", "apn_1"),),
        (StoreBinding("db", "ds_1"),),
    )
    assert (imported.step.apps, imported.step.stores) == ((), ())


@pytest.mark.parametrize(("notes", "entry_note"), [("Short", "Short"), (None, None)])
def test_a_note_keeps_the_folders_key(notes: str | None, entry_note: str | None) -> None:
    """A changed note has the key that the file uses; a removed note is removed."""
    entry = merged(CODE, notes=notes).entry

    assert (entry.get("note"), "notes" in entry) == (entry_note, False)
    both = merged(TWO_NOTES, notes=notes).entry
    assert (both["note"], both.get("notes")) == ("old", notes)


def test_a_notebook_without_the_empty_note_keeps_it() -> None:
    """A cell shows no difference between an empty note and none, so the file keeps its own."""
    assert merged(EMPTY_NOTES, notes=None).entry == folder_step(EMPTY_NOTES)[1]


def test_another_version_drops_the_props_cursor() -> None:
    """The ids of props that an action added are valid for one version, and stay when a prop changes."""
    step = folder_step(SLACK)[0]

    changed = merged(SLACK, props={**step.props, "text": "Hi"})
    upgraded = merged(SLACK, uses="slack-send@1.0.1")

    assert changed.entry["_props_cursor"] == "dyp_1"
    assert "_props_cursor" not in upgraded.entry


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Step("a", source=PYTHON), {"runtime": "python3.12", "uses": "./a/entry.py", "retries": 3}),
        (
            Step("a", "node", uses="slack-send@1.0.0"),
            {"runtime": "nodejs18.x", "uses": "slack-send@1.0.0", "retries": 3},
        ),
    ],
    ids=["another language", "an action"],
)
def test_a_step_of_another_kind(step: Step, expected: dict[str, Any]) -> None:
    """A step of another kind has the file and runtime of its language; unknown keys of the folder's step stay."""
    old, entry = folder_step(CODE)

    found = merge_step(step, old, entry, step_sidecar=None, is_complete=True)

    assert found.entry == {"namespace": "a", **expected}


def test_an_action_in_place_of_code_has_the_default_runtime() -> None:
    """A folder's step with the default runtime leaves that runtime to the action."""
    old, entry = folder_step("\n  runtime: nodejs20.x\n  uses: ./a/entry.js\n")

    found = merge_step(Step("a", "node", uses="slack-send@1.0.0"), old, entry, step_sidecar=None, is_complete=True)

    assert found.entry == {"namespace": "a", "runtime": "nodejs20.x", "uses": "slack-send@1.0.0"}


@pytest.mark.parametrize(
    ("folder", "cell", "written"),
    [
        ("a\r\nb\r\n", "a\nb\n", "a\r\nb\r\n"),
        ("a\r\nb\r\n", "a\nc\n", "a\r\nc\r\n"),
        ("a\r\nb\r\n", "a\rx\nc\n", "a\rx\nc\n"),
        ("a\r\nb\n", "a\nc\n", "a\nc\n"),
        ("a\r\nb\n", "a\nb\n", "a\r\nb\n"),
        ("a\nb\n", "a\nc\n", "a\nc\n"),
        ("a", "b\nc", "b\nc"),
        (BYTE_ORDER_MARK + "a\n", "a\n", BYTE_ORDER_MARK + "a\n"),
        (BYTE_ORDER_MARK + "a\r\n", "b\n", BYTE_ORDER_MARK + "b\r\n"),
        (BYTE_ORDER_MARK + "a\n", BYTE_ORDER_MARK + "b\n", BYTE_ORDER_MARK + "b\n"),
    ],
)
def test_code_keeps_the_folders_line_breaks(folder: str, cell: str, written: str) -> None:
    """The cell's code has the line breaks of the file if those are all alike, and the file's byte order mark."""
    there = Step("a", source=folder)

    found = merge_step(
        Step("a", source=cell), there, {"namespace": "a", "uses": "./a/entry.py"}, step_sidecar=None, is_complete=True
    )

    assert found.step.source == written


def test_missing_code_does_not_replace_the_folders_code() -> None:
    """A step whose code was missing at its import has the code that the folder has now."""
    missing = Step("a", extra={"pdkernel": {"missing": True}})

    found = merge_step(
        missing,
        Step("a", source=PYTHON),
        {"namespace": "a", "uses": "./a/entry.py"},
        step_sidecar=None,
        is_complete=True,
    )

    assert found.step.source == PYTHON


@pytest.mark.parametrize(
    ("raw", "base", "new", "expected"),
    [
        ({"x": "'1'", "own": 1}, {"x": 1}, {"x": 1}, {"x": "'1'", "own": 1}),
        ({"x": 1, "own": 1}, {"x": 1}, {"x": True}, {"x": True, "own": 1}),
        ({"x": 1, "y": 2}, {"x": 1, "y": 2}, {"y": 2}, {"y": 2}),
        ({"x": {"a": "A", "b": 1}}, {"x": {"a": 1, "b": 1}}, {"x": {"a": 1, "b": 2}}, {"x": {"a": "A", "b": 2}}),
        ({"x": ["A", 1]}, {"x": [1, 1]}, {"x": [1, 2]}, {"x": ["A", 2]}),
        ({"x": ["A", 1]}, {"x": [1, 1]}, {"x": [1]}, {"x": [1]}),
        ({"x": ["A"]}, {"x": [1]}, {"x": 5}, {"x": 5}),
    ],
    ids=["unchanged", "1 to true", "removed", "in an object", "in a list", "a shorter list", "another type"],
)
def test_unchanged_values_keep_the_files_form(raw: Any, base: Any, new: Any, expected: Any) -> None:
    """Only what differs between the base and the new value changes in the file's value; keys of the file alone stay."""
    assert merge_value(raw, base, new) == expected


@pytest.mark.parametrize(
    ("above", "keys"), [(None, ["new", "x", "y"]), ("x", ["x", "new", "y"]), ("y", ["x", "y", "new"])]
)
def test_the_place_of_a_new_key(above: str | None, keys: list[str]) -> None:
    """A new key is at the top, or below the key that precedes it in the new value."""
    there = {"x": 1, "y": 2}

    assert list(insert_key(there, "new", 3, above=above)) == keys
    assert list(merge_value(there, there, {key: there.get(key, 3) for key in keys})) == keys


A, B, C = Step("a", source="1"), Step("b", source="2"), Step("c", source="3")
SHEET = Step("sheet", uses="sheets-add@1.0.0", props={"row": 1})


@pytest.mark.parametrize(
    ("steps", "folder_steps", "names"),
    [
        pytest.param([A, B], [B, A], {"a": "a", "b": "b"}, id="by name, in any order"),
        pytest.param([Step("new", source="9")], [], {}, id="new step"),
        pytest.param([Step("x", source="1"), B], [B, A], {"x": "a", "b": "b"}, id="equal code"),
        pytest.param([Step("x", "node", "1"), B], [B, A], {"b": "b"}, id="equal text in another language"),
        pytest.param(
            [Step("x", source="1"), Step("y", source="1"), B], [B, A], {"x": "a", "b": "b"}, id="first of two"
        ),
        pytest.param([Step("x", source="1"), B], [B, A, Step("c", source="1")], {"b": "b"}, id="two candidates"),
        pytest.param([Step("x", source=" "), B], [B, Step("a", source=" ")], {"b": "b"}, id="empty code"),
        pytest.param(
            [Step("x", uses=SHEET.uses, props={"row": 1}), B], [B, SHEET], {"x": "sheet", "b": "b"}, id="equal props"
        ),
        pytest.param([Step("x", uses=SHEET.uses), B], [B, Step("a", uses=SHEET.uses)], {"b": "b"}, id="without props"),
        pytest.param([Step("x", source="9"), B], [A, B], {"x": "a", "b": "b"}, id="place at the top"),
        pytest.param([A, Step("x", source="9"), C], [A, B, C], {"a": "a", "x": "b", "c": "c"}, id="place between"),
        pytest.param([A, Step("x", source="9")], [A, B], {"a": "a", "x": "b"}, id="place at the end"),
        pytest.param([A, Step("x", source="9"), C], [A, C, B], {"a": "a", "c": "c"}, id="another place"),
        pytest.param([A, Step("x", "node", "9"), C], [A, B, C], {"a": "a", "c": "c"}, id="place of another language"),
        pytest.param([A, Step("x", source="8"), Step("y", source="9")], [A, B], {"a": "a"}, id="two steps in a place"),
        pytest.param(
            [A, Step("x", source="8"), Step("y", source="9")], [A, B, C], {"a": "a"}, id="two places in a row"
        ),
        pytest.param(
            [A, Step("x", uses="sheets-add@2.0.0")], [A, SHEET], {"a": "a", "x": "sheet"}, id="place, another version"
        ),
        pytest.param([A, Step("x", uses="sheets-get@1.0.0")], [A, SHEET], {"a": "a"}, id="place of another action"),
    ],
)
def test_steps_match_by_name_then_content_then_place(
    steps: list[Step], folder_steps: list[Step], names: dict[str, str]
) -> None:
    """A step matches the folder's step of its name, else of equal content, else in the same place."""
    assert {name: step.name for name, step in match_steps(steps, folder_steps).items()} == names
