"""
Components that npm has: packages `@pipedream/APP`, installed into the project when a step needs one.

Knows that a package version holds one version of each component, and finds the package version that holds the one
asked for. What is known of package versions is kept, so that the second look needs no network.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from pdkernel.actions.action_reference import ActionReference, get_app_slug, version_sort_key
from pdkernel.actions.component import (
    Component,
    ComponentHeader,
    build_component,
    build_component_file,
    iter_component_modules,
    parse_header,
)
from pdkernel.actions.lock import ActionsLock
from pdkernel.actions.version_search import VersionSearch
from pdkernel.errors import ActionNotFoundError, ActionVersionError, ProjectError

ProgressCallback = Callable[[str], None]

NPM_SCOPE = "@pipedream"
_APPS = (
    "apify aws brex canva clio docusign gitlab google_drive helper_functions launchdarkly linear_app linkedin "
    "microsoft_outlook monday mysql notiff_io notion pipedream postgresql procore quickbooks ramp sftp shopify slack "
    "youtube_data_api"
)
APPS_ON_NPM = tuple(_APPS.split())
"""Apps whose components were found on npm; there may be more by now."""


class PackageRegistry(Protocol):
    """What a registry does (`registry.Registry`)."""

    async def list_versions(self, package: str) -> list[str]:
        """The published versions, oldest first."""
        ...

    async def download(self, package: str, version: str, target: Path) -> None:
        """The files of one version."""
        ...

    def find_installed(self, package: str, version: str) -> Path | None:
        """The folder of one version that is installed."""
        ...

    async def install(self, package: str, version: str, progress: ProgressCallback) -> Path:
        """One version with what it depends on; its folder."""
        ...


@dataclass(frozen=True)
class _IndexedComponent:
    """A component in a package version: its header, and its module's path in the package."""

    header: ComponentHeader
    path: str


class NpmSource:
    """
    The components on npm.

    Args:
        folder: Where what is known of packages is kept, `.pdkernel/packages/components`.
        packages: The registry.
        lock: From which package version each component comes.
        max_downloads: Package versions that one search downloads; they are remembered, so that the next one goes on from there.
    """

    name = "npm"

    def __init__(self, folder: Path, packages: PackageRegistry, lock: ActionsLock, *, max_downloads: int = 60) -> None:
        self._folder = folder
        self._packages = packages
        self._lock = lock
        self._looks = max_downloads
        self._index: dict[str, dict[str, tuple[_IndexedComponent, ...]]] = {}

    def __str__(self) -> str:
        return "npm"

    def list_apps(self) -> list[str]:
        """The apps of which a package was looked at."""
        return sorted(path.stem for path in (self._folder / "index").glob("*.json"))

    def load_components(self, app: str) -> Mapping[str, Component]:
        """What is known of *app* here, by key, in the newest package version that was looked at."""
        known = self._load_index(app)
        if not known:
            return {}
        newest = max(known, key=version_sort_key)
        place = self._packages.find_installed(f"{NPM_SCOPE}/{app}", newest)
        return {held.header.key: _component(app, newest, held, place) for held in known[newest]}

    def find_component(self, key: str, version: str | None) -> Component | None:
        """The component in the package version that the lock file names; in any that was looked at if it names none."""
        app = get_app_slug(key)
        pinned = self._lock.get_package_version(f"{key}@{version}")
        found = [
            _component(app, package, held, self._packages.find_installed(f"{NPM_SCOPE}/{app}", package))
            for package, all_held in sorted(self._load_index(app).items(), key=lambda item: version_sort_key(item[0]))
            for held in all_held
            if held.header.key == key and version in (None, held.header.version) and pinned in (None, package)
        ]
        installed = [component for component in found if component.file is not None]
        best = installed if version is not None and installed else found
        return best[-1] if best else None

    async def index_newest_package(self, app: str, progress: ProgressCallback) -> bool:
        """Look at the newest package of *app*; False if npm has none. Raises `ActionSourceError`."""
        progress(f"Looking at npm's {NPM_SCOPE}/{app}")
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
        The component, installed.

        Raises:
            ActionNotFoundError: npm has no such package, or no version of it has such a component.
            ActionVersionError: No package version has that version of it; the message names those that there are.
            ActionSourceError: npm cannot be run, or the registry not be reached.
            ProjectError: The lock file cannot be read, or says what is not so.
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
                    f"{NPM_SCOPE}/{app} {package} was installed and does not hold {component.uses}."
                )
            component = installed
        self.lock_component(component)
        return component

    def lock_component(self, component: Component) -> None:
        """Write into the lock file where *component* comes from. Raises `ActionSourceError`."""
        self._lock.lock_package_version(component.uses, get_package_version(component))

    async def _install_locked(self, uses: ActionReference, package: str, progress: ProgressCallback) -> Component:
        """The component in the package version that the lock file names, which nobody here has looked at yet."""
        app = get_app_slug(uses.key)
        place = await self._packages.install(f"{NPM_SCOPE}/{app}", package, progress)
        known = self._load_index(app)
        known[package] = tuple(_index_components(place))
        self._write(app, known)
        found = self.find_component(uses.key, uses.version)
        if found is None:
            raise ProjectError(
                f"{self._lock.path.name} says that {NPM_SCOPE}/{app} {package} has {uses}, and it has not.",
                fix=f"Take that line out of {self._lock.path.name}: then it is looked for again.",
            )
        return found

    async def _search_versions(self, uses: ActionReference, progress: ProgressCallback) -> Component:
        """Look at package versions until one holds what is asked for."""
        app = get_app_slug(uses.key)
        progress(f"Looking for {uses} on npm")
        try:
            versions = sorted(await self._packages.list_versions(f"{NPM_SCOPE}/{app}"), key=version_sort_key)
        except ActionNotFoundError:
            versions = []
        if not versions:
            raise ActionNotFoundError(f"npm has no package {NPM_SCOPE}/{app}, which would hold {uses.key}.")
        search, looks = VersionSearch(uses.version, versions), 0
        while (package := search.next_version) is not None:
            if looks == self._looks and package not in self._load_index(app):
                raise ActionNotFoundError(
                    f"{uses} is in none of {looks} versions of {NPM_SCOPE}/{app} that were looked at, of {len(versions)}.",
                    fix=f"To look at more of them: pdkernel actions add {uses}",
                )
            if package not in self._load_index(app):
                looks += 1
                if looks > 1:
                    progress(
                        f"Looking for {uses} on npm: {NPM_SCOPE}/{app} {package} ({search.remaining_count} left at most)"
                    )
            there = await self._version_in(app, package, uses.key)
            if there is not None and uses.version in (None, there):
                found = self.find_component(uses.key, there)
                assert found is not None
                return found
            search.add_result(there)
        if not search.found_versions:
            raise ActionNotFoundError(f"{NPM_SCOPE}/{app} on npm has no component {uses.key}.")
        seen = sorted(set(search.found_versions.values()), key=version_sort_key)
        raise ActionVersionError(
            f"npm has no package with {uses}: packages hold {uses.key} in {', '.join(seen)}.",
            fix=f"Run another version from now on: pdkernel actions add {uses.key}@{seen[-1]} --instead-of {uses}",
        )

    async def _version_in(self, app: str, package: str, key: str) -> str | None:
        held = await self._index_package(app, package)
        return next((each.header.version for each in held if each.header.key == key), None)

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
                data = json.loads(self._file(app).read_text(encoding="utf-8"))
                self._index[app] = {
                    package: tuple(_IndexedComponent(ComponentHeader(**each["header"]), each["path"]) for each in held)
                    for package, held in data.items()
                }
            except (OSError, ValueError, TypeError, KeyError):
                return self._index.setdefault(app, {})
        return self._index[app]

    def _write(self, app: str, known: Mapping[str, Sequence[_IndexedComponent]]) -> None:
        path = self._file(app)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({package: [asdict(each) for each in held] for package, held in known.items()}))
        draft.replace(path)

    def _file(self, app: str) -> Path:
        return self._folder / "index" / f"{app}.json"


def get_package_version(component: Component) -> str:
    """The version of the package that a component of npm comes from."""
    return component.source.rpartition(" ")[2]


def _component(app: str, package: str, held: _IndexedComponent, place: Path | None) -> Component:
    file = build_component_file(held.header, place / held.path, "npm") if place is not None else None
    return build_component(held.header, source=f"npm {NPM_SCOPE}/{app} {package}", file=file)


def _index_components(folder: Path) -> Iterator[_IndexedComponent]:
    for path in iter_component_modules(folder):
        header = parse_header(path.read_text(encoding="utf-8", errors="replace"))
        if header is not None:
            yield _IndexedComponent(header, path.relative_to(folder).as_posix())
