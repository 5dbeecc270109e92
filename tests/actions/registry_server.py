"""
A package registry on the loopback interface, with packages of the test.

The server has two routes: the document of a package, and its archives.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.actions.checkout import FILES
from tests.http_servers import JsonHandler, serve


def archive(package: str, version: str, files: Mapping[str, str]) -> bytes:
    """The archive of one version."""
    content = {**files, "package.json": json.dumps({"name": package, "version": version, "main": "depot.app.mjs"})}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in content.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def depot(version: str) -> dict[str, str]:
    """The files of the test's app, its first action in *version*."""
    return {name: text.replace('"0.1.2"', f'"{version}"') for name, text in FILES.items()}


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
