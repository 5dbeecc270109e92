"""
The lock file of pre-built actions: the package version of each action, and the versions that run for others.

`packages.npm_lock` stores packages and their hashes in the same file. The file is beside the project and is meant to be
committed, so that every clone runs the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pdkernel.errors import ActionSourceError
from pdkernel.packages import NpmLock

LOCK_NAME = "pdkernel-actions.lock.json"
LOCK_COMMENT = (
    "The packages that pre-built actions come from, with versions and hashes, and which version of an action runs for "
    "another. Made by pdkernel; commit it."
)
_PACKAGES = "actions"
_OVERRIDES_KEY = "instead"


class ActionsLock:
    """The lock file at *path*; a changed file is read again."""

    def __init__(self, path: Path) -> None:
        self._file = NpmLock(path, about=LOCK_COMMENT)

    @property
    def path(self) -> Path:
        """The path of the lock file."""
        return self._file.path

    @property
    def version_overrides(self) -> Mapping[str, str]:
        """The version that runs for each overridden `KEY@VERSION`. Raises `ProjectError`."""
        return self._read_section(_OVERRIDES_KEY)

    def override_version(self, reference: str, version: str) -> None:
        """Store that *version* runs for steps that use *reference* (`KEY@VERSION`). Raises `ActionSourceError`."""
        self._put(_OVERRIDES_KEY, reference, version)

    def get_package_version(self, reference: str) -> str | None:
        """The locked package version that *reference* (`KEY@VERSION`) comes from, or None."""
        return self._read_section(_PACKAGES).get(reference)

    def lock_package_version(self, reference: str, package_version: str) -> None:
        """Store that *reference* comes from *package_version* of its app's package. Raises `ActionSourceError`."""
        if self.get_package_version(reference) != package_version:
            self._put(_PACKAGES, reference, package_version)

    def _read_section(self, name: str) -> dict[str, str]:
        kept = self._file.load_extra().get(name)
        return {str(key): str(value) for key, value in kept.items()} if isinstance(kept, dict) else {}

    def _put(self, name: str, key: str, value: str) -> None:
        try:
            self._file.set_extra(name, lambda: {**self._read_section(name), key: value})
        except OSError as fault:
            raise ActionSourceError(
                f"Cannot write {self.path}: {(fault.strerror or type(fault).__name__).lower()}.",
                fix="pdkernel stores the versions of actions in this file. Make the file writable.",
            ) from None
