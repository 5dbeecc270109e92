"""
The lock file for pre-built actions: from which package version each comes, and which version runs for another.

Knows what is written there beyond packages and their hashes, which `packages.npm_lock` keeps in the same file. It lies
beside the project, for people to commit: who clones it runs the same code.
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
    """The lock file at *path*; read again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self._file = NpmLock(path, about=LOCK_COMMENT)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._file.path

    @property
    def version_overrides(self) -> Mapping[str, str]:
        """`KEY@VERSION` that steps ask for, to the version that runs for it. Raises `ProjectError`."""
        return self._read_section(_OVERRIDES_KEY)

    def override_version(self, reference: str, version: str) -> None:
        """From now on *version* runs where a step says *reference* (`KEY@VERSION`). Raises `ActionSourceError`."""
        self._put(_OVERRIDES_KEY, reference, version)

    def get_package_version(self, reference: str) -> str | None:
        """The version of the app's package that *reference* (`KEY@VERSION`) comes from, if that is known."""
        return self._read_section(_PACKAGES).get(reference)

    def lock_package_version(self, reference: str, package_version: str) -> None:
        """From now on *reference* comes from version *package_version* of its app's package. Raises `ActionSourceError`."""
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
                f"{self.path} cannot be written: {(fault.strerror or type(fault).__name__).lower()}.",
                fix="It keeps the versions of actions: give yourself permission to write it.",
            ) from None
