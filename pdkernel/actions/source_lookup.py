"""
The look-up of actions in the sources that a project or a workflow has chosen, in their order.

If there are several sources, the lock file names the source of each action, and that source comes first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdkernel.actions.action_reference import ActionReference
from pdkernel.actions.component import Component
from pdkernel.actions.connect_source import ConnectSource
from pdkernel.actions.folder_source import FolderSource
from pdkernel.actions.lock import ActionsLock
from pdkernel.actions.npm_source import NpmSource, ProgressCallback, build_not_installed_error
from pdkernel.actions.source_settings import ActionSettings, SourceSetting, build_licence_error, format_tried_sources
from pdkernel.common.blocking import run_blocking
from pdkernel.errors import ActionNotFoundError, LicenceError


@dataclass(frozen=True)
class SourceLookup:
    """
    The sources of actions that are not built in.

    Attributes:
        settings: The sources and the licence.
        lock: The lock file of actions.
        npm_source: The components on npm.
        open_connect_source: Returns the source of actions that Pipedream runs; raises `ConnectSettingsError` without a login.
    """

    settings: ActionSettings
    lock: ActionsLock
    npm_source: NpmSource
    open_connect_source: Callable[[], ConnectSource]
    _folders: dict[Path, FolderSource] = field(default_factory=dict)

    def get_folder_source(self, folder: Path) -> FolderSource:
        """The source for *folder*."""
        return self._folders.setdefault(folder, FolderSource(folder))

    def iter_local_sources(self) -> Iterator[tuple[SourceSetting, NpmSource | FolderSource]]:
        """The sources on this machine that may be read, with their settings."""
        for setting in self.settings.sources:
            if setting.folder is not None:
                yield setting, self.get_folder_source(setting.folder)
            elif setting.source == "npm" and self.settings.is_licence_accepted:
                yield setting, self.npm_source

    def find_remote_sources(self, reference: ActionReference) -> list[SourceSetting]:
        """The sources that may have an action that is not on this machine: npm with its licence accepted, and Pipedream."""
        if reference.is_private:
            return []
        return [
            each
            for each in self.settings.sources
            if each.source == "connect" or (each.source == "npm" and self.settings.is_licence_accepted)
        ]

    def order_sources(self, uses: ActionReference, locked: str | None = None) -> list[SourceSetting]:
        """The sources in the order in which *uses* is looked up: the *locked* one (by default of the lock file) comes first."""
        sources = list(self.settings.sources)
        if len(sources) > 1 and (first := locked or self.lock.get_source(str(uses))) is not None:
            sources.sort(key=lambda each: self.format_locked_source(each) != first)
        return sources

    def format_locked_source(self, setting: SourceSetting) -> str:
        """The source as the lock file names it: the path of a folder starts at the lock file's folder."""
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
        """The component of *uses* in the first source that has it, without a network call; or None."""
        found = (self._find_in(setting, uses) for setting in self.order_sources(uses))
        return next((each for each in found if each is not None), None)

    def find_other_version(self, key: str) -> Component | None:
        """The component *key* of the first folder that has a version of it, or None."""
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
        """The component of *uses* in one source, without a network call; None if the source does not have it."""
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
