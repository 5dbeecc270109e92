"""Exports into a synced folder."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pdkernel.common.safe_files import BYTE_ORDER_MARK
from pdkernel.errors import DefinitionError, NotebookError, PdkernelError, RequestError, UnsupportedError
from pdkernel.files.definition import ExportResult, export_to_synced_folder, read_folder_workflow
from pdkernel.files.definition.sidecar import Sidecar
from pdkernel.files.definition.synced_export import FolderPatch, build_folder_patch, get_workflow_id
from pdkernel.files.definition.synced_folder import build_workflow
from pdkernel.files.source import WorkflowSource, load_source
from pdkernel.model import AppBinding, Step, StoreBinding, Trigger, Workflow
from pdkernel.operations.importer import find_workflow_folders
from tests.builders import with_step
from tests.files.definition.builders import NODE, PYTHON, document_of, synced

PROJECTS = Path(__file__).parent / "projects"
FOLDERS = [
    *find_workflow_folders(PROJECTS),
    *find_workflow_folders(Path(__file__).parents[2] / "operations" / "importer" / "projects"),
]
ORDERS, NIGHTLY, TWO, EMPTY = (
    "order-alerts-p_Ab12Cd3", "nightly-report-p_xYz9876", "two-triggers-p_Q1w2E3", "empty-p_000aaa"
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a synced folder, by its name."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(PROJECTS / name, tmp_path / name))

    return copy


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under *folder*, to the byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def imported(folder: Path) -> WorkflowSource:
    """*folder* imported as a notebook beside it, and that notebook read."""
    notebook = folder.parent / "made" / f"{folder.name}.ipynb"
    pdkernel = importlib.import_module("pdkernel.cli").pdkernel
    ended = CliRunner().invoke(
        pdkernel, ["--project", str(folder.parent), "import", str(folder), "--to", str(notebook)]
    )
    assert ended.exit_code == 0, ended.output
    return load_source(notebook, unanswered="keep")


def exported(source: WorkflowSource, folder: Path, **changes: Step | None) -> ExportResult:
    """The export of *source* into *folder*, with some steps replaced (None removes a step)."""
    steps = [changes.get(step.name, step) for step in source.workflow.steps]
    workflow = replace(source.workflow, steps=tuple(step for step in steps if step is not None))
    return export_to_synced_folder(workflow, folder, sidecar=source.sidecar)


def read_back(folder: Path) -> Workflow:
    """The workflow in *folder*, with the account ids of the file."""
    return read_folder_workflow(folder, require_code=False, assumed_account="own")


def diff_of(result: ExportResult, path: str = "workflow.yaml") -> list[str]:
    """The removed and added lines of *path*."""
    diff = next(file.diff for file in result.files if file.path == path)
    return [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in {"+++", "---"}]


CHANGED_BYTES: dict[str, Callable[[bytes], bytes]] = {
    "as synced": lambda data: data,
    "CRLF": lambda data: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
    "no final line break": lambda data: data.rstrip(),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "comments": lambda data: b"# top\n" + data.replace(b"settings:\n", b"settings: # all\n").replace(b"steps:\n", b"\nsteps:\n# one\n"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGED_BYTES)
@pytest.mark.parametrize("synced", FOLDERS, ids=lambda folder: folder.name)
def test_an_unchanged_notebook_changes_nothing(tmp_path: Path, synced: Path, change: str) -> None:
    """An import and an export change no byte of the folder and add no file."""
    folder = Path(shutil.copytree(synced, tmp_path / synced.name))
    path = folder / "workflow.yaml"
    path.write_bytes(CHANGED_BYTES[change](path.read_bytes()))
    before = contents(folder)

    result = exported(imported(folder), folder)

    assert {file.state for file in result.files} == {"unchanged"}
    assert contents(folder) == before


@pytest.mark.parametrize("name", [ORDERS, NIGHTLY, TWO, EMPTY])
def test_an_existing_pdkernel_yaml_is_unchanged(project: Callable[[str], Path], name: str) -> None:
    """A folder's own pdkernel.yaml stays byte for byte, comments and order included."""
    folder = project(name)
    (folder / "pdkernel.yaml").write_bytes(b"# ours\r\nendpoint: eo0123456789ab # kept\r\ntest_users: [ada, 'bob']\r\n")
    before = contents(folder)

    exported(imported(folder), folder)

    assert contents(folder) == before


def test_real_files(real_workflow_files: list[Path], tmp_path: Path) -> None:
    """Every real workflow.yaml survives an import and an export unchanged."""
    for number, sample in enumerate(real_workflow_files):
        folder = tmp_path / f"{number}-p_1"
        folder.mkdir()
        (folder / "workflow.yaml").write_bytes(sample.read_bytes())

        exported(imported(folder), folder)

        assert contents(folder) == {"workflow.yaml": sample.read_bytes()}


def test_a_hand_written_notebook_keeps_settings_of_the_builder(project: Callable[[str], Path]) -> None:
    """Triggers, accounts, labels, runtimes and keys that the notebook does not have stay in the folder."""
    folder = project(ORDERS)
    before = contents(folder)
    there = read_back(folder)
    by_hand = tuple(replace(step, extra={}, apps=(), stores=()) for step in there.steps)

    result = export_to_synced_folder(Workflow(there.name, steps=by_hand), folder)

    assert contents(folder) == before
    assert not any("Create" in sentence for sentence in result.checklist)


def test_one_changed_prop_is_one_line(project: Callable[[str], Path]) -> None:
    """A changed value changes only its own line; the line of a removed prop is removed; a dry run writes nothing."""
    folder = project(ORDERS)
    source = imported(folder)
    step = source.workflow.step("add_single_row")
    rest = {name: value for name, value in step.props.items() if name != "col_0003"}
    before = contents(folder)
    planned = export_to_synced_folder(
        with_step(source.workflow, replace(step, props=rest)), folder, sidecar=source.sidecar, dry_run=True
    )
    assert (planned.paths("changed"), planned.is_written, contents(folder)) == (("workflow.yaml",), False, before)

    result = exported(source, folder, add_single_row=replace(step, props={**rest, "col_0003": "none"}))
    removed = exported(source, folder, add_single_row=replace(step, props=rest))

    assert diff_of(result) == ['-    col_0003: "+1 555 0100"', "+    col_0003: none"]
    assert result.paths("changed") == ("workflow.yaml",)
    assert diff_of(removed) == ["-    col_0003: none"]


def test_one_changed_line_of_code_is_one_line(project: Callable[[str], Path]) -> None:
    """A changed line of a cell changes that line of the entry file, with the file's line breaks and end."""
    folder = project(TWO)
    source = imported(folder)
    step = source.workflow.step("code")
    path = folder / "shared/main.js"
    before = path.read_bytes()

    result = exported(source, folder, code=replace(step, source=step.source.replace("\r\n", "\n").replace("1", "2")))

    assert path.read_bytes() == before.replace(b"return 1", b"return 2")
    assert result.paths("changed") == ("shared/main.js",)


def test_settings_notes_and_switches(project: Callable[[str], Path]) -> None:
    """Changed settings, notes and switches change their own lines; the old key for notes keeps its name."""
    folder = project(TWO)
    source = imported(folder)
    steps = {
        "code": replace(source.workflow.step("code"), notes="Short"),
        "after": replace(source.workflow.step("after"), disabled=True),
    }
    changed = replace(source, workflow=replace(source.workflow, settings={"lambda_timeout": 60, "memory": 512}))

    result = exported(changed, folder, **steps)

    assert diff_of(result) == [
        "+settings:", "+  lambda_timeout: 60",
        "-  note: |-", "-    # Why", "-", "-    Both triggers end here.", "+  note: Short",
        "-  disabled: false", "+  disabled: true",
    ]  # fmt: skip
    assert any("memory: 512" in sentence for sentence in result.checklist)
    bare = exported(changed, folder, **{**steps, "code": replace(steps["code"], notes=None)})
    assert diff_of(bare) == ["-  note: Short"]


def test_steps_are_added_removed_and_moved(project: Callable[[str], Path]) -> None:
    """A new step is written, a removed step leaves its file behind, and a moved step keeps its text."""
    folder = project(ORDERS)
    source = imported(folder)
    there = {step.name: step for step in source.workflow.steps}
    order = ["build_message", "remember", "continue_based_on_condition", "send_message_public_channel",
             "add_single_row", "custom_request", "pick"]  # fmt: skip
    steps = (*(there[name] for name in order), Step("tell", source=PYTHON))
    before = (folder / "workflow.yaml").read_text()

    result = export_to_synced_folder(replace(source.workflow, steps=steps), folder, sidecar=source.sidecar)

    after = (folder / "workflow.yaml").read_text()
    assert result.paths("new") == ("tell/entry.py",)
    assert result.paths("left alone") == ("old_check/entry.js",)
    assert (folder / "old_check/entry.js").exists()
    assert any("old_check/entry.js is not used by any step any more" in sentence for sentence in result.checklist)
    assert [step.name for step in read_back(folder).steps] == [*order, "tell"]
    assert after.endswith('    quantity: 1\n- namespace: tell\n  runtime: python3.12\n  uses: "./tell/entry.py"\n\n')
    assert set(before.splitlines()) - set(after.splitlines()) == {
        "- namespace: old_check", "  disabled: true", "  runtime: nodejs14.x", '  uses: "./old_check/entry.js"',
    }  # fmt: skip


def test_a_missing_entry_file_stays_missing_until_it_is_written(project: Callable[[str], Path]) -> None:
    """A missing entry file is not created until its cell has code."""
    folder = project(NIGHTLY)
    source = imported(folder)

    untouched = exported(source, folder)
    written = exported(source, folder, not_synced=replace(source.workflow.step("not_synced"), source=PYTHON))

    assert not any("not_synced" in file.path for file in untouched.files)
    assert written.paths("new") == ("not_synced/entry.py",)


def test_omissions_are_listed(project: Callable[[str], Path]) -> None:
    """Without pdkernel.yaml in the folder, its values are listed as omissions; --docs writes it and a README."""
    folder = project(ORDERS)
    workflow = replace(
        imported(folder).workflow, triggers=(Trigger(auth="bearer", token_env="TOKEN"),), settings={"memory": 512}
    )
    sidecar = Sidecar(endpoint="eo0123456789ab", test_users=("ada",), test_events=("new",), actions=("npm",))

    short = export_to_synced_folder(workflow, folder, sidecar=sidecar, dry_run=True)
    whole = export_to_synced_folder(workflow, folder, sidecar=sidecar, include_readme=True)

    said = " ".join(short.checklist)
    for part in (
        "the account choices of send_message_public_channel.slack", "the key of its endpoint", "its limits",
        "its test users", "the names of its test events", "the source of actions", "the trigger's settings", "Check in the builder that it is the HTTP trigger",
    ):  # fmt: skip
        assert part in said
    assert whole.paths("new") == ("pdkernel.yaml", "README.md")
    assert not any("Left out" in sentence for sentence in whole.checklist)
    assert "endpoint: eo0123456789ab" in (folder / "pdkernel.yaml").read_text()
    assert "| `send_message_public_channel` |" in (folder / "README.md").read_text()


def test_a_readme_of_a_person_is_not_overwritten(project: Callable[[str], Path]) -> None:
    """With --docs, a README that an export did not write stops the export before anything is written."""
    folder = project(ORDERS)
    workflow = imported(folder).workflow
    (folder / "README.md").write_text("# Mine\n")
    before = contents(folder)

    with pytest.raises(RequestError, match=r"README\.md exists and was not written by an export"):
        export_to_synced_folder(replace(workflow, name="Renamed"), folder, include_readme=True)

    assert contents(folder) == before


def test_answers_are_added_to_an_existing_pdkernel_yaml(project: Callable[[str], Path]) -> None:
    """A new answer is added to a folder's pdkernel.yaml; an unanswered prop is not."""
    folder = project(ORDERS)
    (folder / "pdkernel.yaml").write_text("# ours\nendpoint: eo0123456789ab # kept\n")
    source = imported(folder)
    step = source.workflow.step("add_single_row")

    result = exported(
        source, folder, add_single_row=replace(step, apps=(AppBinding("googleSheets", "google_sheets", "apn_9"),))
    )

    assert (folder / "pdkernel.yaml").read_text() == (
        "# ours\nendpoint: eo0123456789ab # kept\nsteps:\n  add_single_row:\n    accounts:\n      googleSheets:\n"
        "        app: google_sheets\n        account: apn_9\n"
    )
    assert result.paths("changed") == ("workflow.yaml", "pdkernel.yaml")
    assert (
        "Step add_single_row: apn_9 must be an account of the workspace, shared with the project." in result.checklist
    )


@pytest.mark.parametrize(("account", "text"), [(None, "# ours\n"), ("apn_9", "schema: pdkernel/1\n")])
def test_an_empty_pdkernel_yaml(project: Callable[[str], Path], account: str | None, text: str) -> None:
    """A file with comments only stays until there is a value for it."""
    folder = project(ORDERS)
    (folder / "pdkernel.yaml").write_text("# ours\n")
    source = imported(folder)
    step = source.workflow.step("add_single_row")
    apps = (AppBinding("googleSheets", "google_sheets", account),)

    exported(source, folder, add_single_row=replace(step, apps=apps) if account else step)

    assert (folder / "pdkernel.yaml").read_text().startswith(text)


def test_the_sources_of_actions_are_the_folders(project: Callable[[str], Path]) -> None:
    """A path in `actions` is relative to its file, so the notebook's sources never replace those of the folder."""
    folder = project(ORDERS)
    source = imported(folder)
    (folder / "pdkernel.yaml").write_text("actions: ../components\n")

    export_to_synced_folder(source.workflow, folder, sidecar=Sidecar(actions=("../../components", "npm")))

    assert "actions: ../components\n" in (folder / "pdkernel.yaml").read_text()


def test_credentials(project: Callable[[str], Path]) -> None:
    """A credential that the folder has already is reported and not refused; a new one is refused."""
    folder = project(ORDERS)
    path = folder / "workflow.yaml"
    known = "ghp_" + "a1" * 20
    path.write_text(path.read_text().replace("C0AB12CD3", known))
    before = contents(folder)
    source = imported(folder)
    step = source.workflow.step("old_check")

    result = exported(source, folder)
    with pytest.raises(DefinitionError, match="Step old_check: its code holds what looks like a GitHub token"):
        exported(source, folder, old_check=replace(step, source=f"{step.source}// {known[::-1]} ghp_{'b2' * 20}"))

    assert contents(folder) == before
    assert any(finding.rule == "secret" for finding in result.findings)
    assert known not in str(result.to_json()["findings"])


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (lambda folder: (folder / "workflow.yaml").unlink(), NotebookError, "has no workflow.yaml"),
        (lambda folder: (folder / "workflow.yaml").write_text("a: [\n"), NotebookError, "is not YAML"),
        (lambda folder: link(folder, "workflow.yaml"), RequestError, "is a link"),
        (lambda folder: link(folder, "old_check"), DefinitionError, "is outside the folder"),
        (lambda folder: link(folder, "old_check/entry.js"), DefinitionError, "is outside the folder"),
        (lambda folder: link(folder, "pdkernel.yaml", make=True), RequestError, "is a link"),
        (lambda folder: (folder / "new").write_text("a file"), RequestError, "cannot be read"),
        (lambda folder: (folder / "new/entry.py").mkdir(parents=True), RequestError, "is a folder"),
        (lambda folder: write(folder / "new/entry.py", "mine"), RequestError, "no step of the folder uses it"),
    ],
)
def test_bad_folders(
    project: Callable[[str], Path], spoil: Callable[[Path], object], kind: type[PdkernelError], says: str
) -> None:
    """A folder that cannot be patched is refused with the file's name, and no file is changed."""
    folder = project(ORDERS)
    source = imported(folder)
    workflow = replace(source.workflow, steps=(*source.workflow.steps, Step("new", source=PYTHON)))
    spoil(folder)
    before = contents(folder.parent)

    with pytest.raises(kind) as caught:
        export_to_synced_folder(workflow, folder, sidecar=source.sidecar)

    assert says in caught.value.message
    assert str(folder) in caught.value.message
    assert contents(folder.parent) == before


def link(folder: Path, path: str, *, make: bool = False) -> None:
    """Move *path* outside the folder and put a link in its place."""
    elsewhere = folder.parent / f"elsewhere-{Path(path).name}"
    if make:
        elsewhere.write_text("endpoint: eo0123456789ab\n")
    else:
        (folder / path).rename(elsewhere)
    (folder / path).symlink_to(elsewhere)


def write(path: Path, text: str) -> None:
    """Write *text* to *path*, and create missing folders."""
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_an_entry_file_outside_is_not_written(project: Callable[[str], Path]) -> None:
    """A path in a cell's metadata that leaves the folder is refused."""
    folder = project(ORDERS)
    source = imported(folder)
    stray = Step("new", source=PYTHON, extra={"pdkernel": {"entry": "./../../stray/entry.py"}})

    with pytest.raises(RequestError, match="leads out of"):
        export_to_synced_folder(replace(source.workflow, steps=(*source.workflow.steps, stray)), folder)

    assert not (folder.parent.parent / "stray").exists()


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
    assert (found.previous_entry_paths, found.unused_entry_paths) == (("a/entry.py", "shared/main.js"), ("a/entry.py",))


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


def test_a_change_that_touches_an_anchor_is_refused() -> None:
    """Unchanged anchors are kept; a change that touches one is refused with the line."""
    text = f"{HEAD}steps:\n- namespace: a\n  uses: k-x@1.0.0\n  props:\n    s: {{storeId: &id ds_1}}\n    key: last\nnote: *id\n"
    step = read(text).steps[0]

    assert patched(text, steps=(replace(step, props={"key": "new"}),)) == text.replace("key: last", "key: new")
    with pytest.raises(UnsupportedError, match=r"workflow\.yaml has an anchor or an alias .*\(line 7\)"):
        patch(text, steps=(replace(step, stores=(StoreBinding("s", "ds_2"),)),))
