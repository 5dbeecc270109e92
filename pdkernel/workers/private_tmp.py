"""
A private `/tmp` that only the steps of one run see (Linux).

Each process mounts it in its own mount namespace, which the zygote creates.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pdkernel.runtimes.file_tree import remove_tree
from pdkernel.workers.child_process import PLAIN_PLAN
from pdkernel.workers.zygote import ZYGOTES, Zygote

TMP_FOLDER = Path("/tmp")  # noqa: S108 - the folder itself, not a file in it
_VAR_TMP_FOLDER = Path("/var/tmp")  # noqa: S108 - likewise


class PrivateTmp:
    """
    A folder that is `/tmp` for the processes of one slot.

    Attributes:
        visible_names: Folders of the system's `/tmp` that are visible, read-only, in this one.
        plan: The plan of its processes (`runtimes.isolation`).
    """

    def __init__(self, folder: Path, visible_names: frozenset[str]) -> None:
        self.visible_names = visible_names
        self._folder = folder
        # Visible folders are read-only, and steps cannot remount them: steps may empty /tmp, as on the platform.
        visible = [TMP_FOLDER / name for name in visible_names]
        mounts = [(TMP_FOLDER, folder, True), *((path, path, False) for path in visible)]
        self.plan: Mapping[str, Any] = {
            **PLAIN_PLAN,
            "mounts": [
                {"target": str(target), "source": str(source), "writable": writable}
                for target, source, writable in mounts
            ],
        }

    @classmethod
    def create(cls, folder: Path, visible_names: frozenset[str], zygote: Zygote | None) -> Self | None:
        """
        Create a private `/tmp` in the new *folder*; return None if the operating system does not permit it.

        Args:
            folder: The folder of its files, as this process sees it.
            visible_names: Names of folders in the system's `/tmp` that stay visible.
            zygote: The zygote that starts the processes, or None.

        Raises:
            OSError: The folder cannot be created.
        """
        if zygote is None or not zygote.has_namespaces:
            return None
        folder.mkdir(mode=0o700)
        for name in visible_names:
            folder.joinpath(name).mkdir(mode=0o700)
        return cls(folder, visible_names)

    def clear(self) -> bool:
        """Remove the files of steps; return whether all of them are gone."""
        names = set(os.listdir(self._folder)) - self.visible_names  # noqa: PTH208 - at the end of every run
        left = [name for name in names if not remove_tree(self._folder / name)]
        return not left

    def close(self) -> None:
        """Remove the files."""
        remove_tree(self._folder)


def is_supported() -> bool:
    """Whether this system may support a private `/tmp`; only `PrivateTmp.create` finds out."""
    return sys.platform == "linux" and os.path.realpath(TMP_FOLDER) == str(TMP_FOLDER)


def describe_step_tmp(project: Path) -> str:
    """Describe in a sentence which `/tmp` the steps of *project* use; creates a private `/tmp` to find out."""
    if names_in_tmp(project) != frozenset():
        return "steps use the /tmp of this machine, because the project is in /tmp"
    if is_supported():
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
            made = PrivateTmp.create(Path(folder) / "tried", frozenset(), ZYGOTES.get())
            if made is not None:
                made.close()
                return "the steps of each run have a private /tmp"
    return "steps use the /tmp of this machine, because this system does not permit a mount namespace"


def make_scratch_folder(prefix: str) -> Path:
    """Create a folder for temporary files, outside of `/tmp` if possible: steps with a private `/tmp` must see it."""
    beside = (
        is_supported() and tempfile.gettempdir() == str(TMP_FOLDER) and os.access(_VAR_TMP_FOLDER, os.W_OK | os.X_OK)
    )
    return Path(tempfile.mkdtemp(prefix=prefix, dir=_VAR_TMP_FOLDER if beside else None))


@functools.lru_cache(maxsize=1000)
def names_in_tmp(*paths: Path) -> frozenset[str] | None:
    """
    Return the folders of the system's `/tmp` that contain *paths*; None if a path is a file directly in `/tmp`.

    For a link, both its own path and its target count. Results are cached.
    """
    names: set[str] = set()
    for path in paths:
        found = _names(path)
        if found is None:
            return None
        names |= found
    return frozenset(names)


@functools.lru_cache(maxsize=1000)
def _names(path: Path) -> frozenset[str] | None:
    names = set()
    for resolved in {path.absolute(), Path(os.path.realpath(path))}:
        if not resolved.is_relative_to(TMP_FOLDER):
            continue
        parts = resolved.relative_to(TMP_FOLDER).parts
        if not parts or (len(parts) == 1 and not resolved.is_dir()):
            return None
        names.add(parts[0])
    return frozenset(names)
