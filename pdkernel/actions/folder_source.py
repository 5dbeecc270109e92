"""
Components in a folder with the layout of a components checkout: `components/APP/actions/NAME/NAME.mjs`, and `sources`.

Node.js resolves the imports of a module from its folder. pdkernel does not install the packages of such a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pdkernel.actions.component import (
    Component,
    build_component,
    build_component_file,
    iter_component_modules,
    parse_header,
)
from pdkernel.actions.source_settings import find_components_folder
from pdkernel.model import get_app_slug


class FolderSource:
    """
    The components of one folder.

    Args:
        folder: The folder of components, or the parent of a folder `components`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = find_components_folder(folder) or folder
        self._cache: dict[str, tuple[Mapping[Path, tuple[int, int]], Mapping[str, Component]]] = {}

    def list_apps(self) -> list[str]:
        """The apps with components in the folder."""
        kinds = ("actions", "sources")
        return sorted({path.parent.name for kind in kinds for path in self._folder.glob(f"*/{kind}") if path.is_dir()})

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
        for app in self.list_apps():
            components = self.load_components(app)
            found = components.get(key) or (components.get(key.rpartition("/")[2]) if key.startswith("@") else None)
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
