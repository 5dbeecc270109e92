"""
The actions that a project can run, from all its sources, by key and version.

    catalog = Catalog.for_project(project, environ=os.environ)
    catalog.resolve("slack-send-message", "0.0.20")                  # on this machine
    await catalog.resolve_or_install(ActionReference.parse(...))     # installs the action if necessary

Built-in actions take precedence over the source that the project has chosen. The exact version runs, unless the lock file
overrides it.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.actions.action_reference import ActionReference, version_sort_key
from pdkernel.actions.builtin_source import can_replace_version, load_builtin_actions
from pdkernel.actions.component import Component, ComponentKind
from pdkernel.actions.connect_source import ConnectSource, resolve_connect_login
from pdkernel.actions.description_cache import DescriptionCache
from pdkernel.actions.folder_source import FolderSource
from pdkernel.actions.lock import LOCK_NAME, ActionsLock, LockedComponent
from pdkernel.actions.missing_action import build_missing_action_error
from pdkernel.actions.npm_registry import NpmRegistry
from pdkernel.actions.npm_source import (
    NpmSource,
    PackageRegistry,
    ProgressCallback,
    build_not_installed_error,
)
from pdkernel.actions.prop_binding import guess_app_bindings, resolve_app_bindings
from pdkernel.actions.source_settings import (
    ActionSettings,
    EmptySettings,
    SettingsStore,
    SourceSetting,
    build_licence_error,
)
from pdkernel.analysis import find_app_bindings
from pdkernel.errors import ActionNotFoundError, ConnectSettingsError, LicenceError
from pdkernel.model import AppBinding, Step, get_app_slug

if TYPE_CHECKING:
    from pdkernel.project import Login, Project

_MAX_SUGGESTIONS = 3


def _silent(_: str) -> None:
    """Discard a progress message."""


class Catalog:
    """
    The actions of one project.

    Args:
        settings: The project's settings.
        folder: The folder for components, `.pdkernel/packages/components`.
        lock: The lock file of actions.
        packages: The registry of npm components.
        login: Returns the login of the Connect project that runs actions; raises `ConnectSettingsError` if there is none.

    Attributes:
        settings: The project's settings for actions: source and licence.
        lock: The lock file of actions.
        descriptions: The cache of the props that components declare.
    """

    def __init__(
        self,
        settings: SettingsStore,
        folder: Path,
        *,
        lock: ActionsLock,
        packages: PackageRegistry,
        login: Callable[[], Login],
    ) -> None:
        self.settings = ActionSettings(settings)
        self.lock = lock
        self.descriptions = DescriptionCache(folder / "described")
        self.npm_source = NpmSource(folder, packages, lock)
        self._login = login
        self._folders: dict[Path, FolderSource] = {}
        self._connect: ConnectSource | None = None

    @classmethod
    def for_project(cls, project: Project, *, environ: Mapping[str, str]) -> Catalog:
        """The catalog of *project*."""
        folder = project.folder / "packages" / "components"
        lock = ActionsLock(project.folder.parent / LOCK_NAME)
        packages = NpmRegistry(environ, folder=folder / "installed", lock=lock.path)
        return cls(
            project.settings,
            folder,
            lock=lock,
            packages=packages,
            login=lambda: resolve_connect_login(project, environ),
        )

    @classmethod
    def without_project(cls, folder: Path, *, environ: Mapping[str, str]) -> Catalog:
        """The catalog that a new project in *folder* would have; the project is not created."""

        def login() -> Login:
            raise ConnectSettingsError(
                "There is no project yet, so there is no login at Pipedream.", fix="Log in: pdkernel login"
            )

        components = folder / "packages" / "components"
        lock = ActionsLock(folder.parent / LOCK_NAME)
        packages = NpmRegistry(environ, folder=components / "installed", lock=lock.path)
        return cls(EmptySettings(), components, lock=lock, packages=packages, login=login)

    def with_source(self, source: str | None, *, base: Path) -> Catalog:
        """
        This catalog with the *source* of a workflow's `pdkernel.yaml`; None keeps the project's source.

        If the source is `npm` and its licence is not accepted, resolving an action of npm raises `LicenceError`.

        Raises:
            RequestError: *source* is not the name of a source or a folder with components.
        """
        if source is None:
            return self
        other = copy.copy(self)
        other.settings = self.settings.with_source(self.settings.parse_source(source, base=base))
        return other

    @property
    def connect_source(self) -> ConnectSource:
        """The source of actions that Pipedream runs. Raises `ConnectSettingsError` without a login."""
        settings = self._login()
        if self._connect is None or self._connect.login != settings:
            self._connect = ConnectSource(settings)
        return self._connect

    def get_folder_source(self, setting: SourceSetting) -> FolderSource:
        """The source for the folder that *setting* names."""
        assert setting.folder is not None
        return self._folders.setdefault(setting.folder, FolderSource(setting.folder))

    def resolve(self, key: str, version: str | None) -> Component:
        """
        Find the component that runs for KEY@VERSION, without a network call.

        The result's `file` is None if the component is not installed yet.

        Raises:
            ActionNotFoundError: No source has the action; the message names similar keys and possible sources.
            LicenceError: The action comes from npm, whose licence is not accepted.
            ActionVersionError: The source has another version; the message names that version and the command that selects it.
        """
        reference = ActionReference(key, version)
        override = self._find_locked_version(reference)
        found = self._find_local(ActionReference(key, override) if override else reference)
        if found is None:
            self._check_licence(reference)
            raise self._not_found(reference)
        return replace(found, requested_version=version) if override and override != version else found

    async def resolve_or_install(
        self, reference: ActionReference, *, install: bool = True, progress: ProgressCallback = _silent
    ) -> Component:
        """
        Find the component that runs for *reference*; with the source npm, search for it and install it if necessary.

        Args:
            reference: The action that a step uses.
            install: False forbids network calls and installations.
            progress: Called with a text before each slow operation.

        Raises:
            ActionNotFoundError: No source has the action, or it is not installed and *install* is False.
            LicenceError: The action comes from npm, whose licence is not accepted.
            ActionSourceError: The source cannot be reached.
        """
        override = self._find_locked_version(reference)
        chosen = ActionReference(reference.key, override) if override else reference
        found = self._find_local(chosen)
        setting = self.settings.source_setting
        if found is None and setting.source == "connect" and not reference.is_private:
            found, _ = await self.connect_source.fetch_action(chosen.key, chosen.version)
        if found is None or (found.file is None and setting.source == "npm"):
            if setting.source != "npm" or reference.is_private or chosen.key in load_builtin_actions():
                raise self._not_found(reference)
            self._check_licence(reference)
            if not install:
                raise build_not_installed_error(chosen)
            found = await self._install_from_npm(chosen, progress)
        elif found.file is not None and found.file.origin == "npm":
            self.npm_source.lock_component(found)  # its package was installed for another action
        return (
            replace(found, requested_version=reference.version) if override and override != reference.version else found
        )

    def lock_version(self, reference: ActionReference, component: Component) -> Component:
        """
        Lock the version of *component* for steps whose *reference* has no version. A built-in action is not locked.

        Raises:
            ActionSourceError: The lock file cannot be written.
        """
        if reference.version is not None:
            return component
        # parity[unversioned-actions]: the version that the platform runs is not documented
        is_builtin = component.file is not None and component.file.origin == "builtin"
        if not is_builtin and self.lock.version_overrides.get(reference.key) != component.version:
            self.lock.override_version(reference.key, component.version)
        return replace(component, requested_version="")

    def _find_locked_version(self, reference: ActionReference) -> str | None:
        """The version that runs instead of *reference*, or for a reference without a version the newest locked one; else None."""
        override = self.lock.version_overrides.get(str(reference))
        return override or (self.lock.find_newest_version(reference.key) if reference.version is None else None)

    def describe_lock(self, component: Component) -> LockedComponent:
        """What `restore` needs to find the same component later."""
        if component.file is not None and component.file.origin == "npm":
            return self.npm_source.describe_lock(component)
        return LockedComponent(component.uses, component.requested_version)

    async def restore(
        self, locked: LockedComponent, *, install: bool = True, progress: ProgressCallback = _silent
    ) -> Component:
        """
        Find exactly the component of *locked*, whatever the lock file says now; install its packages again if necessary.

        Args:
            locked: The component, from `describe_lock`.
            install: False forbids installations.
            progress: Called with a text before each slow operation.

        Raises:
            ActionNotFoundError: The source does not have this version any more, or *install* is False.
            LicenceError: The action comes from npm, whose licence is not accepted.
            ActionSourceError: The source cannot be reached, or the packages cannot be installed.
        """
        reference = ActionReference.parse(locked.uses)
        found: Component | None
        if locked.package is not None and locked.packages is not None:
            self._check_licence(reference)
            found = await self.npm_source.restore_component(
                reference, locked.package, locked.packages, progress, install=install
            )
        else:
            found = self._find_local(reference)
            if found is None and self.settings.source_setting.source == "connect" and not reference.is_private:
                found, _ = await self.connect_source.fetch_action(reference.key, reference.version)
        if found is None or (found.file is None and self.settings.source_setting.source != "connect"):
            raise self._not_found(reference)
        requested = locked.requested_version
        return replace(found, requested_version=found.requested_version if requested is None else requested)

    async def search(
        self,
        query: str,
        *,
        app: str | None = None,
        progress: ProgressCallback = _silent,
        kind: ComponentKind = "action",
        limit: int | None = None,
        install: bool = True,
    ) -> list[Component]:
        """
        Return the components of *kind* whose key, name or description contains every word of *query*, best match first.

        If the source is npm and *app* is not indexed yet, its newest package is downloaded, unless *install* is False. At
        most *limit* components are returned; None returns all.

        Raises:
            ActionSourceError: npm or Pipedream cannot be reached.
            LicenceError: *app* comes from npm, whose licence is not accepted.
        """
        setting = self.settings.source_setting
        if setting.source == "connect" and kind == "action":
            return [
                *self._filter_components(load_builtin_actions().values(), query, app),
                *await self.connect_source.search(query, app, limit=limit),
            ][:limit]
        if self.settings.is_licence_missing and app and not self._filter_components(self.list_components(app), "", app):
            raise build_licence_error(f"Actions of {app} come from npm.")
        if setting.source == "npm" and install and app and not self.npm_source.load_components(app):
            await self.npm_source.index_newest_package(app, progress)
        return self._filter_components(self.list_components(app, kind), query, app)[:limit]

    def list_components(self, app: str | None = None, kind: ComponentKind = "action") -> list[Component]:
        """The components of *kind* that are indexed on this machine, of *app* or of all apps."""
        found = [component for component in load_builtin_actions().values() if component.kind == kind]
        source = self._get_local_source()
        if source is not None:
            for each in (app,) if app else source.list_apps():
                found += (component for component in source.load_components(each).values() if component.kind == kind)
        return found

    def find_app_bindings(self, step: Step) -> tuple[AppBinding, ...]:
        """The app props of *step*, from its directive and from its code or its action, without running code."""
        if step.uses is None:
            return find_app_bindings(step)
        uses = ActionReference.parse(step.uses)
        try:
            component: Component | None = self.resolve(uses.key, uses.version)
        except (ActionNotFoundError, LicenceError):
            component = None
        description = self.descriptions.get(component.file) if component is not None and component.file else None
        return (
            resolve_app_bindings(step, description) if description is not None else guess_app_bindings(step, component)
        )

    def list_apps(self) -> list[str]:
        """The apps with components that are indexed on this machine."""
        source = self._get_local_source()
        return source.list_apps() if source else []

    def _get_local_source(self) -> NpmSource | FolderSource | None:
        setting = self.settings.source_setting
        if setting.source == "folder":
            return self.get_folder_source(setting)
        return self.npm_source if setting.source == "npm" and self.settings.is_licence_accepted else None

    def _check_licence(self, uses: ActionReference) -> None:
        if self.settings.is_licence_missing and not uses.is_private and uses.key not in load_builtin_actions():
            raise build_licence_error(f"The action {uses} comes from npm.")

    async def _install_from_npm(self, uses: ActionReference, progress: ProgressCallback) -> Component:
        try:
            return await self.npm_source.install_component(uses, progress)
        except ActionNotFoundError as fault:
            if fault.fix:
                raise
            raise self._not_found(uses, fault.message) from None

    def _find_local(self, uses: ActionReference) -> Component | None:
        own = load_builtin_actions().get(uses.key)
        if own is not None:
            if can_replace_version(own, uses.version):
                requested = uses.version if uses.version not in (None, own.version) else None
                return replace(own, requested_version=requested)
            return None
        setting = self.settings.source_setting
        if setting.source == "npm" and self.settings.is_licence_accepted:
            return self.npm_source.find_component(uses.key, uses.version)
        if setting.source == "folder":
            other = self.get_folder_source(setting).find_component(uses.key)
            return other if other is not None and uses.version in (None, other.version) else None
        return None

    def _not_found(self, uses: ActionReference, why: str = "") -> ActionNotFoundError:
        setting = self.settings.source_setting
        other = load_builtin_actions().get(uses.key)
        if other is None and setting.source == "folder":
            other = self.get_folder_source(setting).find_component(uses.key)
        similar = () if other is not None or uses.is_private else self._find_similar_keys(uses.key)
        return build_missing_action_error(uses, setting, other=other, similar=similar, why=why)

    def _find_similar_keys(self, key: str) -> list[str]:
        """Keys similar to *key*, of the same app first."""
        keys = {component.key: component for component in self.list_components()}
        keys |= {component.key: component for component in self.list_components(get_app_slug(key))}
        return [keys[similar].uses for similar in difflib.get_close_matches(key, keys, n=_MAX_SUGGESTIONS, cutoff=0.6)]

    @staticmethod
    def _filter_components(components: Iterable[Component], words: str, app: str | None) -> list[Component]:
        searched_words = words.lower().split()
        found: dict[str, tuple[tuple[int, str], Component]] = {}
        for component in components:
            if app is not None and get_app_slug(component.key) != app:
                continue
            name = f"{component.key} {component.name}".lower()
            text = f"{name} {component.description}".lower()
            if not all(word in text for word in searched_words):
                continue
            rank = sum(word not in name for word in searched_words)
            known = found.get(component.key)
            if known is None or version_sort_key(known[1].version) < version_sort_key(component.version):
                found[component.key] = ((rank, component.key), component)
        return [component for _, component in sorted(found.values(), key=lambda item: item[0])]
