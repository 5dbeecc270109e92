"""
Entry files: their paths and runtimes by language, the file that `workflow.yaml` names, and the files that it imports.

Each is a regular file inside of the folder, within the size limit. `entry.sh` and `entry.go` are inferred: no synced repository
with a Bash or Go step was observed. Their runtime names are unknown, so none is written.
"""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pdkernel.language.analysis import ReadFile, StepFileError
from pdkernel.model import Language


def slugify(name: str) -> str:
    """
    *name* in lower case, spaces as dashes, punctuation dropped, underscores kept; `workflow` if nothing is left.

    "Random Album Cover (Mastodon)" is `random-album-cover-mastodon`.
    """
    words = re.sub(r"[^a-z0-9_\s-]", "", name.lower())
    return re.sub(r"[\s-]+", "-", words).strip("-") or "workflow"


ENTRY_FILES: Mapping[Language, str] = {"python": "entry.py", "node": "entry.js", "bash": "entry.sh", "go": "entry.go"}
RUNTIME_NAMES: Mapping[Language, str] = {"python": "python3.12", "node": "nodejs20.x"}
INFERRED_LANGUAGES: frozenset[Language] = frozenset({"bash", "go"})
_SUFFIXES: Mapping[str, Language] = {
    ".py": "python",
    ".js": "node",
    ".mjs": "node",
    ".cjs": "node",
    ".sh": "bash",
    ".go": "go",
}


def default_entry_path(name: str, language: Language) -> str:
    """Return the default path of step *name*'s code, relative to the workflow's folder."""
    return f"{name}/{ENTRY_FILES[language]}"


def detect_language(path: str) -> Language | None:
    """Return the language of an entry file by its suffix, or None."""
    return _SUFFIXES.get(PurePosixPath(path).suffix)


MAX_ENTRY_FILE_BYTES = 32 * 1024 * 1024
"""Size limit of one entry file; the platform's own limit for a step's code is not documented, and surely lower."""

_DEFINITION_FILES = frozenset({"workflow.yaml", ".workflow.state", "pdkernel.yaml"})


class EntryFileError(Exception):
    """An entry file cannot be read. The message is the end of a sentence that starts with the file's name."""


def read_entry_file(folder: Path, uses: str) -> str | None:
    """
    Return the text of the file that *uses* names in *folder*, byte for byte as UTF-8; None if there is no such file.

    Raises:
        EntryFileError: The path leaves the folder, is not a regular file, is too large, or is not UTF-8.
    """
    try:
        if is_outside(folder / uses, folder):
            raise EntryFileError("which is outside the folder")
        return _read_text(folder / uses)
    except (OSError, ValueError, RuntimeError) as fault:  # a name with a NUL; a link to itself
        raise EntryFileError(f"which cannot be read ({getattr(fault, 'strerror', None) or fault})") from None


def build_file_reader(folder: Path, entry_folder: str, *, outside: str = "the workflow's folder") -> ReadFile:
    """
    Return the function that reads files that a step imports.

    Args:
        folder: The folder that contains the files; links are refused in it.
        entry_folder: The folder of the step's entry file in *folder*.
        outside: How messages name *folder*.
    """

    def read(path: str) -> str | None:
        # parity[imported-files]: whether the platform bundles files outside of the step's folder is not documented
        inside = posixpath.normpath(posixpath.join(entry_folder, path))
        if inside.startswith("../"):
            raise StepFileError(f"which is outside of {outside}")
        if inside in _DEFINITION_FILES:
            return None
        try:
            for place in (folder / inside, *(folder / inside).parents):
                if place == folder:
                    break
                if place.is_symlink():
                    raise StepFileError("which is a link: a workflow's files are regular files")
            return None if (folder / inside).is_dir() else _read_text(folder / inside)
        except EntryFileError as why:
            raise StepFileError(str(why)) from None
        except (OSError, ValueError) as fault:
            raise StepFileError(f"which cannot be read ({getattr(fault, 'strerror', None) or fault})") from None

    return read


def _read_text(path: Path) -> str | None:
    """Return the text of *path*, or None if there is no such file. Raises `EntryFileError` and `OSError`."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise EntryFileError("which is not a file")
        if found.st_size > MAX_ENTRY_FILE_BYTES:
            raise EntryFileError(f"which has {found.st_size} bytes, more than the {MAX_ENTRY_FILE_BYTES} that are read")
        return path.read_bytes().decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as fault:
        raise EntryFileError(f"which is not UTF-8 text (its line {get_error_line(fault)})") from None


def is_outside(path: Path, folder: Path) -> bool:
    """Return whether *path* is outside *folder* after its links are resolved."""
    return not path.resolve().is_relative_to(folder.resolve())


def get_error_line(fault: UnicodeDecodeError) -> int:
    """Return the line of the byte that *fault* is about, from 1."""
    return fault.object.count(b"\n", 0, fault.start) + 1
