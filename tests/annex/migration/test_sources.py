"""The workflows of a report: those of Git, those of the API, and those of both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pdkernel.annex.migration.sources import MigrationSource, read_sources
from pdkernel.errors import ConnectSettingsError, RequestError
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY
from pdkernel.model import Trigger, Workflow
from tests.annex.migration.omissions import API_WORKFLOW
from tests.files.definition.archives import manifest, pack, step, workflow
from tests.files.definition.builders import synced
from tests.notebook_files import notebook_of

ID = "p_Ab12Cd3"
YAML = (
    "schema: workflow/2022.04\nname: Git\ntriggers:\n- id: hi_1\nsteps:\n- namespace: send\n  uses: slack-send@0.0.1\n"
    "  props:\n    slack:\n      authProvisionId: apn_Git\n"
)


def read(*sources: str, fault: Exception | None = None) -> tuple[MigrationSource, ...]:
    """The sources; the API has the workflow of the omissions, or answers with *fault*."""

    def fetch(_: str) -> Mapping[str, Any]:
        if fault is not None:
            raise fault
        return API_WORKFLOW

    return read_sources(sources, fetch)


def endpoints(source: MigrationSource) -> list[object]:
    """The endpoint of each trigger."""
    return [trigger.config.get(ENDPOINT_URL_KEY) for trigger in source.workflow.triggers] if source.workflow else []


@pytest.mark.parametrize("is_id_first", [True, False])
def test_a_workflow_of_git_has_the_triggers_of_the_api(tmp_path: Path, is_id_first: bool) -> None:
    """A folder and its id are one row, in any order: the folder's steps, and the triggers of the API."""
    folder = synced(tmp_path / f"flow-{ID}", YAML)
    sources = [ID, str(folder)] if is_id_first else [str(folder), ID]

    (found,) = read(*sources)

    assert (found.path, found.name, found.id, found.has_api_settings) == (folder, "Git", ID, True)
    assert endpoints(found) == [each["endpoint_url"] for each in API_WORKFLOW["triggers"]]


@pytest.mark.parametrize(("triggers", "is_api"), [("triggers:\n- type: http\n", False), ("test_users: [ada]\n", True)])
def test_the_triggers_of_pdkernel_yaml_stay(tmp_path: Path, triggers: str, is_api: bool) -> None:
    """The API does not replace triggers that `pdkernel.yaml` configures; a file without triggers changes nothing."""
    folder = synced(tmp_path / f"flow-{ID}", YAML, pdkernel_DOT_yaml=triggers)

    (found,) = read(str(folder), ID)

    assert found.has_api_settings == is_api
    assert len(endpoints(found)) == (2 if is_api else 1)


def test_two_folders_of_one_workflow_are_two_rows(tmp_path: Path) -> None:
    """A copy of a folder is a row of its own, once."""
    one, two = synced(tmp_path / "a" / f"flow-{ID}", YAML), synced(tmp_path / "b" / f"flow-{ID}", YAML)

    assert [each.path for each in read(str(tmp_path), str(one))] == [one, two]


@pytest.mark.parametrize("name", [f"flow-{ID}.ipynb", f"flow-{ID}.py"])
def test_a_notebook_has_the_id_of_its_name(tmp_path: Path, name: str) -> None:
    """A notebook that was imported from a synced folder has the workflow's id at the end of its name."""
    if name.endswith(".py"):
        (tmp_path / name).write_text('# %% [markdown]\n# Flow\n# %%\n# %%pdworkflow\n# name: "Flow"\n')
    else:
        notebook_of(tmp_path / name, "%%pdworkflow\nname: Flow\n")

    assert [each.id for each in read(str(tmp_path / name))] == [ID]


def test_the_id_of_the_state_file_counts(tmp_path: Path) -> None:
    """`.workflow.state` has the id if the folder was renamed; Git's account ids are accounts of the workspace."""
    folder = synced(tmp_path / f"copy-{ID}", YAML)
    (folder / ".workflow.state").write_text("id: p_State12\n")

    (found,) = read(str(folder))

    assert found.id == "p_State12"
    assert found.workflow is not None
    assert [binding.account for binding in found.workflow.steps[0].apps] == ["apn_Git"]


def test_a_folder_whose_name_is_an_id_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument that exists is a path; any other id is one of the API, with four characters or more."""
    monkeypatch.chdir(tmp_path)
    synced(tmp_path / "p_Here123", YAML)

    assert [each.path for each in read("p_Here123", "p_Ab12")] == [Path("p_Here123"), None]


def test_a_workflow_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    """The error of the folder comes before that of the API; a login that is missing concerns all workflows."""
    folder = synced(tmp_path / f"flow-{ID}", "name: [")

    (both,) = read(str(folder), ID, fault=RequestError("Not found."))
    (only,) = read(ID, fault=RequestError("Not found."))

    assert both.error is not None
    assert "workflow.yaml" in str(both.error)
    assert (both.name, both.workflow) == (folder.name, None)
    assert str(only.error) == "Not found."
    with pytest.raises(ConnectSettingsError):
        read(ID, fault=ConnectSettingsError("Not logged in."))


def test_the_hosts_of_endpoints_are_in_lower_case() -> None:
    """Hosts are compared without regard to case; triggers without an endpoint have none."""
    triggers = (Trigger(config={ENDPOINT_URL_KEY: "https://EOabc.m.Pipedream.net/x"}), Trigger("schedule"))

    assert MigrationSource("a", "a", workflow=Workflow("W", triggers=triggers)).endpoint_hosts == {
        "eoabc.m.pipedream.net"
    }


def test_the_workflows_of_an_archive(tmp_path: Path) -> None:
    """Each is a row with its triggers' settings; one that is in Git joins that row, and one that is missing has the reason."""
    folder = synced(tmp_path / f"flow-{ID}", YAML)
    archive = pack(
        tmp_path / "x.zip",
        {"git.json": workflow("Git", [step("a")], workflow_id=ID), "b.json": workflow("B", [step("b")]), "c.json": []},
        listed=manifest({"id": "p_Dr12Cd3", "name": "Draft", "status": "skipped_never_deployed"}),
    )

    git, other, bad, draft = read(str(folder), str(archive))

    assert (git.path, git.has_api_settings, endpoints(git)) == (folder, True, ["https://eo1.m.pipedream.net"])
    assert (other.name, other.path, other.id, other.error) == ("B", None, None, None)
    assert "is not a workflow" in str(bad.error)
    assert "never deployed" in str(draft.error)


def test_equal_ids_in_an_archive_are_two_rows(tmp_path: Path) -> None:
    """No workflow of an archive is lost because another one has its id."""
    files = {name: workflow(name, [step("a")], workflow_id=ID) for name in ("a.json", "b.json")}

    assert [found.name for found in read(str(pack(tmp_path / "x.zip", files)))] == ["a.json", "b.json"]
