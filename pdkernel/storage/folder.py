"""
The project's folder: finds and creates it, and the key file in it.

Two processes that start at the same time get the same key.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from contextlib import suppress
from pathlib import Path

from pdkernel.common.safe_files import PROJECT_FOLDER_NAME
from pdkernel.errors import ProjectError

KEY_NAME = "key"
KEY_BYTES = 32


def find_project(start: Path, *, named: str | None = None) -> Path:
    """
    Return the `.pdkernel` folder of a project, which need not exist.

    Args:
        start: The folder in which the search begins: the nearest project in *start* or its parents, else a new one in
            *start*.
        named: The project's folder as a person names it (`PDKERNEL_PROJECT`): the `.pdkernel` folder or its parent.
            None or an empty text searches.
    """
    if named:
        return Path(named) if Path(named).name == PROJECT_FOLDER_NAME else Path(named) / PROJECT_FOLDER_NAME
    start = start.absolute()
    for folder in (start, *start.parents):
        if (folder / PROJECT_FOLDER_NAME).is_dir():
            return folder / PROJECT_FOLDER_NAME
    return start / PROJECT_FOLDER_NAME


def ensure_folder(folder: Path) -> None:
    """
    Create the project's folder if it does not exist: readable by its owner only, and ignored by Git.

    Raises:
        ProjectError: The folder cannot be created, or the path is not a folder.
    """
    try:
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
    except OSError as fault:
        raise folder_error(folder, fault) from fault


def read_key(path: Path) -> bytes | None:
    """
    Return the key in *path*, or None if the file does not exist.

    Raises:
        ProjectError: The file cannot be read, or does not contain a key.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ProjectError(
            f"The project's key file {path} cannot be read: {_reason(fault)}.",
            fix="Make the file readable, or name another key file in PDKERNEL_KEY_FILE.",
        ) from fault
    key = decode_key(text)
    if key is None:
        raise ProjectError(
            f"{path} is not a key file of pdkernel: it does not contain {KEY_BYTES} bytes in base64. The file was not changed.",
            fix="Restore the key file of this project, or name it in PDKERNEL_KEY_FILE.",
        )
    return key


def encode_key(key: bytes) -> bytes:
    """Return the content of the file with *key*."""
    return base64.b64encode(key) + b"\n"


def decode_key(content: bytes) -> bytes | None:
    """Return the key in the content of a file, or None if the content is not complete."""
    try:
        key = base64.b64decode(content.strip(), validate=True)
    except binascii.Error:
        return None
    return key if len(key) == KEY_BYTES else None


def ensure_key(path: Path) -> bytes:
    """
    Return the key in *path*; the file is created if it does not exist.

    A complete draft of mode 0600 is linked to the final name, so the file is never incomplete. If another process was first, the
    link fails and that process's key is returned.

    Raises:
        ProjectError: The file cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, encode_key(secrets.token_bytes(KEY_BYTES)))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            with suppress(FileExistsError):  # another process was first; its key is read below
                os.link(draft, path)
        finally:
            draft.unlink()
    except OSError as fault:
        raise key_file_error(path, fault) from fault
    key = read_key(path)
    if key is None:
        raise ProjectError(
            f"The project's key file {path} was removed while it was created.", fix="Run the command again."
        )
    return key


def folder_error(folder: Path, fault: OSError) -> ProjectError:
    """Return the error for a project folder that cannot be used because of *fault*."""
    return ProjectError(
        f"The project folder {folder} cannot be used: {_reason(fault)}.",
        fix="Make it a writable folder, or choose another folder: --project FOLDER (PDKERNEL_PROJECT).",
    )


def key_file_error(path: Path, fault: OSError) -> ProjectError:
    """Return the error for a key file that cannot be written because of *fault*."""
    return ProjectError(
        f"The project's key file {path} cannot be written: {_reason(fault)}.",
        fix="Make its folder writable, or name a file in another folder in PDKERNEL_KEY_FILE.",
    )


def _reason(fault: OSError) -> str:
    match fault:
        case PermissionError():
            return "permission is denied"
        case FileExistsError() | NotADirectoryError():
            return f"{fault.filename} or a part of its path is a file"
        case _:
            return (fault.strerror or type(fault).__name__).lower()
