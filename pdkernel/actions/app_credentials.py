"""The credentials that the components of an app read from `$auth`: the fields of the app's form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pdkernel.analysis.credential_reads import CredentialReads, find_credential_reads
from pdkernel.identity import ACCESS_TOKEN_FIELD

_SUFFIXES = frozenset({".mjs", ".js", ".cjs", ".ts", ".mts"})
_OTHER_FOLDERS = frozenset({"node_modules", "dist", "test", "tests"})
_MAX_BYTES = 4 << 20
"""The size of an app's modules that are read; the largest app of the platform's registry has a quarter of it."""


class AppCredentials:
    """Reads what the modules in an app's folder read from `$auth`; a folder is read again after a change."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[object, CredentialReads]] = {}

    def find(self, folder: Path) -> CredentialReads:
        """The reads of the modules in *folder*, those of the app's own module first; none without a folder."""
        modules = sorted(iter_modules(folder), key=lambda path: (".app." not in path.name, path))
        marks = [(path, (facts := path.stat()).st_mtime_ns, facts.st_size) for path in modules]
        known = self._known.get(folder)
        if known is None or known[0] != marks:
            known = self._known[folder] = (marks, _read(folder, modules))
        return known[1]


def order_form_fields(reads: CredentialReads) -> tuple[str, ...]:
    """The fields of a form: the access token first, then the others in the order in which the app reads them."""
    return tuple(sorted(reads.fields, key=lambda name: name != ACCESS_TOKEN_FIELD))


def _read(folder: Path, modules: list[Path]) -> CredentialReads:
    texts, size = {}, 0
    for path in modules:
        text = path.read_text(encoding="utf-8", errors="replace")
        size += len(text)
        if size > _MAX_BYTES:
            break
        if "auth" in text.lower():
            texts[path.relative_to(folder).as_posix()] = text
    return find_credential_reads(texts)


def iter_modules(folder: Path) -> Iterator[Path]:
    """The modules in *folder*; a link is not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _OTHER_FOLDERS]
        for name in names:
            path = Path(place, name)
            if path.suffix in _SUFFIXES and path.is_file() and not path.is_symlink():
                yield path
