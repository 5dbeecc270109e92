"""The index of components on npm."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pdkernel.actions import ActionReference, Catalog
from pdkernel.actions.npm_source import LOCK_NAME, ActionsLock, NpmSource, ProgressCallback
from pdkernel.errors import ActionNotFoundError, ActionSourceError, ActionVersionError, ProjectError
from pdkernel.packages import LockedSet
from pdkernel.storage import Project
from tests.actions.checkout import write_checkout
from tests.actions.registry_server import HeldPackages, PackageServer, archive, depot, serving
from tests.actions.test_catalog import PACKAGE, npm_environ

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


PUT = ActionReference("depot-put-thing", "0.1.2")
FILL = ActionReference("depot-fill-form", "0.0.1")

Clone = Callable[[str], Catalog]


def test_the_newest_locked_version(tmp_path: Path) -> None:
    """A key without a version is the newest of its locked versions, by number."""
    lock = ActionsLock(tmp_path / LOCK_NAME)
    for version in ("0.9.0", "0.10.0", "0.2.0"):
        lock.lock_package_version(f"depot-put-thing@{version}", "1.0.0")
    lock.lock_package_version("depot-put-thing-twice@3.0.0", "1.0.0")

    assert lock.find_newest_version("depot-put-thing") == "0.10.0"
    assert lock.find_newest_version("depot-put") is None


@pytest.fixture
def registry() -> Iterator[PackageServer]:
    """A registry with one version of the package."""
    with serving({PACKAGE: {"0.10.0": archive(PACKAGE, "0.10.0", depot("0.1.2"))}}) as server:
        yield server


def open_catalog(project: Project, url: str) -> Catalog:
    """The catalogue of a project with the registry at *url*."""
    folder = project.folder.parent
    catalog = Catalog.for_project(project, environ=npm_environ(folder, url))
    catalog.settings.accept_licence()
    catalog.settings.set_sources(["npm"], base=folder)
    return catalog


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project in which npm has installed `PUT` from such a registry."""
    folder = tmp_path_factory.mktemp("installed")
    with (
        serving({PACKAGE: {"0.10.0": archive(PACKAGE, "0.10.0", depot("0.1.2"))}}) as server,
        Project.open(folder / ".pdkernel") as project,
    ):
        asyncio.run(open_catalog(project, server.url).resolve_or_install(PUT))
    return folder


@pytest.fixture
def clone(registry: PackageServer, installed: Path, tmp_path: Path) -> Iterator[Clone]:
    """
    Open another clone of the project, with the current lock file of the clone `ours`.

    In the clone `ours`, `PUT` is installed.
    """
    opened: list[Project] = []

    def open_project(name: str) -> Catalog:
        folder = tmp_path / name
        folder.mkdir()
        if name == "ours":
            shutil.copy(installed / LOCK_NAME, folder)
            shutil.copytree(installed / ".pdkernel" / "packages", folder / ".pdkernel" / "packages", symlinks=True)
        elif (tmp_path / "ours" / LOCK_NAME).exists():
            shutil.copy(tmp_path / "ours" / LOCK_NAME, folder)
        opened.append(Project.open(folder / ".pdkernel"))
        return open_catalog(opened[-1], registry.url)

    yield open_project
    for project in opened:
        project.close()


def publish(registry: PackageServer, package: str, action: str) -> None:
    """Add a version of the package, its first action in version *action*."""
    registry.packages = {PACKAGE: {**registry.packages[PACKAGE], package: archive(PACKAGE, package, depot(action))}}


async def test_the_lock_file_has_hashes_and_no_address(clone: Clone, registry: PackageServer, tmp_path: Path) -> None:
    """The lock file names the package version of each action, and the hash of each package."""
    clone("ours")

    text = (tmp_path / "ours" / LOCK_NAME).read_text()
    kept = json.loads(text)
    assert kept["actions"] == {"depot-put-thing@0.1.2": "0.10.0"}
    assert kept["sets"][0]["packages"][f"node_modules/{PACKAGE}"]["integrity"].startswith("sha512-")
    assert "127.0.0.1" not in text


async def test_a_clone_gets_the_same_package(clone: Clone, registry: PackageServer) -> None:
    """A newer package with the same version of an action is not downloaded."""
    ours = clone("ours")
    await ours.resolve_or_install(PUT)
    await ours.resolve_or_install(FILL)
    publish(registry, "0.11.0", "0.1.2")

    theirs = clone("theirs")
    found = [await theirs.resolve_or_install(FILL), await theirs.resolve_or_install(PUT)]

    assert [component.source for component in found] == [f"npm {PACKAGE} 0.10.0"] * 2
    assert f"{PACKAGE}/-/0.11.0.tgz" not in registry.asked


async def test_without_the_lock_file_the_newest_is_taken(clone: Clone, registry: PackageServer) -> None:
    """Without a lock file, the newer package is installed."""
    publish(registry, "0.11.0", "0.1.2")

    found = await clone("theirs").resolve_or_install(PUT)

    assert found.source == f"npm {PACKAGE} 0.11.0"


async def test_the_lock_file_overrides_installed_packages(clone: Clone, registry: PackageServer) -> None:
    """With another lock file, the package that it names runs."""
    await clone("ours").resolve_or_install(PUT)
    publish(registry, "0.11.0", "0.1.2")
    theirs = clone("theirs")
    path = theirs.lock.path
    committed = path.read_bytes()
    path.unlink()
    before = await theirs.resolve_or_install(PUT)

    path.write_bytes(committed)
    after = await theirs.resolve_or_install(PUT)

    assert (before.source, after.source) == (f"npm {PACKAGE} 0.11.0", f"npm {PACKAGE} 0.10.0")


async def test_a_package_with_another_hash_is_refused(clone: Clone, registry: PackageServer) -> None:
    """A package with another hash than the locked one is refused."""
    await clone("ours").resolve_or_install(PUT)
    publish(registry, "0.10.0", '0.1.2", name: "other')

    with pytest.raises(ActionSourceError, match="does not match the hash in the lock file"):
        await clone("theirs").resolve_or_install(PUT)


async def test_a_lock_file_that_names_the_wrong_package(clone: Clone, registry: PackageServer) -> None:
    """A locked package version without the action is refused, with the fix."""
    publish(registry, "0.9.0", "0.1.1")
    ours = clone("ours")
    await ours.resolve_or_install(PUT)
    ours.lock.lock_package_version(str(PUT), "0.9.0")

    with pytest.raises(ProjectError, match=r"names @pipedream/depot 0.9.0 for depot-put-thing@0.1.2") as caught:
        await clone("theirs").resolve_or_install(PUT)

    assert LOCK_NAME in caught.value.fix


async def test_a_clone_has_the_choice_of_another_version(clone: Clone) -> None:
    """The lock file contains the versions that `--instead-of` has chosen."""
    clone("ours").lock.override_version("depot-put-thing@0.1.7", "0.1.2")

    found = await clone("theirs").resolve_or_install(ActionReference("depot-put-thing", "0.1.7"))

    assert found.source_summary == f"npm {PACKAGE} 0.10.0, version 0.1.2 instead of 0.1.7"


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Concurrent writers of the lock file keep each other's entries."""
    path = tmp_path / LOCK_NAME

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: ActionsLock(path).override_version(f"a-b@0.0.{n}", "1.0.0"), range(40)))

    assert len(ActionsLock(path).version_overrides) == 40


def test_an_unreadable_lock_file_is_left_unchanged(tmp_path: Path) -> None:
    """An unreadable lock file raises an error and stays unchanged."""
    path = tmp_path / LOCK_NAME
    path.write_text("<<<<<<< HEAD\n")

    with pytest.raises(ProjectError):
        ActionsLock(path).override_version("a-b@0.0.1", "0.0.2")

    assert path.read_text() == "<<<<<<< HEAD\n"


def test_a_lock_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The error has the path, the system's reason and the fix."""
    path = tmp_path / "nothing" / LOCK_NAME

    with pytest.raises(ActionSourceError) as caught:
        ActionsLock(path).override_version("a-b@0.0.1", "0.0.2")

    assert caught.value.message == f"Cannot write {path}: no such file or directory."
    assert caught.value.fix == "Make the file writable: pdkernel stores the versions of actions in it."


# ── components that a run keeps ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_kept_component_is_restored(clone: Clone, registry: PackageServer) -> None:
    """A component is found again as it was, with the version that it replaced, in a clone without any lock file."""
    ours = clone("ours")
    ours.lock.override_version("depot-put-thing@0.1.7", "0.1.2")
    component = await ours.resolve_or_install(ActionReference("depot-put-thing", "0.1.7"))
    kept = ours.describe_lock(component)
    ours.lock.path.unlink()
    publish(registry, "0.11.0", "0.1.2")
    theirs = clone("theirs")

    with pytest.raises(ActionNotFoundError, match="--no-install or PDKERNEL_NO_INSTALL forbids"):
        await theirs.restore(kept, install=False)
    found = await theirs.restore(kept)

    assert found.source_summary == component.source_summary == f"npm {PACKAGE} 0.10.0, version 0.1.2 instead of 0.1.7"
    assert (await theirs.restore(kept, install=False)).file == found.file
    assert not theirs.lock.path.exists()


async def test_a_kept_component_of_a_folder_needs_its_version(clone: Clone, tmp_path: Path) -> None:
    """A folder of components that has another version by now is refused; a built-in action is found."""
    catalog = clone("ours")
    folder = write_checkout(tmp_path / "checkout")
    catalog.settings.set_sources([str(folder)], base=tmp_path)
    kept = catalog.describe_lock(catalog.resolve("depot-put-thing", None))
    builtin = await catalog.resolve_or_install(ActionReference("http-custom-request", None))
    before = await catalog.restore(kept)
    assert before.file is not None
    before.file.path.write_text(before.file.path.read_text().replace('"0.1.2"', '"0.1.3"'))
    os.utime(before.file.path, (2e9, 2e9))

    with pytest.raises(ActionVersionError, match=r"has version 0\.1\.3 of depot-put-thing"):
        await catalog.restore(kept)

    assert (before.uses, kept.packages) == ("depot-put-thing@0.1.2", None)
    assert (await catalog.restore(catalog.describe_lock(builtin))) == builtin
