"""
A package registry, as npm sees it: which versions a package has, what is in one, and installing one.

Knows npm's command line; the registry's address and credentials are npm's own configuration. No script of a package
is ever run.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pdkernel.errors import ActionNotFoundError, ActionSourceError
from pdkernel.hosts import find_node

_QUIET = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
_SOON = ("--fetch-retries=1", "--fetch-retry-mintimeout=500", "--fetch-retry-maxtimeout=2000")
"""A person waits: who has no network learns it in seconds."""
_UNREACHABLE = (
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "ECONNRESET",
    "ENETUNREACH",
    "ERR_SOCKET_TIMEOUT",
)
_TIMEOUT_S = 600.0


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
        text = await self._npm("view", package, "versions", "--json", *_QUIET, cwd=Path("/"))
        found = json.loads(text or "[]")
        return [found] if isinstance(found, str) else list(found)

    async def unpack(self, package: str, version: str, into: Path) -> None:
        """
        The files of one version under *into*, without what it depends on.

        Raises:
            ActionNotFoundError: There is no such version.
            ActionSourceError: npm cannot be run, or the registry not be reached.
        """
        with tempfile.TemporaryDirectory(prefix="pdkernel-pack-") as folder:
            await self._npm("pack", f"{package}@{version}", "--pack-destination", folder, *_QUIET, cwd=Path(folder))
            archive = next(Path(folder).glob("*.tgz"))
            await asyncio.to_thread(_extract, archive, into)

    async def install(self, package: str, version: str, into: Path) -> None:
        """
        One version and what it depends on, under `node_modules` of *into*; complete or not at all.

        Raises:
            ActionNotFoundError: There is no such version.
            ActionSourceError: npm cannot be run, or the registry not be reached.
        """
        into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{into.name}-", dir=into.parent))
        try:
            manifest = {"private": True, "dependencies": {package: version}}
            (draft / "package.json").write_text(json.dumps(manifest), encoding="utf-8")
            await self._npm("install", *_QUIET, "--omit-lockfile-registry-resolved", cwd=draft)
            try:
                draft.rename(into)
            except OSError:
                if not into.is_dir():  # else another process was first
                    raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    async def _npm(self, *words: str, cwd: Path) -> str:
        process = await asyncio.create_subprocess_exec(
            *npm_command(self._environ),
            *words,
            *_SOON,
            cwd=cwd,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                out, err = await process.communicate()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
        if process.returncode == 0:
            return out.decode("utf-8", "replace")
        raise _fault(words, err.decode("utf-8", "replace"), out.decode("utf-8", "replace"))


def npm_command(environ: Mapping[str, str]) -> Sequence[str]:
    """
    How npm is started: the one beside the Node.js that runs steps, else the one on PATH.

    Raises:
        InterpreterMissingError: There is no Node.js.
        ActionSourceError: There is no npm.
    """
    node = find_node(environ)
    for script in _scripts(node):
        if script.is_file():
            return (str(node), str(script))
    if found := shutil.which("npm", path=environ.get("PATH")):
        return (found,)
    raise ActionSourceError("Components come with npm, and there is none here.", fix="pip install 'pdkernel[node]'")


def _scripts(node: Path) -> Iterator[Path]:
    for place in (node.parent.parent, node.resolve().parent.parent):
        yield place / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _extract(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(into, filter="data")


def _fault(words: Sequence[str], err: str, out: str) -> ActionNotFoundError | ActionSourceError:
    text = f"{err}\n{out}"
    what = next((word for word in words[1:] if word.startswith("@")), "the package")
    if "E404" in text or "ETARGET" in text:
        return ActionNotFoundError(f"npm has no {what}.")
    lines = [line.removeprefix("npm error ").strip() for line in err.splitlines() if line.startswith("npm error")]
    said = next((line for line in lines if not line.startswith("code ")), "") or err.strip()[-300:]
    if any(word in text for word in _UNREACHABLE):
        return ActionSourceError(
            f"npm cannot reach its registry for {what}: {said}",
            fix="Look at the network and npm's configuration, then run it again. What is installed already runs without.",
        )
    if "ENOSPC" in text:
        return ActionSourceError(f"The disk is full: npm could not install {what}.", fix="Make room and run it again.")
    return ActionSourceError(f"npm {words[0]} failed for {what}: {said}")
