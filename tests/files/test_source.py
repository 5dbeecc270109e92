"""Finding and loading the workflows of a source."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.errors import DefinitionError, NotebookError, RequestError
from pdkernel.files.source import (
    RefusedSource,
    file_stamps,
    find_sibling_workflow,
    find_sources,
    has_workflow,
    load_source,
    load_workflow,
)
from pdkernel.model import AppBinding, Trigger
from pdkernel.operations.importer.folder_import import find_workflow_folders
from tests.notebook_files import notebook_of

STEP = "%%pdstep a --lang node\nexport default {}"


def folder(path: Path, name: str) -> Path:
    """Write a workflow's folder."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "workflow.yaml").write_text(f"name: {name}\ntriggers:\n- id: hi_1\n")
    return path


def test_notebook(tmp_path: Path) -> None:
    """A notebook is one workflow, and its steps look up files beside it."""
    source = load_source(notebook_of(tmp_path / "flow.ipynb", STEP))

    assert (source.kind, source.workflow.name, source.folder) == ("notebook", "flow", tmp_path)
    assert (source.sidecar, source.assumed_settings) == (None, ())


def test_notebooks_pdkernel_yaml(tmp_path: Path) -> None:
    """NAME.pdkernel.yaml beside a notebook adds missing settings, and the notebook wins."""
    path = notebook_of(
        tmp_path / "flow.ipynb",
        "%%pdworkflow\nsettings: {memory: 512}",
        STEP.replace("%%pdstep a", "%%pdstep a --app gmail"),
    )
    (tmp_path / "flow.pdkernel.yaml").write_text(
        "triggers:\n- type: http\n  auth: oauth\nlimits: {memory: 256, queue: 10}\nvariables: [TOKEN]\n"
        "steps:\n  a:\n    timeout: 5\n    accounts: {slack: apn_1, gmail: apn_2}\n    stores: {cache: mine}\n  gone: {}\n"
    )

    workflow = load_workflow(path)

    assert workflow.triggers == (Trigger(auth="oauth"),)
    assert workflow.settings == {"memory": 512, "queue": 10}
    assert workflow.variables == ("TOKEN",)
    assert workflow.steps[0].apps == (AppBinding("gmail", "gmail"), AppBinding("slack", "slack", "apn_1"))
    assert (workflow.steps[0].timeout_s, workflow.steps[0].stores[0].store) == (5, "mine")


def test_notebook_unanswered(tmp_path: Path) -> None:
    """An unanswered account of a notebook is refused."""
    path = notebook_of(tmp_path / "flow.ipynb", STEP)
    (tmp_path / "flow.pdkernel.yaml").write_text("steps: {a: {accounts: {slack: unanswered}}}")

    with pytest.raises(RequestError, match=r"flow\.pdkernel\.yaml: steps\.a\.accounts\.slack is unanswered"):
        load_workflow(path)
    assert load_source(path, unanswered="keep", pinned_steps=("b",)).workflow.name == "flow"


def test_a_step_that_does_not_run_needs_no_answer(tmp_path: Path) -> None:
    """With pins, only a step that is neither pinned nor disabled is refused because of its account."""
    path = notebook_of(tmp_path / "flow.ipynb", *(f"%%pdstep {name} --lang node\nexport default {{}}" for name in "ab"))
    (tmp_path / "flow.pdkernel.yaml").write_text(
        "steps: {a: {accounts: {slack: unanswered}}, b: {accounts: {slack: unanswered}}}"
    )

    with pytest.raises(RequestError, match=r"steps\.b\.accounts\.slack is unanswered"):
        load_source(path, pinned_steps=("a",))
    notebook_of(path, STEP, "%%pdstep b --lang node --disabled\nexport default {}")
    assert load_source(path, pinned_steps=("a",)).workflow.steps[1].disabled


def test_a_step_that_runs_needs_its_code(tmp_path: Path) -> None:
    """With pins, a step whose entry file is missing is refused unless the step is pinned."""
    path = folder(tmp_path / "flow", "Flow")
    steps = "".join(f'- namespace: {name}\n  runtime: python3.12\n  uses: "./{name}/entry.py"\n' for name in "ab")
    (path / "workflow.yaml").write_text(f"name: Flow\ntriggers:\n- id: hi_1\nsteps:\n{steps}")

    with pytest.raises(DefinitionError, match="Step b has no code"):
        load_source(path, pinned_steps=("a",))
    assert len(load_source(path, pinned_steps=("a", "b")).workflow.steps) == 2


def test_workflow_folder(tmp_path: Path) -> None:
    """A workflow's folder, or the workflow.yaml in it, is one workflow; assumed settings are reported."""
    path = folder(tmp_path / "w-p_1", "W")

    source = load_source(path)

    assert (source.kind, source.workflow.name, source.folder) == ("folder", "W", path)
    assert len(source.assumed_settings) == 1
    assert load_workflow(path / "workflow.yaml") == source.workflow


def test_folder_of_workflows(tmp_path: Path) -> None:
    """A folder contains all its notebooks and workflow folders, by name; hidden folders are skipped."""
    folder(tmp_path / "repo/b-p_1", "B")
    notebook_of(tmp_path / "a.ipynb", STEP)
    notebook_of(tmp_path / ".ipynb_checkpoints/a-checkpoint.ipynb", STEP)
    notebook_of(tmp_path / "node_modules/x.ipynb", STEP)
    (tmp_path / "README.md").write_text("x")

    assert [load_workflow(path).name for path in find_sources(tmp_path)] == ["a", "B"]
    with pytest.raises(NotebookError, match=r"contains 2 workflows: a\.ipynb, b-p_1\."):
        load_workflow(tmp_path)
    for name in "cdef":
        notebook_of(tmp_path / f"{name}.ipynb", STEP)
    with pytest.raises(NotebookError, match=r"6 workflows: a\.ipynb, c\.ipynb, d\.ipynb, e\.ipynb, f\.ipynb, \.\.\.\."):
        load_workflow(tmp_path)


def test_every_depth(tmp_path: Path) -> None:
    """Workflow folders are found at every depth and inside one another, as by an import."""
    outer = folder(tmp_path / "a/b/c/d/e/f/outer-p_1", "outer")
    inner = folder(outer / "copies/inner-p_2", "inner")
    notebook_of(outer / "notes.ipynb", STEP)
    (tmp_path / "link").symlink_to(tmp_path / "a")

    assert find_sources(tmp_path) == (outer, inner)
    assert find_workflow_folders(tmp_path) == [outer, inner]
    assert has_workflow(tmp_path)


def test_a_workflow_inside_a_workflow(tmp_path: Path) -> None:
    """A workflow's folder that is named itself is that workflow, although another one is inside it."""
    outer = folder(tmp_path / "outer-p_1", "outer")
    folder(outer / "copies/inner-p_2", "inner")

    assert load_workflow(outer).name == "outer"


def test_folder_of_one(tmp_path: Path) -> None:
    """A folder with one workflow below it is that workflow."""
    folder(tmp_path / "b-p_1", "B")

    assert load_workflow(tmp_path).name == "B"


def test_a_missing_source(tmp_path: Path) -> None:
    """A path that is not a source is refused, and the message explains what a source is."""
    (tmp_path / "event.json").write_text("{}")
    (tmp_path / "empty").mkdir()

    with pytest.raises(NotebookError, match="does not exist"):
        load_workflow(tmp_path / "none.ipynb")
    with pytest.raises(NotebookError, match="neither a notebook nor"):
        load_workflow(tmp_path / "event.json")
    with pytest.raises(NotebookError, match="contains no workflow"):
        find_sources(tmp_path / "empty")


def test_python_files_in_percent_format(tmp_path: Path) -> None:
    """A folder's Python files in percent format are workflows, unless a notebook of the same name is beside them."""
    step = "# %%\n# %%pdstep a\nreturn 1\n"
    notebook_of(tmp_path / "paired.ipynb", STEP)
    for name, text in {
        "paired.py": step,
        "kept.py": f"# ---\n# jupyter: {{}}\n# ---\n\n{step}",
        "tool.py": "import os\n",
        "cells.py": "# %%\nprint('%%pdstep a')\n",
    }.items():
        (tmp_path / name).write_text(text)

    assert [path.name for path in find_sources(tmp_path)] == ["kept.py", "paired.ipynb"]
    assert load_source(tmp_path / "paired.py").workflow.steps[0].language == "python"
    assert load_workflow(tmp_path / "kept.py").name == "kept"


def test_files_beside_a_notebook(tmp_path: Path) -> None:
    """A notebook's step imports files of the notebook's folder; a changed file is another version and another stamp."""
    path = notebook_of(tmp_path / "flow.ipynb", "%%pdstep a --lang node\nimport './x.mjs'\nexport default {}")
    (tmp_path / "x.mjs").write_text("1")
    first = load_source(path)
    stamps = file_stamps(path, first.workflow)

    (tmp_path / "x.mjs").write_text("2 ")

    assert first.workflow.steps[0].files == {"x.mjs": "1"}
    changed = file_stamps(path, first.workflow)
    assert changed != stamps
    assert load_source(path).workflow.version != first.workflow.version
    (tmp_path / "flow.pdkernel.yaml").write_text("variables: [TOKEN]")
    assert file_stamps(path, first.workflow) != changed


def test_stamps_of_a_folder(tmp_path: Path) -> None:
    """A file of another size has another stamp, even with the same time; a cache of Python has none."""
    path = folder(tmp_path / "w-p_1", "W")
    (path / "x.mjs").write_text("1")
    os.utime(path / "x.mjs", (1, 1))
    stamps = file_stamps(path)

    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "x.pyc").write_text("1")
    assert file_stamps(path) == stamps

    deepest = path / "1/2/3/4/5"
    deepest.mkdir(parents=True)
    (deepest / "data.json").write_text("1")
    assert file_stamps(path) == stamps
    (deepest.parent / "data.json").write_text("1")
    assert len(file_stamps(path)) == len(stamps) + 1

    (path / "x.mjs").write_text("12")
    os.utime(path / "x.mjs", (1, 1))
    assert file_stamps(path) != stamps


def test_a_cells_file_comes_before_the_folders(tmp_path: Path) -> None:
    """A step imports the file that a cell of the notebook has, also if the notebook's folder has a file of that name."""
    path = notebook_of(tmp_path / "flow.ipynb", "%%pdstep a --lang node\nimport './x.mjs'\nexport default {}")
    content = json.loads(path.read_text())
    cell = {"cell_type": "raw", "source": "of the cell", "metadata": {"pdkernel": {"file": "a/x.mjs"}}}
    path.write_text(json.dumps({**content, "cells": [*content["cells"], cell]}))
    (tmp_path / "x.mjs").write_text("of the folder")

    assert "of the cell" in load_source(path).workflow.steps[0].files.values()


def test_a_missing_file_in_a_folder_of_cells(tmp_path: Path) -> None:
    """Where cells have the files of a folder, a file that they lack does not exist, whatever is above the notebook."""
    path = notebook_of(
        tmp_path / "sub" / "flow.ipynb", "%%pdstep a --lang node\nimport '../lib/x.mjs'\nimport '../lib/y.mjs'"
    )
    content = json.loads(path.read_text())
    cell = {"cell_type": "raw", "source": "of the cell", "metadata": {"pdkernel": {"file": "lib/x.mjs"}}}
    path.write_text(json.dumps({**content, "cells": [*content["cells"], cell]}))

    with pytest.raises(NotebookError, match=r'line 3\) imports "\.\./lib/y\.mjs", and there is no such file'):
        load_source(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("../up.mjs", "which is outside of the notebook's folder"), ("./gone.mjs", "and there is no such file")],
)
def test_a_file_that_a_notebook_cannot_import(tmp_path: Path, name: str, message: str) -> None:
    """A file above the notebook's folder and a missing file are refused with the cell and the line."""
    (tmp_path / "up.mjs").write_text("1")
    path = notebook_of(
        tmp_path / "sub" / "flow.ipynb", "x = 1", f"%%pdstep a --lang node\nimport '{name}'\nexport default {{}}"
    )

    with pytest.raises(NotebookError) as refused:
        load_source(path)

    assert refused.value.message == f'Step a (cell 2, line 2) imports "{name}", {message}.'


def test_a_workflow_beside_another_is_found_by_its_name(tmp_path: Path) -> None:
    """Outside of a repository, a step finds a workflow beside its own: by its id, its folder or its file."""
    caller = folder(tmp_path / "flows/quote", "quote")
    folder(tmp_path / "flows/tax.v2-p_2b", "tax")
    notebook_of(tmp_path / "flows/deep/mail.ipynb", STEP)

    found = [find_sibling_workflow(name, caller) for name in ("p_2b", "tax.v2-p_2b", "mail", "mail.ipynb", "2b", "tax")]

    names = ["tax.v2-p_2b", "tax.v2-p_2b", "mail.ipynb", "mail.ipynb", None, None]
    assert [source and source.path.name for source in found] == names


def test_the_nearest_workflow_with_a_name_is_found(tmp_path: Path) -> None:
    """A notebook beside the caller comes before one of the same name below."""
    caller = notebook_of(tmp_path / "caller.ipynb", STEP)
    for path in ("a/mail.ipynb", "mail.ipynb", "a/b/deep.ipynb", "z/deep.ipynb"):
        notebook_of(tmp_path / path, STEP)

    found = [find_sibling_workflow(name, caller) for name in ("mail", "deep")]

    assert [source and source.path for source in found] == [tmp_path / "mail.ipynb", tmp_path / "z/deep.ipynb"]


class TestStepNamesWorkflow:
    """A step names a workflow that it may not start: `find_sibling_workflow` returns None, and opens nothing."""

    def test_path(self, tmp_path: Path) -> None:
        """No path leads to a workflow, to a file beside the caller neither."""
        caller = notebook_of(tmp_path / "flows/caller.ipynb", STEP)
        notebook_of(tmp_path / "flows/below/mail.ipynb", STEP)
        notebook_of(tmp_path / "above.ipynb", STEP)
        paths = ["below/mail.ipynb", "./caller.ipynb", "../above.ipynb", "../above", "..", ".", "", "/", "below/mail"]
        absolute = [str(tmp_path / "above.ipynb"), str(caller), f"//{caller}", f"file://{caller}", "caller.ipynb\0"]

        assert [find_sibling_workflow(name, caller) for name in (*paths, *absolute)] == [None] * 14

    def test_link(self, tmp_path: Path) -> None:
        """A link that leads out of the folder is not followed, whether to a notebook or to a folder."""
        caller = notebook_of(tmp_path / "flows/caller.ipynb", STEP)
        notebook_of(tmp_path / "outside/mail.ipynb", STEP)
        (tmp_path / "flows/mail.ipynb").symlink_to(tmp_path / "outside/mail.ipynb")
        (tmp_path / "flows/linked").symlink_to(tmp_path / "outside")
        folder(tmp_path / "flows/tax", "tax")
        (tmp_path / "flows/tax/workflow.yaml").rename(tmp_path / "outside/workflow.yaml")
        (tmp_path / "flows/tax/workflow.yaml").symlink_to(tmp_path / "outside/workflow.yaml")

        assert [find_sibling_workflow(name, caller) for name in ("mail", "mail.ipynb", "linked")] == [None] * 3
        with pytest.raises(NotebookError, match="is a link that leads out"):
            find_sibling_workflow("tax", caller)

    def test_notebook_that_a_step_has_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Paths that steps may change are not searched: theirs, the file store, temporary files; a server does not find them."""
        caller = notebook_of(tmp_path / "caller-p_0.ipynb", STEP)
        (tmp_path / ".git").mkdir()
        for path in ("reports", "alone.ipynb", ".pdkernel/files", "pdkernel-run-x/1/tmp"):
            notebook_of(tmp_path / path / "evil-p_1.ipynb" if "." not in path[1:] else tmp_path / path, STEP)
        (tmp_path / "link").symlink_to(tmp_path / "reports")
        monkeypatch.setenv(STEP_PATHS_VARIABLE, f"{tmp_path}/link:{tmp_path}/alone.ipynb")

        names = ("evil-p_1", "evil-p_1.ipynb", "p_1", "alone", "alone.ipynb")
        assert [find_sibling_workflow(name, caller) for name in names] == [None] * 5
        assert find_sources(tmp_path) == (caller,)
        monkeypatch.delenv(STEP_PATHS_VARIABLE)
        assert find_sibling_workflow("alone", caller) is not None


def test_a_folder_that_cannot_be_read_is_skipped(tmp_path: Path) -> None:
    """A search of a folder that was removed finds nothing."""
    assert not has_workflow(tmp_path / "removed")


def test_a_refused_workflow_has_the_name_of_its_folder(tmp_path: Path) -> None:
    """A workflow that cannot be read is named after its folder or its file."""
    broken = folder(tmp_path / "flow.v2", "W")
    (broken / "workflow.yaml").write_text("[")
    (tmp_path / "flow.ipynb").write_text("{")

    refused = [RefusedSource.build(path, NotebookError("No.")) for path in (broken, tmp_path / "flow.ipynb")]

    assert [(each.name, each.reason) for each in refused] == [("flow.v2", "No."), ("flow", "No.")]


def test_a_workflow_of_the_same_repository_is_found_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step finds a workflow in another folder of the repository by its id, as a synced folder or as an imported notebook."""
    (tmp_path / "repo/.git").mkdir(parents=True)
    caller = folder(tmp_path / "repo/sales/quote-p_1a", "quote")
    folder(tmp_path / "repo/shared/tax-p_2b", "tax")
    notebook_of(tmp_path / "repo/shared/mail-p_3c.ipynb", STEP)
    folder(tmp_path / "outside-p_4d", "outside")

    find = partial(find_sibling_workflow, source=caller)

    assert [found and found.path.name for found in map(find, ("p_2b", "p_3c", "p_4d"))] == [
        "tax-p_2b",
        "mail-p_3c.ipynb",
        None,
    ]
    (tmp_path / "repo/.git").rmdir()
    (tmp_path / "repo/.git").write_text("gitdir: elsewhere")  # as in a worktree of Git
    assert find("p_2b") is not None
    assert [find(part) for part in ("2b", "_2b", "ax-p_2b")] == [None] * 3  # a part of an id or a name is neither
    monkeypatch.setenv("HOME", str(tmp_path / "repo"))
    assert find("p_2b") is None  # the home folder is not searched
