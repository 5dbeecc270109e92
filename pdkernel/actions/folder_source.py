"""
Components in a folder with the layout of a components checkout: `components/APP/actions/NAME/NAME.mjs`, and `sources`.

Node.js resolves the imports of a module from its folder. pdkernel does not install the packages of such a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pdkernel.actions.component import (
    Component,
    ComponentKind,
    build_component,
    build_component_file,
    iter_component_modules,
    parse_header,
)
from pdkernel.actions.source_settings import find_components_folder
from pdkernel.model import get_app_slug

_KEY = re.compile(r"""(?:^|[{,])\s*["']?key["']?\s*:\s*["'`]([^"'`\s]+)["'`]""", re.MULTILINE)


class FolderSource:
    """
    The components of one folder.

    Args:
        folder: The folder of components, or the parent of a folder `components`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = find_components_folder(folder) or folder
        self._keys: dict[Path, tuple[tuple[int, int], tuple[str, ...]]] = {}
        self._cache: dict[str, tuple[Mapping[Path, tuple[int, int]], Mapping[str, Component]]] = {}

    def list_apps(self, kind: ComponentKind | None = None) -> list[str]:
        """The apps with components, or with a folder for components of *kind*."""
        kinds = (f"{kind}s",) if kind else ("actions", "sources")
        try:
            with os.scandir(self._folder) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError:
            return []
        return [name for name in names if any(os.path.isdir(f"{self._folder}/{name}/{each}") for each in kinds)]  # noqa: PTH112 - thousands

    def list_keys(self) -> Mapping[str, str]:
        """The app of each key that a module in the folder names, without parsing the modules; some may not be components."""
        modules = {path: app for app in self.list_apps() for path in iter_component_modules(self._folder / app)}
        known, self._keys = self._keys, {}
        found: dict[str, str] = {}
        for path, app in modules.items():
            facts = path.stat()
            mark = (facts.st_mtime_ns, facts.st_size)
            cached = known.get(path)
            if cached is None or cached[0] != mark:
                cached = mark, tuple(_KEY.findall(path.read_text(encoding="utf-8", errors="replace")))
            self._keys[path] = cached
            for key in cached[1]:
                found.setdefault(key, app)
        return found

    def find_app_folder(self, app: str) -> Path | None:
        """The folder of *app*, or None."""
        folder = self._folder / app
        return folder if folder.is_dir() else None

    def find_component(self, key: str) -> Component | None:
        """
        The component *key*, or None.

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
        """The components of *app*, by key."""
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
