"""
Workflows of notebooks and folders as they are served: each with its id, its endpoint's key and its variables of now.

Knows where keys come from: `pdkernel.yaml`, else the project; and ids: a synced folder's name, else the project. What a request does with a workflow is the endpoint's to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pdkernel.errors import PdkernelError, RequestError
from pdkernel.project import Project
from pdkernel.server.app_context import ServedWorkflow
from pdkernel.source import WorkflowSource, file_stamps, reload_source
from pdkernel.variables import load_variables

RELOAD_INTERVAL_S = 1.0
"""Seconds for which neither sources nor variables are looked up again."""

_FOLDER_ID = re.compile(r"-(p_[A-Za-z0-9]+)\Z")


class SourceWorkflows:
    """
    The workflows of sources: each as it is on disk at a request, or as it was while it cannot be read or may not be served.

    Args:
        project: Gives endpoints and variables.
        sources: Which.
        check: Refuses what may not be served, with a `PdkernelError`.
        write_line: Told in a line that a source was read again, or why it was not.

    Raises:
        RequestError: Two have one endpoint.
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
        self._say = write_line
        self._workflows: dict[str, ServedWorkflow] = {}
        self._names: dict[str, str] = {}
        self._ids: dict[str, str] = {}
        self._looked: dict[str, float] = {}
        self._stamps: dict[str, object] = {}
        self._unread: dict[str, str] = {}
        for source in sources:
            self._add(source)

    def list_workflows(self) -> tuple[ServedWorkflow, ...]:
        """All of them."""
        return tuple(self._fresh(key) for key in self._workflows)

    def find(self, key: str) -> ServedWorkflow | None:
        """The one of that endpoint key, or None."""
        endpoint = self._names.get(key.lower())
        return None if endpoint is None else self._fresh(endpoint)

    def find_id(self, workflow_id: str) -> ServedWorkflow | None:
        """The one of that id, or None."""
        endpoint = self._ids.get(workflow_id)
        return None if endpoint is None else self._fresh(endpoint)

    def _add(self, source: WorkflowSource) -> None:
        written = source.sidecar.endpoint if source.sidecar else None
        key = written or self._project.endpoint_keys.ensure_workflow_key(source.path)
        if key in self._workflows:
            other = self._workflows[key].source.path
            raise RequestError(
                f"{other} and {source.path} have one endpoint, {key}.",
                fix="Change `endpoint` in the pdkernel.yaml of one of them, or serve one of them.",
            )
        served = ServedWorkflow(_own_id(source) or self._project.endpoint_keys.workflow_id(source.path), key, source)
        self._workflows[key] = served
        self._stamps[key] = file_stamps(source)
        self._names[key.lower()] = key
        self._ids.setdefault(served.id, key)

    def _fresh(self, key: str) -> ServedWorkflow:
        now = self._project.clock.monotonic()
        served = self._workflows[key]
        if now - self._looked.get(key, -RELOAD_INTERVAL_S) >= RELOAD_INTERVAL_S:
            self._looked[key] = now
            served = self._workflows[key] = self._with_variables(key, served)
            found = file_stamps(served.source)
            if found != self._stamps[key]:
                self._stamps[key] = found
                served = self._workflows[key] = self._read_again(key, served)
        return served

    def _with_variables(self, key: str, served: ServedWorkflow) -> ServedWorkflow:
        try:
            variables = load_variables(self._project, served.source.folder)
        except RequestError as fault:
            if self._unread.get(key) != fault.message:  # once, not at every request
                self._say(f"The variables of {served.source.path} are as they were before. {fault}")
            self._unread[key] = fault.message
            return served
        self._unread.pop(key, None)
        return served if variables == served.variables else replace(served, variables=variables)

    def _read_again(self, key: str, served: ServedWorkflow) -> ServedWorkflow:
        try:
            source = reload_source(served.source)
            changed = replace(served, source=source)
            written = source.sidecar.endpoint if source.sidecar else None
            if written is not None and written.lower() != key.lower():
                raise RequestError(f"Its endpoint is {written} now.", fix="Start `pdkernel serve` again.")
            self._check(changed)
        except (PdkernelError, OSError) as fault:
            self._say(f"{served.source.path} has changed, and is served as it was before. {fault}")
            return served
        self._say(f"{served.source.path} has changed, and was read again.")
        return changed


def _own_id(source: WorkflowSource) -> str | None:
    """`p_...`: what a synced folder's name ends with, or None."""
    found = _FOLDER_ID.search(source.path.resolve().name) if source.kind == "folder" else None
    return found[1] if found else None


def check_bearer_tokens(workflows: Sequence[ServedWorkflow]) -> None:
    """
    Refuse workflows whose trigger asks for a token that is not set.

    Raises:
        RequestError: Names the workflow and the command that sets it.
    """
    for served in workflows:
        for trigger in served.source.workflow.triggers:
            name = trigger.token_env
            if trigger.type != "http" or trigger.auth != "bearer" or (name and served.variables.get(name)):
                continue
            raise RequestError(
                f"The trigger of {served.source.path} asks for a token"
                + (f", and the environment variable {name} that holds it is not set." if name else " and names none."),
                fix=f"Set it: pdkernel env set {name}" if name else "Name the variable that holds it: token_env: NAME",
            )


def warn_unfired_triggers(workflows: Sequence[ServedWorkflow]) -> list[str]:
    """Sentences on workflows that no request starts."""
    return [
        f"{served.source.path}: its trigger is {_kinds(served)}, which this version does not fire; it has no endpoint."
        for served in workflows
        if all(trigger.type != "http" for trigger in served.source.workflow.triggers)
    ]


def _kinds(served: ServedWorkflow) -> str:
    return " and ".join(dict.fromkeys(trigger.type for trigger in served.source.workflow.triggers))


def load_served_sources(paths: Sequence[Path], default_folder: Path) -> list[WorkflowSource]:
    """
    Every workflow at *paths*, each once; without paths, whatever there is in *default_folder*.

    Raises:
        PdkernelError: As `open_sources`.
    """
    from pdkernel.source import has_workflow, load_sources

    if not paths:
        return list(load_sources(default_folder)) if has_workflow(default_folder) else []
    found = [source for path in paths for source in load_sources(path)]
    return list({source.path.resolve(): source for source in found}.values())
