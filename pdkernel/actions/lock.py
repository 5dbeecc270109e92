"""
The lock file of pre-built actions: the package version of each action, overridden versions, and the source of each action.

`packages.npm_packages` stores packages and their hashes in the same file. The file is beside the project and is meant to be
committed, so that every clone runs the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pdkernel.actions.action_reference import version_sort_key
from pdkernel.errors import ActionSourceError
from pdkernel.packages import LockedSet, NpmLock

LOCK_NAME = "pdkernel-actions.lock.json"
LOCK_COMMENT = (
    "Versions and hashes of the packages that contain pre-built actions, and overridden versions of actions. Written by "
    "pdkernel; commit this file."
)
_PACKAGES = "actions"
_OVERRIDES_KEY = "instead"
_SOURCES = "sources"


@dataclass(frozen=True)
class LockedComponent:
    """
    A component with its exact version and packages.

    Attributes:
        uses: `KEY@VERSION` of the component.
        requested_version: As in `Component`.
        package: For a component from npm, the version of its package.
        packages: For a component from npm, its package with all dependencies.
        source: If the workflow has several sources, the one with the component, as in the lock file.
    """

    uses: str
    requested_version: str | None = None
    package: str | None = None
    packages: LockedSet | None = None
    source: str | None = None


class ActionsLock:
    """The lock file at *path*; it is read again after a change."""

    def __init__(self, path: Path) -> None:
        self._file = NpmLock(path, about=LOCK_COMMENT)

    @property
    def path(self) -> Path:
        """The path of the lock file."""
        return self._file.path

    @property
    def version_overrides(self) -> Mapping[str, str]:
        """The version that runs, by the `KEY@VERSION` that it replaces, or by KEY for steps without a version. Raises `ProjectError`."""
        return self._read_section(_OVERRIDES_KEY)

    def override_version(self, reference: str, version: str) -> None:
        """Store that *version* runs for steps that use *reference* (`KEY[@VERSION]`). Raises `ActionSourceError`."""
        self._put(_OVERRIDES_KEY, reference, version)

    def find_newest_version(self, key: str) -> str | None:
        """The newest version of the action *key* that has a locked package, or None."""
        found = [
            version
            for name, at, version in (each.rpartition("@") for each in self._read_section(_PACKAGES))
            if name == key
        ]
        return max(found, key=version_sort_key, default=None)

    def get_package_version(self, reference: str) -> str | None:
        """The locked version of the package that contains *reference* (`KEY@VERSION`), or None."""
        return self._read_section(_PACKAGES).get(reference)

    def lock_package_version(self, reference: str, package_version: str) -> None:
        """Store *package_version* as the version of the app's package for *reference*. Raises `ActionSourceError`."""
        if self.get_package_version(reference) != package_version:
            self._put(_PACKAGES, reference, package_version)

    def get_source(self, reference: str) -> str | None:
        """The locked source of *reference* (`KEY@VERSION`): `npm`, `connect`, or the path of a folder; or None."""
        return self._read_section(_SOURCES).get(reference)

    def lock_source(self, reference: str, source: str) -> None:
        """Store *source* as the source of *reference*. Raises `ActionSourceError`."""
        if self.get_source(reference) != source:
            self._put(_SOURCES, reference, source)

    def _read_section(self, name: str) -> dict[str, str]:
        section = self._file.load_extra().get(name)
        return {str(key): str(value) for key, value in section.items()} if isinstance(section, dict) else {}

    def _put(self, name: str, key: str, value: str) -> None:
        try:
            self._file.set_extra(name, lambda: {**self._read_section(name), key: value})
        except OSError as fault:
            raise ActionSourceError(
                f"Cannot write {self.path}: {(fault.strerror or type(fault).__name__).lower()}.",
                fix="Make the file writable: pdkernel stores the versions of actions in it.",
            ) from None
