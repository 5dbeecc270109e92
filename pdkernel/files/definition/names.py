"""
Names in a definition: the folder of a workflow, and the entry file and runtime of each language.

`entry.sh` and `entry.go` are inferred: no synced repository with a Bash or Go step was observed. Their runtime names are
unknown, so none is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

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
    """The default path of step *name*'s code, relative to the workflow's folder."""
    return f"{name}/{ENTRY_FILES[language]}"


def detect_language(path: str) -> Language | None:
    """The language of an entry file by its suffix, or None."""
    return _SUFFIXES.get(PurePosixPath(path).suffix)
