"""
The local project of a notebook, opened or created at first use.

`storage`, `accounts` and `actions` are imported at first use, so that a notebook starts quickly.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.common.clock import Clock, IdGenerator
from pdkernel.common.identity import Directory

if TYPE_CHECKING:
    from pdkernel.actions import Catalog
    from pdkernel.storage import Project


class LazyProject:
    """
    A notebook's project. Safe from any thread.

    Args:
        folder: The notebook's folder.
        project: The project, or None for the nearest project.
        environ: Environment variables: `PDKERNEL_PROJECT`, `PDKERNEL_DATABASE`, `PDKERNEL_KEY_FILE`, action source.
        clock: The clock for time stamps.
        ids: The source of new ids.
    """

    def __init__(
        self, folder: Path, *, project: Project | None, environ: Mapping[str, str], clock: Clock, ids: IdGenerator
    ) -> None:
        self._folder = folder
        self._environ = environ
        self._clock = clock
        self._ids = ids
        self._lock = threading.RLock()
        self._project = project
        self._directory: Directory | None = None
        self._catalog: Catalog | None = None

    @property
    def project(self) -> Project:
        """The project; opened or created at first use."""
        with self._lock:
            if self._project is None:
                from pdkernel.operations.projects import open_project

                self._project = open_project(self._folder, self._environ, clock=self._clock, ids=self._ids)
            return self._project

    @property
    def directory(self) -> Directory:
        """External users and their accounts."""
        with self._lock:
            if self._directory is None:
                from pdkernel.accounts import open_directory

                self._directory = open_directory(self.project, self._environ)
            return self._directory

    @property
    def catalog(self) -> Catalog:
        """The pre-built actions that the project can run."""
        with self._lock:
            if self._catalog is None:
                from pdkernel.actions import Catalog

                self._catalog = Catalog.for_project(self.project, environ=self._environ)
            return self._catalog

    def close(self) -> None:
        """Close the project if it is open."""
        if self._project is not None:
            self._project.close()
