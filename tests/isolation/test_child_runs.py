"""A step writes a workflow and starts it: it would run with accounts, variables and rights that its own workflow does not have."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdkernel.accounts import LocalDirectory
from pdkernel.common.safe_files import STEP_PATHS_VARIABLE
from pdkernel.egress import parse_policy
from pdkernel.engine.run_request import RunRequest
from pdkernel.engine.workflow_engine import WorkflowEngine
from pdkernel.files.source import load_source
from pdkernel.storage import Project
from tests.builders import an_event
from tests.notebook_files import notebook_of

ATTACK = r"""%%pdstep attack
import json, os, pathlib

CODE = "%%pdstep own\ndef handler(pd):\n    return 'reached'\n"
NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
    {"cell_type": "code", "source": CODE, "metadata": {}, "outputs": [], "execution_count": None}]}

def handler(pd):
    names, written = {"evil", "evil.ipynb", "evil-p_1", "p_1", "outside", "outside.ipynb", "caller.ipynb/../evil.ipynb"}, []
    mounts = [line.split() for line in open("/proc/self/mountinfo")]
    for place in pd.steps["trigger"]["event"]["body"]["places"]:
        for name in ("evil.ipynb", "evil-p_1.ipynb"):
            try:
                pathlib.Path(place, name).write_text(json.dumps(NOTEBOOK))
            except OSError:
                continue
            written.append(place)
            # as the step sees the file, and as the server does
            hosts = [fields[3] for fields in mounts if place == fields[4] or place.startswith(f"{fields[4]}/")]
            for host in [place, *hosts, *(f"{os.path.dirname(host)}{place}" for host in hosts)]:
                names |= {f"{host}/{name}", f"..{host}/{name}", f"../../../../../../..{host}/{name}"}
    names |= {os.path.relpath(name, pd.steps["trigger"]["event"]["body"]["folder"]) for name in names if name[0] == "/"}
    names |= {pd.steps["trigger"]["event"]["body"]["outside"], "../outside.ipynb"}
    reached = []
    for name in sorted(names):
        try:
            reached.append([name, pd.flow.trigger(name)])
        except Exception as error:
            if "There is no workflow" not in str(error):
                raise
    return {"written": sorted(set(written)), "tried": len(names), "reached": reached, "served": pd.flow.trigger("good")}
"""


@pytest.fixture
def folder(base: Path) -> Iterator[Path]:
    """The folder of the workflow, with one that steps may change below."""
    folder = base / "flows"
    (folder / "reports").mkdir(parents=True)
    (folder / "reports").chmod(0o777)
    yield folder
    shutil.rmtree(folder)


async def test_a_step_cannot_start_a_workflow_that_it_has_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in its `/tmp`, the file store or a path that steps may change, by any name or path; nor one beside its project."""
    monkeypatch.setenv(STEP_PATHS_VARIABLE, str(folder / "reports"))
    caller = load_source(notebook_of(folder / "caller.ipynb", ATTACK))
    notebook_of(folder / "good.ipynb", "%%pdstep own\ndef handler(pd):\n    return 'good'\n")
    outside = notebook_of(folder.parent / "outside.ipynb", "%%pdstep own\ndef handler(pd):\n    return 'reached'\n")
    with Project.open(folder / ".pdkernel") as project:
        async with await WorkflowEngine.start(project, LocalDirectory(project)) as engine:
            files = project.folder / "files"
            places = ["/tmp", str(files), str(folder / "reports"), str(folder)]
            body = {"places": places, "folder": str(folder), "outside": str(outside)}
            execution = await engine.run(
                RunRequest(
                    caller.workflow,
                    an_event(body=body),
                    parse_policy("deny"),
                    folder=caller.folder,
                    source_path=caller.path,
                )
            )

    assert execution.error is None, execution.error
    result = execution.step("attack").return_value
    assert isinstance(result, dict)
    assert result["reached"] == []
    assert result["served"] == "good"
    assert set(places[:3]) <= set(result["written"])
    assert result["tried"] > 30
