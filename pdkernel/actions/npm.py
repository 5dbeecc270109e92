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

from pdkernel.actions.component import Component, Header, component_of, file_of, modules_in, read_header
from pdkernel.actions.keys import Uses, app_of, version_order
from pdkernel.actions.lock import ActionsLock
from pdkernel.actions.version_search import VersionSearch
from pdkernel.errors import ActionNotFoundError, ActionVersionError, ProjectError

Progress = Callable[[str], None]

SCOPE = "@pipedream"
_APPS = (
    "apify aws brex canva clio docusign gitlab google_drive helper_functions launchdarkly linear_app linkedin "
    "microsoft_outlook monday mysql notiff_io notion pipedream postgresql procore quickbooks ramp sftp shopify slack "
    "youtube_data_api"
)
KNOWN_APPS = tuple(_APPS.split())
"""Apps whose components were found on npm; there may be more by now."""


class Packages(Protocol):
    """What a registry does (`registry.Registry`)."""

    async def versions(self, package: str) -> list[str]:
        """The published versions, oldest first."""
        ...

    async def unpack(self, package: str, version: str, into: Path) -> None:
        """The files of one version."""
        ...

    def place(self, package: str, version: str) -> Path | None:
        """The folder of one version that is installed."""
        ...

    async def install(self, package: str, version: str, progress: Progress) -> Path:
        """One version with what it depends on; its folder."""
        ...


@dataclass(frozen=True)
class _Held:
    """A component in a package version: its header, and its module's path in the package."""

    header: Header
    path: str


class NpmSource:
    """
    The components on npm.

    Args:
        folder: Where what is known of packages is kept, `.pdkernel/packages/components`.
        packages: The registry.
        lock: From which package version each component comes.
        looks: Package versions that one search downloads; they are remembered, so that the next one goes on from there.
    """

    name = "npm"

    def __init__(self, folder: Path, packages: Packages, lock: ActionsLock, *, looks: int = 60) -> None:
        self._folder = folder
        self._packages = packages
        self._lock = lock
        self._looks = looks
        self._index: dict[str, dict[str, tuple[_Held, ...]]] = {}

    def __str__(self) -> str:
        return "npm"

    def apps(self) -> list[str]:
        """The apps of which a package was looked at."""
        return sorted(path.stem for path in (self._folder / "index").glob("*.json"))

    def of_app(self, app: str) -> Mapping[str, Component]:
        """What is known of *app* here, by key, in the newest package version that was looked at."""
        known = self._known(app)
        if not known:
            return {}
        newest = max(known, key=version_order)
        place = self._packages.place(f"{SCOPE}/{app}", newest)
        return {held.header.key: _component(app, newest, held, place) for held in known[newest]}

    def find(self, key: str, version: str | None) -> Component | None:
        """The component in the package version that the lock file names; in any that was looked at if it names none."""
        app = app_of(key)
        pinned = self._lock.package_of(f"{key}@{version}")
        found = [
            _component(app, package, held, self._packages.place(f"{SCOPE}/{app}", package))
            for package, all_held in sorted(self._known(app).items(), key=lambda item: version_order(item[0]))
            for held in all_held
            if held.header.key == key and version in (None, held.header.version) and pinned in (None, package)
        ]
        installed = [component for component in found if component.file is not None]
        best = installed if version is not None and installed else found
        return best[-1] if best else None

    async def look(self, app: str, progress: Progress) -> bool:
        """Look at the newest package of *app*; False if npm has none. Raises `ActionSourceError`."""
        progress(f"Looking at npm's {SCOPE}/{app}")
        try:
            versions = await self._packages.versions(f"{SCOPE}/{app}")
        except ActionNotFoundError:
            return False
        if not versions:
            return False
        await self._look_at(app, max(versions, key=version_order))
        return True

    async def obtain(self, uses: Uses, progress: Progress) -> Component:
        """
        The component, installed.

        Raises:
            ActionNotFoundError: npm has no such package, or no version of it has such a component.
            ActionVersionError: No package version has that version of it; the message names those that there are.
            ActionSourceError: npm cannot be run, or the registry not be reached.
            ProjectError: The lock file cannot be read, or says what is not so.
        """
        app = app_of(uses.key)
        component = self.find(uses.key, uses.version)
        if component is None:
            pinned = self._lock.package_of(str(uses))
            component = await (
                self._pinned(uses, pinned, progress) if pinned else self._search_versions(uses, progress)
            )
        package = package_of(component)
        if component.file is None:
            await self._packages.install(f"{SCOPE}/{app}", package, progress)
            installed = self.find(uses.key, component.version)
            if installed is None or installed.file is None:
                raise ActionNotFoundError(f"{SCOPE}/{app} {package} was installed and does not hold {component.uses}.")
            component = installed
        self.pin(component)
        return component

    def pin(self, component: Component) -> None:
        """Write into the lock file where *component* comes from. Raises `ActionSourceError`."""
        self._lock.pin(component.uses, package_of(component))

    async def _pinned(self, uses: Uses, package: str, progress: Progress) -> Component:
        """The component in the package version that the lock file names, which nobody here has looked at yet."""
        app = app_of(uses.key)
        place = await self._packages.install(f"{SCOPE}/{app}", package, progress)
        known = self._known(app)
        known[package] = tuple(_held_in(place))
        self._write(app, known)
        found = self.find(uses.key, uses.version)
        if found is None:
            raise ProjectError(
                f"{self._lock.path.name} says that {SCOPE}/{app} {package} has {uses}, and it has not.",
                fix=f"Take that line out of {self._lock.path.name}: then it is looked for again.",
            )
        return found

    async def _search_versions(self, uses: Uses, progress: Progress) -> Component:
        """Look at package versions until one holds what is asked for."""
        app = app_of(uses.key)
        progress(f"Looking for {uses} on npm")
        try:
            versions = sorted(await self._packages.versions(f"{SCOPE}/{app}"), key=version_order)
        except ActionNotFoundError:
            versions = []
        if not versions:
            raise ActionNotFoundError(f"npm has no package {SCOPE}/{app}, which would hold {uses.key}.")
        search, looks = VersionSearch(uses.version, versions), 0
        while (package := search.next) is not None:
            if looks == self._looks and package not in self._known(app):
                raise ActionNotFoundError(
                    f"{uses} is in none of {looks} versions of {SCOPE}/{app} that were looked at, of {len(versions)}.",
                    fix=f"To look at more of them: pdkernel actions add {uses}",
                )
            if package not in self._known(app):
                looks += 1
                if looks > 1:
                    progress(f"Looking for {uses} on npm: {SCOPE}/{app} {package} ({search.left} left at most)")
            there = await self._version_in(app, package, uses.key)
            if there is not None and uses.version in (None, there):
                found = self.find(uses.key, there)
                assert found is not None
                return found
            search.saw(there)
        if not search.seen:
            raise ActionNotFoundError(f"{SCOPE}/{app} on npm has no component {uses.key}.")
        seen = sorted(set(search.seen.values()), key=version_order)
        raise ActionVersionError(
            f"npm has no package with {uses}: packages hold {uses.key} in {', '.join(seen)}.",
            fix=f"Run another version from now on: pdkernel actions add {uses.key}@{seen[-1]} --instead-of {uses}",
        )

    async def _version_in(self, app: str, package: str, key: str) -> str | None:
        held = await self._look_at(app, package)
        return next((each.header.version for each in held if each.header.key == key), None)

    async def _look_at(self, app: str, package: str) -> Sequence[_Held]:
        known = self._known(app)
        if package not in known:
            with tempfile.TemporaryDirectory(prefix="pdkernel-look-") as folder:
                await self._packages.unpack(f"{SCOPE}/{app}", package, Path(folder))
                known[package] = tuple(_held_in(Path(folder) / "package"))
            self._write(app, known)
        return known[package]

    def _known(self, app: str) -> dict[str, tuple[_Held, ...]]:
        if app not in self._index:
            try:
                data = json.loads(self._file(app).read_text(encoding="utf-8"))
                self._index[app] = {
                    package: tuple(_Held(Header(**each["header"]), each["path"]) for each in held)
                    for package, held in data.items()
                }
            except (OSError, ValueError, TypeError, KeyError):
                return self._index.setdefault(app, {})
        return self._index[app]

    def _write(self, app: str, known: Mapping[str, Sequence[_Held]]) -> None:
        path = self._file(app)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({package: [asdict(each) for each in held] for package, held in known.items()}))
        draft.replace(path)

    def _file(self, app: str) -> Path:
        return self._folder / "index" / f"{app}.json"


def package_of(component: Component) -> str:
    """The version of the package that a component of npm comes from."""
    return component.source.rpartition(" ")[2]


def _component(app: str, package: str, held: _Held, place: Path | None) -> Component:
    file = file_of(held.header, place / held.path, "npm") if place is not None else None
    return component_of(held.header, source=f"npm {SCOPE}/{app} {package}", file=file)


def _held_in(folder: Path) -> Iterator[_Held]:
    for path in modules_in(folder):
        header = read_header(path.read_text(encoding="utf-8", errors="replace"))
        if header is not None:
            yield _Held(header, path.relative_to(folder).as_posix())
