"""
How a step's language is written in a definition.

Knows entry files and runtimes. `entry.sh` and `entry.go` are inferred: no synced repository was ever seen
with a Bash or Go step, and their runtimes are unknown, so none is written for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from pdkernel.model import Language

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
    """Where the code of step *name* stands in the workflow's folder."""
    return f"{name}/{ENTRY_FILES[language]}"


def detect_language(path: str) -> Language | None:
    """The language of an entry file, by its ending; None if no language has that ending."""
    return _SUFFIXES.get(PurePosixPath(path).suffix)
