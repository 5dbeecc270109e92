"""
The look-up of actions in the sources that a project or a workflow has chosen, in their order; the built-in actions; a folder of components.

If there are several sources, the lock file names the source of each action, and that source comes first. The built-in actions reimplement
the documented and observed behaviour of the platform's actions and share no code with them. A folder has the layout of a components
checkout (`components/APP/actions/NAME/NAME.mjs`, and `sources`); its packages are not installed by pdkernel.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdkernel.actions.component import (
    ActionReference,
    Component,
    ComponentKind,
    build_component,
    build_component_file,
    iter_component_modules,
    parse_header,
)
from pdkernel.actions.connect_source import ConnectSource
from pdkernel.actions.folder_index import FolderIndex
from pdkernel.actions.npm_source import ActionsLock, NpmSource, ProgressCallback, build_not_installed_error
from pdkernel.actions.source_settings import (
    ActionSettings,
    SourceSetting,
    build_licence_error,
    find_components_folder,
    format_tried_sources,
)
from pdkernel.common.blocking import run_blocking
from pdkernel.errors import ActionNotFoundError, LicenceError
from pdkernel.model import get_app_slug

BUILTIN_FOLDER = Path(__file__).parent / "builtin"
BUILTIN_SOURCE_LABEL = "built in"
_LIMITATIONS_BY_APP = {
    "email": "sent by SMTP if the project's settings name a server, else only shown",
}
"""The limitations of built-in actions, by app."""


@functools.cache
def load_builtin_actions() -> Mapping[str, Component]:
    """Return the built-in actions, by key."""
    found = {}
    for path in sorted(BUILTIN_FOLDER.glob("*.mjs")):
        header = parse_header(path.read_text(encoding="utf-8"))
        if header is not None:
            found[header.key] = Component(
                key=header.key,
                version=header.version,
                app=None,
                name=header.name,
                description=header.description,
                source=BUILTIN_SOURCE_LABEL,
                file=build_component_file(header, path, "builtin"),
                kind=header.kind,
                limitations=_LIMITATIONS_BY_APP.get(header.key.partition("-")[0], ""),
            )
    return found


def can_replace_version(component: Component, version: str | None) -> bool:
    """
    Return whether the built-in *component* can run for a step that uses *version* of the action.

    The platform keeps the names of props within a major version. If a step sets a prop that the built-in action does not have,
    the run is refused before its first step.
    """
    # parity[built-in-versions]: the platform runs the exact version; a built-in action runs for its whole major version
    return version is None or version.partition(".")[0] == component.version.partition(".")[0]


class FolderSource:
    """
    The components of one folder.

    Args:
        folder: The folder of components, or the parent of a folder `components`.
        cache: The folder that keeps the index, or None.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self._folder = find_components_folder(folder) or folder
        self._index = FolderIndex(self._folder, cache)
        self._cache: dict[str, tuple[Mapping[Path, tuple[int, int]], Mapping[str, Component]]] = {}

    def list_apps(self, kind: ComponentKind | None = None) -> list[str]:
        """Return the apps with components, or with a folder for components of *kind*."""
        return self._index.list_apps(kind)

    def list_keys(self) -> Mapping[str, str]:
        """Return the app of each key that a module in the folder names, without parsing the modules; some may not be components."""
        return self._index.list_keys()

    def find_app_folder(self, app: str) -> Path | None:
        """Return the folder of *app*, or None."""
        folder = self._folder / app
        return folder if folder.is_dir() else None

    def find_component(self, key: str) -> Component | None:
        """
        Return the component *key*, or None.

        A private component `@WORKSPACE/NAME` has the key NAME or `@WORKSPACE/NAME` in its module, in the folder of any app.
        """
        found = self.load_components(get_app_slug(key)).get(key) if not key.startswith("@") else None
        if found is not None:
            return found
        keys = self.list_keys()
        for name in (key, key.rpartition("/")[2]) if key.startswith("@") else (key,):
            found = self.load_components(keys[name]).get(name) if name in keys else None
            if found is not None:
                return replace(found, key=key)
        return None

    def load_components(self, app: str) -> Mapping[str, Component]:
        """Return the components of *app*, by key."""
        app_folder = self._folder / app
        if not app_folder.is_dir():
            return {}
        modules = {}
        for path in iter_component_modules(app_folder):
            facts = path.stat()
            modules[path] = (facts.st_mtime_ns, facts.st_size)
        known = self._cache.get(app)
        if known is not None and known[0] == modules:
            return known[1]
        found = {}
        for path in modules:
            header = parse_header(path.read_text(encoding="utf-8", errors="replace"))
            if header is not None:
                component = build_component(
                    header,
                    source=f"folder {self._folder.name}/{app}",
                    file=build_component_file(header, path, "folder"),
                )
                found[header.key] = replace(component, app=app)  # the key of a private component names no app
        self._cache[app] = (modules, found)
        return found


@dataclass(frozen=True)
class SourceLookup:
    """
    The sources of actions that are not built in.

    Attributes:
        settings: The sources and the licence.
        lock: The lock file of actions.
        npm_source: The components on npm.
        open_connect_source: Returns the source of actions that Pipedream runs; raises `ConnectSettingsError` without a login.
        cache: The folder that keeps the indexes of folders of components.
    """

    settings: ActionSettings
    lock: ActionsLock
    npm_source: NpmSource
    open_connect_source: Callable[[], ConnectSource]
    cache: Path
    _folders: dict[Path, FolderSource] = field(default_factory=dict)

    def get_folder_source(self, folder: Path) -> FolderSource:
        """Return the source for *folder*."""
        if folder not in self._folders:
            self._folders[folder] = FolderSource(folder, self.cache)
        return self._folders[folder]

    def iter_local_sources(self) -> Iterator[tuple[SourceSetting, NpmSource | FolderSource]]:
        """Yield the sources on this machine that may be read, with their settings."""
        for setting in self.settings.sources:
            if setting.folder is not None:
                yield setting, self.get_folder_source(setting.folder)
            elif setting.source == "npm" and self.settings.is_licence_accepted:
                yield setting, self.npm_source

    def find_remote_sources(self, reference: ActionReference) -> list[SourceSetting]:
        """Return the sources that may have an action that is not on this machine: npm with its licence accepted, and Pipedream."""
        if reference.is_private:
            return []
        return [
            each
            for each in self.settings.sources
            if each.source == "connect" or (each.source == "npm" and self.settings.is_licence_accepted)
        ]

    def order_sources(self, uses: ActionReference, locked: str | None = None) -> list[SourceSetting]:
        """Return the sources in the order in which *uses* is looked up: the *locked* one (by default of the lock file) comes first."""
        sources = list(self.settings.sources)
        if len(sources) > 1 and (first := locked or self.lock.get_source(str(uses))) is not None:
            sources.sort(key=lambda each: self.format_locked_source(each) != first)
        return sources

    def format_locked_source(self, setting: SourceSetting) -> str:
        """Return the source as the lock file names it: the path of a folder starts at the lock file's folder."""
        if setting.folder is None:
            return setting.source
        return f"./{os.path.relpath(setting.folder, self.lock.path.parent)}".replace(os.sep, "/")

    def check_licence(self, uses: ActionReference) -> None:
        """Raise `LicenceError` if npm, whose licence is not accepted, may have *uses*."""
        if self.settings.is_licence_missing and not uses.is_private:
            others = ", ".join(each.label for each in self.settings.sources if each.source != "npm")
            raise build_licence_error(
                f"The action {uses} is not in {others}; npm may have it."
                if others
                else f"The action {uses} comes from npm."
            )

    def find_local(self, uses: ActionReference) -> Component | None:
        """Return the component of *uses* in the first source that has it, without a network call; or None."""
        found = (self._find_in(setting, uses) for setting in self.order_sources(uses))
        return next((each for each in found if each is not None), None)

    def find_other_version(self, key: str) -> Component | None:
        """Return the component *key* of the first folder that has a version of it, or None."""
        for setting in self.settings.sources:
            found = self.get_folder_source(setting.folder).find_component(key) if setting.folder is not None else None
            if found is not None:
                return replace(found, setting=setting)
        return None

    async def load(
        self, uses: ActionReference, sources: Sequence[SourceSetting], *, install: bool, progress: ProgressCallback
    ) -> Component:
        """
        Find *uses* in the first of *sources* that has it, over the network if necessary; install it from npm.

        Raises:
            ActionNotFoundError: No source has it; if the error has no fix, its message has only the reasons of the sources.
            LicenceError: Only npm may have it, and its licence is not accepted.
            ActionSourceError: A source cannot be reached.
        """
        faults: list[ActionNotFoundError | LicenceError] = []
        for setting in sources:
            try:
                found = await self._load_from(setting, uses, install=install, progress=progress)
            except (ActionNotFoundError, LicenceError) as fault:
                faults.append(fault)
                continue
            if found is not None:
                return found
        fixable = next((fault for fault in faults if fault.fix), None)
        if isinstance(fixable, ActionNotFoundError) and len(sources) > 1:
            fixable.message += f" {format_tried_sources(sources)}"
        raise fixable or ActionNotFoundError(" ".join(fault.message for fault in faults))

    def _find_in(self, setting: SourceSetting, uses: ActionReference) -> Component | None:
        """Return the component of *uses* in one source, without a network call; None if the source does not have it."""
        found: Component | None = None
        if setting.folder is not None:
            other = self.get_folder_source(setting.folder).find_component(uses.key)
            found = other if other is not None and uses.version in (None, other.version) else None
        elif setting.source == "npm" and self.settings.is_licence_accepted:
            found = self.npm_source.find_component(uses.key, uses.version)
        return None if found is None else replace(found, setting=setting)

    async def _load_from(
        self, setting: SourceSetting, uses: ActionReference, *, install: bool, progress: ProgressCallback
    ) -> Component | None:
        found = await run_blocking(self._find_in, setting, uses)
        if found is not None and found.file is not None:
            if setting.source == "npm":
                self.npm_source.lock_component(found)  # its package was installed for another action
            return found
        if uses.is_private or setting.source == "folder":
            return None
        if setting.source == "connect":
            found, _ = await (await run_blocking(self.open_connect_source)).fetch_action(uses.key, uses.version)
        else:
            await run_blocking(self.check_licence, uses)
            if not install:
                raise build_not_installed_error(uses)
            found = await self.npm_source.install_component(uses, progress)
        return replace(found, setting=setting)
