"""
Served workflows of notebooks and folders, and those that cannot be served. They are reloaded when their files or variables change.

Files and the database are read in a thread (`refresh`). All other methods return what was read last, so they do not wait.

The endpoint key is in `pdkernel.yaml`, else in the project. The id is in the name of a synced folder, else in the project.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pdkernel.common.blocking import run_blocking
from pdkernel.engine.preflight_checks import check_secrets
from pdkernel.engine.variables import load_variables
from pdkernel.errors import PdkernelError, ProjectError, RequestError, UnsupportedError
from pdkernel.files.source import (
    RefusedSource,
    WorkflowSource,
    check_active,
    file_stamps,
    find_sources,
    has_workflow,
    load_served_source,
    reload_source,
)
from pdkernel.language.analysis import find_secret_props
from pdkernel.operations.triggers import ensure_endpoint_key, workflow_id
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.storage import Project

_LOG = logging.getLogger(__name__)
RELOAD_INTERVAL_S = 1.0
"""Minimum seconds between two checks for changes."""


@dataclass(frozen=True)
class SourceSelection:
    """
    The workflows that a server has to serve.

    Attributes:
        named: Sources that were named one by one: if one cannot be served, the server does not start.
        found: Sources in folders: one that cannot be served is refused, and the others are served.
        refused: Sources in folders that cannot be loaded.
    """

    named: Sequence[WorkflowSource] = ()
    found: Sequence[WorkflowSource] = ()
    refused: Sequence[RefusedSource] = ()


class SourceWorkflows:
    """
    Served workflows in their current state on disk.

    While a file is invalid or fails *check*, the previous state is served; a workflow that becomes inactive is not served. A
    refused workflow is loaded again after its files or variables have changed.

    Args:
        project: The project with endpoint keys and variables.
        selection: Sources of the workflows.
        check: Raises a `PdkernelError` for a workflow that may not be served.
        write_line: Writes a line for each reload, or the reason why a reload failed.

    Raises:
        RequestError: Two named sources have the same endpoint key, or no workflow of the folders can be served.
    """

    def __init__(
        self,
        project: Project,
        selection: SourceSelection,
        *,
        check: Callable[[ServedWorkflow], object] = lambda _: None,
        write_line: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._project = project
        self._check = check
        self._write_line = write_line
        self._workflows: dict[str, ServedWorkflow] = {}
        self._names: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._stamps: dict[Path, object] = {}
        self._unread: dict[str, str] = {}
        self._outdated: set[Path] = set()  # the workflows whose last change could not be reloaded
        self._refused: dict[Path, RefusedSource] = {}
        self._checked_at = -RELOAD_INTERVAL_S
        self._refreshing: asyncio.Future[None] | None = None
        self._fault: ProjectError | None = None
        for source in selection.named:
            self._add(source)
        for source in selection.found:
            try:
                check_values([self._add(source)])
            except PdkernelError as error:
                self.refuse(RefusedSource(source.path, source.workflow.name, error))
        for refused in selection.refused:
            self.refuse(refused)
        if self._refused and not self._workflows:
            reasons = "\n".join(f"  {each.path}: {each.reason}" for each in self.not_served)
            raise RequestError(f"None of the workflows can be served:\n{reasons}")

    @property
    def not_served(self) -> tuple[RefusedSource, ...]:
        """The workflows that are not served, by path, with the reasons."""
        return tuple(self._refused[path] for path in sorted(self._refused))

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """Return all served workflows."""
        return tuple(self._workflows.values())

    def find(self, key: str) -> ServedWorkflow | None:
        """Return the workflow with that endpoint key, or None."""
        return self._workflows.get(self._names.get(key.lower(), ""))

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """Return the workflow with that id, or None."""
        return self._workflows.get(self._ids.get(workflow_id, ""))

    async def refresh(self) -> None:
        """
        Reload, in a thread, the workflows whose files or variables have changed, unless the last check is less than a second ago.

        A caller during a check does not wait: it gets the state before.

        Raises:
            ProjectError: The database cannot be read.
        """
        if self._refreshing is not None and not self._refreshing.done():
            if self._fault is not None:
                raise copy.copy(self._fault)
            return
        if self._fault is None and self._project.clock.monotonic() - self._checked_at < RELOAD_INTERVAL_S:
            return
        # another caller may start the next check before this caller goes on
        self._refreshing = refreshing = run_blocking(self.reload_changed)
        refreshing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        # a caller that disconnects does not end the check for the others; one whose check takes long has the state before
        if (await asyncio.wait([refreshing], timeout=RELOAD_INTERVAL_S))[0]:
            refreshing.result()

    def reload_changed(self) -> None:
        """Reload the workflows whose files or variables have changed. Raises `ProjectError` if the database cannot be read."""
        self._checked_at = self._project.clock.monotonic()
        try:
            self._retry_refused()
            for key in [*self._workflows]:
                self._reload_if_changed(key)
        except ProjectError as fault:
            self._fault = fault
            raise
        self._fault = None

    def _add(self, source: WorkflowSource) -> ServedWorkflow:
        key = ensure_endpoint_key(self._project, source.path, source.sidecar)
        if key in self._workflows:
            other = self._workflows[key].source.path
            raise RequestError(
                f"{other} and {source.path} have the same endpoint, {key}.",
                fix="Change `endpoint` in the pdkernel.yaml of one of them, or serve one of them.",
            )
        served = ServedWorkflow(workflow_id(self._project, source), key, source)
        self._workflows[key] = served = self._with_variables(key, served)
        self._stamps[source.path] = file_stamps(source.path, source.workflow)
        self._names[key.lower()] = key
        self._ids.setdefault(served.id, key)
        return served

    def refuse(self, refused: RefusedSource) -> None:
        """Stop serving a workflow until its files change."""
        for key in [key for key, served in self._workflows.items() if served.source.path == refused.path]:
            del self._workflows[key]
        self._refused[refused.path] = refused
        self._stamps[refused.path] = self._stamp_refused(refused.path)

    def _stamp_refused(self, path: Path) -> object:
        """Return the state of the files and variables of a refused workflow: if it changes, the workflow is loaded again."""
        variables: object = None
        with suppress(RequestError):  # the reason of the refusal may be another one
            variables = load_variables(self._project, path if path.is_dir() else path.parent)
        return file_stamps(path), variables

    def _retry_refused(self) -> None:
        """Load the refused workflows whose files or variables have changed."""
        for path in [path for path in self._refused if self._stamp_refused(path) != self._stamps[path]]:
            try:
                source = load_served_source(path)
                self._check(self._add(source))
            except ProjectError:
                raise
            except PdkernelError as error:
                self.refuse(RefusedSource.build(path, error))
            else:
                del self._refused[path]
                self._write_line(f"{path} has changed and is served.")

    def _reload_if_changed(self, key: str) -> None:
        served = self._workflows.get(key)
        if served is None:  # it was refused meanwhile
            return
        variables = served.variables
        served = self._workflows[key] = self._with_variables(key, served)
        path = served.source.path
        found = file_stamps(path, served.source.workflow)
        if found != self._stamps[path] or (path in self._outdated and served.variables != variables):
            self._stamps[path] = found
            try:
                self._reload(key, served)
            except ProjectError:
                self._stamps[path] = None  # the change is loaded as soon as the database can be read
                raise

    def _with_variables(self, key: str, served: ServedWorkflow) -> ServedWorkflow:
        try:
            variables = load_variables(self._project, served.source.folder)
        except RequestError as fault:
            if self._unread.get(key) != fault.message:  # write the line once, not at every request
                self._write_line(
                    f"The variables of {served.source.path} could not be reloaded; the previous ones stay. {fault}"
                )
            self._unread[key] = fault.message
            return served
        self._unread.pop(key, None)
        return served if variables == served.variables else replace(served, variables=variables)

    def _reload(self, key: str, served: ServedWorkflow) -> None:
        path = served.source.path
        self._outdated.add(path)
        try:
            source = reload_source(served.source)
            changed = replace(served, source=source)
            written = source.sidecar.endpoint if source.sidecar else None
            if written is not None and written.lower() != key.lower():
                raise RequestError(f"The endpoint has changed to {written}.", fix="Restart `pdkernel serve`.")
            self._check(changed)
        except ProjectError:
            raise
        except PdkernelError as fault:
            self._write_line(f"{path} has changed but could not be reloaded; the previous version is served. {fault}")
            return
        except Exception as fault:  # noqa: BLE001 - the other workflows of the server must be reloaded
            _LOG.exception("%s has changed but could not be reloaded; the previous version is served", path)
            self._write_line(f"{path} has changed but could not be reloaded; the previous version is served. {fault!r}")
            return
        self._outdated.discard(path)
        try:
            check_active(source)
        except UnsupportedError as error:
            self.refuse(RefusedSource(path, source.workflow.name, error))
            self._write_line(f"{path} has changed and is not served any more. {error}")
            return
        self._workflows[key] = changed
        self._write_line(f"{path} has changed and was reloaded.")


def check_values(workflows: Sequence[ServedWorkflow]) -> None:
    """
    Check that the token of each bearer trigger and every secret prop has a value.

    Raises:
        RequestError: A token is not set.
        SecretMissingError: A secret prop has no value.
    """
    for served in workflows:
        _check_bearer_tokens(served)
        props = find_secret_props(served.source.workflow)
        check_secrets(props, served.variables, source=shlex.quote(str(served.source.path)))


def find_refusal(project: Project, path: Path) -> RefusedSource | None:
    """Return the workflow at *path* with the reason why it is not served in *project*, or None if it is served."""
    try:
        source = load_served_source(path)
        check_values([ServedWorkflow("", "", source, load_variables(project, source.folder))])
    except PdkernelError as error:
        return RefusedSource.build(path, error)
    return None


def _check_bearer_tokens(served: ServedWorkflow) -> None:
    for trigger in served.source.workflow.triggers:
        name = trigger.token_env
        if trigger.type != "http" or trigger.auth != "bearer" or (name and served.variables.get(name)):
            continue
        raise RequestError(
            f"The trigger of {served.source.path} requires a token"
            + (f", but its environment variable {name} is not set." if name else ", but has no token_env."),
            fix=f"Set it: pdkernel env set {shlex.quote(name)}"
            if name
            else "Add the name of the variable to the trigger: token_env: NAME",
        )


def select_sources(paths: Sequence[Path], default_folder: Path) -> SourceSelection:
    """
    Load every workflow at *paths*, without duplicates; without paths, those in *default_folder*.

    Raises:
        PdkernelError: A path has no workflow, or is one workflow that cannot be served.
    """
    if not paths:
        paths = (default_folder,) if has_workflow(default_folder) else ()
    named: dict[Path, WorkflowSource] = {}
    found: dict[Path, WorkflowSource] = {}
    refused: dict[Path, RefusedSource] = {}
    for path in paths:
        entries = find_sources(path)
        if len(entries) == 1 and entries[0] in (path, path.parent):  # the parent of a workflow.yaml
            named[entries[0].resolve()] = load_served_source(entries[0])
            continue
        for entry in entries:
            try:
                found[entry.resolve()] = load_served_source(entry)
            except PdkernelError as error:
                refused[entry.resolve()] = RefusedSource.build(entry, error)
    others = [source for path, source in found.items() if path not in named]
    return SourceSelection([*named.values()], others, [*refused.values()])
