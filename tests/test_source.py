"""Facts about opening sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pdkernel.errors import NotebookError, RequestError
from pdkernel.model import AppBinding, Trigger
from pdkernel.source import load_source, load_sources, load_workflow

STEP = "%%pdstep a --lang node\nexport default {}"


def notebook(path: Path, *sources: str) -> Path:
    """Write a notebook of code cells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"cell_type": "code", "source": source, "metadata": {}, "outputs": []} for source in sources]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return path


def folder(path: Path, name: str) -> Path:
    """Write a workflow's folder."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "workflow.yaml").write_text(f"name: {name}\ntriggers:\n- id: hi_1\n")
    return path


def test_notebook(tmp_path: Path) -> None:
    """A notebook is one workflow, and its steps look up files beside it."""
    source = load_source(notebook(tmp_path / "flow.ipynb", STEP))

    assert (source.kind, source.workflow.name, source.folder) == ("notebook", "flow", tmp_path)
    assert (source.sidecar, source.assumed_settings) == (None, ())


def test_notebooks_pdkernel_yaml(tmp_path: Path) -> None:
    """NAME.pdkernel.yaml beside a notebook adds what the notebook does not say, and the notebook wins."""
    path = notebook(
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
    """An unanswered account is refused beside a notebook too."""
    path = notebook(tmp_path / "flow.ipynb", STEP)
    (tmp_path / "flow.pdkernel.yaml").write_text("steps: {a: {accounts: {slack: unanswered}}}")

    with pytest.raises(RequestError, match=r"flow\.pdkernel\.yaml: steps\.a\.accounts\.slack is unanswered"):
        load_workflow(path)


def test_workflow_folder(tmp_path: Path) -> None:
    """A workflow's folder, or the workflow.yaml in it, is one workflow; what is assumed of it is told."""
    path = folder(tmp_path / "w-p_1", "W")

    source = load_source(path)

    assert (source.kind, source.workflow.name, source.folder) == ("folder", "W", path)
    assert len(source.assumed_settings) == 1
    assert load_workflow(path / "workflow.yaml") == source.workflow


def test_folder_of_them(tmp_path: Path) -> None:
    """A folder of notebooks and workflow folders is all of them, by name; hidden ones are not looked at."""
    folder(tmp_path / "repo/b-p_1", "B")
    notebook(tmp_path / "a.ipynb", STEP)
    notebook(tmp_path / ".ipynb_checkpoints/a-checkpoint.ipynb", STEP)
    notebook(tmp_path / "node_modules/x.ipynb", STEP)
    (tmp_path / "README.md").write_text("x")

    assert [source.workflow.name for source in load_sources(tmp_path)] == ["a", "B"]
    with pytest.raises(NotebookError, match=r"holds 2 workflows: a\.ipynb, b-p_1"):
        load_workflow(tmp_path)


def test_folder_of_one(tmp_path: Path) -> None:
    """A folder with one workflow below it is that workflow."""
    folder(tmp_path / "b-p_1", "B")

    assert load_workflow(tmp_path).name == "B"


def test_nothing_there(tmp_path: Path) -> None:
    """What is no source is refused with what would be one."""
    (tmp_path / "event.json").write_text("{}")
    (tmp_path / "empty").mkdir()

    with pytest.raises(NotebookError, match="There is no"):
        load_workflow(tmp_path / "none.ipynb")
    with pytest.raises(NotebookError, match="neither a notebook nor"):
        load_workflow(tmp_path / "event.json")
    with pytest.raises(NotebookError, match="holds no workflow"):
        load_sources(tmp_path / "empty")
