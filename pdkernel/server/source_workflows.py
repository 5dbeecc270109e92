"""
Served workflows of notebooks and folders. They are reloaded when their files or variables change.

The endpoint key is in `pdkernel.yaml`, else in the project. The id is in the name of a synced folder, else in the project.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pdkernel.analysis import find_secret_props
from pdkernel.engine.preflight_checks import check_secrets
from pdkernel.errors import PdkernelError, RequestError
from pdkernel.operations.triggers import workflow_id
from pdkernel.project import Project
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.source import WorkflowSource, file_stamps, has_workflow, load_sources, reload_source
from pdkernel.variables import load_variables

RELOAD_INTERVAL_S = 1.0
"""Minimum seconds between two checks for changes."""


class SourceWorkflows:
    """
    Served workflows in their current state on disk. While a file is invalid or fails *check*, the previous state is served.

    Args:
        project: The project with endpoint keys and variables.
        sources: Sources of the workflows.
        check: Raises a `PdkernelError` for a workflow that may not be served.
        write_line: Writes a line for each reload, or the reason why a reload failed.

    Raises:
        RequestError: Two sources have the same endpoint key.
    """

    def __init__(
        self,
        project: Project,
        sources: Iterable[WorkflowSource],
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
        self._checked_at: dict[str, float] = {}
        self._stamps: dict[str, object] = {}
        self._unread: dict[str, str] = {}
        for source in sources:
            self._add(source)

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """All served workflows."""
        return tuple(self._refreshed(key) for key in self._workflows)

    def find(self, key: str) -> ServedWorkflow | None:
        """The workflow with that endpoint key, or None."""
        endpoint = self._names.get(key.lower())
        return None if endpoint is None else self._refreshed(endpoint)

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """The workflow with that id, or None."""
        endpoint = self._ids.get(workflow_id)
        return None if endpoint is None else self._refreshed(endpoint)

    def _add(self, source: WorkflowSource) -> None:
        written = source.sidecar.endpoint if source.sidecar else None
        key = written or self._project.endpoint_keys.ensure_workflow_key(source.path)
        if key in self._workflows:
            other = self._workflows[key].source.path
            raise RequestError(
                f"{other} and {source.path} have the same endpoint, {key}.",
                fix="Change `endpoint` in the pdkernel.yaml of one of them, or serve one of them.",
            )
        served = ServedWorkflow(workflow_id(self._project, source), key, source)
        self._workflows[key] = served
        self._stamps[key] = file_stamps(source)
        self._names[key.lower()] = key
        self._ids.setdefault(served.id, key)

    def _refreshed(self, key: str) -> ServedWorkflow:
        now = self._project.clock.monotonic()
        served = self._workflows[key]
        if now - self._checked_at.get(key, -RELOAD_INTERVAL_S) >= RELOAD_INTERVAL_S:
            self._checked_at[key] = now
            served = self._workflows[key] = self._with_variables(key, served)
            found = file_stamps(served.source)
            if found != self._stamps[key]:
                self._stamps[key] = found
                served = self._workflows[key] = self._reload(key, served)
        return served

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

    def _reload(self, key: str, served: ServedWorkflow) -> ServedWorkflow:
        try:
            source = reload_source(served.source)
            changed = replace(served, source=source)
            written = source.sidecar.endpoint if source.sidecar else None
            if written is not None and written.lower() != key.lower():
                raise RequestError(f"The endpoint has changed to {written}.", fix="Restart `pdkernel serve`.")
            self._check(changed)
        except (PdkernelError, OSError) as fault:
            self._write_line(
                f"{served.source.path} has changed but could not be reloaded; the previous version is served. {fault}"
            )
            return served
        self._write_line(f"{served.source.path} has changed and was reloaded.")
        return changed


def check_bearer_tokens(workflows: Sequence[ServedWorkflow]) -> None:
    """
    Check that the token of each bearer trigger is set.

    Raises:
        RequestError: A token is not set.
    """
    for served in workflows:
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


def check_given_secrets(workflows: Sequence[ServedWorkflow]) -> None:
    """Check that every secret prop of *workflows* has a value. Raises `SecretMissingError`."""
    for served in workflows:
        props = find_secret_props(served.source.workflow)
        check_secrets(props, served.variables, source=shlex.quote(str(served.source.path)))


def load_served_sources(paths: Sequence[Path], default_folder: Path) -> list[WorkflowSource]:
    """
    Sources of every workflow at *paths*, without duplicates; without paths, those in *default_folder*.

    Raises:
        PdkernelError: As for `load_sources`.
    """
    if not paths:
        return list(load_sources(default_folder)) if has_workflow(default_folder) else []
    found = [source for path in paths for source in load_sources(path)]
    return list({source.path.resolve(): source for source in found}.values())
