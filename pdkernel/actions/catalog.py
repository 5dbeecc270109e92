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

from pdkernel.actions.choices import ACCEPT_COMMAND, Choices, NothingSet, Settings, Where, licence_error
from pdkernel.actions.component import Component, Kind
from pdkernel.actions.connect import ConnectSource, login_of
from pdkernel.actions.described import Described
from pdkernel.actions.fitting import bound_apps, guessed_apps
from pdkernel.actions.folder import FolderSource
from pdkernel.actions.keys import Uses, app_of, version_order
from pdkernel.actions.lock import LOCK_NAME, ActionsLock
from pdkernel.actions.npm import KNOWN_APPS, SCOPE, NpmSource, Packages, Progress
from pdkernel.actions.own import own_actions, stands_for
from pdkernel.actions.registry import Registry
from pdkernel.errors import ActionNotFoundError, ActionVersionError, ConnectSettingsError, LicenceError
from pdkernel.inspection import apps_of
from pdkernel.model import AppBinding, Step

if TYPE_CHECKING:
    from pdkernel.project import Login, Project

_NEAR = 3


def _silent(_: str) -> None:
    """Says nothing."""


class Catalog:
    """
    The actions of one project.

    Args:
        settings: The project's settings.
        folder: Where components are kept, `.pdkernel/packages/components`.
        lock: What is written down of them for people to commit.
        packages: The registry that npm components come from.
        login: Which Connect project runs actions; raises `ConnectSettingsError` if there is none.

    Attributes:
        choices: What the project has chosen.
        lock: Which version runs for another.
        described: What components were found to declare.
    """

    def __init__(
        self, settings: Settings, folder: Path, *, lock: ActionsLock, packages: Packages, login: Callable[[], Login]
    ) -> None:
        self.choices = Choices(settings)
        self.lock = lock
        self.described = Described(folder / "described")
        self.npm = NpmSource(folder, packages, lock)
        self._login = login
        self._folders: dict[Path, FolderSource] = {}
        self._connect: ConnectSource | None = None

    @classmethod
    def of(cls, project: Project, *, environ: Mapping[str, str]) -> Catalog:
        """The catalogue of *project*."""
        folder = project.folder / "packages" / "components"
        lock = ActionsLock(project.folder.parent / LOCK_NAME)
        packages = Registry(environ, folder=folder / "installed", lock=lock.path)
        return cls(project.settings, folder, lock=lock, packages=packages, login=lambda: login_of(project, environ))

    @classmethod
    def without_project(cls, folder: Path, *, environ: Mapping[str, str]) -> Catalog:
        """The catalogue that a project in *folder* would have if one were made there now; makes none."""

        def login() -> Login:
            raise ConnectSettingsError("There is no project yet, and so no login at Pipedream.", fix="pdkernel login")

        components = folder / "packages" / "components"
        lock = ActionsLock(folder.parent / LOCK_NAME)
        packages = Registry(environ, folder=components / "installed", lock=lock.path)
        return cls(NothingSet(), components, lock=lock, packages=packages, login=login)

    def at(self, text: str | None, *, base: Path) -> Catalog:
        """
        This catalogue for a workflow that says itself where its actions run; None is the project's choice.

        With `npm` and no accepted licence what npm has is refused, each action when it is asked for.

        Raises:
            RequestError: It says neither a word nor a folder with components.
        """
        if text is None:
            return self
        other = copy.copy(self)
        other.choices = self.choices.at(self.choices.read(text, base=base))
        return other

    @property
    def connect(self) -> ConnectSource:
        """The Connect project. Raises `ConnectSettingsError`."""
        settings = self._login()
        if self._connect is None or self._connect.settings != settings:
            self._connect = ConnectSource(settings)
        return self._connect

    def folder(self, where: Where) -> FolderSource:
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
        asked = Uses(key, version)
        instead = self.lock.instead.get(str(asked))
        found = self._find(Uses(key, instead) if instead else asked)
        if found is None:
            self._check_licence(asked)
            raise self._not_found(asked)
        return replace(found, asked=version) if instead and instead != version else found

    async def obtain(self, uses: Uses, *, install: bool = True, progress: Progress = _silent) -> Component:
        """
        The component that runs for *uses*; looked for and installed if the project's source is npm.

        Args:
            uses: What a step asks for.
            install: False forbids what the network is needed for.
            progress: Told what takes time.

        Raises:
            ActionNotFoundError: No source has it, or it is not here and may not be installed.
            LicenceError: npm may have it, and nobody has accepted the licence.
            ActionSourceError: The source cannot be reached.
        """
        instead = self.lock.instead.get(str(uses))
        wanted = Uses(uses.key, instead) if instead else uses
        found = self._find(wanted)
        where = self.choices.where
        if found is None and where.source == "connect" and not uses.private:
            found, _ = await self.connect.retrieve(wanted.key, wanted.version)
        if found is None or (found.file is None and where.source == "npm"):
            if where.source != "npm" or uses.private or wanted.key in own_actions():
                raise self._not_found(uses)
            self._check_licence(uses)
            if not install:
                raise ActionNotFoundError(
                    f"The action {wanted} is not installed in this project, and --no-install forbids that.",
                    fix=f"Install it: pdkernel actions add {wanted}",
                )
            found = await self._from_npm(wanted, progress)
        elif found.file is not None and found.file.origin == "npm":
            self.npm.pin(found)  # another action of its package was installed before
        return replace(found, asked=uses.version) if instead and instead != uses.version else found

    async def search(
        self,
        words: str,
        *,
        app: str | None = None,
        progress: Progress = _silent,
        kind: Kind = "action",
        most: int | None = None,
    ) -> list[Component]:
        """
        Components of *kind* whose key, name or description holds every word of *words*, best first, *most* of them; None is all.

        With npm chosen and an *app* of which nothing is known yet, npm is asked.

        Raises:
            ActionSourceError: npm or Pipedream cannot be reached.
            LicenceError: It is about an *app* on npm, and nobody has accepted the licence.
        """
        where = self.choices.where
        if where.source == "connect" and kind == "action":
            return [*self._matching(own_actions().values(), words, app), *await self.connect.search(words, app)]
        if self.choices.lacks_licence and app and not self._matching(self.known(app), "", app):
            raise licence_error(f"Actions of {app} are to come from npm.")
        if where.source == "npm" and app and not self.npm.of_app(app):
            await self.npm.look(app, progress)
        return self._matching(self.known(app, kind), words, app)[:most]

    def known(self, app: str | None = None, kind: Kind = "action") -> list[Component]:
        """The components of *kind* that are known here without a network, of *app* or all."""
        found = [component for component in own_actions().values() if component.kind == kind]
        source = self._local()
        if source is not None:
            for each in (app,) if app else source.apps():
                found += (component for component in source.of_app(each).values() if component.kind == kind)
        return found

    def apps_of(self, step: Step) -> tuple[AppBinding, ...]:
        """The app props of *step*: its directive's, and what its code or its action is known to declare. Runs no code."""
        if step.uses is None:
            return apps_of(step)
        uses = Uses.parse(step.uses)
        try:
            component: Component | None = self.resolve(uses.key, uses.version)
        except (ActionNotFoundError, LicenceError):
            component = None
        description = self.described.get(component.file) if component is not None and component.file else None
        return bound_apps(step, description) if description is not None else guessed_apps(step, component)

    def apps(self) -> list[str]:
        """The apps of which components are known here."""
        source = self._local()
        return source.apps() if source else []

    def _local(self) -> NpmSource | FolderSource | None:
        where = self.choices.where
        if where.source == "folder":
            return self.folder(where)
        return self.npm if where.source == "npm" and self.choices.licence_accepted else None

    def _check_licence(self, uses: Uses) -> None:
        if self.choices.lacks_licence and not uses.private and uses.key not in own_actions():
            raise licence_error(f"The action {uses} is to run from npm.")

    async def _from_npm(self, uses: Uses, progress: Progress) -> Component:
        try:
            return await self.npm.obtain(uses, progress)
        except ActionNotFoundError as fault:
            if fault.fix:
                raise
            raise self._not_found(uses, fault.message) from None

    def _find(self, uses: Uses) -> Component | None:
        own = own_actions().get(uses.key)
        if own is not None:
            if stands_for(own, uses.version):
                asked = uses.version if uses.version not in (None, own.version) else None
                return replace(own, asked=asked)
            return None
        where = self.choices.where
        if where.source == "npm" and self.choices.licence_accepted:
            return self.npm.find(uses.key, uses.version)
        if where.source == "folder":
            there = self.folder(where).of_app(uses.app).get(uses.key)
            return there if there is not None and uses.version in (None, there.version) else None
        return None

    def _not_found(self, uses: Uses, why: str = "") -> ActionNotFoundError:
        if uses.private:
            return ActionNotFoundError(
                f"{uses.key} is a private component of a workspace, whose code no one but Pipedream has.",
                fix="Write the step as code, or pin its exports to run the steps around it.",
            )
        own = own_actions().get(uses.key)
        if own is not None:
            return ActionVersionError(
                f"The built-in {uses.key} is written after version {own.version} and does not stand for {uses.version}, "
                "whose props may be others.",
                fix=f"If its props are the same: pdkernel actions add {own.uses} --instead-of {uses}",
            )
        where = self.choices.where
        there = self.folder(where).of_app(uses.app).get(uses.key) if where.source == "folder" else None
        if there is not None:
            return ActionVersionError(
                f"{there.source} has {there.key} in version {there.version}, and {uses.version} is asked for.",
                fix=f"Write @{there.version}, or: pdkernel actions add {there.uses} --instead-of {uses}",
            )
        near = self._near(uses.key)
        hint = f" Nearest: {', '.join(near)}." if near else ""
        said = why or f"No source of this project has the action {uses}."
        return ActionNotFoundError(f"{said}{hint}", fix=_what_would_run(uses.key, where))

    def _near(self, key: str) -> list[str]:
        """Keys like *key*, of the same app first."""
        keys = {component.key: component for component in self.known()}
        keys |= {component.key: component for component in self.known(app_of(key))}
        return [keys[near].uses for near in difflib.get_close_matches(key, keys, n=_NEAR, cutoff=0.6)]

    @staticmethod
    def _matching(components: Iterable[Component], words: str, app: str | None) -> list[Component]:
        wanted = words.lower().split()
        found: dict[str, tuple[tuple[int, str], Component]] = {}
        for component in components:
            if app is not None and app_of(component.key) != app:
                continue
            name = f"{component.key} {component.name}".lower()
            text = f"{name} {component.description}".lower()
            if not all(word in text for word in wanted):
                continue
            rank = sum(word not in name for word in wanted)
            known = found.get(component.key)
            if known is None or version_order(known[1].version) < version_order(component.version):
                found[component.key] = ((rank, component.key), component)
        return [component for _, component in sorted(found.values(), key=lambda item: item[0])]


def _what_would_run(key: str, where: Where) -> str:
    app = app_of(key)
    ways = []
    if where.source != "npm" and app in KNOWN_APPS:
        ways.append(f"npm ({SCOPE}/{app}), once its licence is accepted: {ACCEPT_COMMAND}")
    if where.source != "folder":
        ways.append("a folder with the layout of a components checkout: pdkernel project set actions FOLDER")
    if where.source != "connect":
        ways.append("Pipedream itself, with a Connect project: pdkernel project set actions connect")
    what = "What could run it: " if len(ways) > 1 else "What could run it is "
    return (
        what + "; ".join(ways) + ". Or pin its exports to run the steps around it: --pin STEP=FILE, %pdpin STEP JSON."
    )
