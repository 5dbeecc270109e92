"""The index of components on npm."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pdkernel.actions import ActionReference
from pdkernel.actions.lock import LOCK_NAME, ActionsLock
from pdkernel.actions.npm_source import NpmSource, ProgressCallback
from pdkernel.errors import ActionNotFoundError
from pdkernel.packages import LockedSet
from tests.actions.registry_server import HeldPackages

MODULE = 'export default { key: "depot-put-thing", name: "Put", version: "0.0.1", type: "action" };'


class OneVersion:
    """A registry with one version of a package, which has one action; it installs *folder*, or nothing."""

    def __init__(self, version: str, folder: Path | None = None) -> None:
        self._version = version
        self._folder = folder

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
        """The folder; a search for an app installs nothing."""
        assert self._folder is not None, package
        return self._folder


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


class Published(OneVersion):
    """A registry with these versions of a package, or without the package; each installs *folder*."""

    def __init__(self, versions: list[str] | None, folder: Path) -> None:
        super().__init__("1.0.0", folder)
        self._versions = versions

    async def list_versions(self, package: str) -> list[str]:
        """The versions."""
        if self._versions is None:
            raise ActionNotFoundError(f"npm has no {package}.")
        return self._versions


@pytest.mark.parametrize("versions", [None, []])
async def test_an_app_without_a_package_is_not_indexed(tmp_path: Path, versions: list[str] | None) -> None:
    """An app that npm does not have, or whose versions were all withdrawn, has no index, and a search goes on."""
    source = NpmSource(tmp_path / "components", Published(versions, tmp_path), ActionsLock(tmp_path / LOCK_NAME))

    assert await source.index_newest_package("depot", lambda _: None) is False
    assert source.list_apps() == []


async def test_a_package_without_its_action_is_named(tmp_path: Path) -> None:
    """If the installed package does not have the action of the index, the error names both, and nothing is locked."""
    lock = ActionsLock(tmp_path / LOCK_NAME)
    source = NpmSource(tmp_path / "components", Published(["1.0.0"], tmp_path), lock)

    with pytest.raises(ActionNotFoundError) as caught:
        await source.install_component(ActionReference("depot-put-thing", "0.0.1"), lambda _: None)

    assert caught.value.message == ("@pipedream/depot 1.0.0 was installed, but does not contain depot-put-thing@0.0.1.")
    assert not lock.path.exists()


async def test_kept_packages_without_the_action_are_named(tmp_path: Path) -> None:
    """If the packages with which a run began do not have its action, the error names both."""
    source = NpmSource(tmp_path / "components", Published([], tmp_path), ActionsLock(tmp_path / LOCK_NAME))

    with pytest.raises(
        ActionNotFoundError, match=r"^@pipedream/depot 1\.0\.0 does not contain depot-put-thing@0\.0\.1\.$"
    ):
        await source.restore_component(
            ActionReference("depot-put-thing", "0.0.1"), "1.0.0", LockedSet({}, {}), lambda _: None, install=True
        )


async def test_the_locked_package_of_an_action_is_installed(tmp_path: Path) -> None:
    """If several packages have the version of an action, the locked one is installed, although a newer one is indexed."""
    lock, uses = ActionsLock(tmp_path / LOCK_NAME), ActionReference("depot-put-thing", "0.1.2")
    packages = HeldPackages(tmp_path / "installed", ["0.1.2", "0.1.2"])
    source = NpmSource(tmp_path / "components", packages, lock)
    lock.lock_package_version(str(uses), "1.0.0")
    await source.index_newest_package("depot", lambda _: None)

    found = await source.install_component(uses, lambda _: None)

    assert found.source == "npm @pipedream/depot 1.0.0"
    assert packages.downloads == ["1.1.0", "1.0.0"]
    assert lock.get_package_version(str(uses)) == "1.0.0"


async def test_an_action_without_version_is_the_newest_known(tmp_path: Path) -> None:
    """Of an action that the step names without a version, the newest known one counts, although an older one is installed."""
    packages = HeldPackages(tmp_path / "installed", ["0.1.1", "0.1.2"])
    source = NpmSource(tmp_path / "components", packages, ActionsLock(tmp_path / LOCK_NAME))
    await source.install_component(ActionReference("depot-put-thing", "0.1.1"), lambda _: None)

    newest = source.find_component("depot-put-thing", None)
    older = source.find_component("depot-put-thing", "0.1.1")

    assert newest is not None
    assert older is not None
    assert (newest.version, newest.file) == ("0.1.2", None)
    assert older.version == "0.1.1"
    assert older.file is not None
