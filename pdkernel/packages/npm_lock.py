"""
The lock file of npm packages: exact versions with hashes, without registry addresses.

Each set of packages was resolved together by npm; `packages` has the format of npm's own lock files. A set also serves every
subset of its imports. A package that several sets import without a version has the same version in all of them. The caller may
store further facts in the file. The user commits the file, so it is sorted and has one fact on each line. It is replaced
atomically.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pdkernel.common.safe_files import read_file
from pdkernel.errors import ProjectError
from pdkernel.language.analysis import package_fault

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
        """The exact version for the import *imported*."""
        return str(self.packages[f"node_modules/{self.imports[imported]}"]["version"])

    def holds(self, wanted: Collection[str]) -> bool:
        """Whether the set contains all imports in *wanted*."""
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
        All sets, the smallest first; empty if the file does not exist.

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
        """Further facts in the file, by name. Raises as `sets`."""
        self.sets()
        return self._extra

    def version(self, imported: str) -> str | None:
        """The project's version for *imported*, or None."""
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
