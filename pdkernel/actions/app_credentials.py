"""
The credentials that the components of an app read from `$auth`, found in their texts without running them: the fields of the app's form.

The texts are JavaScript and TypeScript, for which a search for the forms in use is enough: member access, destructuring, and both of a
variable or a method that stands for `this.$auth`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pdkernel.common.identity import ACCESS_TOKEN_FIELD

_SUFFIXES = frozenset({".mjs", ".js", ".cjs", ".ts", ".mts"})
_OTHER_FOLDERS = frozenset({"node_modules", "dist", "test", "tests"})
_MAX_BYTES = 4 << 20
"""The size of an app's modules that are read; the largest app of the platform's registry has a quarter of it."""
_NAME = r"[A-Za-z_$][\w$]*"
_COMMENT = re.compile(r"/\*.*?\*/|(?<![:\"'`\\\w])//[^\n]*", re.DOTALL)
_MEMBER = re.compile(rf"\s*(?:\?\.|!?\.)\s*({_NAME})|\s*!?(?:\?\.)?\[\s*[\"'`]([^\"'`$]+)[\"'`]\s*\]")
_OWNER = rf"=\s*\(?\s*(?:await\s+)?(?:[\w$.?]+\s*(?:\|\||\?\?)\s*)?(?:{_NAME}(?:\(\))?\s*(?:\?\.|\.)\s*)*\Z"
_DESTRUCTURED = re.compile(rf"\{{([^{{}}]*)\}}\s*(?::\s*[\w$<>\[\]., ]+)?\s*{_OWNER}")
_ASSIGNED = re.compile(rf"\b({_NAME})\s*(?::\s*[\w$<>\[\]., ]+)?\s*{_OWNER}")
_RETURNED = re.compile(rf"(?:return|=>)\s*\(?\s*(?:{_NAME}\s*(?:\?\.|\.)\s*)*\Z")
_METHOD = re.compile(rf"\b({_NAME})\s*(?:\(\)\s*(?::[^{{;]+)?\{{|:\s*\(\)\s*=>)")
_LISTED = re.compile(rf"(?:Object\.keys|console\.\w+)\([\s(]*(?:{_NAME}\s*(?:\?\.|\.)\s*)*\Z")
_NESTED = re.compile(r"\s*:\s*\{([^{}]*)\}")
_MAX_STEPS = 200
_CONTEXT_CHARS = 2000


@dataclass(frozen=True, slots=True)
class CredentialReads:
    """
    What an app's components read from `$auth`.

    Attributes:
        fields: The names of the credentials, in the order of the texts.
        unclear: The uses of `$auth` as a whole, whose fields are not known: the path of the text and its line.
    """

    fields: tuple[str, ...]
    unclear: tuple[tuple[str, int], ...] = ()


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


def find_credential_reads(texts: Mapping[str, str]) -> CredentialReads:
    """Find the fields of `$auth` that the modules of one app, *texts* by path, read. The app's own module comes first."""
    plain = {path: _COMMENT.sub(_blank, text) for path, text in texts.items()}
    fields: dict[str, None] = {}
    unclear: dict[tuple[str, int], None] = {}
    waiting: list[tuple[str, str | None]] = [(r"\$auth\b", None)]
    done: set[tuple[str, str | None]] = set()
    while waiting and len(done) < _MAX_STEPS:
        expression, only_in = source = waiting.pop(0)
        if source in done:
            continue
        done.add(source)
        for path, text in plain.items():
            if only_in in (None, path):
                for found in re.finditer(expression, text):
                    names, other = _read_use(text, found.start(), found.end(), path)
                    fields |= dict.fromkeys(names)
                    if other is None:
                        unclear[path, text.count("\n", 0, found.start()) + 1] = None
                    else:
                        waiting += other
    return CredentialReads(tuple(fields), tuple(unclear))


def _read_use(text: str, start: int, end: int, path: str) -> tuple[list[str], list[tuple[str, str | None]] | None]:
    """
    Read one use of the credentials at *start* to *end* of *text*.

    Returns:
        The fields that it names, and the expressions that stand for the credentials after it, each with the only text in which it
        does; None if the use is unclear.
    """
    member = _MEMBER.match(text, end)
    if member is not None:
        return [member[1] or member[2]], []
    before = text[max(0, start - _CONTEXT_CHARS) : start]
    if text[start] == "$" and not before.rstrip().endswith("."):  # a variable: in a pattern, in a call, or in prose
        nested = _NESTED.match(text, end)
        return _read_pattern(nested[1], path) if nested is not None else ([], [])
    if _LISTED.search(before):
        return [], []
    destructured = _DESTRUCTURED.search(before)
    if destructured is not None:
        return _read_pattern(destructured[1], path)
    assigned = _ASSIGNED.search(before)
    if assigned is not None:
        return [], [(_build_variable(assigned[1]), path)]
    if _RETURNED.search(before):
        method = [*_METHOD.finditer(before)]
        if method:
            return [], [(rf"(?<=\.){re.escape(method[-1][1])}\(\)", None)]
    return [], None


def _read_pattern(pattern: str, path: str) -> tuple[list[str], list[tuple[str, str | None]]]:
    """The fields of a destructuring *pattern*, and its rest as another expression."""
    names: list[str] = []
    rest: list[tuple[str, str | None]] = []
    for part in filter(None, (part.strip() for part in pattern.split(","))):
        if part.startswith("..."):
            rest.append((_build_variable(part[3:].strip()), path))
        elif (name := re.match(rf"[\"']?({_NAME})", part)) is not None:
            names.append(name[1])
    return names, rest


def _build_variable(name: str) -> str:
    """The expression for uses of the variable *name*, and not for its assignment or a key of that name."""
    return rf"(?<![\w$])(?:(?<!\.)|(?<=\.\.\.)){re.escape(name)}\b(?!\s*(?::|=[^=]|\}}\s*=[^=]))"


def _blank(comment: re.Match[str]) -> str:
    """The line breaks of *comment*, so that lines keep their numbers."""
    return "\n" * comment[0].count("\n")
