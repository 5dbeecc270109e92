"""Imported folders: paths and untouched files, invalid folders, and notebooks that read back as the folder."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pdkernel
from pdkernel.actions import Catalog
from pdkernel.errors import NotebookError, PdkernelError, RequestError
from pdkernel.files.definition import Sidecar, export_to_synced_folder, plan_files, read_folder_workflow, write_files
from pdkernel.files.definition.file_plan import WORKFLOW_SCHEMA
from pdkernel.files.notebook import read_notebook
from pdkernel.kit.session.draft import Draft
from pdkernel.language.analysis import check_workflow
from pdkernel.model import Trigger, Workflow
from pdkernel.operations.importer import (
    AccountQuestion,
    ImportOptions,
    ImportResult,
    find_workflow_folders,
    import_folder,
    plan_notebook_paths,
)
from pdkernel.operations.importer.import_report import ImportReport
from tests.files.definition.builders import NODE, synced
from tests.files.definition.test_synced_folder import workflows
from tests.operations.importer.import_helpers import (
    HEAD,
    PROJECTS,
    as_written,
    check_round_trip,
    import_one,
    without_places,
)

MINIMAL = "- namespace: a\n  runtime: python3.12\n  uses: ./a/entry.py\n"


def flow(folder: Path, code: str = "def handler(pd):\n    return 1\n") -> Path:
    """A folder of one workflow."""
    return synced(folder, HEAD + MINIMAL, a__entry_DOT_py=code)


def test_a_repository_keeps_its_folders(tmp_path: Path) -> None:
    """Each workflow's notebook has the path of its folder; folders without a workflow are skipped."""
    found = plan_notebook_paths(PROJECTS, find_workflow_folders(PROJECTS), tmp_path)

    assert [str(notebook.relative_to(tmp_path)) for _, notebook in found] == [
        "empty-p_0000001.ipynb",
        "every-shape-p_Ab12Cd3.ipynb",
        "odd-entries-p_Qq11Ww2.ipynb",
        "team/nested/deploy-notes-p_Xy98Zw.ipynb",
    ]


def test_one_workflow(tmp_path: Path) -> None:
    """One workflow becomes the named notebook, or a notebook with its folder's name."""
    folder = flow(tmp_path / "w-p_1")

    assert plan_notebook_paths(folder, find_workflow_folders(folder), tmp_path / "x.ipynb") == [
        (folder, tmp_path / "x.ipynb")
    ]
    assert plan_notebook_paths(folder, find_workflow_folders(folder), tmp_path / "to") == [
        (folder, tmp_path / "to/w-p_1.ipynb")
    ]


def test_nothing_is_written_into_the_imported_folder(tmp_path: Path) -> None:
    """A path inside the imported folder, or a link that leads there or elsewhere, is refused."""
    repository = tmp_path / "repo"
    flow(repository / "team/w")
    (tmp_path / "link").symlink_to(repository)
    (tmp_path / "to").mkdir()
    (tmp_path / "to/team").symlink_to(tmp_path)

    for to in (repository / "n.ipynb", repository / "notebooks", tmp_path / "link/n.ipynb", tmp_path / "to"):
        with pytest.raises(RequestError):
            plan_notebook_paths(repository, find_workflow_folders(repository), to)


def test_nothing_is_written_below_a_link(tmp_path: Path) -> None:
    """A folder of the target that is a link is refused, also for a workflow deeper below it."""
    flow(tmp_path / "repo/team/deep/w")
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "to").mkdir()
    (tmp_path / "to/team").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RequestError, match="is a link that leads out of"):
        plan_notebook_paths(tmp_path / "repo", find_workflow_folders(tmp_path / "repo"), tmp_path / "to")


def test_no_workflow(tmp_path: Path) -> None:
    """A folder without a workflow is refused; so is one notebook name for several workflows."""
    with pytest.raises(NotebookError, match="holds no workflow"):
        find_workflow_folders(tmp_path)
    with pytest.raises(NotebookError, match="does not exist"):
        find_workflow_folders(tmp_path / "x")
    with pytest.raises(RequestError, match="holds 4 workflows"):
        plan_notebook_paths(PROJECTS, find_workflow_folders(PROJECTS), tmp_path / "n.ipynb")
    two = [flow(tmp_path / "two/a"), flow(tmp_path / "two/b")]
    with pytest.raises(RequestError, match="holds 2 workflows"):
        plan_notebook_paths(tmp_path / "two", two, tmp_path / "n.ipynb")


def test_notebooks_are_not_imported(tmp_path: Path) -> None:
    """A notebook beside the folders of workflows is not one of them."""
    folder = flow(tmp_path / "r/w")
    import_one(folder, tmp_path / "r/n.ipynb")

    assert find_workflow_folders(tmp_path / "r") == [folder]


def test_only_the_first_import_asks_for_triggers(tmp_path: Path) -> None:
    """The first import asks for settings that Git does not store; the next one has the answers, and the actions, of the first."""
    folder, place = flow(tmp_path / "w"), tmp_path / "deep/er/n.ipynb"
    (folder / "pdkernel.yaml").write_text("actions: connect\nvariables: [TOKEN]\n")
    asked: list[str] = []

    def ask(trigger: Trigger) -> Trigger:
        asked.append(trigger.type)
        return replace(trigger, auth="oauth")

    first = import_one(folder, place, ask_trigger=ask)
    beside = place.with_suffix(".pdkernel.yaml")
    beside.write_text(beside.read_text().replace("actions: connect", "actions: builtin"))
    again = import_one(folder, place, ask_trigger=ask)

    assert (first.state, again.state, asked) == ("new", "unchanged", ["http"])
    assert as_written(place)[0].trigger.auth == "oauth"
    assert as_written(place)[1].actions == ("builtin",)
    assert as_written(place)[1].variables == ("TOKEN",)
    for _ in range(2):
        import_one(folder, tmp_path / "open.ipynb", ask_trigger=lambda trigger: asked.append(f"open {trigger.type}"))
    assert asked == ["http", "open http"]  # a question that was left open is not asked again


def test_the_next_import_looks_up_actions_where_the_notebook_does(tmp_path: Path) -> None:
    """The sources of actions are those of the notebook's pdkernel.yaml, and before it exists those of the folder's."""
    folder = synced(tmp_path / "w", HEAD + "- namespace: a\n  uses: k-x@1.0.0\n", pdkernel_DOT_yaml="actions: npm\n")
    notebook = tmp_path / "n.ipynb"
    looked_up: list[tuple[str, ...]] = []

    def import_again() -> None:
        def build_catalog(sidecar: Sidecar, _: Workflow) -> Catalog:
            looked_up.append(sidecar.actions)
            return Catalog.without_project(tmp_path / ".pdkernel", environ={})

        options = ImportOptions(build_catalog, ask_accounts=lambda _: {}, ask_trigger=None, force=True)
        found = import_folder(folder, notebook, options)
        assert found.error is None

    import_again()
    beside = tmp_path / "n.pdkernel.yaml"
    beside.write_text(beside.read_text().replace("actions: npm", "actions: builtin"))
    import_again()

    assert looked_up == [("npm",), ("builtin",)]


def test_another_file_beside_the_notebook_is_never_lost(tmp_path: Path) -> None:
    """A changed `pdkernel.yaml` is refused, or kept as a backup with the next free number."""
    folder, place = flow(tmp_path / "w"), tmp_path / "n.ipynb"
    import_one(folder, place)
    beside = tmp_path / "n.pdkernel.yaml"
    names = []
    for number in range(3):
        beside.write_text(f"workflow: Other {number}\n")
        assert isinstance(import_one(folder, place).error, RequestError)
        names.append([path.name for path in import_one(folder, place, force=True).backups])

    assert names == [
        [f"n.ipynb.before-import-{number}", f"n.pdkernel.yaml.before-import-{number}"] for number in (1, 2, 3)
    ]


def test_apps_of_the_code_alone_are_not_asked_for(tmp_path: Path) -> None:
    """An app prop that only code declares is the external user's, unless the caller asks for its account."""
    yaml = f"{HEAD}- namespace: send\n  runtime: nodejs20.x\n  uses: ./send/entry.js\n"
    folder = synced(tmp_path / "w", yaml, send__entry_DOT_js=NODE)
    asked: list[str] = []

    def answers(questions: Sequence[AccountQuestion]) -> dict[tuple[str, str], str]:
        asked.extend(question.app for question in questions)
        return {}

    import_one(folder, tmp_path / "n.ipynb", answers=answers)
    plain = list(asked)
    import_one(folder, tmp_path / "m.ipynb", answers=answers, asks_undefined_props=True)

    assert (plain, asked) == ([], ["slack"])


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link to a parent folder does not cause an endless search."""
    flow(tmp_path / "r/w")
    (tmp_path / "r/up").symlink_to(tmp_path)

    assert find_workflow_folders(tmp_path / "r") == [tmp_path / "r/w"]


def test_an_equal_notebook_is_unchanged(tmp_path: Path) -> None:
    """A notebook with the same content, regardless of its outputs and its report, is left unchanged."""
    folder = flow(tmp_path / "w")
    import_one(folder, tmp_path / "n.ipynb")
    notebook = nbformat.read(tmp_path / "n.ipynb", 4)
    notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="ran")]
    (report,) = [cell for cell in notebook.cells if cell.metadata.get("pdkernel", {}).get("report")]
    report.source = "the report of another day"
    nbformat.write(notebook, tmp_path / "n.ipynb")
    before = (tmp_path / "n.ipynb").read_bytes()

    assert import_one(folder, tmp_path / "n.ipynb", force=True).state == "unchanged"
    assert import_one(folder, tmp_path / "m.ipynb", force=True).state == "new"
    assert (tmp_path / "n.ipynb").read_bytes() == before


def test_another_notebook_is_never_lost(tmp_path: Path) -> None:
    """A notebook with other content is refused, or with force renamed to a backup beside the new one."""
    folder = flow(tmp_path / "w")
    import_one(folder, tmp_path / "n.ipynb")
    before = (tmp_path / "n.ipynb").read_bytes()
    (folder / "a/entry.py").write_text("def handler(pd):\n    return 2\n")

    refused = import_one(folder, tmp_path / "n.ipynb")
    kept_then = (tmp_path / "n.ipynb").read_bytes()
    forced = import_one(folder, tmp_path / "n.ipynb", force=True)

    assert isinstance(refused.error, RequestError)
    assert "exists already" in refused.error.message
    assert kept_then == before
    assert forced.state == "replaced"
    assert [path.name for path in forced.backups] == ["n.ipynb.before-import-1", "n.pdkernel.yaml.before-import-1"]
    assert forced.backups[0].read_bytes() == before
    assert "return 2" in (tmp_path / "n.ipynb").read_text()


@pytest.mark.parametrize("text", ["[]", "{}", '{"cells": 1}', "no JSON"])
def test_a_file_that_is_not_a_notebook_is_never_lost(tmp_path: Path, text: str) -> None:
    """Another file with the notebook's name is refused, also if a valid `pdkernel.yaml` is beside it."""
    folder, place = flow(tmp_path / "w"), tmp_path / "n.ipynb"
    import_one(folder, place)
    place.write_text(text)

    refused = import_one(folder, place)

    assert isinstance(refused.error, RequestError)
    assert "exists already" in refused.error.message
    assert place.read_text() == text


def test_a_failed_import_leaves_the_notebook_in_its_place(tmp_path: Path) -> None:
    """If the second backup cannot be made, because its name would be too long, the notebook has its name again."""
    folder, place = flow(tmp_path / "w"), tmp_path / f"{'n' * 230}.ipynb"
    import_one(folder, place)
    before = {path: path.read_bytes() for path in tmp_path.glob("n*")}
    (folder / "a/entry.py").write_text("def handler(pd):\n    return 2\n")

    refused = import_one(folder, place, force=True)

    assert isinstance(refused.error, RequestError)
    assert "cannot be written: File name too long" in refused.error.message
    assert {path: path.read_bytes() for path in tmp_path.glob("n*")} == before


def test_a_link_to_a_missing_file_is_never_lost(tmp_path: Path) -> None:
    """A link at the notebook's place is refused like a file, even if its target does not exist."""
    folder, place = flow(tmp_path / "w"), tmp_path / "n.ipynb"
    place.symlink_to(tmp_path / "elsewhere.ipynb")

    refused = import_one(folder, place)

    assert isinstance(refused.error, RequestError)
    assert place.is_symlink()
    assert not (tmp_path / "elsewhere.ipynb").exists()


def test_the_folder_is_left_alone(tmp_path: Path) -> None:
    """An import creates, changes or touches nothing in the imported folder."""
    folder = flow(tmp_path / "w")
    before = {path: (path.stat().st_mtime_ns, path.is_dir()) for path in [folder, *folder.rglob("*")]}

    import_one(folder, tmp_path / "n.ipynb")

    assert {path: (path.stat().st_mtime_ns, path.is_dir()) for path in [folder, *folder.rglob("*")]} == before


def test_json_of_a_result(tmp_path: Path) -> None:
    """The JSON has the report of an imported workflow, or the error."""
    report = ImportReport("w")
    done = ImportResult(tmp_path / "w", tmp_path / "w.ipynb", "replaced", report, (tmp_path / "w.ipynb.bak",))
    failed = ImportResult(tmp_path, tmp_path / "w.ipynb", error=NotebookError("No.", fix="Do.", step="a", line=3))

    assert json.dumps(done.to_json()) == json.dumps(
        {
            "folder": f"{tmp_path}/w",
            "notebook": f"{tmp_path}/w.ipynb",
            "state": "replaced",
            "kept": [f"{tmp_path}/w.ipynb.bak"],
            "report": report.to_json(),
            "rewrites": [],
            "error": None,
        }
    )
    assert json.dumps(failed.to_json()) == json.dumps(
        {
            "folder": str(tmp_path),
            "notebook": f"{tmp_path}/w.ipynb",
            "state": "failed",
            "kept": [],
            "report": None,
            "rewrites": [],
            "error": {"code": "not_a_workflow", "message": "No.\nDo.", "step": "a", "line": 3},
        }
    )


# ── invalid folders ─────────────────────────────────────────────────────────────────────────────────────


CODE = '- namespace: a\n  runtime: python3.12\n  uses: "./a/entry.py"\n'
LINE = 8
"""The line of the first step in HEAD."""


def refused(folder: Path, notebook: Path) -> PdkernelError:
    """The error of importing *folder*; nothing was written."""
    imported: ImportResult = import_one(folder, notebook)
    assert imported.error is not None
    assert not notebook.exists()
    return imported.error


@pytest.mark.parametrize(
    ("yaml", "says", "line"),
    [
        ("- 1\n- 2\n", "not a mapping of keys", 1),
        ("name: a\nname: b\n", "has the key 'name' twice", 2),
        ("name: a\n\ttriggers: []\n", "is not YAML", 2),
        ("schema: workflow/2031.01\nname: a\n", "has the schema 'workflow/2031.01'", 1),
        (f"{HEAD}- namespace: a/b\n  uses: k-x@1.0.0\n", "'a/b' is not a valid step name", LINE),
        (f"{HEAD}{CODE}- namespace: a\n  uses: k-x@1.0.0\n", "two steps are called 'a', the other in line 8", LINE + 3),
        (HEAD + CODE.replace("./a/", "../other/"), "outside the folder", LINE),
        (HEAD + CODE.replace("./a/", "/etc/"), "outside the folder", LINE),
        (HEAD + CODE.replace("./a/", "./a/../../other/"), "outside the folder", LINE),
        (HEAD + '- namespace: a\n  uses: "./a\\0/entry.py"\n', "cannot be read", LINE),
        (f"{HEAD}- namespace: [a]\n  uses: k-x@1.0.0\n", "has no namespace", LINE),
        (f"{HEAD}- namespace: a\n  uses: k-x@1.0.0\n  props: [1]\n", "are not a mapping", LINE),
        (f"{HEAD}- just text\n", "steps is not a list of mappings", 7),
        ("a: &a [*a]\n", "refers to itself", 1),
        (f"{HEAD}- namespace: a\n  uses: !ruby/object:Foo x\n", "Foo", LINE + 1),
    ],
)
def test_a_clear_error(yaml: str, says: str, line: int, tmp_path: Path) -> None:
    """The message names the file, the line and the problem; the exit status is that of an invalid workflow."""
    error = refused(synced(tmp_path / "w", yaml), tmp_path / "n.ipynb")

    assert "workflow.yaml" in error.message
    assert says in error.message
    assert f"line {line}" in error.message
    assert error.exit_status == 2


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """The error for workflow.yaml and for code names the line of the first invalid byte."""
    of_yaml = synced(tmp_path / "yaml", HEAD)
    (of_yaml / "workflow.yaml").write_bytes(HEAD.encode() + b"# caf\xe9\n")
    of_code = synced(tmp_path / "code", HEAD + CODE)
    (of_code / "a").mkdir()
    (of_code / "a/entry.py").write_bytes(b"one\ntwo\xff\n")

    assert "not UTF-8 text (byte 112, line 8)" in refused(of_yaml, tmp_path / "n.ipynb").message.replace(
        f"byte {len(HEAD) + 6}", "byte 112"
    )
    assert (
        "./a/entry.py, which is not UTF-8 text (its line 2) (line 8)" in refused(of_code, tmp_path / "n.ipynb").message
    )


def test_no_file_in_its_place(tmp_path: Path) -> None:
    """A FIFO, a folder, or a link out of the folder is refused without waiting."""
    (tmp_path / "secret.py").write_text("SECRET")
    folder = synced(tmp_path / "w", HEAD + CODE)
    (folder / "a").mkdir()
    entry = folder / "a/entry.py"

    os.mkfifo(entry)
    pipe = refused(folder, tmp_path / "n.ipynb").message
    entry.unlink()
    entry.mkdir()
    directory = refused(folder, tmp_path / "n.ipynb").message
    entry.rmdir()
    entry.symlink_to(tmp_path / "secret.py")
    link = refused(folder, tmp_path / "n.ipynb").message
    entry.unlink()
    entry.symlink_to(entry)
    loop = refused(folder, tmp_path / "n.ipynb").message

    assert "which is not a file (line 8)" in pipe
    assert "which is not a file (line 8)" in directory
    assert "outside the folder (line 8)" in link
    assert "cannot be read" in loop


@pytest.mark.parametrize("name", ["workflow.yaml", "pdkernel.yaml"])
def test_a_pipe_in_the_place_of_a_definition(name: str, tmp_path: Path) -> None:
    """A FIFO is refused, because it is not a file."""
    folder = synced(tmp_path / "w", HEAD)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    assert f"{name} is not a file" in refused(folder, tmp_path / "n.ipynb").message


def test_anchors_and_aliases(tmp_path: Path) -> None:
    """An alias is read as the value of its anchor."""
    yaml = f"{HEAD}- namespace: a\n  uses: k-x@1.0.0\n  props:\n    one: &x\n      k: v\n    two: *x\n"

    back = check_round_trip(synced(tmp_path / "w", yaml), tmp_path / "n.ipynb")

    assert back.steps[0].props == {"one": {"k": "v"}, "two": {"k": "v"}}


def test_other_line_ends_and_a_byte_order_mark(tmp_path: Path) -> None:
    """A workflow.yaml with a byte order mark and CRLF is read."""
    folder = synced(tmp_path / "w", HEAD)
    (folder / "workflow.yaml").write_bytes(b"\xef\xbb\xbf" + (HEAD + CODE).replace("\n", "\r\n").encode())

    assert [step.name for step in check_round_trip(folder, tmp_path / "n.ipynb").steps] == ["a"]


def test_large_files(tmp_path: Path) -> None:
    """A megabyte of code is imported; a workflow.yaml above the limit is refused before it is read."""
    of_code = synced(tmp_path / "code", HEAD + CODE)
    (of_code / "a").mkdir()
    (of_code / "a/entry.py").write_text("# a line of forty characters, no more...\n" * 25_000)
    of_yaml = synced(tmp_path / "yaml", HEAD + "# a line of forty characters, no more...\n" * 110_000)

    back = check_round_trip(of_code, tmp_path / "n.ipynb")

    assert len(back.steps[0].source) == 1_025_000
    assert "bytes; the limit is" in refused(of_yaml, tmp_path / "m.ipynb").message


def test_a_notebook_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    """Code that exceeds the limit of a notebook's cells is refused, and the folder can still be run."""
    folder = synced(tmp_path / "code", HEAD + CODE)
    (folder / "a").mkdir()
    (folder / "a/entry.py").write_text("# a line of forty characters, no more...\n" * 60_000)

    error = refused(folder, tmp_path / "n.ipynb")

    assert "would have 2.9 MB, and may have 2 MB" in error.message
    assert len(read_folder_workflow(folder).steps[0].source) == 2_460_000


def test_aliases_of_aliases(tmp_path: Path) -> None:
    """A small file that expands to billions of values is refused."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))

    assert "is too large" in refused(synced(tmp_path / "w", f"l0: &l0 x\n{levels}"), tmp_path / "n.ipynb").message


def test_code_that_is_missing(tmp_path: Path) -> None:
    """Missing code is reported at its step, and an export writes no file for it until the cell has code."""
    folder = synced(tmp_path / "w", HEAD + CODE)

    imported = import_one(folder, tmp_path / "n.ipynb")
    back = check_round_trip(folder, tmp_path / "m.ipynb")

    assert imported.report is not None
    assert [(item.name, item.why) for item in imported.report.cannot] == [
        ("a", "has no code: its entry file is missing")
    ]
    assert "**No code:** the entry file of `a`" in (tmp_path / "n.ipynb").read_text()
    assert back.steps[0].is_code_missing
    assert not (folder / "a").exists()


@pytest.mark.parametrize(("disabled", "blocked"), [("false", ["a"]), ("true", [])])
def test_an_unavailable_action_of_a_disabled_step_blocks_nothing(
    tmp_path: Path, disabled: str, blocked: list[str]
) -> None:
    """A private component cannot run; a disabled step needs none."""
    step = f"- namespace: a\n  disabled: {disabled}\n  uses: '@me/mine@1.0.0'\n"

    imported = import_one(synced(tmp_path / "w", HEAD + step), tmp_path / "n.ipynb")

    assert imported.report is not None
    assert [item.name for item in imported.report.cannot] == blocked
    assert [action.runs for action in imported.report.actions] == [False]


# ── round trips ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
def test_projects(folder: Path, tmp_path: Path) -> None:
    """A synced folder's notebook is valid and holds the folder's whole content, in order."""
    check_round_trip(folder, tmp_path / "n.ipynb")

    notebook = nbformat.read(tmp_path / "n.ipynb", 4)
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
def test_saved_by_jupyter(folder: Path, tmp_path: Path) -> None:
    """Jupyter sorts the keys of a saved notebook, which changes nothing in the workflow."""
    import_one(folder, tmp_path / "n.ipynb")
    before = plan_files(*_planned(tmp_path / "n.ipynb"))

    nbformat.write(nbformat.read(tmp_path / "n.ipynb", 4), tmp_path / "n.ipynb")

    assert plan_files(*_planned(tmp_path / "n.ipynb")) == before


def _planned(notebook: Path) -> tuple[Workflow]:
    return (as_written(notebook)[0],)


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b"\n",
        b"x = 1",
        b"x = 1\n\n\n",
        b"x = 1\r\ny = 2\r\n",
        b"x = 1\r\ny = 2",
        b"x = 1\ry = 2\n",
        b"a\r\nb\nc\r\r\nd",
        b"\xef\xbb\xbfx = 1\n",
        b"\xef\xbb\xbfx\r\n",
        b"\tif True:\n\t\tpass\n  ",
        b"# %%pdstep other\n%%pdstep inner\n",
        b"%load_ext evil\n!ls\n?\n",
        b"// a comment\n\n#!/usr/bin/env node\n",
        "é = '\U0001f600\u2028\x0c\x0b\x85'\n".encode(),
        b"a\x00b",
        b"\\\n\\n",
    ],
)
@pytest.mark.parametrize("name", ["entry.py", "entry.js"])
def test_code_is_kept_byte_for_byte(code: bytes, name: str, tmp_path: Path) -> None:
    """An entry file's content is in its cell, or in the cell's metadata if a cell cannot show it."""
    folder = synced(tmp_path / "w", f"{HEAD}- namespace: a\n  runtime: python3.12\n  uses: ./a/{name}\n")
    (folder / "a").mkdir()
    (folder / "a" / name).write_bytes(code)

    back = check_round_trip(folder, tmp_path / "n.ipynb")

    assert back.steps[0].source.encode() == code
    shown = json.loads((tmp_path / "n.ipynb").read_text())["cells"][-1]["source"]
    assert "\r" not in "".join(shown)


def test_an_edit_keeps_the_other_lines(tmp_path: Path) -> None:
    """In code with other line ends, only the lines that were edited in the notebook change."""
    folder = synced(tmp_path / "w", f"{HEAD}- namespace: a\n  runtime: python3.12\n  uses: ./a/entry.py\n")
    (folder / "a").mkdir()
    (folder / "a/entry.py").write_bytes(b"\xef\xbb\xbfone\r\ntwo\nthree\r\nfour\r\n")
    import_one(folder, tmp_path / "n.ipynb")
    text = (tmp_path / "n.ipynb").read_text()

    (tmp_path / "n.ipynb").write_text(text.replace('"three\\n"', '"3\\n",\n    "and\\n"'))

    source = as_written(tmp_path / "n.ipynb")[0].steps[0].source
    assert source.encode() == b"\xef\xbb\xbfone\r\ntwo\n3\r\nand\r\nfour\r\n"


def test_an_edited_note_is_used(tmp_path: Path) -> None:
    """A note is in a Markdown cell, whose text is the step's note."""
    folder = synced(tmp_path / "w", f"{HEAD}- namespace: a\n  notes: before\n  uses: k-x@1.0.0\n")
    import_one(folder, tmp_path / "n.ipynb")
    notebook = nbformat.read(tmp_path / "n.ipynb", 4)
    next(cell for cell in notebook.cells if cell.id == "note-a").source = "after"

    nbformat.write(notebook, tmp_path / "n.ipynb")

    assert as_written(tmp_path / "n.ipynb")[0].steps[0].notes == "after"


def test_a_note_is_not_a_step(tmp_path: Path) -> None:
    """A note that looks like a step's cell is still a note."""
    folder = synced(tmp_path / "w", f'{HEAD}- namespace: a\n  notes: "%%pdstep b"\n  uses: k-x@1.0.0\n')

    assert [step.name for step in check_round_trip(folder, tmp_path / "n.ipynb").steps] == ["a"]


def test_unpaired_surrogates(tmp_path: Path) -> None:
    """Text that UTF-8 cannot encode, but YAML can escape, is imported."""
    folder = synced(tmp_path / "w", f'{HEAD}- namespace: a\n  uses: k-x@1.0.0\n  props:\n    t: "\\uD83D"\n')

    assert check_round_trip(folder, tmp_path / "n.ipynb").steps[0].props == {"t": "\ud83d"}


@settings(max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workflows(), st.data())
def test_generated_workflows(tmp_path: Path, workflow: Workflow, data: st.DataObject) -> None:
    """Any workflow that a definition can hold survives a notebook round trip."""
    braces = st.sampled_from(
        ["{{steps.trigger.event.x}}", "{{", "a {{ `}}` }} b", "{{ }}", "# {{x}}", "\n{{x}}: - ", "}}"]
    )
    for step in workflow.steps:
        for name in step.props:
            if data.draw(st.booleans()):
                assert isinstance(step.props, dict)
                step.props[name] = data.draw(
                    braces | st.lists(braces, max_size=2) | st.dictionaries(braces, braces, max_size=1)
                )
    folder = tmp_path / "w"
    shutil.rmtree(folder, ignore_errors=True)
    for file in tmp_path.glob("n.*"):
        file.unlink()
    write_files(plan_files(replace(workflow, extra={"schema": WORKFLOW_SCHEMA})), folder)

    check_round_trip(folder, tmp_path / "n.ipynb")


def test_real_files(real_workflow_files: list[Path], tmp_path: Path) -> None:
    """Every real workflow.yaml survives a notebook round trip."""
    for number, sample in enumerate(real_workflow_files):
        folder = synced(tmp_path / str(number), sample.read_text())

        back = check_round_trip(folder, tmp_path / f"{number}.ipynb")

        assert back.steps


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
@pytest.mark.parametrize("accounts", ["ask", "external-user", "own"])
def test_back_into_the_folder(folder: Path, accounts: str, tmp_path: Path) -> None:
    """An unchanged notebook, exported into its original folder, changes no byte there, for every account choice."""
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    import_one(copy, tmp_path / "n.ipynb", accounts=accounts)
    back, sidecar = as_written(tmp_path / "n.ipynb")

    export_to_synced_folder(back, copy, sidecar=sidecar)

    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("folder", find_workflow_folders(PROJECTS), ids=lambda folder: folder.name)
def test_a_session_sees_the_same(folder: Path, tmp_path: Path) -> None:
    """The workflow of an open notebook includes the notes, the metadata and the unsupported entries."""
    import_one(folder, tmp_path / "n.ipynb")

    draft = Draft(tmp_path / "n.ipynb").workflow()

    assert without_places(draft) == without_places(read_notebook(tmp_path / "n.ipynb"))
    assert draft.unsupported_entries == read_notebook(tmp_path / "n.ipynb").unsupported_entries


# ── large workflows ─────────────────────────────────────────────────────────────────────────────────────


def executed_lines(work: Callable[[], object]) -> int:
    """The number of lines of the package that *work* executes, which is the same on a busy machine."""
    count = 0
    package = str(Path(pdkernel.__file__).parent)

    def trace(frame: FrameType, event: str, _arg: object) -> Callable[..., Any] | None:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename.startswith(package) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def chain(folder: Path, count: int) -> Path:
    """A synced folder of *count* steps, each of which reads the step above."""
    steps = (
        f'- namespace: s{n}\n  runtime: nodejs20.x\n  uses: "./shared/entry.js"\n  props:\n    above: "{{{{steps.s{n - 1}}}}}"\n'
        for n in range(1, count)
    )
    first = '- namespace: s0\n  runtime: nodejs20.x\n  uses: "./shared/entry.js"\n'
    return synced(folder, HEAD + first + "".join(steps), shared__entry_DOT_js="export default {}\n")


def test_work_grows_with_the_number_of_steps_only(tmp_path: Path) -> None:
    """Loading, importing and exporting a further step takes as many lines of code in a large workflow as in a small one."""

    def count(steps: int) -> int:
        folder = chain(tmp_path / str(steps), steps)
        return executed_lines(partial(_load_import_export, folder))

    _load_import_export(chain(tmp_path / "warm", 2))
    few, many = (count(20) - count(10)) / 10, (count(120) - count(60)) / 60

    assert many <= few * 1.05


def _load_import_export(folder: Path) -> None:
    workflow = read_folder_workflow(folder)
    check_workflow(workflow)
    assert import_one(folder, folder.with_suffix(".ipynb")).error is None
    export_to_synced_folder(workflow, folder)


def test_an_unpacked_archive_is_recognised(tmp_path: Path) -> None:
    """The error for a folder without a workflow says to name the archive itself."""
    (tmp_path / "manifest.json").write_text("{}")

    with pytest.raises(NotebookError, match="name the ZIP itself"):
        find_workflow_folders(tmp_path)
