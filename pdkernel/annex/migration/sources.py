"""The workflows of a migration report: of Git folders and notebooks, of the platform's REST API, and of archives of its projects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pdkernel.errors import ConnectSettingsError, PdkernelError, RequestError
from pdkernel.files.definition import Sidecar, read_folder_workflow, read_sidecar
from pdkernel.files.definition.api_workflow import ENDPOINT_URL_KEY, read_api_workflow
from pdkernel.files.definition.archive import Archive, is_archive
from pdkernel.files.definition.file_plan import WORKFLOW_FILE
from pdkernel.files.definition.sidecar import SIDECAR_FILE_NAME
from pdkernel.files.source import find_sources, load_source
from pdkernel.model import ROUND_TRIP_KEY, Workflow

WORKFLOW_ID = re.compile(r"p_[A-Za-z0-9]{4,}\Z")
"""Pipedream's id of a workflow."""
_FOLDER_ID = re.compile(r"-(p_[A-Za-z0-9]{4,})(?:\.ipynb|\.py)?\Z")


@dataclass(frozen=True)
class MigrationSource:
    """
    A workflow of the report.

    Attributes:
        source: The path of the workflow, in an archive too, or its id.
        given: The argument in which it was found: the path of a folder or a repository, or an id. For an archive, the workflow's id.
        path: The notebook or the folder, or None for a workflow of the API or of an archive.
        workflow: The workflow, or None if the source cannot be read.
        id: Pipedream's id, or None.
        sidecar: The content of `pdkernel.yaml`, or None.
        has_api_settings: Whether the triggers' settings are those of the API or of an archive.
        error: Why the source cannot be read, or None.
    """

    source: str
    given: str
    path: Path | None = None
    workflow: Workflow | None = None
    id: str | None = None
    sidecar: Sidecar | None = None
    has_api_settings: bool = False
    error: PdkernelError | None = None

    @property
    def name(self) -> str:
        """The workflow's name, or the source's last part."""
        return self.workflow.name if self.workflow is not None else Path(self.source).name

    @property
    def endpoint_hosts(self) -> frozenset[str]:
        """Hosts of the workflow's endpoints at Pipedream, as far as they are known."""
        urls = [trigger.config.get(ENDPOINT_URL_KEY) for trigger in self.workflow.triggers] if self.workflow else []
        return frozenset(host.lower() for url in urls if isinstance(url, str) and (host := urlsplit(url).hostname))


def read_sources(
    sources: Sequence[str], fetch_workflow: Callable[[str], Mapping[str, Any]]
) -> tuple[MigrationSource, ...]:
    """
    Read *sources* in order. A workflow that cannot be read is part of the result.

    A workflow in Git whose id is given as well, or whose archive, has the triggers' settings of the API or the archive. A
    workflow that the archive's manifest names and the archive lacks is one that cannot be read.

    Args:
        sources: Paths of notebooks, folders, repositories and archives, and ids of workflows (`p_...`).
        fetch_workflow: Requests a workflow of the API.

    Raises:
        NotebookError: A path does not exist or contains no workflow, or an archive cannot be read.
        ConnectSettingsError: An id is given, and the project is not logged in.
    """
    found: dict[str, MigrationSource] = {}
    for source in sources:
        if WORKFLOW_ID.match(source) and not Path(source).exists():
            read = _read_api_source(source, fetch_workflow)
            known = found.get(source)
            found[source] = read if known is None else _combine(known, read)
            continue
        if is_archive(Path(source)):
            for read in _read_archive(Path(source)):
                known = found.get(read.id or "")
                if known is not None and known.path is not None:
                    found[read.id or ""] = _combine(known, read)
                else:
                    found[read.id if read.id and known is None else read.source] = read
            continue
        for path in find_sources(Path(source)):
            read = _read_path(path, source)
            key = read.id or str(path.resolve())
            known = found.get(key)
            # two folders of one workflow are two rows; an id of the API joins the first
            if known is None:
                found[key] = read
            elif known.path is None:
                found[key] = _combine(read, known)
            elif known.path.resolve() != path.resolve():
                found[str(path.resolve())] = read
    return tuple(found.values())


def _read_api_source(workflow_id: str, fetch_workflow: Callable[[str], Mapping[str, Any]]) -> MigrationSource:
    try:
        workflow = read_api_workflow(fetch_workflow(workflow_id), workflow_id)
    except ConnectSettingsError:
        raise  # concerns the login, so no workflow can be read
    except RequestError as error:
        return MigrationSource(workflow_id, workflow_id, id=workflow_id, error=error)
    return MigrationSource(workflow_id, workflow_id, workflow=workflow, id=workflow_id, has_api_settings=True)


def _read_archive(path: Path) -> Iterator[MigrationSource]:
    """Yield the workflows of the archive at *path*, and those that its manifest names and that are not in it."""
    with Archive.open(path) as archive:
        entries = archive.manifest.entries if archive.manifest is not None else ()
        for file in archive.files:
            source = f"{path}/{file}"
            try:
                workflow = archive.read_workflow(file).workflow
            except PdkernelError as error:
                yield MigrationSource(source, source, error=error)
                continue
            kept = workflow.extra.get(ROUND_TRIP_KEY)
            workflow_id = kept.get("id") if isinstance(kept, dict) else None
            found_id = workflow_id if isinstance(workflow_id, str) else None
            yield MigrationSource(source, found_id or source, workflow=workflow, id=found_id, has_api_settings=True)
        for entry in entries:
            if entry.file is None:
                absence = RequestError(f"{entry.name} is not in {path}: {entry.absence}.")
                yield MigrationSource(f"{path}/{entry.name}", entry.id or entry.name, error=absence)


def _combine(git: MigrationSource, api: MigrationSource) -> MigrationSource:
    """Return *git* with the triggers of *api*, unless `pdkernel.yaml` configures them."""
    if git.workflow is None or api.workflow is None:
        return replace(git, error=git.error or api.error)
    if git.sidecar is not None and git.sidecar.triggers:
        return git
    return replace(git, workflow=replace(git.workflow, triggers=api.workflow.triggers), has_api_settings=True)


def _read_path(path: Path, given: str) -> MigrationSource:
    named = _FOLDER_ID.search(path.resolve().name)
    workflow_id = named[1] if named is not None else None
    try:
        if (path / WORKFLOW_FILE).is_file():
            # an id in Git is an account of the workspace until pdkernel.yaml answers otherwise
            workflow = read_folder_workflow(path, require_code=False, assumed_account="own", unanswered_policy="keep")
            sidecar = read_sidecar(path / SIDECAR_FILE_NAME)
        else:
            loaded = load_source(path, unanswered="keep")
            workflow, sidecar = loaded.workflow, loaded.sidecar
    except PdkernelError as error:
        return MigrationSource(str(path), given, path, id=workflow_id, error=error)
    kept = workflow.extra.get(ROUND_TRIP_KEY)
    state_id = kept.get("id") if isinstance(kept, dict) else None
    found_id = state_id if isinstance(state_id, str) else workflow_id
    return MigrationSource(str(path), given, path, workflow, found_id, sidecar)
