"""
Where a saved test is written, and that nothing is overwritten which someone else has written or changed.

Knows the mark at the end of a saved test: what its files held when they were saved. Knows nothing of what is in them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from pdkernel.errors import RequestError

_CHECKSUM_HEADER = "# Saved by pdkernel. Saving again overwrites these files as long as nobody has changed them:"
_LINE = re.compile(r"#   (?P<hash>[0-9a-f]{16}) (?P<path>.+)")


def write_test_files(test: Path, text: str, attachments: Mapping[Path, bytes]) -> tuple[Path, ...]:
    """
    Write a saved test and what belongs to it.

    Args:
        test: Where the test goes.
        text: Its text, without the mark.
        attachments: What belongs to it, by place.

    Returns:
        The files that hold it now, the test first.

    Raises:
        RequestError: One of them is there and someone else's, or cannot be written; in the first case nothing is.
    """
    before = _read_checksums(test)
    names = {path: _relative(path, test.parent) for path in attachments}
    for path, content in attachments.items():
        if path.exists() and path.read_bytes() != content and before.get(names[path]) != _hash(path.read_bytes()):
            raise _file_exists_error(path)
    marks = [f"#   {_hash(content)} {names[path]}" for path, content in attachments.items()]
    body = "\n".join([text, _CHECKSUM_HEADER, *marks, ""])
    whole = body + f"#   {_hash(body.encode())} this file\n"
    if test.exists() and not _is_unchanged(test):
        raise _file_exists_error(test)
    try:
        for path, content in {**attachments, test: whole.encode()}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as fault:
        raise RequestError(
            f"The test cannot be written: {fault.strerror} ({fault.filename}).",
            fix="Make the folder of the notebook writable.",
        ) from None
    return (test, *attachments)


def _file_exists_error(path: Path) -> RequestError:
    return RequestError(
        f"{path} is there already, and was not written by pdkernel or was changed since; nothing was changed.",
        fix="Choose another name, or move that file away.",
    )


def _is_unchanged(test: Path) -> bool:
    """Whether the test is exactly as it was saved."""
    text = test.read_text(encoding="utf-8", errors="replace")
    body, newline, last = text.removesuffix("\n").rpartition("\n")
    found = _LINE.fullmatch(last)
    return found is not None and found["path"] == "this file" and found["hash"] == _hash((body + newline).encode())


def _read_checksums(test: Path) -> dict[str, str]:
    """What an earlier saving says of its files, by their paths."""
    if not test.is_file():
        return {}
    _, _, marks = test.read_text(encoding="utf-8", errors="replace").partition(_CHECKSUM_HEADER)
    return {found["path"]: found["hash"] for found in map(_LINE.fullmatch, marks.splitlines()) if found}


def _relative(path: Path, start: Path) -> str:
    return (
        path.relative_to(start).as_posix()
        if path.is_relative_to(start)
        else f"../{path.relative_to(start.parent).as_posix()}"
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
