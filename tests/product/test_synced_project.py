"""
`tests/synced_project`: every workflow is imported, exported, run and served unchanged.

A workflow is added by its folder and `expected/FOLDER.json`; the README there lists the keys.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import pdkernel
from pdkernel.files.source import iter_workflow_paths
from tests.cli.fork_server import ForkServer
from tests.operations.importer.import_helpers import check_round_trip, import_one
from tests.serve_process import serving

pytestmark = pytest.mark.timeout(300)  # what takes seconds may take minutes on a busy machine

PROJECT = Path(__file__).parents[1] / "synced_project"
FOLDERS = sorted(str(folder.relative_to(PROJECT)) for folder in iter_workflow_paths(PROJECT))
EXPECTED: dict[str, dict[str, Any]] = {
    folder: json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for folder in FOLDERS
    for file in (PROJECT / "expected" / f"{Path(folder).name}.json",)
}
IMPORTED = [folder for folder in FOLDERS if "not_imported" not in EXPECTED[folder]]
RUNS = [
    pytest.param(folder, run, id=f"{Path(folder).name}-{number}")
    for folder in FOLDERS
    for number, run in enumerate(EXPECTED[folder].get("runs", ()))
]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in *folder*, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the synced project, as a clone of its repository."""
    clone = Path(shutil.copytree(PROJECT, tmp_path_factory.mktemp("synced") / "repository"))
    (clone / ".git").mkdir()
    return clone


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pdkernel.Engine]:
    """An engine that all runs share."""
    with pdkernel.Engine(project=tmp_path_factory.mktemp("project") / ".pdkernel") as shared:
        yield shared


@pytest.fixture(scope="module")
def started(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What `serve FOLDER --json` prints for the whole project, while the server runs."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, str(project), "--egress", "deny") as (line, _):
        yield line


def test_every_workflow_has_its_expectation() -> None:
    """Each workflow has a file in `expected`, and each of these files its workflow."""
    assert {path.stem for path in (PROJECT / "expected").iterdir()} == {Path(folder).name for folder in FOLDERS}


@pytest.mark.parametrize("folder", IMPORTED)
def test_an_import_exports_as_the_same_files(project: Path, folder: str, tmp_path: Path) -> None:
    """A workflow's notebook reads back as the folder, and its export into a copy of the folder changes no byte."""
    notebook, copy = tmp_path / "imported.ipynb", tmp_path / "copy"
    check_round_trip(project / folder, notebook)
    shutil.copytree(project / folder, copy)

    pdkernel.export(notebook, into=copy)

    assert contents(copy) == contents(PROJECT / folder)


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder not in IMPORTED])
def test_a_refused_import_names_its_reason(project: Path, folder: str, tmp_path: Path) -> None:
    """A folder that cannot be imported is refused with its reason, and no notebook is written."""
    refused = import_one(project / folder, tmp_path / "imported.ipynb").error

    assert EXPECTED[folder]["not_imported"] in str(refused)
    assert not (tmp_path / "imported.ipynb").exists()


@pytest.mark.parametrize(("folder", "expected"), RUNS)
def test_a_workflow_runs(project: Path, folder: str, expected: dict[str, Any], engine: pdkernel.Engine) -> None:
    """A workflow runs from its folder, with the expected status, return values and error."""
    given = {key: expected[key] for key in ("event", "external_user", "pins") if key in expected}

    ran = pdkernel.run(project / folder, egress="deny", engine=engine, **given)

    returned = {step.name: step.exports.get("$return_value") for step in ran.steps}
    assert ran.status == expected["status"], ran.error
    assert {name: returned[name] for name in expected.get("returned", {})} == expected.get("returned", {})
    assert expected.get("error", "") in str(ran.error and ran.error.message)


def test_serving_the_project_answers_at_every_endpoint(started: dict[str, Any]) -> None:
    """A workflow with an HTTP trigger answers at its URL; another one has no endpoint."""
    served = {each["name"]: each for each in started["workflows"]}
    urls = {folder: served[name]["url"] for folder in FOLDERS if (name := workflow_name(folder)) in served}
    answers = {
        folder: url is not None and httpx.post(url, json={}, timeout=60).status_code != 404
        for folder, url in urls.items()
    }

    assert answers == {
        folder: EXPECTED[folder].get("endpoint", True) for folder in FOLDERS if "not_served" not in EXPECTED[folder]
    }


def test_a_workflow_that_cannot_be_served_is_listed(
    project: Path, started: dict[str, Any], fork_server: ForkServer
) -> None:
    """The others are served; `serve FOLDER` and `doctor FOLDER` give the same reason."""
    doctor = fork_server.run(["doctor", str(project), "--json"], folder=project.parent, environ=os.environ)
    reported = {
        each["source"]: each["not_served"] for each in json.loads(doctor.stdout)["workflows"] if "not_served" in each
    }
    refused = {each["folder"]: each["reason"] for each in started["not_served"]}
    expected = {str(project / folder): EXPECTED[folder].get("not_served") for folder in FOLDERS}

    assert list(refused) == [folder for folder in expected if expected[folder] is not None]
    assert [folder for folder, reason in refused.items() if expected[folder] not in reason] == []
    assert reported == refused


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("large-report-p_LrgRep4", ["serve --via net_LrgRep8=", "`cold_start_optimization` is unknown"]),
        ("shared/add-tax-p_AddTax6", ["has no trigger"]),
        ("greet-caller-p_Gr4tCl9", []),
    ],
)
def test_the_report_says_what_settings_mean(project: Path, folder: str, words: list[str], tmp_path: Path) -> None:
    """An unknown setting, a network and a missing trigger are named; settings that are honoured are not."""
    report = import_one(project / folder, tmp_path / "imported.ipynb").report

    assert report is not None
    assert len(report.notes) == len(words)
    assert [word for word, note in zip(words, report.notes, strict=True) if word not in note] == []


def workflow_name(folder: str) -> str:
    """The `name` of the workflow in *folder*, as written."""
    lines = (PROJECT / folder / "workflow.yaml").read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix("name: ").strip("\"'") for line in lines if line.startswith("name: "))


def test_nothing_is_written_into_the_project(project: Path, started: dict[str, Any]) -> None:
    """Importing, running and serving leave every file of the project unchanged."""
    assert started["url"]
    assert contents(project) == contents(PROJECT)
