"""
A package registry on the loopback interface, or in memory, with packages of the test.

The server has two routes: the document of a package, and its archives.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pdkernel.packages import LockedSet
from tests.actions.checkout import FILES
from tests.http_servers import JsonHandler, serve


def archive(package: str, version: str, files: Mapping[str, str]) -> bytes:
    """The archive of one version, the same bytes at every call."""
    content = {**files, "package.json": json.dumps({"name": package, "version": version, "main": "depot.app.mjs"})}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in content.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), mtime=0)


def depot(version: str) -> dict[str, str]:
    """The files of the test's app, its first action in *version*."""
    return {name: text.replace('"0.1.2"', f'"{version}"') for name, text in FILES.items()}


class HeldPackages:
    """
    A package registry in memory: versions 1.0.0, 1.1.0 ... of `@pipedream/depot`. A search needs no npm.

    Args:
        folder: The folder for installed packages.
        held: For each version of the package, the version of its action; None without the action.

    Attributes:
        downloads: The versions that were downloaded.
    """

    def __init__(self, folder: Path, held: Sequence[str | None]) -> None:
        self._folder = folder
        self._archives: dict[str, bytes] = {}
        self.downloads: list[str] = []
        for minor, action in enumerate(held):
            files = depot(action or "0.0.0")
            if action is None:
                del files["actions/put-thing/put-thing.mjs"]
            self._archives[f"1.{minor}.0"] = archive("@pipedream/depot", f"1.{minor}.0", files)

    async def list_versions(self, package: str) -> list[str]:
        """All versions."""
        return list(self._archives)

    async def download(self, package: str, version: str, target: Path) -> None:
        """Extract the archive of a version."""
        self.downloads.append(version)
        with tarfile.open(fileobj=io.BytesIO(self._archives[version])) as packed:
            packed.extractall(target, filter="data")

    def find_installed(self, package: str, version: str) -> Path | None:
        """The folder of an installed version, or None."""
        folder = self._folder / version / "package"
        return folder if folder.exists() else None

    def find_locked(self, package: str, version: str) -> LockedSet | None:
        """No version has dependencies."""
        return None

    async def install(self, package: str, version: str, progress: Callable[[str], None], **_: Any) -> Path:
        """Extract the archive of a version into the folder for installed packages."""
        await self.download(package, version, self._folder / version)
        return self._folder / version / "package"


class PackageServer(ThreadingHTTPServer):
    """
    The registry.

    Attributes:
        packages: The archive of each version, by the name of the package.
        asked: The paths of all requests.
    """

    def __init__(self, packages: Mapping[str, Mapping[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.packages = packages
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """The address of the registry."""
        return f"http://127.0.0.1:{self.server_port}/"

    def document(self, name: str) -> dict[str, object]:
        """The document of package *name*."""
        versions = {}
        for version, packed in self.packages[name].items():
            versions[version] = {
                "name": name,
                "version": version,
                "dist": {
                    "tarball": f"{self.url}{name}/-/{version}.tgz",
                    "integrity": "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode(),
                },
            }
        return {"name": name, "dist-tags": {"latest": list(versions)[-1]}, "versions": versions}


class _Handler(JsonHandler):
    server: PackageServer

    def answer(self, body: bytes) -> tuple[int, Any]:
        """The document of a package, or an archive."""
        path = unquote(self.path).lstrip("/")
        self.server.asked.append(path)
        name, _, file = path.partition("/-/")
        if name not in self.server.packages:
            return 404, {"error": "not found"}
        if file:
            return 200, self.server.packages[name][file.removesuffix(".tgz")]
        return 200, self.server.document(name)


@contextmanager
def serving(packages: Mapping[str, Mapping[str, bytes]]) -> Iterator[PackageServer]:
    """The registry, until the block ends."""
    with serve(PackageServer(packages)) as server:
        yield server
