"""A registry of npm packages on the loopback interface, with packages of a test."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.http_servers import JsonHandler, serve


class NpmRegistry:
    """
    The packages that the registry serves, and its requests.

    Attributes:
        url: The address of the registry.
        asked: Paths of all requests so far.
        gate: While the gate is cleared, every request waits.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.status = 200
        self._about: dict[str, dict[str, Any]] = {}
        self._archives: dict[str, bytes] = {}

    def publish(self, name: str, version: str, files: Mapping[str, str] | None = None, **manifest: Any) -> None:
        """Add a version; it is the newest. *files* are those of the package; without any, its default export is its version."""
        whole = {"name": name, "version": version, **manifest}
        files = dict(
            files or {"index.mjs": f"export default {version!r}", "index.cjs": f"module.exports = {version!r}"}
        )
        if "exports" not in whole and "index.cjs" in files:
            whole["exports"] = {".": {"import": "./index.mjs", "require": "./index.cjs"}, "./*": "./*"}
        archive = _archive({"package.json": json.dumps(whole), **files})
        path = f"/{name}/-/{version}.tgz"
        self._archives[path] = archive
        about = self._about.setdefault(name, {"name": name, "versions": {}, "dist-tags": {}})
        digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
        about["versions"][version] = {
            **whole,
            "dist": {"tarball": self.url + path[1:], "integrity": f"sha512-{digest}"},
        }
        about["dist-tags"]["latest"] = version

    def change(self, name: str, version: str) -> None:
        """Serve other bytes for a published version, with their hash in its document."""
        about, newest = self._about[name], self._about[name]["dist-tags"]["latest"]
        self.publish(name, version, {"index.js": "module.exports = 'changed'"})
        about["dist-tags"]["latest"] = newest

    def withdraw(self, name: str, version: str) -> None:
        """Remove a version."""
        del self._about[name]["versions"][version]

    def environ(self, home: Path) -> dict[str, str]:
        """The environment variables of npm for this registry, with a cache in *home*."""
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "npm_config_registry": self.url,
            "npm_config_cache": str(home / "npm-cache"),
        }

    def downloads(self) -> list[str]:
        """Paths of the requested archives."""
        return [path for path in self.asked if path.endswith(".tgz")]

    def answer(self, path: str) -> tuple[int, bytes]:
        """The response to GET *path*."""
        self.asked.append(path)
        self.gate.wait(100)
        if self.status != 200:
            return self.status, b"{}"
        if path in self._archives:
            return 200, self._archives[path]
        about = self._about.get(unquote(path[1:]))
        return (404, b'{"error": "not found"}') if about is None else (200, json.dumps(about).encode())


@contextmanager
def npm_registry() -> Iterator[NpmRegistry]:
    """A registry while the block runs."""

    class Handler(JsonHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, _: bytes) -> tuple[int, bytes]:
            return registry.answer(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry = NpmRegistry(f"http://127.0.0.1:{server.server_port}/")
    with serve(server):
        try:
            yield registry
        finally:
            registry.gate.set()


def _archive(files: Mapping[str, str]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text.encode())
            entry.mode = 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return held.getvalue()
