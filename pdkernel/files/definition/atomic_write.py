"""
Writes a set of files into a folder: all of them, or none.

Each rename may fail, so the earlier files are kept as backups until all renames are done, and restored if one fails. A process that
is killed between two renames leaves a list of them, by which the next write into the folder completes them, and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pdkernel.errors import RequestError

PENDING_FILE = ".pdkernel-export.json"
"""The list of renames, [new file, target] relative to the folder, while they take place."""
_NEW_MODE = 0o644


def check_write_paths(paths: Iterable[str], folder: Path) -> None:
    """
    Refuse paths that are links or that leave the folder.

    Args:
        paths: Relative to the folder, with slashes.
        folder: The folder; it does not have to exist yet.

    Raises:
        RequestError: The folder is a file; or a path is a link, a folder, or leads out of the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{folder} is a file, and an export needs a folder.")
    root = folder.resolve()
    for path in paths:
        target = folder / path
        if target.is_symlink() or not target.resolve().is_relative_to(root):
            raise RequestError(
                f"{target} is a link or leads out of {folder}, and an export writes inside its folder only.",
                fix="Remove the link, or export to another folder.",
            )
        if target.is_dir():
            raise RequestError(f"{target} is a folder, and the export writes a file there.")


def complete_write(folder: Path) -> bool:
    """
    Complete a write that a kill has interrupted; return whether there was one.

    The list may come from another person, as the folder does, so it renames files of the folder only.

    Raises:
        RequestError: A rename fails, or the list leads out of the folder.
    """
    pending = folder / PENDING_FILE
    if pending.is_symlink() or not pending.is_file():
        return False
    try:
        renames = [(str(aside), str(target)) for aside, target in json.loads(pending.read_bytes())]
        check_write_paths([path for pair in renames for path in pair], folder)
        for aside, target in renames:
            if (folder / aside).is_file():
                (folder / aside).replace(folder / target)
        pending.unlink()
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"An export into {folder} was interrupted, and cannot be completed: {error}. Some files may be those of that export.",
            fix=f"Restore the folder with Git, or from a copy, and remove {pending}.",
        ) from None
    return True


def write_files_atomically(files: Mapping[str, bytes], folder: Path) -> None:
    """
    Write *files* (content by path relative to *folder*): all of them, or none.

    Raises:
        RequestError: A file could not be written, and the folder is unchanged; or an interrupted write was completed instead.
    """
    if complete_write(folder):  # the caller has read the folder before
        raise RequestError(
            f"An earlier export into {folder} was killed between two files. It is complete now; nothing else was written.",
            fix="Look at the folder, and run the command again.",
        )
    placing = _AtomicWrite(folder)
    try:
        for path, content in files.items():
            placing.write_temporary(path, content)
        placing.rename()
    except OSError as error:
        placing.undo()
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}. It is unchanged.") from None
    except BaseException:  # an interrupt between two renames
        placing.undo()
        raise
    placing.clean()


class _AtomicWrite:
    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()  # as the paths of `tempfile` are
        self._made: list[Path] = []
        self._temporaries: list[tuple[Path, Path]] = []
        self._backups: dict[Path, Path | None] = {}
        self._pending: Path | None = None

    def write_temporary(self, path: str, content: bytes) -> None:
        target = self._folder / path
        self._make_folders(target.parent)
        aside = self._make_temporary(target)
        self._temporaries.append((aside, target))
        aside.write_bytes(content)
        if target.exists():
            shutil.copymode(target, aside)
            self._backups[target] = self._make_temporary(target)
            shutil.copy2(target, self._backups[target] or "")
        else:
            aside.chmod(_NEW_MODE)
            self._backups[target] = None

    def rename(self) -> None:
        if len(self._temporaries) > 1:
            renames = [[str(path.relative_to(self._folder)) for path in pair] for pair in self._temporaries]
            self._pending = self._make_temporary(self._folder / PENDING_FILE)
            self._pending.write_text(json.dumps(renames))
            self._pending = self._pending.replace(self._folder / PENDING_FILE)
        for aside, target in self._temporaries:
            aside.replace(target)

    def undo(self) -> None:
        """Restore the earlier files. Errors are suppressed, so that the original error is the one raised."""
        for aside, target in self._temporaries:
            with suppress(OSError):
                if aside.exists():
                    continue  # not renamed yet
                before = self._backups.get(target)
                if before is None:
                    target.unlink(missing_ok=True)
                else:
                    before.replace(target)
        self.clean()
        for folder in reversed(self._made):
            with suppress(OSError):
                folder.rmdir()

    def clean(self) -> None:
        for path in (self._pending, *(aside for aside, _ in self._temporaries), *self._backups.values()):
            if path is not None:
                with suppress(OSError):
                    path.unlink(missing_ok=True)

    def _make_folders(self, folder: Path) -> None:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir()
            self._made.append(each)

    @staticmethod
    def _make_temporary(target: Path) -> Path:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(descriptor)
        return Path(name)
