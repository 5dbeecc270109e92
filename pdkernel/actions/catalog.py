"""
The actions that a project can run, from all its sources, by key and version.

    catalog = Catalog.of(project, environ=os.environ)
    catalog.resolve("slack-send-message", "0.0.20")     # what is here already
    await catalog.obtain(Uses.parse(...))               # installs it if need be

Knows the order of the sources (built in, then the one that the project has chosen), that an exact version runs unless
another was chosen for it, and what to say of one that nobody has. Runs nothing.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.actions.action_reference import ActionReference, get_app_slug, version_sort_key
from pdkernel.actions.builtin_source import can_replace_version, load_builtin_actions
from pdkernel.actions.component import Component, ComponentKind
from pdkernel.actions.connect_source import ConnectSource, resolve_connect_login
from pdkernel.actions.description_cache import DescriptionCache
from pdkernel.actions.folder_source import FolderSource
from pdkernel.actions.lock import LOCK_NAME, ActionsLock
from pdkernel.actions.npm_registry import NpmRegistry
from pdkernel.actions.npm_source import APPS_ON_NPM, NPM_SCOPE, NpmSource, PackageRegistry, ProgressCallback
from pdkernel.actions.prop_binding import guess_app_bindings, resolve_app_bindings
from pdkernel.actions.source_settings import (
    ACCEPT_LICENCE_COMMAND,
    ActionSettings,
    EmptySettings,
    SettingsStore,
    SourceSetting,
    build_licence_error,
)
from pdkernel.analysis import find_app_bindings
from pdkernel.errors import ActionNotFoundError, ActionVersionError, ConnectSettingsError, LicenceError
from pdkernel.model import AppBinding, Step

if TYPE_CHECKING:
    from pdkernel.project import Login, Project

_MAX_SUGGESTIONS = 3


def _silent(_: str) -> None:
    """Says nothing."""


class Catalog:
    """
    The actions of one project.

    Args:
        settings: The project's settings.
        get_folder_source: Where components are kept, `.pdkernel/packages/components`.
        lock: What is written down of them for people to commit.
        packages: The registry that npm components come from.
        login: Which Connect project runs actions; raises `ConnectSettingsError` if there is none.

    Attributes:
        settings: What the project has chosen.
        lock: Which version runs for another.
        descriptions: What components were found to declare.
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
        """The catalogue of *project*."""
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
        """The catalogue that a project in *folder* would have if one were made there now; makes none."""

        def login() -> Login:
            raise ConnectSettingsError("There is no project yet, and so no login at Pipedream.", fix="pdkernel login")

        components = folder / "packages" / "components"
        lock = ActionsLock(folder.parent / LOCK_NAME)
        packages = NpmRegistry(environ, folder=components / "installed", lock=lock.path)
        return cls(EmptySettings(), components, lock=lock, packages=packages, login=login)

    def with_source(self, source: str | None, *, base: Path) -> Catalog:
        """
        This catalogue for a workflow that says itself where its actions run; None is the project's choice.

        With `npm` and no accepted licence what npm has is refused, each action when it is asked for.

        Raises:
            RequestError: It says neither a word nor a folder with components.
        """
        if source is None:
            return self
        other = copy.copy(self)
        other.settings = self.settings.with_source(self.settings.parse_source(source, base=base))
        return other

    @property
    def connect_source(self) -> ConnectSource:
        """The Connect project. Raises `ConnectSettingsError`."""
        settings = self._login()
        if self._connect is None or self._connect.login != settings:
            self._connect = ConnectSource(settings)
        return self._connect

    def get_folder_source(self, where: SourceSetting) -> FolderSource:
        """The folder that *where* names."""
        assert where.folder is not None
        return self._folders.setdefault(where.folder, FolderSource(where.folder))

    def resolve(self, key: str, version: str | None) -> Component:
        """
        The component that runs for KEY@VERSION, from what is known on this machine.

        Its `file` is None if it is not installed yet.

        Raises:
            ActionNotFoundError: No source here has it; the message names the nearest, and what would run it.
            LicenceError: npm may have it, and nobody has accepted the licence.
            ActionVersionError: There is another version; the message names it and how to choose it.
        """
        asked = ActionReference(key, version)
        instead = self.lock.version_overrides.get(str(asked))
        found = self._find_local(ActionReference(key, instead) if instead else asked)
        if found is None:
            self._check_licence(asked)
            raise self._not_found(asked)
        return replace(found, requested_version=version) if instead and instead != version else found

    async def resolve_or_install(
        self, reference: ActionReference, *, install: bool = True, progress: ProgressCallback = _silent
    ) -> Component:
        """
        The component that runs for *reference*; looked for and installed if the project's source is npm.

        Args:
            reference: What a step asks for.
            install: False forbids what the network is needed for.
            progress: Told what takes time.

        Raises:
            ActionNotFoundError: No source has it, or it is not here and may not be installed.
            LicenceError: npm may have it, and nobody has accepted the licence.
            ActionSourceError: The source cannot be reached.
        """
        instead = self.lock.version_overrides.get(str(reference))
        wanted = ActionReference(reference.key, instead) if instead else reference
        found = self._find_local(wanted)
        where = self.settings.source_setting
        if found is None and where.source == "connect" and not reference.is_private:
            found, _ = await self.connect_source.fetch_action(wanted.key, wanted.version)
        if found is None or (found.file is None and where.source == "npm"):
            if where.source != "npm" or reference.is_private or wanted.key in load_builtin_actions():
                raise self._not_found(reference)
            self._check_licence(reference)
            if not install:
                raise ActionNotFoundError(
                    f"The action {wanted} is not installed in this project, and --no-install forbids that.",
                    fix=f"Install it: pdkernel actions add {wanted}",
                )
            found = await self._from_npm(wanted, progress)
        elif found.file is not None and found.file.origin == "npm":
            self.npm_source.lock_component(found)  # another action of its package was installed before
        return (
            replace(found, requested_version=reference.version) if instead and instead != reference.version else found
        )

    async def search(
        self,
        query: str,
        *,
        app: str | None = None,
        progress: ProgressCallback = _silent,
        kind: ComponentKind = "action",
        limit: int | None = None,
    ) -> list[Component]:
        """
        Components of *kind* whose key, name or description holds every word of *query*, best first, *limit* of them; None is all.

        With npm chosen and an *app* of which nothing is known yet, npm is asked.

        Raises:
            ActionSourceError: npm or Pipedream cannot be reached.
            LicenceError: It is about an *app* on npm, and nobody has accepted the licence.
        """
        where = self.settings.source_setting
        if where.source == "connect" and kind == "action":
            return [
                *self._filter_components(load_builtin_actions().values(), query, app),
                *await self.connect_source.search(query, app),
            ]
        if self.settings.is_licence_missing and app and not self._filter_components(self.list_components(app), "", app):
            raise build_licence_error(f"Actions of {app} are to come from npm.")
        if where.source == "npm" and app and not self.npm_source.load_components(app):
            await self.npm_source.index_newest_package(app, progress)
        return self._filter_components(self.list_components(app, kind), query, app)[:limit]

    def list_components(self, app: str | None = None, kind: ComponentKind = "action") -> list[Component]:
        """The components of *kind* that are known here without a network, of *app* or all."""
        found = [component for component in load_builtin_actions().values() if component.kind == kind]
        source = self._get_local_source()
        if source is not None:
            for each in (app,) if app else source.list_apps():
                found += (component for component in source.load_components(each).values() if component.kind == kind)
        return found

    def find_app_bindings(self, step: Step) -> tuple[AppBinding, ...]:
        """The app props of *step*: its directive's, and what its code or its action is known to declare. Runs no code."""
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
        """The apps of which components are known here."""
        source = self._get_local_source()
        return source.list_apps() if source else []

    def _get_local_source(self) -> NpmSource | FolderSource | None:
        where = self.settings.source_setting
        if where.source == "folder":
            return self.get_folder_source(where)
        return self.npm_source if where.source == "npm" and self.settings.is_licence_accepted else None

    def _check_licence(self, uses: ActionReference) -> None:
        if self.settings.is_licence_missing and not uses.is_private and uses.key not in load_builtin_actions():
            raise build_licence_error(f"The action {uses} is to run from npm.")

    async def _from_npm(self, uses: ActionReference, progress: ProgressCallback) -> Component:
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
                asked = uses.version if uses.version not in (None, own.version) else None
                return replace(own, requested_version=asked)
            return None
        where = self.settings.source_setting
        if where.source == "npm" and self.settings.is_licence_accepted:
            return self.npm_source.find_component(uses.key, uses.version)
        if where.source == "folder":
            there = self.get_folder_source(where).load_components(uses.app).get(uses.key)
            return there if there is not None and uses.version in (None, there.version) else None
        return None

    def _not_found(self, uses: ActionReference, why: str = "") -> ActionNotFoundError:
        if uses.is_private:
            return ActionNotFoundError(
                f"{uses.key} is a private component of a workspace, whose code no one but Pipedream has.",
                fix="Write the step as code, or pin its exports to run the steps around it.",
            )
        own = load_builtin_actions().get(uses.key)
        if own is not None:
            return ActionVersionError(
                f"The built-in {uses.key} is written after version {own.version} and does not stand for {uses.version}, "
                "whose props may be others.",
                fix=f"If its props are the same: pdkernel actions add {own.uses} --instead-of {uses}",
            )
        where = self.settings.source_setting
        there = (
            self.get_folder_source(where).load_components(uses.app).get(uses.key) if where.source == "folder" else None
        )
        if there is not None:
            return ActionVersionError(
                f"{there.source} has {there.key} in version {there.version}, and {uses.version} is asked for.",
                fix=f"Write @{there.version}, or: pdkernel actions add {there.uses} --instead-of {uses}",
            )
        near = self._find_similar_keys(uses.key)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        said = why or f"No source of this project has the action {uses}."
        return ActionNotFoundError(f"{said}{hint}", fix=_suggest_sources(uses.key, where))

    def _find_similar_keys(self, key: str) -> list[str]:
        """Keys like *key*, of the same app first."""
        keys = {component.key: component for component in self.list_components()}
        keys |= {component.key: component for component in self.list_components(get_app_slug(key))}
        return [keys[near].uses for near in difflib.get_close_matches(key, keys, n=_MAX_SUGGESTIONS, cutoff=0.6)]

    @staticmethod
    def _filter_components(components: Iterable[Component], words: str, app: str | None) -> list[Component]:
        wanted = words.lower().split()
        found: dict[str, tuple[tuple[int, str], Component]] = {}
        for component in components:
            if app is not None and get_app_slug(component.key) != app:
                continue
            name = f"{component.key} {component.name}".lower()
            text = f"{name} {component.description}".lower()
            if not all(word in text for word in wanted):
                continue
            rank = sum(word not in name for word in wanted)
            known = found.get(component.key)
            if known is None or version_sort_key(known[1].version) < version_sort_key(component.version):
                found[component.key] = ((rank, component.key), component)
        return [component for _, component in sorted(found.values(), key=lambda item: item[0])]


def _suggest_sources(key: str, where: SourceSetting) -> str:
    app = get_app_slug(key)
    ways = []
    if where.source != "npm" and app in APPS_ON_NPM:
        ways.append(f"npm ({NPM_SCOPE}/{app}), once its licence is accepted: {ACCEPT_LICENCE_COMMAND}")
    if where.source != "folder":
        ways.append("a folder with the layout of a components checkout: pdkernel project set actions FOLDER")
    if where.source != "connect":
        ways.append("Pipedream itself, with a Connect project: pdkernel project set actions connect")
    what = "What could run it: " if len(ways) > 1 else "What could run it is "
    return (
        what + "; ".join(ways) + ". Or pin its exports to run the steps around it: --pin STEP=FILE, %pdpin STEP JSON."
    )
