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
ABOUT = (
    "The packages that pre-built actions come from, with versions and hashes, and which version of an action runs for "
    "another. Made by pdkernel; commit it."
)
_PACKAGES = "actions"
_INSTEAD = "instead"


class ActionsLock:
    """The lock file at *path*; read again whenever it has changed."""

    def __init__(self, path: Path) -> None:
        self._file = NpmLock(path, about=ABOUT)

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._file.path

    @property
    def instead(self) -> Mapping[str, str]:
        """`KEY@VERSION` that steps ask for, to the version that runs for it. Raises `ProjectError`."""
        return self._words(_INSTEAD)

    def use_instead(self, asked: str, version: str) -> None:
        """From now on *version* runs where a step says *asked* (`KEY@VERSION`). Raises `ActionSourceError`."""
        self._put(_INSTEAD, asked, version)

    def package_of(self, uses: str) -> str | None:
        """The version of the app's package that *uses* (`KEY@VERSION`) comes from, if that is known."""
        return self._words(_PACKAGES).get(uses)

    def pin(self, uses: str, package: str) -> None:
        """From now on *uses* comes from version *package* of its app's package. Raises `ActionSourceError`."""
        if self.package_of(uses) != package:
            self._put(_PACKAGES, uses, package)

    def _words(self, name: str) -> dict[str, str]:
        kept = self._file.facts().get(name)
        return {str(key): str(value) for key, value in kept.items()} if isinstance(kept, dict) else {}

    def _put(self, name: str, key: str, value: str) -> None:
        try:
            self._file.put(name, lambda: {**self._words(name), key: value})
        except OSError as fault:
            raise ActionSourceError(
                f"{self.path} cannot be written: {(fault.strerror or type(fault).__name__).lower()}.",
                fix="It keeps the versions of actions: give yourself permission to write it.",
            ) from None
