"""
The actions that a project can run, from all its sources, by key and version.

    catalog = Catalog.for_project(project, environ=os.environ)
    catalog.resolve("slack-send-message", "0.0.20")                  # on this machine
    await catalog.resolve_or_install(ActionReference.parse(...))     # installs the action if necessary

Built-in actions take precedence over the sources that the project has chosen. An action is looked up in each source, in their
order; if there are several, the lock file names the source of each action. The exact version runs, unless the lock file
overrides it.

The fields of an app's form are the credentials that its components read from `$auth`, found in their texts without running them.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pdkernel.actions.component import ActionReference, Component, ComponentKind, filter_components
from pdkernel.actions.connect_source import ConnectSource, resolve_connect_login
from pdkernel.actions.npm_source import (
    APPS_ON_NPM,
    LOCK_NAME,
    NPM_SCOPE,
    ActionsLock,
    LockedComponent,
    NpmRegistry,
    NpmSource,
    PackageRegistry,
    ProgressCallback,
)
from pdkernel.actions.prop_binding import guess_app_bindings, resolve_app_bindings
from pdkernel.actions.source_lookup import SourceLookup, can_replace_version, load_builtin_actions
from pdkernel.actions.source_settings import (
    ACCEPT_LICENCE_COMMAND,
    ActionSettings,
    EmptySettings,
    SettingsStore,
    SourceSetting,
    build_licence_error,
    find_components_folder,
    format_tried_sources,
)
from pdkernel.common.blocking import run_blocking
from pdkernel.common.encode import decode_json, encode_json
from pdkernel.common.identity import ACCESS_TOKEN_FIELD
from pdkernel.errors import ActionNotFoundError, ActionVersionError, ConnectSettingsError, LicenceError
from pdkernel.language.analysis import find_app_bindings
from pdkernel.model import AppBinding, Step, get_app_slug
from pdkernel.workers import ComponentDescription, ComponentFile

if TYPE_CHECKING:
    from pdkernel.storage import Login, Project

_SUFFIXES = frozenset({".mjs", ".js", ".cjs", ".ts", ".mts"})
_OTHER_FOLDERS = frozenset({"node_modules", "dist", "test", "tests"})
_MAX_BYTES = 4 << 20
"""The size of an app's modules that are read; the largest app of the platform's registry has a quarter of it."""
_NAME = r"[A-Za-z_$][\w$]*"
_COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'`\\\w])//[^\n]*", re.DOTALL)
_MEMBER = re.compile(rf"\s*(?:\?\.|!?\.)\s*({_NAME})|\s*!?(?:\?\.)?\[\s*[\"'`]([^\"'`$]+)[\"'`]\s*\]")
_OWNER = rf"=\s*\(?\s*(?:await\s+)?(?:[\w$.?]+\s*(?:\|\||\?\?)\s*)?(?:{_NAME}(?:\(\))?\s*(?:\?\.|\.)\s*)*\Z"
_DESTRUCTURED = re.compile(rf"\{{([^{{}}]*)\}}\s*(?::\s*[\w$<>\[\]., ]+)?\s*{_OWNER}")
_ASSIGNED = re.compile(rf"\b({_NAME})\s*(?::\s*[\w$<>\[\]., ]+)?\s*{_OWNER}")
_RETURNED = re.compile(rf"(?:return|=>)\s*\(?\s*(?:{_NAME}\s*(?:\?\.|\.)\s*)*\Z")
_METHOD = re.compile(rf"\b({_NAME})\s*(?:\(\)\s*(?::[^{{;]+)?\{{|:\s*\(\)\s*=>)")
_LISTED = re.compile(rf"(?:Object\.keys|console\.\w+)\([\s(]*(?:{_NAME}\s*(?:\?\.|\.)\s*)*\Z")
_NESTED = re.compile(r"\s*:\s*\{([^{}]*)\}")
_MAX_STEPS = 200
_CONTEXT_CHARS = 2000


@dataclass(frozen=True, slots=True)
class CredentialReads:
    """
    What an app's components read from `$auth`.

    Attributes:
        fields: The names of the credentials, in the order of the texts.
        unclear: The uses of `$auth` as a whole, whose fields are not known: the path of the text and its line.
    """

    fields: tuple[str, ...]
    unclear: tuple[tuple[str, int], ...] = ()


class AppCredentials:
    """Reads what the modules in an app's folder read from `$auth`; a folder is read again after a change."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, CredentialReads]] = {}

    def find(self, folder: Path) -> CredentialReads:
        """Return the reads of the modules in *folder*, those of the app's own module first; none without a folder."""
        modules = sorted(iter_modules(folder), key=lambda path: (".app." not in path.name, path))
        marks = [(path, (facts := path.stat()).st_mtime_ns, facts.st_size) for path in modules]
        known = self._known.get(folder)
        if known is None or known[0] != marks:
            known = self._known[folder] = (marks, _read(folder, modules))
        return known[1]


def order_form_fields(reads: CredentialReads) -> tuple[str, ...]:
    """Return the fields of a form: the access token first, then the others in the order in which the app reads them."""
    return tuple(sorted(reads.fields, key=lambda name: name != ACCESS_TOKEN_FIELD))


def _read(folder: Path, modules: list[Path]) -> CredentialReads:
    texts, size = {}, 0
    for path in modules:
        text = path.read_text(encoding="utf-8", errors="replace")
        size += len(text)
        if size > _MAX_BYTES:
            break
        if "auth" in text.lower():
            texts[path.relative_to(folder).as_posix()] = text
    return find_credential_reads(texts)


def iter_modules(folder: Path) -> Iterator[Path]:
    """Yield the modules in *folder*; a link is not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _OTHER_FOLDERS]
        for name in names:
            path = Path(place, name)
            if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink():
                yield path


def find_credential_reads(texts: Mapping[str, str]) -> CredentialReads:
    """Find the fields of `$auth` that the modules of one app, *texts* by path, read. The app's own module comes first."""
    plain = {path: _COMMENT.sub(_blank, text) for path, text in texts.items()}
    fields: dict[str, None] = {}
    unclear: dict[tuple[str, int], None] = {}
    waiting: list[tuple[str, str | None]] = [(r"\$auth\b", None)]
    done: set[tuple[str, str | None]] = set()
    while waiting and len(done) < _MAX_STEPS:
        expression, only_in = source = waiting.pop(0)
        if source in done:
            continue
        done.add(source)
        for path, text in plain.items():
            if only_in in (None, path):
                for found in re.finditer(expression, text):
                    names, other = _read_use(text, found.start(), found.end(), path)
                    fields |= dict.fromkeys(names)
                    if other is None:
                        unclear[path, text.count("\n", 0, found.start()) + 1] = None
                    else:
                        waiting += other
    return CredentialReads(tuple(fields), tuple(unclear))


def _read_use(text: str, start: int, end: int, path: str) -> tuple[list[str], list[tuple[str, str | None]] | None]:
    """
    Read one use of the credentials at *start* to *end* of *text*.

    Returns:
        The fields that it names, and the expressions that stand for the credentials after it, each with the only text in which it
        does; None if the use is unclear.
    """
    member = _MEMBER.match(text, end)
    if member is not None:
        return [member[1] or member[2]], []
    before = text[max(0, start - _CONTEXT_CHARS) : start]
    if text[start] == "$" and not before.rstrip().endswith("."):  # a variable: in a pattern, in a call, or in prose
        nested = _NESTED.match(text, end)
        return _read_pattern(nested[1], path) if nested is not None else ([], [])
    if _LISTED.search(before):
        return [], []
    destructured = _DESTRUCTURED.search(before)
    if destructured is not None:
        return _read_pattern(destructured[1], path)
    assigned = _ASSIGNED.search(before)
    if assigned is not None:
        return [], [(_build_variable(assigned[1]), path)]
    if _RETURNED.search(before):
        method = [*_METHOD.finditer(before)]
        if method:
            return [], [(rf"(?<=\.){re.escape(method[-1][1])}\(\)", None)]
    return [], None


def _read_pattern(pattern: str, path: str) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Return the fields of a destructuring *pattern*, and its rest as another expression."""
    names: list[str] = []
    rest: list[tuple[str, str | None]] = []
    for part in filter(None, (part.strip() for part in pattern.split(","))):
        if part.startswith("..."):
            rest.append((_build_variable(part[3:].strip()), path))
        elif (name := re.match(rf"[\"']?({_NAME})", part)) is not None:
            names.append(name[1])
    return names, rest


def _build_variable(name: str) -> str:
    """Return the expression for uses of the variable *name*, and not for its assignment or a key of that name."""
    return rf"(?<![\w$])(?:(?<!\.)|(?<=\.\.\.)){re.escape(name)}\b(?!\s*(?::|=[^=]|\}}\s*=[^=]))"


def _blank(comment: re.Match[str]) -> str:
    """Return the line breaks of *comment*, so that lines keep their numbers."""
    return "\n" * comment[0].count("\n")


_MAX_SUGGESTIONS = 3
_PIN = "pin the step's exports to run the other steps: --pin STEP=FILE, %pdpin STEP JSON."


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
        self.lock = lock
        self.descriptions = DescriptionCache(folder / "described")
        self.npm_source = NpmSource(folder, packages, lock)
        self._login = login
        self._connect: ConnectSource | None = None
        self._credentials = AppCredentials()
        self._lookup = SourceLookup(
            ActionSettings(settings), lock, self.npm_source, lambda: self.connect_source, folder / "folders"
        )

    @classmethod
    def for_project(cls, project: Project, *, environ: Mapping[str, str]) -> Catalog:
        """Return the catalog of *project*."""
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
    def without_project(
        cls, folder: Path, *, environ: Mapping[str, str], settings: SettingsStore | None = None
    ) -> Catalog:
        """
        Return the catalog for *folder* without a project, which is not created: nothing runs at Pipedream.

        It has the sources of *settings*, or those of a new project.
        """

        def login() -> Login:
            raise ConnectSettingsError(
                "This folder has no project, so it has no login at Pipedream.", fix="Log in: pdkernel login"
            )

        components = folder / "packages" / "components"
        lock = ActionsLock(folder.parent / LOCK_NAME)
        packages = NpmRegistry(environ, folder=components / "installed", lock=lock.path)
        return cls(settings or EmptySettings(), components, lock=lock, packages=packages, login=login)

    @property
    def settings(self) -> ActionSettings:
        """The settings for actions: sources and licence."""
        return self._lookup.settings

    def with_sources(self, sources: Sequence[str], *, base: Path) -> Catalog:
        """
        This catalog with the *sources* of a workflow's `pdkernel.yaml`; an empty sequence keeps the project's sources.

        If npm is a source and its licence is not accepted, resolving an action of npm raises `LicenceError`.

        Raises:
            RequestError: A source is not the name of a source or a folder with components.
        """
        if not sources:
            return self
        other = copy.copy(self)
        settings = self.settings.with_sources(self.settings.parse_sources(sources, base=base))
        other._lookup = replace(self._lookup, settings=settings)  # noqa: SLF001 (a copy of this catalog)
        return other

    @property
    def connect_source(self) -> ConnectSource:
        """The source of actions that Pipedream runs. Raises `ConnectSettingsError` without a login."""
        settings = self._login()
        if self._connect is None or self._connect.login != settings:
            self._connect = ConnectSource(settings)
        return self._connect

    async def open_connect_source(self) -> ConnectSource:
        """Return the `connect_source`; the login is read in a thread."""
        return await run_blocking(lambda: self.connect_source)

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
        Find the component that runs for *reference*; if npm is its source, search for it and install it if necessary.

        Args:
            reference: The action that a step uses.
            install: False forbids network calls and installations.
            progress: Called with a text before each slow operation.

        Raises:
            ActionNotFoundError: No source has the action, or it is not installed and *install* is False.
            LicenceError: The action comes from npm, whose licence is not accepted.
            ActionSourceError: The source cannot be reached.
        """
        override = (
            self._find_locked_version(reference)
            if reference.version is not None
            else await run_blocking(self._find_locked_version, reference)
        )
        chosen = ActionReference(reference.key, override) if override else reference
        sources = await self._order_sources(chosen)
        found = await self._load(chosen, reference, sources, install=install, progress=progress)
        if len(sources) > 1 and found.setting is not None:
            self.lock.lock_source(found.uses, self._lookup.format_locked_source(found.setting))
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
        if not is_builtin and component.setting is not None:
            self.lock.lock_source(component.uses, self._lookup.format_locked_source(component.setting))
        return replace(component, requested_version="")

    def _find_locked_version(self, reference: ActionReference) -> str | None:
        """Return the version that runs instead of *reference*, or for a reference without a version the newest locked one; else None."""
        override = self.lock.version_overrides.get(str(reference))
        if reference.version is not None:
            return override
        if override is not None and self._has_locked_source(f"{reference.key}@{override}"):
            return override
        return self.lock.find_newest_version(reference.key) if self.settings.has_source("npm") else None

    def _has_locked_source(self, reference: str) -> bool:
        """Return whether the source with which *reference* was locked is still one of the sources, or is not known."""
        locked = self.lock.get_source(reference)
        return locked is None or locked in map(self._lookup.format_locked_source, self.settings.sources)

    def describe_lock(self, component: Component) -> LockedComponent:
        """Return what `restore` needs to find the same component later."""
        if component.file is not None and component.file.origin == "npm":
            return self.npm_source.describe_lock(component)
        source = self._lookup.format_locked_source(component.setting) if component.setting else None
        return LockedComponent(component.uses, component.requested_version, source=source)

    async def restore(
        self, locked: LockedComponent, *, install: bool = True, progress: ProgressCallback = _silent
    ) -> Component:
        """
        Find the component of *locked*, also if the lock file names another version by now. Missing packages are installed.

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
        if locked.package is not None and locked.packages is not None:
            await run_blocking(self._check_licence, reference)
            found = await self.npm_source.restore_component(
                reference, locked.package, locked.packages, progress, install=install
            )
        else:
            others = [each for each in await self._order_sources(reference, locked.source) if each.source != "npm"]
            found = await self._load(reference, reference, others, install=False, progress=progress)
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
        if app and install and await run_blocking(self._must_index, app):
            await self.npm_source.index_newest_package(app, progress)
        local = filter_components(await run_blocking(self.list_components, app, kind), query, app)
        connect, sources = SourceSetting("connect"), await run_blocking(lambda: self.settings.sources)
        if kind != "action" or connect not in sources:
            return local[:limit]
        source = await self.open_connect_source()
        remote = {each.key: each for each in await source.search(query, app, limit=limit)}
        after = sources[sources.index(connect) :]
        local = [each for each in local if each.key not in remote or each.setting not in after]
        keys = {each.key for each in local}
        return [*local, *(each for key, each in remote.items() if key not in keys)][:limit]

    def _must_index(self, app: str) -> bool:
        """Return whether the components of *app* must be downloaded from npm. Raises `LicenceError`."""
        has_app = any(get_app_slug(each.key) == app for each in self.list_components(app))
        if self.settings.is_licence_missing and not has_app:
            raise build_licence_error(f"Actions of {app} come from npm.")
        may_index = self.settings.has_source("npm") and self.settings.is_licence_accepted
        return may_index and not self.npm_source.load_components(app)

    def list_components(self, app: str | None = None, kind: ComponentKind = "action") -> list[Component]:
        """
        Return the components of *kind* that are indexed on this machine, of *app* or of all apps.

        If several sources have a component, the component of the first one is listed.
        """
        found: dict[str, Component] = {}
        for setting, source in self._lookup.iter_local_sources():
            for each in (app,) if app else source.list_apps():
                for component in source.load_components(each).values():
                    found.setdefault(component.key, replace(component, setting=setting))
        return [each for each in (*load_builtin_actions().values(), *found.values()) if each.kind == kind]

    def find_app_bindings(self, step: Step) -> tuple[AppBinding, ...]:
        """Return the app props of *step*, from its directive and from its code or its action, without running code."""
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

    def find_credential_fields(self, app: str) -> tuple[str, ...]:
        """Return the credentials that components of *app* read, from the first source on this machine that has the app; or none."""
        for _, source in self._lookup.iter_local_sources():
            folder = source.find_app_folder(app)
            if folder is not None and (fields := order_form_fields(self._credentials.find(folder))):
                return fields
        return ()

    def list_apps(self, kind: ComponentKind | None = None) -> list[str]:
        """Return the apps with components, of *kind* or any, that are indexed on this machine; without those of built-in actions."""
        return sorted({app for _, source in self._lookup.iter_local_sources() for app in source.list_apps(kind)})

    def find_remote_sources(self, reference: ActionReference) -> list[SourceSetting]:
        """Return the sources that may have an action that is not on this machine; none for a built-in or private action."""
        return [] if reference.key in load_builtin_actions() else self._lookup.find_remote_sources(reference)

    async def _order_sources(self, uses: ActionReference, locked: str | None = None) -> Sequence[SourceSetting]:
        """Return the sources in which *uses* is looked up; none for a built-in action."""
        if uses.key in load_builtin_actions():
            return ()
        return await run_blocking(self._lookup.order_sources, uses, locked)

    def _check_licence(self, uses: ActionReference) -> None:
        if uses.key not in load_builtin_actions():
            self._lookup.check_licence(uses)

    def _find_local(self, uses: ActionReference) -> Component | None:
        own = load_builtin_actions().get(uses.key)
        if own is None:
            return self._lookup.find_local(uses)
        if not can_replace_version(own, uses.version):
            return None
        return replace(own, requested_version=uses.version if uses.version not in (None, own.version) else None)

    async def _load(
        self,
        uses: ActionReference,
        reference: ActionReference,
        sources: Sequence[SourceSetting],
        *,
        install: bool,
        progress: ProgressCallback,
    ) -> Component:
        """Find the built-in action or the component of *uses*; a message names *reference*, the step's own value."""
        if uses.key in load_builtin_actions():
            own = self._find_local(uses)
            if own is None:
                raise await run_blocking(self._not_found, reference)
            return own
        try:
            return await self._lookup.load(uses, sources, install=install, progress=progress)
        except ActionNotFoundError as fault:
            if fault.fix:
                raise
            raise await run_blocking(self._not_found, reference, fault.message) from None

    def _not_found(self, uses: ActionReference, why: str = "") -> ActionNotFoundError:
        other = load_builtin_actions().get(uses.key) or self._lookup.find_other_version(uses.key)
        similar = () if other is not None or uses.is_private else self._find_similar_keys(uses.key)
        return build_missing_action_error(uses, self.settings.sources, other=other, similar=similar, why=why)

    def _find_similar_keys(self, key: str) -> list[str]:
        """Return the similar keys with their versions, most similar first."""
        own = {each: get_app_slug(each) for each in load_builtin_actions()}
        keys = {each for _, source in self._lookup.iter_local_sources() for each in source.list_keys()} | own.keys()
        similar = difflib.get_close_matches(key, sorted(keys), n=_MAX_SUGGESTIONS, cutoff=0.6)
        found = (self._find_local(ActionReference(each, None)) for each in similar)
        return [each.uses for each in found if each is not None]


class DescriptionCache:
    """
    A cache on disk of the props that components declare, by file.

    Only a worker can load a component to read its props; with the cache, a file is loaded once until it changes.

    Args:
        folder: The folder of the cache; created with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptions: dict[str, ComponentDescription] = {}

    def get(self, file: ComponentFile) -> ComponentDescription | None:
        """Return the description of the component in *file*; None if the file's current content is not in the cache."""
        name = self._name(file)
        if name not in self._descriptions:
            try:
                self._descriptions[name] = decode_json((self._folder / name).read_bytes(), ComponentDescription)
            except (OSError, ValueError):
                return None  # not cached yet, or written by another version of pdkernel
        return self._descriptions[name]

    def put(self, file: ComponentFile, description: ComponentDescription) -> None:
        """Store *description* for *file*. If the disk is full, only this process keeps the description."""
        name = self._name(file)
        self._descriptions[name] = description
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = self._folder / f".{name}.{secrets.token_hex(4)}"  # another process may store the same entry
            try:
                draft.write_bytes(encode_json(description))
                draft.replace(self._folder / name)
            finally:
                draft.unlink(missing_ok=True)
        except OSError:
            return

    def _name(self, file: ComponentFile) -> str:
        """Return the name of the cache entry. It changes with the module; for a folder source, with every module of the app."""
        modules = [file.path]
        if file.origin == "folder":
            modules = sorted(iter_modules(file.path.parents[2]))
        marks = [f"{path}:{path.stat().st_mtime_ns}:{path.stat().st_size}" for path in modules if path.exists()]
        return f"{file.key}-{hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]}.json"


def build_missing_action_error(
    uses: ActionReference,
    sources: Sequence[SourceSetting],
    *,
    other: Component | None = None,
    similar: Sequence[str] = (),
    why: str = "",
) -> ActionNotFoundError:
    """
    Build the error for a missing action.

    Args:
        uses: The reference of the step.
        sources: The sources of actions that are not built in, in the order in which they were tried.
        other: Another version of the action that the source has, or None.
        similar: Similar actions.
        why: Why the action is missing, as a sentence; by default, that no source has it.
    """
    tried = format_tried_sources(sources) if len(sources) > 1 else ""
    if other is not None and other.file is not None and other.file.origin == "builtin":
        return ActionVersionError(
            f"The built-in {uses.key} follows version {other.version} of the platform's action and cannot replace version "
            f"{uses.version}, whose props may differ.",
            fix=f"If the props are the same, run: pdkernel actions add {other.uses} --instead-of {uses}",
        )
    if other is not None:
        return ActionVersionError(
            " ".join(
                (
                    f"{other.source} has version {other.version} of {other.key}, but the step uses version {uses.version}.",
                    tried,
                )
            ).strip(),
            fix=f"Write @{other.version} in the step, or run: pdkernel actions add {other.uses} --instead-of {uses}",
        )
    if uses.is_private:
        missing = f"The code of the private component {uses.key} is missing: it is stored at Pipedream, and not in Git."
        return ActionNotFoundError(
            f"{missing} {tried}".strip(),
            fix=_suggest_private_folder(uses, sources),
        )
    hint = f"Similar: {', '.join(similar)}." if similar else ""
    missing = f"No source of this project has the action {uses}." if tried or not why else ""
    return ActionNotFoundError(
        " ".join(part for part in (missing, why, tried, hint) if part), fix=_suggest_sources(uses, sources)
    )


def _suggest_private_folder(uses: ActionReference, sources: Sequence[SourceSetting]) -> str:
    name = uses.key.rpartition("/")[2]
    module = f"APP/actions/{name}/{name}.mjs"
    folder = next((each.folder for each in sources if each.folder is not None), None)
    if folder is not None:
        where = f"{find_components_folder(folder) or folder}/{module}."
    else:
        setting = f"[FOLDER, {', '.join(map(str, sources))}]" if sources else "FOLDER"
        where = f"FOLDER/{module}, and write `actions: {setting}` in pdkernel.yaml."
    return f"Copy its code to {where} Or write the step as code, or {_PIN}"


def _suggest_sources(uses: ActionReference, sources: Sequence[SourceSetting]) -> str:
    names = {each.source for each in sources}
    possible = []
    if "npm" not in names and uses.app in APPS_ON_NPM:
        possible.append(f"npm ({NPM_SCOPE}/{uses.app}), after you accept its licence: {ACCEPT_LICENCE_COMMAND}")
    if "folder" not in names:
        possible.append("a folder with the layout of a components checkout: pdkernel project set actions FOLDER")
    if "connect" not in names:
        possible.append("Pipedream, with a Connect project: pdkernel project set actions connect")
    if not possible:
        return f"Check the key and the version. Or {_PIN}"
    what = "Sources that may have it: " if len(possible) > 1 else "A source that may have it is "
    several = " A project may have several sources: name all of them, in the order of the search." if sources else ""
    return f"{what}{'; '.join(possible)}.{several} Or {_PIN}"
