"""A notebook's changes, applied to the texts of a synced folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.errors import DefinitionError, UnsupportedError
from pdkernel.files.definition.folder_patch import FolderPatch, build_folder_patch, get_workflow_id
from pdkernel.files.definition.sidecar import AccountChoice, Sidecar, StepSidecar
from pdkernel.files.definition.synced_folder import build_workflow
from pdkernel.model import AppBinding, Step, StoreBinding, Trigger, Workflow
from tests.files.definition.builders import NODE, PYTHON, document_of, synced

HEAD = "schema: workflow/2022.04\nname: W\n"
STEPS = """steps:
- namespace: start
  type: branch
- namespace: a
  uses: k-one@1.0.0
- namespace: below_a
  type: switch
# about b
- namespace: b
  uses: k-two@1.0.0
- namespace: end
  type: branch
"""


def read(text: str) -> Workflow:
    """The workflow of a notebook that was imported from a folder with the `workflow.yaml` *text*."""
    return build_workflow(document_of(text), require_code=False, assumed_account="own")


def patch(text: str, **changes: Any) -> FolderPatch:
    """The patch of the `workflow.yaml` *text* to the workflow in it, with *changes*."""
    return build_folder_patch(replace(read(text), **changes), document_of(text))


def patched(text: str, **changes: Any) -> str:
    """The `workflow.yaml` of that patch."""
    return patch(text, **changes).files[0].text


@pytest.mark.parametrize("steps", ["", "steps: []\n", "steps:\n"])
def test_a_workflow_without_steps_is_unchanged(steps: str) -> None:
    """A file may lack the key of its steps, or have it without a step."""
    assert patched(HEAD + steps) == HEAD + steps


def test_the_first_and_the_last_step() -> None:
    """The key `steps` is added below the triggers with the first step, and removed with the last."""
    text = f"{HEAD}triggers:\n- id: hi_1\nowner: ada\n"

    first = patched(text, steps=(Step("a", source=PYTHON),))

    assert first == text.replace(
        "owner", 'steps:\n- namespace: a\n  runtime: python3.12\n  uses: "./a/entry.py"\nowner'
    )
    assert patched(first, steps=()) == text


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ("ab", ["start", "a", "below_a", "b", "end"]),
        ("ba", ["start", "b", "end", "a", "below_a"]),
        ("b", ["start", "below_a", "b", "end"]),
        ("a", ["start", "a", "below_a", "end"]),
        ("cab", ["start", "c", "a", "below_a", "b", "end"]),
        ("", ["start", "below_a", "end"]),
    ],
    ids=["unchanged", "moved", "the first is removed", "the last is removed", "added", "all are removed"],
)
def test_other_entries_follow_the_step_above_them(names: str, order: list[str]) -> None:
    """An entry that is not a step moves with the step above it, and stays in its place if that step is removed."""
    known = {step.name: step for step in read(HEAD + STEPS).steps} | {"c": Step("c", "node", uses="k-three@1.0.0")}

    text = patched(HEAD + STEPS, steps=tuple(known[name] for name in names))

    assert [line.removeprefix("- namespace: ") for line in text.splitlines() if line.startswith("- name")] == order
    assert ("# about b\n- namespace: b\n" in text) is ("b" in names)


def test_a_step_named_like_another_entry() -> None:
    """A step is patched in its own entry, also if an entry of another kind above it has its name."""
    text = f"{HEAD}steps:\n- namespace: a\n  type: branch\n- namespace: a\n  uses: k-one@1.0.0\n"

    step = replace(read(text).steps[0], disabled=True)

    assert patched(text, steps=(step,)) == text.replace("  uses", "  disabled: true\n  uses")


def test_a_renamed_step_has_a_file_of_its_new_name(tmp_path: Path) -> None:
    """A renamed step keeps its entry; a file of the platform's name is renamed with it, and another file is not."""
    text = f"{HEAD}steps:\n- namespace: a\n  uses: ./a/entry.py\n  odd: 1\n- namespace: b\n  uses: ./shared/main.js\n"
    folder = synced(tmp_path / "w", text, a__entry_DOT_py=PYTHON, shared__main_DOT_js=NODE)
    document = document_of(text, folder)
    workflow = build_workflow(document)
    renamed = tuple(replace(step, name=f"new_{step.name}") for step in workflow.steps)

    found = build_folder_patch(replace(workflow, steps=renamed), document)

    assert found.files[0].text == (
        f'{HEAD}steps:\n- namespace: new_a\n  uses: "./new_a/entry.py"\n  odd: 1\n'
        "- namespace: new_b\n  uses: ./shared/main.js\n"
    )
    assert [file.path for file in found.files[1:]] == ["new_a/entry.py", "shared/main.js"]
    assert (found.previous_entry_paths, found.unused_entry_paths) == (
        ("a/entry.py", "shared/main.js"),
        ("a/entry.py",),
    )


def test_a_file_that_another_step_uses_is_not_unused(tmp_path: Path) -> None:
    """The entry file of a removed step is in use if another step has it too, or imports it."""
    text = (
        f"{HEAD}steps:\n- namespace: a\n  uses: ./lib/x.mjs\n- namespace: b\n  uses: ./lib/x.mjs\n"
        "- namespace: c\n  uses: ./lib/c.mjs\n- namespace: d\n  uses: ./lib/d.mjs\n"
    )
    folder = synced(
        tmp_path / "w", text, lib__x_DOT_mjs=NODE, lib__c_DOT_mjs=NODE, lib__d_DOT_mjs=f'import "./c.mjs";\n{NODE}'
    )
    document = document_of(text, folder)
    workflow = build_workflow(document)

    def unused(*names: str) -> tuple[str, ...]:
        steps = tuple(map(workflow.step, names))
        return build_folder_patch(replace(workflow, steps=steps), document).unused_entry_paths

    assert unused("a", "d") == ()
    assert unused("b", "c") == ("lib/d.mjs",)
    assert unused("d") == ("lib/x.mjs",)


def test_code_is_written_with_the_line_breaks_of_its_file(tmp_path: Path) -> None:
    """A changed cell is written as its entry file is."""
    text = f"{HEAD}steps:\n- namespace: a\n  uses: ./a/entry.py\n"
    folder = synced(tmp_path / "w", text, a__entry_DOT_py="")
    (folder / "a/entry.py").write_bytes(b"x = 1\r\ny = 1\r\n")
    document = document_of(text, folder)
    step = replace(build_workflow(document).steps[0], source="x = 2\ny = 1\n")

    found = build_folder_patch(replace(build_workflow(document), steps=(step,)), document)

    assert found.files[1].text == "x = 2\r\ny = 1\r\n"


def test_the_choices_of_the_notebook_count() -> None:
    """The file keeps its account if the account on the step is a choice of the `pdkernel.yaml` beside the notebook."""
    text = f"{HEAD}steps:\n- namespace: a\n  uses: slack-send@1.0.0\n  props:\n    slack:\n      authProvisionId: apn_file\n"
    apps = (AppBinding("slack", "slack", "apn_here"),)
    workflow = replace(read(text), steps=(replace(read(text).steps[0], apps=apps),))
    sidecar = Sidecar(steps={"a": StepSidecar(accounts={"slack": AccountChoice("apn_here", synced="apn_file")})})

    found = build_folder_patch(workflow, document_of(text), sidecar=sidecar)

    assert (found.files[0].text, found.kept_accounts) == (text, {("a", "slack"): "apn_file"})


def test_a_byte_order_mark_stays() -> None:
    """The file keeps its byte order mark when it is changed."""
    document = document_of(HEAD, byte_order_mark=BYTE_ORDER_MARK)

    found = build_folder_patch(replace(read(HEAD), settings={"lambda_timeout": 9}), document)

    assert found.files[0].text == f"{BYTE_ORDER_MARK}{HEAD}settings:\n  lambda_timeout: 9\n"


@pytest.mark.parametrize(
    ("is_imported", "settings"),
    [
        (True, "  concurrency: 2\n  lambda_timeout: 30\n"),
        (False, "  concurrency: 2\n  queue: 5\n  lambda_timeout: 30\n"),
    ],
)
def test_a_limit_is_written_where_the_file_has_it(is_imported: bool, settings: str) -> None:
    """A limit is changed in `workflow.yaml` if that has it; one that an imported notebook lacks is removed."""
    text = f"{HEAD}settings:\n  concurrency: 1\n  queue: 5\n  lambda_timeout: 30\n"
    changes: dict[str, Any] = {} if is_imported else {"extra": {}}

    found = patch(text, settings={"concurrency": 2, "lambda_timeout": 30, "memory": 512}, **changes)

    assert found.files[0].text == f"{HEAD}settings:\n{settings}"
    assert found.workflow.settings == {"lambda_timeout": 30, "memory": 512}


@pytest.mark.parametrize(
    ("triggers", "expected"),
    [
        ((Trigger(),), (("http", "hi_1"), ("schedule", "ti_2"))),
        ((Trigger(auth="oauth"),), (("http", "hi_1"),)),
        ((Trigger(auth="oauth"), Trigger("email"), Trigger("errors")), (("http", "hi_1"), ("email", "ti_2"), ("errors", None))),
        ((Trigger("schedule", config={"id": "ti_2"}),), (("schedule", "ti_2"),)),
        ((Trigger("schedule", config={"id": "ti_2"}), Trigger()), (("schedule", "ti_2"), ("http", "hi_1"))),
    ],
    ids=["none", "one", "one more", "with an id", "with an id, before one without"],
)  # fmt: skip
def test_the_ids_of_triggers_are_the_folders(
    triggers: tuple[Trigger, ...], expected: tuple[tuple[str, str | None], ...]
) -> None:
    """The notebook's triggers have the ids of the file in their order; without a trigger it has those of the file."""
    text = f"{HEAD}triggers:\n- id: hi_1\n- id: ti_2\n"

    found = patch(text, triggers=triggers)

    assert tuple((each.type, each.config.get("id")) for each in found.workflow.triggers) == expected
    assert found.files[0].text == text


@pytest.mark.parametrize(
    ("name", "id_", "trigger", "is_same"),
    [
        ("W", None, "hi_2", True),
        ("New", "p_1", "hi_2", True),
        ("New", None, "hi_1", True),
        ("New", "p_2", "hi_2", False),
        ("New", None, None, False),
    ],
    ids=["name", "id", "trigger", "another id", "without ids"],
)
def test_a_folder_of_another_workflow_is_refused(
    name: str, id_: str | None, trigger: str | None, is_same: bool
) -> None:
    """A folder belongs to the workflow if the name, the id or a trigger is the same; a new name is written."""
    text = f"{HEAD}triggers:\n- id: hi_1\n"
    config = {} if trigger is None else {"id": trigger}
    workflow = Workflow(
        name, triggers=(Trigger(config=config),), extra={} if id_ is None else {"pdkernel": {"id": id_}}
    )
    document = document_of(text, id="p_1")

    if is_same:
        assert build_folder_patch(workflow, document).files[0].text == text.replace("name: W", f"name: {name}")
    else:
        with pytest.raises(UnsupportedError, match="flow-p_1 belongs to another workflow: it is called 'W'") as caught:
            build_folder_patch(workflow, document)
        assert caught.value.fix == "Name the folder of 'New', or write `name: W` into the %%pdworkflow cell."


@pytest.mark.parametrize(
    ("extra", "expected"), [({}, None), ({"pdkernel": {"id": "p_1"}}, "p_1"), ({"pdkernel": {"id": 1}}, None)]
)
def test_the_id_of_a_workflow(extra: dict[str, Any], expected: str | None) -> None:
    """A workflow that was read from a synced folder has the folder's id."""
    assert get_workflow_id(Workflow("W", extra=extra)) == expected


def test_a_new_credential_is_refused() -> None:
    """A credential that the folder has already does not stop an export; another one does."""
    token = f"ghp_{'a1' * 20}"
    text = f"{HEAD}steps:\n- namespace: a\n  uses: k-one@1.0.0\n  props:\n    x: {token}\n"
    step = read(text).steps[0]

    assert patched(text) == text
    with pytest.raises(DefinitionError, match="looks like a GitHub token"):
        patch(text, steps=(replace(step, props={"x": token, "y": f"ghp_{'b2' * 20}"}),))


def test_a_change_that_touches_an_anchor_is_refused() -> None:
    """Unchanged anchors are kept; a change that touches one is refused with the line."""
    text = f"{HEAD}steps:\n- namespace: a\n  uses: k-x@1.0.0\n  props:\n    s: {{storeId: &id ds_1}}\n    key: last\nnote: *id\n"
    step = read(text).steps[0]

    assert patched(text, steps=(replace(step, props={"key": "new"}),)) == text.replace("key: last", "key: new")
    with pytest.raises(UnsupportedError, match=r"workflow\.yaml has an anchor or an alias .*\(line 7\)"):
        patch(text, steps=(replace(step, stores=(StoreBinding("s", "ds_2"),)),))
