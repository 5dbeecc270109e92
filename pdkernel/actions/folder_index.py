"""
The index of a folder of components: its apps, and the keys that their modules name.

A checkout has thousands of apps. The index is kept in a file, and valid as long as the stamps of folders and modules are the same: a
lookup among all apps reads only what has changed since the last one, also in another process.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from pdkernel.actions.component import ComponentKind, iter_component_modules
from pdkernel.common.encode import JsonStruct, decode_json, encode_json

_KEY = re.compile(r"""(?:^|[{,])\s*["']?key["']?\s*:\s*["'`]([^"'`\s]+)["'`]""", re.MULTILINE)
_KIND_FOLDERS: Mapping[str, ComponentKind] = {f"{kind}s": kind for kind in get_args(ComponentKind)}
_SETTLED_NS = 50_000_000
"""The age of a folder's stamp from which it is trusted: two changes within a tick of the file system's clock have the same stamp."""


class _Module(JsonStruct, frozen=True):
    """A module: the time of its last change, its size, and the keys in its text; some may not be keys of components."""

    changed_ns: int
    size: int
    keys: tuple[str, ...]


class _App(JsonStruct, frozen=True):
    """An app: the times of the last changes of its folders, none if they are too new to be trusted, and its modules, by path."""

    folders: Mapping[str, int]
    modules: Mapping[str, _Module]


class FolderIndex:
    """
    The index of one folder.

    Args:
        folder: The folder with a folder for each app.
        cache: The folder of a project that keeps the index, `.pdkernel/packages/components/folders`; None keeps it in memory.
    """

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        self._folder = folder
        name = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:16]
        self._file = cache / f"{name}.json" if cache is not None else None
        self._apps: dict[str, _App] | None = None

    def list_apps(self, kind: ComponentKind | None = None) -> list[str]:
        """Return the apps with a folder for components of *kind*, or of any kind."""
        folders = [name for name, each in _KIND_FOLDERS.items() if kind in (None, each)]
        return [
            app
            for app in self._list_names()
            if any(os.path.isdir(f"{self._folder}/{app}/{name}") for name in folders)  # noqa: PTH112 - thousands
        ]

    def list_keys(self) -> Mapping[str, str]:
        """Return the app of each key that a module names, without parsing the modules; some may not be components."""
        known = self._load() if self._apps is None else self._apps
        apps = {app: self._check_app(app, known.get(app)) for app in self._list_names()}
        if apps != known:
            self._store(apps)
        self._apps = apps
        found: dict[str, str] = {}
        for app, entry in apps.items():
            for module in entry.modules.values():
                for key in module.keys:
                    found.setdefault(key, app)
        return found

    def _list_names(self) -> list[str]:
        try:
            with os.scandir(self._folder) as entries:
                return sorted(entry.name for entry in entries if not entry.is_file(follow_symlinks=False))
        except OSError:
            return []

    def _check_app(self, app: str, known: _App | None) -> _App:
        """Return the entry of *app*: *known*, unless a stamp has changed."""
        if known is not None and known.folders and all(_changed_ns(p) == at for p, at in known.folders.items()):
            folders, paths = known.folders, list(known.modules)
        else:
            now_ns = time.time_ns()
            folders = dict(self._iter_stamps(app))
            if any(now_ns - changed_ns <= _SETTLED_NS for changed_ns in folders.values()):
                folders = {}
            paths = [str(path) for path in iter_component_modules(self._folder / app)]
        old = known.modules if known is not None else {}
        modules = {path: module for path in paths if (module := _read_module(path, old.get(path))) is not None}
        entry = _App(folders, modules)
        return known if known == entry else entry

    def _iter_stamps(self, app: str) -> Iterator[tuple[str, int]]:
        """Yield the folders whose entries decide which modules *app* has, with their stamps."""
        places = [f"{self._folder}/{app}", *(f"{self._folder}/{app}/{name}" for name in _KIND_FOLDERS)]
        for place in places:
            changed_ns = _changed_ns(place)
            if changed_ns is None:
                continue
            yield place, changed_ns
            if place != places[0]:
                with os.scandir(place) as entries:
                    names = [entry.path for entry in entries if not entry.is_file(follow_symlinks=False)]
                yield from ((path, at) for path in names if (at := _changed_ns(path)) is not None)

    def _load(self) -> dict[str, _App]:
        if self._file is None:
            return {}
        try:
            return decode_json(self._file.read_bytes(), dict[str, _App])
        except (OSError, ValueError):
            return {}  # not kept yet, or written by another version of pdkernel

    def _store(self, apps: Mapping[str, _App]) -> None:
        """Keep the index. Without a project, or if the disk is full, only this process has it."""
        if self._file is None or not self._file.parents[3].is_dir():
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # another process may store it, too
            draft = self._file.with_name(f".{self._file.name}.{secrets.token_hex(4)}")
            try:
                draft.write_bytes(encode_json(apps))
                draft.replace(self._file)
            finally:
                draft.unlink(missing_ok=True)
        except OSError:
            return


def _changed_ns(path: str) -> int | None:
    """Return when the entries of the folder *path* changed; None if it is not a folder that can be read."""
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - thousands
    except OSError:
        return None


def _read_module(path: str, known: _Module | None) -> _Module | None:
    """Return the module at *path*: *known*, unless its stamp has changed; None if it is gone."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - thousands
        if known is not None and (known.changed_ns, known.size) == (facts.st_mtime_ns, facts.st_size):
            return known
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return _Module(facts.st_mtime_ns, facts.st_size, tuple(_KEY.findall(file.read())))
    except OSError:
        return None
