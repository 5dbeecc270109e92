"""
A package registry, as npm sees it: which versions a package has, what is in one, and installing one.

Knows which of npm's commands tell that. Running npm is `packages`' work; no script of a package is ever run.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pdkernel.actions.lock import LOCK_COMMENT
from pdkernel.errors import ActionNotFoundError, ActionSourceError, PackageInstallError
from pdkernel.packages import NpmPackages, NpmSpec
from pdkernel.packages.npm_command import NpmFailedError, explain_failure, run_npm
from pdkernel.workers import find_node

_NOT_FOUND_CODES = frozenset({"E404", "ETARGET", "ENOVERSIONS"})


class NpmRegistry:
    """
    npm's registry.

    Args:
        environ: npm's environment: its configuration, a proxy, `PATH`.
        folder: Where packages are installed.
        lock: The lock file with their versions and hashes.
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
            ActionNotFoundError: There is no such package.
            ActionSourceError: npm cannot be run, or the registry not be reached.
        """
        with tempfile.TemporaryDirectory(prefix="pdkernel-view-") as folder:
            output = await self._npm("view", package, Path(folder), "versions")
        found = json.loads(output or b"[]")
        return [found] if isinstance(found, str) else list(found)

    async def download(self, package: str, version: str, target: Path) -> None:
        """
        The files of one version under *target*, without what it depends on.

        Raises:
            ActionNotFoundError: There is no such version.
            ActionSourceError: npm cannot be run, or the registry not be reached.
        """
        with tempfile.TemporaryDirectory(prefix="pdkernel-pack-") as folder:
            await self._npm("pack", f"{package}@{version}", Path(folder))
            archive = next(Path(folder).glob("*.tgz"))
            await asyncio.to_thread(_extract, archive, target)

    def find_installed(self, package: str, version: str) -> Path | None:
        """The folder of one version that is installed with what it depends on; None if it is not."""
        spec = NpmSpec(package, version)
        tree = self._installed.find([spec])
        return tree.folder / "node_modules" / tree.aliases[str(spec)] if tree else None

    async def install(self, package: str, version: str, progress: Callable[[str], None]) -> Path:
        """
        One version with what it depends on, in the versions of the lock file; complete or not at all.

        Raises:
            ActionSourceError: npm cannot be run, the registry not be reached, or nothing be written; there is no such
                version, or it has other bytes than the lock file knows.
        """
        spec = NpmSpec(package, version)
        try:
            tree = await self._installed.ensure([spec], progress=progress)
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
            told = explain_failure(failure, [package], lambda _: "")
            raise ActionSourceError(told.message, fix=told.fix) from None


def _extract(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
