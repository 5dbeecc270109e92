"""
A cache on disk of the props that components declare.

Only a worker can load a component to read its props; with the cache, a file is loaded once until it changes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path

from pdkernel.actions.app_credentials import iter_modules
from pdkernel.encode import decode_json, encode_json
from pdkernel.workers import ComponentDescription, ComponentFile


class DescriptionCache:
    """
    Descriptions of components, by file.

    Args:
        folder: The folder of the cache; created with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptions: dict[str, ComponentDescription] = {}

    def get(self, file: ComponentFile) -> ComponentDescription | None:
        """The description of the component in *file*; None if the file's current content is not in the cache."""
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
        """The name of the cache entry. It changes with the module; for a folder source, with every module of the app."""
        modules = [file.path]
        if file.origin == "folder":
            modules = sorted(iter_modules(file.path.parents[2]))
        marks = [f"{path}:{path.stat().st_mtime_ns}:{path.stat().st_size}" for path in modules if path.exists()]
        return f"{file.key}-{hashlib.sha256(json.dumps(marks).encode()).hexdigest()[:16]}.json"
