"""
Components on npm: packages `@pipedream/APP`, installed into the project when a step uses one of their components, and the lock file.

A package version contains one version of each component. An index of the examined package versions is stored on disk, so that
the next search needs no network. The lock file has the package version and the source of each action; it is beside the project and meant
to be committed, so that every clone runs the same code. `packages.npm_packages` stores packages and their hashes in the same file.
"""

from __future__ import annotations

import json
import secrets
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pdkernel.actions.component import (
    ActionReference,
    Component,
    ComponentHeader,
    ComponentKind,
    build_component,
    build_component_file,
    iter_component_modules,
    parse_header,
    version_sort_key,
)
from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import decode_json, encode_json
from pdkernel.errors import (
    ActionNotFoundError,
    ActionSourceError,
    ActionVersionError,
    PackageInstallError,
    PackageMissingError,
    ProjectError,
)
from pdkernel.model import get_app_slug
from pdkernel.packages import LockedSet, NpmLock, NpmPackages, NpmSpec
from pdkernel.packages.npm_command import NpmFailedError, explain_failure, run_npm
from pdkernel.workers import find_node

LOCK_NAME = "pdkernel-actions.lock.json"
LOCK_COMMENT = (
    "Versions and hashes of the packages that contain pre-built actions, and overridden versions of actions. Written by "
    "pdkernel; commit this file."
)
_PACKAGES = "actions"
_OVERRIDES_KEY = "instead"
_SOURCES = "sources"


@dataclass(frozen=True)
class LockedComponent:
    """
    A component with its exact version and packages.

    Attributes:
        uses: `KEY@VERSION` of the component.
        requested_version: As in `Component`.
        package: For a component from npm, the version of its package.
        packages: For a component from npm, its package with all dependencies.
        source: If the workflow has several sources, the one with the component, as in the lock file.
    """

    uses: str
    requested_version: str | None = None
    package: str | None = None
    packages: LockedSet | None = None
    source: str | None = None


class ActionsLock:
    """The lock file at *path*; it is read again after a change."""

    def __init__(self, path: Path) -> None:
        self._file = NpmLock(path, about=LOCK_COMMENT)

    @property
    def path(self) -> Path:
        """The path of the lock file."""
        return self._file.path

    @property
    def version_overrides(self) -> Mapping[str, str]:
        """The version that runs, by the `KEY@VERSION` that it replaces, or by KEY for steps without a version. Raises `ProjectError`."""
        return self._read_section(_OVERRIDES_KEY)

    def override_version(self, reference: str, version: str) -> None:
        """Store that *version* runs for steps that use *reference* (`KEY[@VERSION]`). Raises `ActionSourceError`."""
        self._put(_OVERRIDES_KEY, reference, version)

    def find_newest_version(self, key: str) -> str | None:
        """Return the newest version of the action *key* that has a locked package, or None."""
        found = [
            version
            for name, at, version in (each.rpartition("@") for each in self._read_section(_PACKAGES))
            if name == key
        ]
        return max(found, key=version_sort_key, default=None)

    def get_package_version(self, reference: str) -> str | None:
        """Return the locked version of the package that contains *reference* (`KEY@VERSION`), or None."""
        return self._read_section(_PACKAGES).get(reference)

    def lock_package_version(self, reference: str, package_version: str) -> None:
        """Store *package_version* as the version of the app's package for *reference*. Raises `ActionSourceError`."""
        if self.get_package_version(reference) != package_version:
            self._put(_PACKAGES, reference, package_version)

    def get_source(self, reference: str) -> str | None:
        """Return the locked source of *reference* (`KEY@VERSION`): `npm`, `connect`, or the path of a folder; or None."""
        return self._read_section(_SOURCES).get(reference)

    def lock_source(self, reference: str, source: str) -> None:
        """Store *source* as the source of *reference*. Raises `ActionSourceError`."""
        if self.get_source(reference) != source:
            self._put(_SOURCES, reference, source)

    def _read_section(self, name: str) -> dict[str, str]:
        section = self._file.load_extra().get(name)
        return {str(key): str(value) for key, value in section.items()} if isinstance(section, dict) else {}

    def _put(self, name: str, key: str, value: str) -> None:
        try:
            self._file.set_extra(name, lambda: {**self._read_section(name), key: value})
        except OSError as fault:
            raise ActionSourceError(
                f"Cannot write {self.path}: {(fault.strerror or type(fault).__name__).lower()}.",
                fix="Make the file writable: pdkernel stores the versions of actions in it.",
            ) from None


ProgressCallback = Callable[[str], None]

NPM_SCOPE = "@pipedream"
_APPS = (
    "apify aws brex canva clio docusign gitlab google_drive helper_functions launchdarkly linear_app linkedin "
    "microsoft_outlook monday mysql notiff_io notion pipedream postgresql procore quickbooks ramp sftp shopify slack "
    "youtube_data_api"
)
APPS_ON_NPM = tuple(_APPS.split())
"""Apps whose components are known to be on npm; the list is not complete."""
_NOT_FOUND_CODES = frozenset({"E404", "ETARGET", "ENOVERSIONS"})


class PackageRegistry(Protocol):
    """The operations of a package registry (`NpmRegistry`)."""

    async def list_versions(self, package: str) -> list[str]:
        """Return the published versions, oldest first."""
        ...

    async def download(self, package: str, version: str, target: Path) -> None:
        """Download the files of one version into *target*."""
        ...

    def find_installed(self, package: str, version: str) -> Path | None:
        """Return the folder of an installed version, or None."""
        ...

    def find_locked(self, package: str, version: str) -> LockedSet | None:
        """Return an installed version with its dependencies, or None."""
        ...

    async def install(
        self,
        package: str,
        version: str,
        progress: ProgressCallback,
        *,
        locked: LockedSet | None = None,
        install: bool = True,
    ) -> Path:
        """Install one version and its dependencies, those of *locked* if it is given; return its folder."""
        ...


@dataclass(frozen=True)
class _IndexedComponent:
    """A component of a package version: its header, and the path of its module in the package."""

    header: ComponentHeader
    path: str


class NpmSource:
    """
    The components on npm.

    Args:
        folder: The folder of the index, `.pdkernel/packages/components`.
        packages: The registry.
        lock: The lock file with the package version of each component.
        max_downloads: Maximum number of package versions that one search downloads. The next search continues after them.
    """

    def __init__(self, folder: Path, packages: PackageRegistry, lock: ActionsLock, *, max_downloads: int = 60) -> None:
        self._folder = folder
        self._packages = packages
        self._lock = lock
        self._max_downloads = max_downloads
        self._index: dict[str, dict[str, tuple[_IndexedComponent, ...]]] = {}

    def list_apps(self, kind: ComponentKind | None = None) -> list[str]:
        """Return the apps with an indexed package version, or with components of *kind* in the newest one."""
        apps = sorted(path.stem for path in (self._folder / "index").glob("*.json"))
        return [
            app for app in apps if kind is None or any(each.kind == kind for each in self.load_components(app).values())
        ]

    def list_keys(self) -> Mapping[str, str]:
        """Return the app of each key in the newest indexed package version of its app."""
        return {key: app for app in self.list_apps() for key in self.load_components(app)}

    def load_components(self, app: str) -> Mapping[str, Component]:
        """Return the components in the newest indexed package version of *app*, by key."""
        known = self._load_index(app)
        if not known:
            return {}
        newest = max(known, key=version_sort_key)
        installed = self._packages.find_installed(f"{NPM_SCOPE}/{app}", newest)
        return {indexed.header.key: _component(app, newest, indexed, installed) for indexed in known[newest]}

    def find_app_folder(self, app: str) -> Path | None:
        """Return the folder of the newest installed package version of *app*, or None."""
        versions = sorted(self._load_index(app), key=version_sort_key, reverse=True)
        folders = (self._packages.find_installed(f"{NPM_SCOPE}/{app}", version) for version in versions)
        return next((folder for folder in folders if folder is not None), None)

    def find_component(self, key: str, version: str | None) -> Component | None:
        """Find a component in its locked package version or, if none is locked, in any indexed package version."""
        app = get_app_slug(key)
        pinned = self._lock.get_package_version(f"{key}@{version}")
        found = [
            _component(app, package, indexed, self._packages.find_installed(f"{NPM_SCOPE}/{app}", package))
            for package, components in sorted(self._load_index(app).items(), key=lambda item: version_sort_key(item[0]))
            for indexed in components
            if indexed.header.key == key and version in (None, indexed.header.version) and pinned in (None, package)
        ]
        installed = [component for component in found if component.file is not None]
        best = installed if version is not None and installed else found
        return best[-1] if best else None

    async def index_newest_package(self, app: str, progress: ProgressCallback) -> bool:
        """Index the newest package version of *app*; False if npm has no package. Raises `ActionSourceError`."""
        progress(f"Reading {NPM_SCOPE}/{app} on npm")
        try:
            versions = await self._packages.list_versions(f"{NPM_SCOPE}/{app}")
        except ActionNotFoundError:
            return False
        if not versions:
            return False
        await self._index_package(app, max(versions, key=version_sort_key))
        return True

    async def install_component(self, uses: ActionReference, progress: ProgressCallback) -> Component:
        """
        Install the component that *uses* names, and lock its package version.

        Raises:
            ActionNotFoundError: The package does not exist, or no version of the package has the component.
            ActionVersionError: No package version contains that version; the message names the existing versions.
            ActionSourceError: npm cannot run, or the registry cannot be reached.
            ProjectError: The lock file cannot be read, or names a package version without the component.
        """
        app = get_app_slug(uses.key)
        component = self.find_component(uses.key, uses.version)
        if component is None:
            pinned = self._lock.get_package_version(str(uses))
            component = await (
                self._install_locked(uses, pinned, progress) if pinned else self._search_versions(uses, progress)
            )
        package = get_package_version(component)
        if component.file is None:
            await self._packages.install(f"{NPM_SCOPE}/{app}", package, progress)
            installed = self.find_component(uses.key, component.version)
            if installed is None or installed.file is None:
                raise ActionNotFoundError(
                    f"{NPM_SCOPE}/{app} {package} was installed, but does not contain {component.uses}."
                )
            component = installed
        self.lock_component(component)
        return component

    def describe_lock(self, component: Component) -> LockedComponent:
        """Return the package of an installed component, with its dependencies."""
        package = get_package_version(component)
        packages = self._packages.find_locked(f"{NPM_SCOPE}/{get_app_slug(component.key)}", package)
        return LockedComponent(component.uses, component.requested_version, package, packages)

    async def restore_component(
        self, uses: ActionReference, package: str, packages: LockedSet, progress: ProgressCallback, *, install: bool
    ) -> Component:
        """
        Return the component *uses* of exactly these packages; install them if they are missing.

        Raises:
            ActionNotFoundError: The packages are not installed, and *install* is False.
            ActionSourceError: The packages cannot be installed.
        """
        app = get_app_slug(uses.key)
        name = f"{NPM_SCOPE}/{app}"
        try:
            folder = await self._packages.install(name, package, progress, locked=packages, install=install)
        except PackageMissingError:
            raise build_not_installed_error(uses) from None
        known = self._load_index(app)
        if package not in known:
            known[package] = tuple(_index_components(folder))
            self._write(app, known)
        for indexed in known[package]:
            if (indexed.header.key, indexed.header.version) == (uses.key, uses.version):
                return _component(app, package, indexed, folder)
        raise ActionNotFoundError(f"{name} {package} does not contain {uses}.")

    def lock_component(self, component: Component) -> None:
        """Store the package version of *component* in the lock file. Raises `ActionSourceError`."""
        self._lock.lock_package_version(component.uses, get_package_version(component))

    async def _install_locked(self, uses: ActionReference, package: str, progress: ProgressCallback) -> Component:
        """Index and install the locked package version."""
        app = get_app_slug(uses.key)
        installed = await self._packages.install(f"{NPM_SCOPE}/{app}", package, progress)
        known = self._load_index(app)
        known[package] = tuple(_index_components(installed))
        self._write(app, known)
        found = self.find_component(uses.key, uses.version)
        if found is None:
            raise ProjectError(
                f"{self._lock.path.name} names {NPM_SCOPE}/{app} {package} for {uses}, but that package does not contain it.",
                fix=f"Remove the line from {self._lock.path.name}. The next run searches for the package again.",
            )
        return found

    async def _search_versions(self, uses: ActionReference, progress: ProgressCallback) -> Component:
        """Search the package versions for one that contains the component, and install it."""
        app = get_app_slug(uses.key)
        progress(f"Searching npm for {uses}")
        try:
            versions = sorted(await self._packages.list_versions(f"{NPM_SCOPE}/{app}"), key=version_sort_key)
        except ActionNotFoundError:
            versions = []
        if not versions:
            raise ActionNotFoundError(f"npm has no package {NPM_SCOPE}/{app}, which would contain {uses.key}.")
        search, downloads = _VersionSearch(uses.version, versions), 0
        while (package := search.next_version) is not None:
            if downloads == self._max_downloads and package not in self._load_index(app):
                raise ActionNotFoundError(
                    f"{uses} is not in the {downloads} of {len(versions)} searched versions of {NPM_SCOPE}/{app}.",
                    fix=f"To continue the search, run: pdkernel actions add {uses}",
                )
            if package not in self._load_index(app):
                downloads += 1
                if downloads > 1:
                    progress(
                        f"Searching npm for {uses}: {NPM_SCOPE}/{app} {package} (at most {search.remaining_count} left)"
                    )
            component_version = await self._version_in(app, package, uses.key)
            if component_version is not None and uses.version in (None, component_version):
                found = self.find_component(uses.key, component_version)
                assert found is not None
                return found
            search.add_result(component_version)
        if not search.found_versions:
            raise ActionNotFoundError(f"{NPM_SCOPE}/{app} on npm has no component {uses.key}.")
        seen = sorted(set(search.found_versions.values()), key=version_sort_key)
        raise ActionVersionError(
            f"npm has no package with {uses}. Packages contain {uses.key} in {', '.join(seen)}.",
            fix=f"To use another version, run: pdkernel actions add {uses.key}@{seen[-1]} --instead-of {uses}",
        )

    async def _version_in(self, app: str, package: str, key: str) -> str | None:
        indexed = await self._index_package(app, package)
        return next((each.header.version for each in indexed if each.header.key == key), None)

    async def _index_package(self, app: str, package: str) -> Sequence[_IndexedComponent]:
        known = self._load_index(app)
        if package not in known:
            with tempfile.TemporaryDirectory(prefix="pdkernel-look-") as folder:
                await self._packages.download(f"{NPM_SCOPE}/{app}", package, Path(folder))
                known[package] = tuple(_index_components(Path(folder) / "package"))
            self._write(app, known)
        return known[package]

    def _load_index(self, app: str) -> dict[str, tuple[_IndexedComponent, ...]]:
        if app not in self._index:
            try:
                self._index[app] = decode_json(self._file(app).read_bytes(), dict[str, tuple[_IndexedComponent, ...]])
            except (OSError, ValueError):
                return self._index.setdefault(app, {})
        return self._index[app]

    def _write(self, app: str, known: Mapping[str, Sequence[_IndexedComponent]]) -> None:
        path = self._file(app)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(f".{secrets.token_hex(4)}")  # another process may write the index at the same time
        try:
            draft.write_bytes(encode_json(dict(known)))
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _file(self, app: str) -> Path:
        return self._folder / "index" / f"{app}.json"


class _VersionSearch:
    """
    The order in which package versions are examined for the one that contains a given version of a component.

    The newest package version comes first, then a binary search, then the remaining versions. The caller downloads the package
    versions and reports the results.

    The version of a component grows with the version of its package, so a binary search needs few downloads. If the
    component was removed for some versions, the binary search may fail. Then the versions between the nearest older and
    newer results come first.

    Args:
        wanted: The version of the component. None accepts any version and ends after the binary search.
        versions: The versions of the package, oldest first.

    Attributes:
        found_versions: The version of the component by index in *versions*, for versions that contain the component.
    """

    def __init__(self, wanted: str | None, versions: Sequence[str]) -> None:
        self._wanted = wanted
        self._versions = versions
        self._low, self._high = 0, len(versions) - 1
        self._unsearched = set(range(len(versions)))
        self._position: int | None = self._high
        self.found_versions: dict[int, str] = {}

    @property
    def next_version(self) -> str | None:
        """The package version to examine; None at the end of the search."""
        return None if self._position is None else self._versions[self._position]

    @property
    def remaining_count(self) -> int:
        """The maximum number of versions to examine after this one."""
        return len(self._unsearched) - 1

    def add_result(self, version: str | None) -> None:
        """Report the version of the component in `next_version`, or None if that package version does not contain it."""
        assert self._position is not None
        at = self._position
        self._unsearched.discard(at)
        if version is not None:
            self.found_versions[at] = version
        # a component that is missing in the newest version was removed; missing in another, it was added later
        if self._is_newer(version) or (version is None and at == len(self._versions) - 1):
            self._high = min(self._high, at - 1)
        else:
            self._low = max(self._low, at + 1)
        middle = (self._low + self._high) // 2
        if self._low <= self._high and middle in self._unsearched:
            self._position = middle
        else:
            self._position = self._next_unsearched() if self._wanted is not None else None

    def _is_newer(self, version: str | None) -> bool:
        return (
            version is not None
            and self._wanted is not None
            and version_sort_key(version) > version_sort_key(self._wanted)
        )

    def _next_unsearched(self) -> int | None:
        """Return the newest unsearched version between the nearest older and newer results, else the newest unsearched version."""
        self._low, self._high = 1, 0  # the binary search is finished
        below = max((at for at, version in self.found_versions.items() if not self._is_newer(version)), default=-1)
        above = min(
            (at for at, version in self.found_versions.items() if self._is_newer(version)), default=len(self._versions)
        )
        return max(self._unsearched, key=lambda at: (below < at < above, at), default=None)


def get_package_version(component: Component) -> str:
    """Return the version of the npm package that contains *component*."""
    return component.source.rpartition(" ")[2]


def build_not_installed_error(uses: ActionReference) -> ActionNotFoundError:
    """Return the error for an action that is not installed and must not be installed."""
    return ActionNotFoundError(
        f"The action {uses} is not installed in this project, and --no-install or PDKERNEL_NO_INSTALL forbids its installation.",
        fix=f"Install the action: pdkernel actions add {uses}",
    )


def _component(app: str, package: str, indexed: _IndexedComponent, installed: Path | None) -> Component:
    file = build_component_file(indexed.header, installed / indexed.path, "npm") if installed is not None else None
    return build_component(indexed.header, source=f"npm {NPM_SCOPE}/{app} {package}", file=file)


def _index_components(folder: Path) -> Iterator[_IndexedComponent]:
    for path in iter_component_modules(folder):
        header = parse_header(path.read_text(encoding="utf-8", errors="replace"))
        if header is not None:
            yield _IndexedComponent(header, path.relative_to(folder).as_posix())


class NpmRegistry:
    """
    The registry that the user has configured for npm: its versions, downloads and installations.

    `packages` runs npm. Install scripts of packages never run.

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
        Return the published versions of *package*, as npm orders them.

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
        """Return an installed version with its dependencies, or None if that version is not installed."""
        tree = self._installed.find([NpmSpec(package, version)])
        return tree.locked if tree else None

    def find_installed(self, package: str, version: str) -> Path | None:
        """Return the folder of an installed version, or None if that version is not installed."""
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
