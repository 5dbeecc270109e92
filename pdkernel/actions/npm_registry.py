"""
The npm registry: lists the versions of a package, downloads a version, installs a version.

`packages` runs npm. Install scripts of packages never run.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pdkernel.actions.lock import LOCK_COMMENT
from pdkernel.blocking import run_blocking
from pdkernel.errors import ActionNotFoundError, ActionSourceError, PackageInstallError
from pdkernel.packages import LockedSet, NpmPackages, NpmSpec
from pdkernel.packages.npm_command import NpmFailedError, explain_failure, run_npm
from pdkernel.workers import find_node

_NOT_FOUND_CODES = frozenset({"E404", "ETARGET", "ENOVERSIONS"})


class NpmRegistry:
    """
    The registry that the user has configured for npm.

    Args:
        environ: The environment of npm: its configuration, a proxy, `PATH`.
        folder: The folder for installed packages.
        lock: The path of the lock file with versions and hashes.
    """

    def __init__(self, environ: Mapping[str, str], *, folder: Path, lock: Path) -> None:
        self._environ = dict(environ)
        self._installed = NpmPackages(
            folder, lock=lock, node=lambda: find_node(self._environ), environ=self._environ, about=LOCK_COMMENT
        )

    async def list_versions(self, package: str) -> list[str]:
        """
        The published versions of *package*, as npm orders them.

        Raises:
            ActionNotFoundError: The package does not exist.
            ActionSourceError: npm cannot run, or the registry cannot be reached.
        """
        with tempfile.TemporaryDirectory(prefix="pdkernel-view-") as folder:
            output = await self._npm("view", package, Path(folder), "versions")
        found = json.loads(output or b"[]")
        return [found] if isinstance(found, str) else list(found)

    async def download(self, package: str, version: str, target: Path) -> None:
        """
        Download the files of one version into *target*, without its dependencies.

        Raises:
            ActionNotFoundError: The version does not exist.
            ActionSourceError: npm cannot run, or the registry cannot be reached.
        """
        with tempfile.TemporaryDirectory(prefix="pdkernel-pack-") as folder:
            await self._npm("pack", f"{package}@{version}", Path(folder))
            archive = next(Path(folder).glob("*.tgz"))
            await run_blocking(_extract, archive, target)

    def find_locked(self, package: str, version: str) -> LockedSet | None:
        """An installed version with its dependencies, or None if that version is not installed."""
        tree = self._installed.find([NpmSpec(package, version)])
        return tree.locked if tree else None

    def find_installed(self, package: str, version: str) -> Path | None:
        """The folder of an installed version, or None if that version is not installed."""
        spec = NpmSpec(package, version)
        tree = self._installed.find([spec])
        return tree.folder / "node_modules" / tree.aliases[str(spec)] if tree else None

    async def install(
        self,
        package: str,
        version: str,
        progress: Callable[[str], None],
        *,
        locked: LockedSet | None = None,
        install: bool = True,
    ) -> Path:
        """
        Install one version and its dependencies, completely or not at all; return the package's folder.

        The versions of *locked*, or else of the lock file, are used for a package that it contains.

        Raises:
            PackageMissingError: The version is not installed, and *install* is False.
            ActionSourceError: npm cannot run, the registry cannot be reached, the disk cannot be written, the version
                does not exist, or its hash differs from the lock file.
        """
        spec = NpmSpec(package, version)
        try:
            tree = await self._installed.ensure([spec], progress=progress, locked=locked, install=install)
        except PackageInstallError as fault:
            raise ActionSourceError(fault.message, fix=fault.fix) from None
        return tree.folder / "node_modules" / tree.aliases[str(spec)]

    async def _npm(self, command: str, package: str, folder: Path, *more: str) -> bytes:
        try:
            return await run_npm(
                command, folder, arguments=(package, *more), node=find_node(self._environ), environ=self._environ
            )
        except NpmFailedError as failure:
            if failure.code in _NOT_FOUND_CODES:
                raise ActionNotFoundError(f"npm has no {failure.missing_package or package}.") from None
            error = explain_failure(failure, [package], lambda _: "")
            raise ActionSourceError(error.message, fix=error.fix) from None


def _extract(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
