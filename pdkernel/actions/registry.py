"""
A package registry, as npm sees it: which versions a package has, what is in one, and installing one.

Knows which of npm's commands tell that. Running npm is `packages`' work; no script of a package is ever run.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pdkernel.errors import ActionNotFoundError, ActionSourceError
from pdkernel.hosts import find_node
from pdkernel.packages.npm_command import NpmFailedError, explained, run_npm

_NOT_THERE = frozenset({"E404", "ETARGET", "ENOVERSIONS"})


class Registry:
    """
    npm's registry.

    Args:
        environ: npm's environment: its configuration, a proxy, `PATH`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)

    async def versions(self, package: str) -> list[str]:
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

    async def unpack(self, package: str, version: str, into: Path) -> None:
        """
        The files of one version under *into*, without what it depends on.

        Raises:
            ActionNotFoundError: There is no such version.
            ActionSourceError: npm cannot be run, or the registry not be reached.
        """
        with tempfile.TemporaryDirectory(prefix="pdkernel-pack-") as folder:
            await self._npm("pack", f"{package}@{version}", Path(folder))
            archive = next(Path(folder).glob("*.tgz"))
            await asyncio.to_thread(_extract, archive, into)

    async def install(self, package: str, version: str, into: Path) -> None:
        """
        One version and what it depends on, under `node_modules` of *into*; complete or not at all.

        Raises:
            ActionNotFoundError: There is no such version.
            ActionSourceError: npm cannot be run, the registry not be reached, or nothing be written.
        """
        try:
            into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
        except OSError as fault:
            raise ActionSourceError(f"{package} cannot be installed in {into.parent}: {fault.strerror}.") from None
        try:
            manifest = {"private": True, "dependencies": {package: version}}
            (draft / "package.json").write_text(json.dumps(manifest), encoding="utf-8")
            await self._npm("install", None, draft, of=package)
            try:
                draft.rename(into)
            except OSError:
                if not into.is_dir():  # else another process was first
                    raise
        except OSError as fault:
            raise ActionSourceError(f"{package} cannot be installed in {into.parent}: {fault.strerror}.") from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    async def _npm(self, command: str, package: str | None, folder: Path, *more: str, of: str = "") -> bytes:
        arguments = (*((package,) if package else ()), *more)
        try:
            return await run_npm(
                command, folder, arguments=arguments, node=find_node(self._environ), environ=self._environ
            )
        except NpmFailedError as failure:
            named = package or of
            if failure.code in _NOT_THERE:
                raise ActionNotFoundError(f"npm has no {failure.package or named}.") from None
            told = explained(failure, [named], lambda _: "")
            raise ActionSourceError(told.message, fix=told.fix) from None


def _extract(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")
