"""Another address than loopback is refused until callers need auth and there is one who has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdkernel.definition import Sidecar
from pdkernel.engine.run_context import derive_id
from pdkernel.errors import RequestError
from pdkernel.model import Trigger
from pdkernel.project import Project
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.server.exposure import check_exposure
from pdkernel.server.source_workflows import SourceWorkflows, check_bearer_tokens
from pdkernel.source import WorkflowSource
from tests.builders import a_workflow, python_step

OPEN = a_workflow(python_step())
CLOSED = replace(OPEN, triggers=(Trigger(auth="oauth"),))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """An empty project."""
    with Project.open(tmp_path / ".pdkernel") as opened:
        yield opened


def notebook(workflow: object) -> ServedWorkflow:
    """*workflow* as a notebook's."""
    return ServedWorkflow("p_1", "eo1", WorkflowSource(Path("a.ipynb"), "notebook", workflow))  # type: ignore[arg-type]


def folder(workflow: object, sidecar: Sidecar | None = None) -> ServedWorkflow:
    """*workflow* as a synced folder's."""
    return ServedWorkflow(
        "p_1",
        "eo1",
        WorkflowSource(Path("a-p_1"), "folder", workflow, sidecar, ("nothing is asked",)),  # type: ignore[arg-type]
    )


def test_loopback_serves_what_is_open(project: Project) -> None:
    """This machine's own people need no auth."""
    assert check_exposure("127.0.0.1", [notebook(OPEN)], project) == []


def test_an_open_endpoint_behind_a_public_url_is_said(project: Project) -> None:
    """Somebody has made a way in: that nothing is asked of whoever comes by it is not passed over."""
    public = "https://hooks.example.com"

    (warning,) = check_exposure("127.0.0.1", [notebook(CLOSED), notebook(OPEN)], project, public_url=public)

    assert warning.startswith(f"Every client that reaches {public} can start ")
    assert check_exposure("127.0.0.1", [notebook(CLOSED)], project, public_url=public) == []


def test_an_open_endpoint_stays_on_this_machine(project: Project) -> None:
    """A trigger without auth is refused at another address."""
    project.oauth_clients.create("one")
    with pytest.raises(RequestError, match="requires no auth"):
        check_exposure("0.0.0.0", [notebook(CLOSED), notebook(OPEN)], project)


def test_auth_without_anybody_who_has_it(project: Project) -> None:
    """Without a client it is refused."""
    with pytest.raises(RequestError, match="no OAuth client"):
        check_exposure("0.0.0.0", [notebook(CLOSED)], project)


def test_auth_and_a_client(project: Project) -> None:
    """With both it is served."""
    project.oauth_clients.create("one")

    assert check_exposure("0.0.0.0", [notebook(CLOSED), folder(CLOSED, Sidecar())], project) == []


def test_a_folder_without_its_file(project: Project) -> None:
    """A synced folder without pdkernel.yaml is served on loopback with a warning, and nowhere else."""
    project.oauth_clients.create("one")
    (warning,) = check_exposure("127.0.0.1", [folder(CLOSED)], project)
    with pytest.raises(RequestError, match="on this machine only"):
        check_exposure("192.0.2.1", [folder(CLOSED)], project)

    assert "nothing is asked" in warning


def test_keys_stay(project: Project, tmp_path: Path) -> None:
    """A workflow's endpoint is the same the next time, and not another's."""
    sources = [WorkflowSource(tmp_path / name, "notebook", OPEN) for name in ("a.ipynb", "b.ipynb")]
    first = [each.endpoint_key for each in SourceWorkflows(project, sources).list_workflows()]
    second = [each.endpoint_key for each in SourceWorkflows(project, sources).list_workflows()]

    assert first == second
    assert len(set(first)) == 2


def test_key_of_the_file(project: Project, tmp_path: Path) -> None:
    """A key in pdkernel.yaml is the endpoint's; two of one key are refused."""
    sources = [
        WorkflowSource(tmp_path / name, "notebook", OPEN, Sidecar(endpoint="eomine")) for name in ("a.ipynb", "b.ipynb")
    ]
    served = SourceWorkflows(project, sources[:1])

    assert served.find("EOMINE") is not None
    with pytest.raises(RequestError, match="same endpoint"):
        SourceWorkflows(project, sources)


def test_id_of_a_synced_folder(project: Project, tmp_path: Path) -> None:
    """A synced folder's workflow has the id that the folder's name ends with."""
    served = SourceWorkflows(project, [WorkflowSource(tmp_path / "greet-p_AbC123", "folder", OPEN, Sidecar())])

    assert [each.id for each in served.list_workflows()] == ["p_AbC123"]
    assert served.find_id("p_AbC123") is not None
    assert served.find("p_AbC123") is None


def test_ids_are_random_and_stay(project: Project, tmp_path: Path) -> None:
    """Workflows of one name have ids of their own, not made from it and the same the next time."""
    sources = [WorkflowSource(tmp_path / name, "notebook", OPEN) for name in ("a.ipynb", "b.ipynb")]
    first, second = (SourceWorkflows(project, sources) for _ in range(2))
    ids = [each.id for each in first.list_workflows()]
    with Project.open(tmp_path / "other" / ".pdkernel") as other:
        (elsewhere,) = SourceWorkflows(other, sources[:1]).list_workflows()

    assert ids == [each.id for each in second.list_workflows()]
    assert len({*ids, elsewhere.id, derive_id("p_", OPEN.name)}) == 4
    assert all(each.startswith("p_") for each in ids)
    found = first.find_id(ids[1])
    assert found is not None
    assert found.source.path == sources[1].path


def test_a_token_that_is_not_set(project: Project, tmp_path: Path) -> None:
    """A bearer trigger whose variable is not set is refused at the start; once set, it is found without a restart."""
    workflow = replace(OPEN, triggers=(Trigger(auth="bearer", token_env="HOOK"),))
    source = WorkflowSource(tmp_path / "a.ipynb", "notebook", workflow)
    with pytest.raises(RequestError, match="pdkernel env set HOOK"):
        check_bearer_tokens(SourceWorkflows(project, [source]).list_workflows())
    project.variables.set("HOOK", "token")

    check_bearer_tokens(SourceWorkflows(project, [source]).list_workflows())
