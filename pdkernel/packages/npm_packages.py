"""
npm packages of a project: finds installed packages, installs missing ones, and keeps the lock file.

Each set of packages that is imported together has its own folder. A folder gets its name when it is complete, and never changes
afterwards, because steps may load from it while another process installs.

    .pdkernel/packages/node/KEY/node_modules/...     one set; KEY is a hash of its exact versions
    pdkernel-npm.lock.json                           beside the project: the versions; the user commits it

The lock file has exact versions with hashes, without registry addresses. Each set was resolved together by npm; `packages` has the
format of npm's own lock files. A set also serves every subset of its imports. A package that several sets import without a version
has the same version in all of them. The caller may store further facts in the file. It is sorted and has one fact on each line,
because users commit it. It is replaced atomically.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pdkernel.common.blocking import run_blocking
from pdkernel.common.safe_files import read_file
from pdkernel.errors import PackageInstallError, PackageMissingError, ProjectError, did_you_mean
from pdkernel.language.analysis import package_fault
from pdkernel.packages.install_progress import (
    ProgressCallback,
    installation_lock,
    measure_node_modules,
    report_each_second,
)
from pdkernel.packages.npm_command import (
    NpmFailedError,
    build_disk_error,
    build_foreign_error,
    explain_failure,
    run_npm,
)
from pdkernel.runtimes.file_tree import open_to_steps, remove_tree

LOCK_VERSION = 1
DEFAULT_ABOUT = "Versions and hashes of the npm packages that steps import. Written by pdkernel; commit this file."
_KNOWN_KEYS = frozenset({"about", "lockVersion", "sets"})


@dataclass(frozen=True)
class LockedSet:
    """
    Packages that were resolved together.

    Attributes:
        imports: Maps imports of code (`axios`, `axios@~0.20.0`) to folders under `node_modules`.
        packages: The imported packages and their dependencies, as in npm's lock files, version 3.
    """

    imports: Mapping[str, str]
    packages: Mapping[str, Any] = field(repr=False)

    @cached_property
    def key(self) -> str:
        """A hash of exactly these packages on this kind of machine."""
        # npm omits packages for other machines, so machines that share a folder need different keys
        facts = [dict(self.imports), dict(self.packages), platform.system(), platform.machine()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]

    def version(self, imported: str) -> str:
        """Return the exact version for the import *imported*."""
        return str(self.packages[f"node_modules/{self.imports[imported]}"]["version"])

    def holds(self, wanted: Collection[str]) -> bool:
        """Return whether the set contains all imports in *wanted*."""
        return all(each in self.imports for each in wanted)


class NpmLock:
    """
    A lock file, read again after each change.

    Args:
        path: The file.
        about: The file's description of itself.
    """

    def __init__(self, path: Path, *, about: str = DEFAULT_ABOUT) -> None:
        self.path = path
        self._about = about
        self._read_at: object = None
        self._sets: tuple[LockedSet, ...] = ()
        self._extra: Mapping[str, Any] = {}

    def sets(self) -> tuple[LockedSet, ...]:
        """
        Return all sets, the smallest first; empty if the file does not exist.

        Raises:
            ProjectError: The file is not a lock file, or cannot be read.
        """
        try:
            facts = self.path.stat()
            stamp = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
            if stamp != self._read_at:
                self._sets, self._extra = self._parsed(read_file(self.path))
                self._read_at = stamp
        except FileNotFoundError:
            self._sets, self._extra, self._read_at = (), {}, None
        except OSError as fault:
            raise ProjectError(
                f"{self.path} cannot be read: {(fault.strerror or type(fault).__name__).lower()}.",
                fix="Make the file readable: it contains the versions of the npm packages.",
            ) from None
        return self._sets

    def load_extra(self) -> Mapping[str, Any]:
        """Return further facts in the file, by name. Raises as `sets`."""
        self.sets()
        return self._extra

    def version(self, imported: str) -> str | None:
        """Return the project's version for *imported*, or None."""
        return next((each.version(imported) for each in self.sets() if imported in each.imports), None)

    def add(self, new: LockedSet) -> None:
        """
        Add *new* to the file, and remove its subsets.

        Raises:
            OSError: The file cannot be written; it is unchanged.
        """
        with self._write_lock():
            other_sets = [each for each in self.sets() if not new.holds(each.imports)]
            self._write([*other_sets, new], self._extra)

    def set_extra(self, name: str, build_value: Callable[[], Mapping[str, Any]]) -> None:
        """
        Store a further fact in the file.

        Args:
            name: Name of the fact.
            build_value: Returns the value; called while the file is locked against other writers.

        Raises:
            ProjectError: The file is not a lock file.
            OSError: The file cannot be written; it is unchanged.
        """
        with self._write_lock():
            self._write(self.sets(), {**self.load_extra(), name: dict(sorted(build_value().items()))})

    @contextlib.contextmanager
    def _write_lock(self) -> Iterator[None]:
        """Lock the file against other processes, because each process writes the whole file."""
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, sets: Iterable[LockedSet], facts: Mapping[str, Any]) -> None:
        value = {
            "about": self._about,
            "lockVersion": LOCK_VERSION,
            **dict(sorted(facts.items())),
            "sets": [
                {"imports": dict(sorted(each.imports.items())), "packages": each.packages}
                for each in sorted(sets, key=lambda each: sorted(each.imports))
            ],
        }
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        try:
            draft.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, self.path)  # noqa: PTH105 - atomic, replaces the existing file
        finally:
            draft.unlink(missing_ok=True)

    def _parsed(self, text: bytes) -> tuple[tuple[LockedSet, ...], Mapping[str, Any]]:
        try:
            value = json.loads(text)
            if value["lockVersion"] != LOCK_VERSION:
                raise ValueError(value["lockVersion"])
            sets = [LockedSet(dict(each["imports"]), dict(each["packages"])) for each in value["sets"]]
            for each in sets:
                _check_places(each)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ProjectError(
                f"{self.path} is not a lock file that this version of pdkernel can read. The file is unchanged.",
                fix="Restore the file from version control, or delete it: the next run installs the newest versions.",
            ) from None
        facts = {name: fact for name, fact in value.items() if name not in _KNOWN_KEYS}
        return tuple(sorted(sets, key=lambda each: (len(each.imports), each.key))), facts


def _check_places(locked: LockedSet) -> None:
    """Reject what `find_foreign_package` finds, and wrong imports. Raises `ValueError`, `KeyError` or `TypeError`."""
    for imported, folder in locked.imports.items():
        locked.version(imported)
        if package_fault(folder, None):
            raise ValueError(folder)
    if foreign := find_foreign_package(locked.packages):
        raise ValueError(foreign)


def find_foreign_package(packages: Mapping[str, Any]) -> str | None:
    """
    Return the place of one of *packages* that npm would not download as an archive into the set's folder, or None.

    It is outside of that folder, a link, a file of this machine, or in a Git repository, whose code npm may run.
    """
    for place, entry in packages.items():
        is_archive = str(entry.get("resolved") or "https://").startswith(("https://", "http://"))
        is_inside = place.startswith("node_modules/") and ".." not in place.split("/")
        if place and not (is_archive and is_inside and "link" not in entry):
            return place
    return None


NPM_LOCK_NAME = "pdkernel-npm.lock.json"
REMOVE_UNUSED_AFTER_S = 60 * 24 * 3600
"""Seconds after which an unused set is removed; it can be installed again from the lock file."""

_STAGING = ".new-"
_DROPPED_ENTRY_KEYS = ("funding", "license", "deprecated")  # keys of npm's entries that installing does not need
_NAMES = (
    "@pipedream/platform axios got node-fetch lodash lodash-es moment moment-timezone dayjs date-fns luxon uuid nanoid "
    "cheerio jsdom puppeteer-core playwright-core express openai @anthropic-ai/sdk @slack/web-api @octokit/rest "
    "@notionhq/client googleapis stripe twilio airtable nodemailer pg mysql2 mongodb mongoose redis ioredis "
    "@aws-sdk/client-s3 @supabase/supabase-js firebase-admin csv-parse csv-stringify papaparse xlsx xml2js "
    "fast-xml-parser yaml js-yaml marked turndown handlebars zod ajv jsonwebtoken bcrypt crypto-js qs form-data "
    "rss-parser sharp pdf-lib pdf-parse ssh2-sftp-client graphql graphql-request p-limit bottleneck validator"
)
_WELL_KNOWN = tuple(_NAMES.split())


@dataclass(frozen=True, slots=True)
class NpmSpec:
    """
    A package as code imports it.

    Attributes:
        name: `axios`, `@scope/name`.
        range: `0.19.2`, `~0.20.0`, `next`; None is the newest version at the first install.
    """

    name: str
    range: str | None = None

    def __str__(self) -> str:
        return self.name if self.range is None else f"{self.name}@{self.range}"


@dataclass(frozen=True)
class NpmTree:
    """
    Installed packages.

    Attributes:
        folder: The folder with `node_modules`.
        aliases: Maps imports of code (`axios`, `axios@0.19.2`) to folders under `node_modules`.
        locked: The set that is installed in *folder*; None if no package is required.
    """

    folder: Path
    aliases: Mapping[str, str] = field(default_factory=dict)
    locked: LockedSet | None = field(default=None, repr=False, compare=False)


class NpmPackages:
    """
    The npm packages of a project.

    Args:
        folder: The folder of the installed sets.
        lock: The lock file.
        node: Returns the Node.js whose npm installs; called only before an installation.
        environ: Environment of npm, with the user's registry and proxy.
        about: The lock file's description of itself.
    """

    def __init__(
        self,
        folder: Path,
        *,
        lock: Path,
        node: Callable[[], Path],
        environ: Mapping[str, str],
        about: str = DEFAULT_ABOUT,
    ) -> None:
        self._folder = folder
        self._lock = NpmLock(lock, about=about)
        self._node = node
        self._environ = environ

    async def ensure(
        self,
        specs: Iterable[NpmSpec],
        *,
        install: bool = True,
        progress: ProgressCallback = lambda _: None,
        command: str = "pdkernel packages install SOURCE",
        locked: LockedSet | None = None,
    ) -> NpmTree:
        """
        Return the folder with *specs*; packages that are missing are installed together first.

        Versions come from the lock file; new packages are added to the file. Several processes may call this method at once.

        Args:
            specs: The packages that code imports.
            install: Whether packages may be installed.
            progress: Called with short lines of progress.
            command: The command that installs the packages, for the error message.
            locked: The set that is used instead of those of the lock file, or None.

        Raises:
            PackageMissingError: Packages are missing, and *install* is False.
            PackageInstallError: Packages cannot be installed.
            InterpreterMissingError: npm is missing.
            ProjectError: The lock file cannot be read.
        """
        wanted = {str(spec): spec for spec in sorted(set(specs), key=str)}
        tree = self._find_tree(wanted, locked)
        if tree is not None:
            return tree
        if not install:
            raise PackageMissingError(tuple(self._missing(wanted, locked)), command)
        for spec in wanted.values():
            _check(spec)
        try:
            async with installation_lock(self._folder, progress):
                return self._find_tree(wanted, locked) or await self._install(wanted, progress, locked)
        except OSError as fault:
            raise build_disk_error(fault, list(wanted)) from None

    def find(self, specs: Iterable[NpmSpec]) -> NpmTree | None:
        """Return the folder with *specs*, or None if they are not installed. Raises `ProjectError` for an invalid lock file."""
        return self._find_tree({str(spec): spec for spec in specs})

    def locked(self) -> list[tuple[LockedSet, bool]]:
        """
        Return the sets of the lock file, each with whether it is installed on this machine.

        Raises:
            ProjectError: The lock file cannot be read.
        """
        return self._with_state(self._lock.sets())

    def _with_state(self, sets: Iterable[LockedSet]) -> list[tuple[LockedSet, bool]]:
        return [(each, (self._folder / each.key).is_dir()) for each in sets]

    def _find_tree(self, wanted: Mapping[str, NpmSpec], only: LockedSet | None = None) -> NpmTree | None:
        if not wanted:
            return NpmTree(self._folder)
        for locked, is_installed in self.locked() if only is None else self._with_state([only]):
            if is_installed and locked.holds(wanted):
                return self._tree(locked, wanted)
        return None

    def _tree(self, locked: LockedSet, wanted: Iterable[str]) -> NpmTree:
        folder = self._folder / locked.key
        with contextlib.suppress(OSError):
            os.utime(folder)  # marks the set as used
        return NpmTree(folder, {each: locked.imports[each] for each in wanted}, locked)

    def _missing(self, wanted: Mapping[str, NpmSpec], only: LockedSet | None) -> list[str]:
        """Return the packages that are not in any installed set; all of *wanted* if each is installed, but not together."""
        if only is not None:
            return list(wanted)
        there = {imported for locked, is_installed in self.locked() if is_installed for imported in locked.imports}
        return [each for each in wanted if each not in there] or list(wanted)

    async def _install(
        self, wanted: Mapping[str, NpmSpec], progress: ProgressCallback, only: LockedSet | None
    ) -> NpmTree:
        names = ", ".join(wanted)
        progress(f"installing {names} ...")
        began = time.monotonic()
        await run_blocking(self._remove_unused)
        staging = self._folder / f"{_STAGING}{os.getpid()}-{secrets.token_hex(4)}"
        staging.mkdir()
        try:
            locked = only or next((each for each in self._lock.sets() if each.holds(wanted)), None)
            new = locked is None
            if locked is None:
                locked = await self._resolve(wanted, staging, progress)
            else:
                _write_package(staging, locked)
                await self._npm("ci", staging, wanted, progress, total=len(locked.packages) - 1)
            _publish(staging, self._folder / locked.key)
        finally:
            await run_blocking(remove_tree, staging)
        if new:
            self._lock.add(locked)
        versions = ", ".join(f"{spec.name}@{locked.version(each)}" for each, spec in wanted.items())
        progress(f"installed {versions} in {time.monotonic() - began:.1f} s")
        return self._tree(locked, wanted)

    async def _resolve(self, wanted: Mapping[str, NpmSpec], staging: Path, progress: ProgressCallback) -> LockedSet:
        """Install *wanted* in *staging*, with the versions of the lock file where it has them."""
        imports = _folders(wanted.values())
        # parity[npm-newest]: the platform takes the newest version at each deploy; pdkernel keeps it in the lock file
        versions = {each: self._lock.version(each) or spec.range or "latest" for each, spec in wanted.items()}
        inside = [each for each in self._lock.sets() if all(imported in wanted for imported in each.imports)]
        if inside:  # dependencies of the largest known subset also keep their versions
            _write_lock(staging, inside[-1].packages)
        _write_dependencies(
            staging,
            {imports[each]: _dependency(spec.name, imports[each], versions[each]) for each, spec in wanted.items()},
        )
        # npm runs code of Git repositories, and reads files of this machine, so the packages are checked before an installation
        await self._npm("install", staging, wanted, progress, arguments=("--package-lock-only",))
        packages = json.loads((staging / "package-lock.json").read_text(encoding="utf-8"))["packages"]
        if foreign := find_foreign_package(packages):
            raise build_foreign_error(list(wanted), foreign.rpartition("node_modules/")[2])
        await self._npm("ci", staging, wanted, progress, total=len(packages) - 1)
        exact = {
            imports[each]: _dependency(spec.name, imports[each], packages[f"node_modules/{imports[each]}"]["version"])
            for each, spec in wanted.items()
        }
        cleaned = {place: _cleaned(entry) for place, entry in packages.items() if place}
        return LockedSet(imports, {"": {"dependencies": exact}, **cleaned})

    async def _npm(
        self,
        command: str,
        staging: Path,
        wanted: Mapping[str, NpmSpec],
        progress: ProgressCallback,
        *,
        arguments: Sequence[str] = (),
        total: int | None = None,
    ) -> None:
        names = list(wanted)
        settings = self._lock.path.parent / ".npmrc"
        if settings.is_file():  # npm reads a project's settings only beside package.json
            (staging / ".npmrc").unlink(missing_ok=True)
            (staging / ".npmrc").symlink_to(settings)

        measure = partial(measure_node_modules, staging, f"installing {', '.join(names)}", total=total)
        try:
            async with report_each_second(measure, progress):
                await run_npm(command, staging, arguments=arguments, node=self._node(), environ=self._environ)
        except NpmFailedError as failure:
            error = explain_failure(failure, names, did_you_mean_package)
            if command == "ci" and failure.missing_package:  # the lock file requires a package that no longer exists
                error.fix = f"{self._lock.path.name} requires it. Delete the file to install the newest versions."
            raise error from None

    def _remove_unused(self) -> None:
        """Remove leftovers of killed processes, and unused sets. Call it only with the installation lock."""
        for entry in self._folder.iterdir():
            if entry.is_dir() and (
                entry.name.startswith(_STAGING) or entry.stat().st_mtime < time.time() - REMOVE_UNUSED_AFTER_S
            ):
                remove_tree(entry)


def did_you_mean_package(name: str) -> str:
    """Return a sentence that suggests well-known packages with a similar name, or the empty string."""
    return did_you_mean(name, _WELL_KNOWN, lists_all=False)


def _check(spec: NpmSpec) -> None:
    """Refuse a spec that a registry cannot have. Raises `PackageInstallError`."""
    fault = package_fault(spec.name, spec.range)
    if fault is not None:
        raise PackageInstallError(f"{fault}.", package=str(spec))


def _folders(specs: Iterable[NpmSpec]) -> dict[str, str]:
    """Maps each import to a folder under `node_modules`: the package's name, or an alias for a second version."""
    folders: dict[str, str] = {}
    for spec in sorted(specs, key=lambda spec: (spec.range is not None, str(spec))):
        folder, number = spec.name, 1
        while folder in folders.values():
            number += 1
            folder = f"{spec.name}--{number}"
        folders[str(spec)] = folder
    return folders


def _dependency(name: str, folder: str, version: str) -> str:
    return version if folder == name else f"npm:{name}@{version}"


def _cleaned(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in _DROPPED_ENTRY_KEYS}


def _write_package(staging: Path, locked: LockedSet) -> None:
    _write_lock(staging, locked.packages)
    _write_dependencies(staging, locked.packages[""]["dependencies"])


def _write_lock(staging: Path, packages: Mapping[str, Any]) -> None:
    text = json.dumps({"lockfileVersion": 3, "requires": True, "packages": packages})
    (staging / "package-lock.json").write_text(text, encoding="utf-8")


def _write_dependencies(staging: Path, dependencies: Mapping[str, str]) -> None:
    text = json.dumps({"private": True, "dependencies": dict(dependencies)})
    (staging / "package.json").write_text(text, encoding="utf-8")


def _publish(staging: Path, place: Path) -> None:
    """Move *staging* to its final path, unless another process has published the same packages."""
    (staging / ".npmrc").unlink(missing_ok=True)
    (staging / "node_modules").mkdir(exist_ok=True)
    open_to_steps(staging)
    try:
        staging.rename(place)
    except OSError:
        if not place.is_dir():  # another process has published the same packages
            raise
