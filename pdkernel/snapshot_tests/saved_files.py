"""
Writes the files of a saved test and never overwrites a file that was changed after saving.

Comments at the end of a saved test hold checksums of its files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from pdkernel.errors import RequestError
from pdkernel.files import read_file

_CHECKSUM_HEADER = "# Saved by pdkernel. Saving again overwrites these files if they are unchanged:"
_ANY_CHECKSUM_HEADER = re.compile(r"# Saved by pdkernel\. Saving again overwrites these files [^\n]*:\n")
"""The header of saved tests; its words differed in earlier versions."""
_LINE = re.compile(r"#   (?P<hash>[0-9a-f]{16}) (?P<path>.+)")


def write_test_files(test: Path, text: str, attachments: Mapping[Path, bytes]) -> tuple[Path, ...]:
    """
    Write a saved test and its attachments.

    Args:
        test: Path of the test.
        text: Text of the test, without checksums.
        attachments: Content of further files by path.

    Returns:
        The written files, the test first.

    Raises:
        RequestError: A file was changed or not written by pdkernel (no file is written), or a file cannot be written.
    """
    earlier = _read_existing(test)
    before = _read_checksums(earlier)
    names = {path: _relative(path, test.parent) for path in attachments}
    for path, content in attachments.items():
        existing = _read_existing(path)
        if existing not in (None, content) and before.get(names[path]) != _hash(existing or b""):
            raise _file_exists_error(path)
    checksums = [f"#   {_hash(content)} {names[path]}" for path, content in attachments.items()]
    body = "\n".join([text, _CHECKSUM_HEADER, *checksums, ""])
    content_with_checksums = body + f"#   {_hash(body.encode())} this file\n"
    if earlier is not None and not _is_unchanged(earlier):
        raise _file_exists_error(test)
    try:
        for path, content in {**attachments, test: content_with_checksums.encode()}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as fault:
        raise RequestError(
            f"Cannot write the test: {fault.strerror} ({fault.filename}).",
            fix="Make the folder of the notebook writable.",
        ) from None
    return (test, *attachments)


def _read_existing(path: Path) -> bytes | None:
    """The bytes of the file at *path*, or None if nothing is there. Raises `RequestError` if it is not a file."""
    try:
        return read_file(path)
    except FileNotFoundError:
        return None
    except OSError:
        raise _file_exists_error(path) from None


def _file_exists_error(path: Path) -> RequestError:
    return RequestError(
        f"{path} already exists and was not written by pdkernel, or was changed since; no file was written.",
        fix="Choose another name, or move the file.",
    )


def _is_unchanged(test: bytes) -> bool:
    """Whether the test is unchanged since it was saved."""
    text = test.decode("utf-8", "replace")
    body, newline, last = text.removesuffix("\n").rpartition("\n")
    found = _LINE.fullmatch(last)
    return found is not None and found["path"] == "this file" and found["hash"] == _hash((body + newline).encode())


def _read_checksums(test: bytes | None) -> dict[str, str]:
    """Checksums of files in an earlier version of the test, by path."""
    _, *rest = _ANY_CHECKSUM_HEADER.split((test or b"").decode("utf-8", "replace"), maxsplit=1)
    return {found["path"]: found["hash"] for found in map(_LINE.fullmatch, "".join(rest).splitlines()) if found}


def _relative(path: Path, start: Path) -> str:
    return (
        path.relative_to(start).as_posix()
        if path.is_relative_to(start)
        else f"../{path.relative_to(start.parent).as_posix()}"
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
