"""
The part of a session that other modules of the package read, as a protocol.

`Session` satisfies the protocol by structure, so these modules do not import `session.session`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pdkernel.definition import Sidecar
from pdkernel.execution import Execution
from pdkernel.identity import Directory, Environment
from pdkernel.model import JSON, Workflow
from pdkernel.operations.events import EventLibrary, TestEvent

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.project import Project


class NotebookState(Protocol):
    """The notebook's workflow, settings and project; read-only."""

    @property
    def folder(self) -> Path:
        """The notebook's folder."""
        ...

    @property
    def notebook(self) -> Path | None:
        """The notebook's file, or None if the file is unknown."""
        ...

    @property
    def events(self) -> EventLibrary:
        """The saved test events."""
        ...

    @property
    def project(self) -> Project:
        """The local project."""
        ...

    @property
    def directory(self) -> Directory:
        """External users and their accounts."""
        ...

    @property
    def catalog(self) -> Catalog:
        """The pre-built actions that the project can run."""
        ...

    @property
    def workflow(self) -> Workflow:
        """The workflow in the notebook's order. Raises `DefinitionError`."""
        ...

    @property
    def sidecar(self) -> Sidecar | None:
        """The `NAME.pdkernel.yaml` beside the notebook, or None."""
        ...

    @property
    def action_source(self) -> str | None:
        """The action source that the notebook's `pdkernel.yaml` sets, or None."""
        ...

    @property
    def event(self) -> TestEvent | None:
        """The chosen event, or None."""
        ...

    @property
    def event_name(self) -> str | None:
        """The chosen event's name, or None."""
        ...

    @property
    def external_user_id(self) -> str | None:
        """The chosen external user's id, or None."""
        ...

    @property
    def environment(self) -> Environment:
        """The external user's environment."""
        ...

    @property
    def egress(self) -> str:
        """The outbound policy, as `%pdegress` takes it."""
        ...

    @property
    def pins(self) -> Mapping[str, Mapping[str, JSON]]:
        """Pinned exports by step."""
        ...

    def get_exports(self) -> Mapping[str, Mapping[str, JSON]]:
        """The last exports of each step, with placeholders for secrets."""
        ...

    def find_stale_steps(self, execution: Execution) -> set[str]:
        """Steps of *execution* whose result there is stale."""
        ...
