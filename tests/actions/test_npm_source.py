"""The index of components on npm."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pdkernel.actions.lock import LOCK_NAME, ActionsLock
from pdkernel.actions.npm_source import NpmSource, ProgressCallback
from pdkernel.packages import LockedSet

MODULE = 'export default { key: "depot-put-thing", name: "Put", version: "0.0.1", type: "action" };'


class OneVersion:
    """A registry with one version of a package, which has one action; nothing is installed."""

    def __init__(self, version: str) -> None:
        self._version = version

    async def list_versions(self, package: str) -> list[str]:
        """The version."""
        return [self._version]

    async def download(self, package: str, version: str, target: Path) -> None:
        """Write the module of the action."""
        module = target / "package" / "actions" / "put-thing" / "put-thing.mjs"
        module.parent.mkdir(parents=True)
        module.write_text(MODULE)

    def find_installed(self, package: str, version: str) -> Path | None:
        """No package is installed."""
        return None

    def find_locked(self, package: str, version: str) -> LockedSet | None:
        """No package is installed."""
        return None

    async def install(
        self,
        package: str,
        version: str,
        progress: ProgressCallback,
        *,
        locked: LockedSet | None = None,
        install: bool = True,
    ) -> Path:
        """A search for an app installs nothing."""
        raise AssertionError(package)


def test_processes_that_search_at_once_write_one_index(tmp_path: Path) -> None:
    """Searches of several processes that end at the same time succeed, and leave a complete index and no other file."""
    folder, lock = tmp_path / "components", ActionsLock(tmp_path / LOCK_NAME)

    def search(number: int) -> bool:
        source = NpmSource(folder, OneVersion(f"0.{number}.0"), lock)
        return asyncio.run(source.index_newest_package("depot", lambda _: None))

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(search, range(40)))

    assert found == [True] * 40
    assert [path.name for path in (folder / "index").iterdir()] == ["depot.json"]
    assert list(NpmSource(folder, OneVersion("0.0.0"), lock).load_components("depot")) == ["depot-put-thing"]
